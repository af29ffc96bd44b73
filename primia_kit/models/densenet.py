"""DenseNet-121 (Huang et al. 2017), under torchvision's parameter names."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from .layers import initialise_convolutions, make_norm, make_pool

Norm = Callable[[int], nn.Module]


class DenseLayer(nn.Module):
    """norm, ReLU, 1x1, norm, ReLU, 3x3: [n, inputs, h, w] -> the [n, growth, h, w] that the layer adds.

    The first norm follows a concatenation, so it can't be folded into a convolution before it.
    """

    def __init__(self, inputs: int, growth: int, norm: Norm):
        super().__init__()
        self.norm1, self.conv1 = norm(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = norm(4 * growth), nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return self.conv2(F.relu(self.norm2(y)))


class DenseBlock(nn.Module):
    """Each layer sees the channels of all before it: [n, inputs, h, w] -> [n, inputs + layers * growth, h, w]."""

    def __init__(self, layers: int, inputs: int, growth: int, norm: Norm):
        super().__init__()
        for index in range(layers):
            self.add_module(f"denselayer{index + 1}", DenseLayer(inputs + index * growth, growth, norm))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x = torch.cat([x, layer(x)], 1)
        return x


class DenseNet(nn.Module):
    """A stem, four dense blocks with halvings between them, a linear head: [n, in_channels, size, size] -> [n, classes].

    `pool` is the stem's; transitions average. State dicts with the layer names of torchvision's published
    file ("norm.1", "conv.2") load as well as those with today's ("norm1", "conv2").

    Args:
        blocks: layers in each dense block.
        growth: channels that a layer adds.
        width: channels of the stem.
    """

    def __init__(
        self, classes: int, *, blocks: tuple[int, ...], growth: int, width: int, norm: str, pool: str, in_channels: int
    ):  # fmt: skip
        super().__init__()
        normalise = make_norm(norm)
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(in_channels, width, 7, 2, 3, bias=False))
        self.features.add_module("norm0", normalise(width))
        self.features.add_module("relu0", nn.ReLU(inplace=True))
        self.features.add_module("pool0", make_pool(pool)(3, 2, 1))
        channels = width
        for number, layers in enumerate(blocks, start=1):
            self.features.add_module(f"denseblock{number}", DenseBlock(layers, channels, growth, normalise))
            channels += layers * growth
            if number < len(blocks):
                transition = nn.Sequential()
                transition.add_module("norm", normalise(channels))
                transition.add_module("relu", nn.ReLU(inplace=True))
                transition.add_module("conv", nn.Conv2d(channels, channels // 2, 1, bias=False))
                transition.add_module("pool", nn.AvgPool2d(2, 2))
                self.features.add_module(f"transition{number}", transition)
                channels //= 2
        self.features.add_module("norm5", normalise(channels))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)
        initialise_convolutions(self, "fan_in")
        nn.init.zeros_(self.classifier.bias)
        self.register_load_state_dict_pre_hook(_rename_published)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.features(x))  # [n, channels, size / 32, size / 32]
        return self.classifier(self.avgpool(x).flatten(1))


def _rename_published(module: nn.Module, state: dict, *_) -> None:
    """denselayer1.norm.1.weight -> denselayer1.norm1.weight: dots were allowed in layer names once."""
    for name in list(state):
        today = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)
        if today != name:
            state[today] = state.pop(name)


def densenet121(classes: int, norm: str = "batch", pool: str = "max", in_channels: int = 1) -> DenseNet:
    """DenseNet-121: 7.0 million parameters."""
    return DenseNet(
        classes, blocks=(6, 12, 24, 16), growth=32, width=64, norm=norm, pool=pool, in_channels=in_channels
    )  # fmt: skip
