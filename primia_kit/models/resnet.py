"""Residual networks (He et al. 2016) for one gray channel, under torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from .layers import make_norm, make_pool


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [n, in, h, w] -> [n, out, h / stride, w / stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = norm(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + shortcut)


class ResNet(nn.Module):
    """A stem, four stages of basic blocks and a linear head.

    Args:
        blocks: blocks in each stage.
        width: channels of the first stage; each later stage doubles them and halves the side.
        stem: (kernel, stride) of the first convolution.
    """

    def __init__(self, classes: int, *, blocks: tuple[int, ...], width: int, stem: tuple[int, int], norm: str, pool: str):
        super().__init__()
        normalise = make_norm(norm)
        kernel, stride = stem
        self.conv1 = nn.Conv2d(1, width, kernel, stride, kernel // 2, bias=False)
        self.bn1 = normalise(width)
        self.maxpool = make_pool(pool)(3, 2, 1)  # torchvision's name, whichever pool it is
        channels = width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            layers = []
            for block in range(count):
                layers.append(BasicBlock(channels, outputs, 2 if block == 0 and stage > 0 else 1, normalise))
                channels = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))  # [n, width, size / (2 stride), ...]
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))  # [n, classes]


def resnet18(classes: int, norm: str = "batch", pool: str = "max") -> ResNet:
    """ResNet-18, PriMIA's network: 11.2 million parameters."""
    return ResNet(classes, blocks=(2, 2, 2, 2), width=64, stem=(7, 2), norm=norm, pool=pool)


def resnet9(classes: int, norm: str = "batch", pool: str = "max") -> ResNet:
    """Nine 3x3 convolutions, 16 to 128 channels: 308 thousand parameters, the kit's choice for a CPU."""
    return ResNet(classes, blocks=(1, 1, 1, 1), width=16, stem=(3, 1), norm=norm, pool=pool)
