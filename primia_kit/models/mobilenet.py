"""MobileNetV2 (Sandler et al. 2018), under torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from .layers import initialise_convolutions, make_norm

Norm = Callable[[int], nn.Module]
_STAGES = (  # expansion, output channels, blocks, stride of the first block
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1x1 that widens, 3x3 depthwise, 1x1 that narrows: [n, inputs, h, w] -> [n, outputs, h / stride, w / stride].

    The narrow end has no activation. There is a shortcut where input and output have the same shape.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, norm: Norm):
        super().__init__()
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([_convolution(inputs, hidden, 1, 1, 1, norm)] if expansion > 1 else []),
            _convolution(hidden, hidden, 3, stride, hidden, norm),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            norm(outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return x + y if self.shortcut else y


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, groups: int, norm: Norm) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, norm(outputs), nn.ReLU6(inplace=True))


class MobileNetV2(nn.Module):
    """A stem, 17 inverted residuals, a 1x1 convolution and a linear head: [n, in_channels, size, size] -> [n, classes]."""

    def __init__(self, classes: int, norm: str = "batch", in_channels: int = 1):
        super().__init__()
        normalise = make_norm(norm)
        layers: list[nn.Module] = [_convolution(in_channels, 32, 3, 2, 1, normalise)]
        channels = 32
        for expansion, outputs, blocks, stride in _STAGES:
            for index in range(blocks):
                layers.append(InvertedResidual(channels, outputs, stride if index == 0 else 1, expansion, normalise))
                channels = outputs
        layers.append(_convolution(channels, 1280, 1, 1, 1, normalise))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))
        initialise_convolutions(self)
        nn.init.normal_(self.classifier[1].weight, 0, 0.01)
        nn.init.zeros_(self.classifier[1].bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)  # [n, 1280, size / 32, size / 32]
        return self.classifier(self.avgpool(x).flatten(1))


def mobilenet_v2(classes: int, norm: str = "batch", pool: str = "max", in_channels: int = 1) -> MobileNetV2:
    """MobileNetV2: 2.2 million parameters. It has no pooling that `pool` could choose."""
    return MobileNetV2(classes, norm, in_channels)
