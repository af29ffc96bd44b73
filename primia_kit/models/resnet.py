"""Residual networks (He et al. 2016), under torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from .layers import initialise_convolutions, make_norm, make_pool

Norm = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [n, inputs, h, w] -> [n, width, h / stride, w / stride]."""

    expansion = 1  # output channels by width

    def __init__(self, inputs: int, width: int, stride: int, norm: Norm):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), norm(width)
        self.downsample = _projection(inputs, width, stride, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut: [n, inputs, h, w] -> [n, 4 width, h / stride, w / stride].

    The stride is the 3x3 convolution's, as in torchvision ("v1.5"); in the paper it is the first 1x1's.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, norm: Norm):
        super().__init__()
        outputs = width * self.expansion
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), norm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), norm(outputs)
        self.downsample = _projection(inputs, outputs, stride, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + shortcut)


def _projection(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Module | None:
    """The shortcut's 1x1 convolution; None where input and output have the same shape."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))


class ResNet(nn.Module):
    """A stem, four stages of blocks and a linear head: [n, in_channels, size, size] -> logits [n, classes].

    Args:
        block: BasicBlock or Bottleneck.
        blocks: blocks in each stage.
        width: the first stage's; each later stage doubles it and halves the side.
        stem: (kernel, stride) of the first convolution.
    """

    def __init__(
        self, classes: int, *, block: type[BasicBlock] | type[Bottleneck] = BasicBlock, blocks: tuple[int, ...],
        width: int = 64, stem: tuple[int, int] = (7, 2), norm: str, pool: str, in_channels: int,
    ):  # fmt: skip
        super().__init__()
        normalise = make_norm(norm)
        kernel, stride = stem
        self.conv1 = nn.Conv2d(in_channels, width, kernel, stride, kernel // 2, bias=False)
        self.bn1 = normalise(width)
        self.maxpool = make_pool(pool)(3, 2, 1)  # torchvision's name, whichever pool it is
        channels = width
        for stage, count in enumerate(blocks):
            layers = []
            for index in range(count):
                layers.append(block(channels, width * 2**stage, 2 if index == 0 and stage > 0 else 1, normalise))
                channels = width * 2**stage * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        initialise_convolutions(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))  # [n, width, size / (2 stride), ...]
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))  # [n, classes]


def resnet9(classes: int, norm: str = "batch", pool: str = "max", in_channels: int = 1) -> ResNet:
    """Nine 3x3 convolutions, 16 to 128 channels: 308 thousand parameters, the kit's choice for a CPU."""
    return ResNet(classes, blocks=(1, 1, 1, 1), width=16, stem=(3, 1), norm=norm, pool=pool, in_channels=in_channels)


def resnet18(classes: int, norm: str = "batch", pool: str = "max", in_channels: int = 1) -> ResNet:
    """ResNet-18, PriMIA's network: 11.2 million parameters."""
    return ResNet(classes, blocks=(2, 2, 2, 2), norm=norm, pool=pool, in_channels=in_channels)


def resnet34(classes: int, norm: str = "batch", pool: str = "max", in_channels: int = 1) -> ResNet:
    """ResNet-34: 21.3 million parameters."""
    return ResNet(classes, blocks=(3, 4, 6, 3), norm=norm, pool=pool, in_channels=in_channels)


def resnet50(classes: int, norm: str = "batch", pool: str = "max", in_channels: int = 1) -> ResNet:
    """ResNet-50 (v1.5): 23.5 million parameters."""
    return ResNet(classes, block=Bottleneck, blocks=(3, 4, 6, 3), norm=norm, pool=pool, in_channels=in_channels)
