"""VGG16 (Simonyan & Zisserman 2015, configuration D), under torchvision's parameter names."""

from __future__ import annotations

import torch
from torch import nn

from .layers import initialise_convolutions, make_norm, make_pool

_CONFIGURATION_D = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")


class VGG16(nn.Module):
    """Thirteen convolutions and three linear layers; with norm="none" the names are torchvision's vgg16,
    otherwise vgg16_bn. Films smaller than 32 pixels a side don't survive its five poolings."""

    def __init__(self, classes: int, norm: str = "batch", pool: str = "max", in_channels: int = 1):
        super().__init__()
        normalise, pooling = make_norm(norm), make_pool(pool)
        layers: list[nn.Module] = []
        channels = in_channels
        for item in _CONFIGURATION_D:
            if item == "pool":
                layers.append(pooling(2, 2))
                continue
            layers.append(nn.Conv2d(channels, item, 3, 1, 1))
            if norm != "none":
                layers.append(normalise(item))
            layers.append(nn.ReLU(inplace=True))
            channels = item
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096), nn.ReLU(inplace=True), nn.Dropout(),
            nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(),
            nn.Linear(4096, classes),
        )  # fmt: skip
        initialise_convolutions(self)
        for module in self.classifier:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def vgg16(classes: int, norm: str = "batch", pool: str = "max", in_channels: int = 1) -> VGG16:
    """VGG16: 134 million parameters, 120 million of them in the linear layers."""
    return VGG16(classes, norm, pool, in_channels)
