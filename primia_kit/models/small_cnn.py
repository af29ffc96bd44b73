"""A small CNN in LeNet's shape, the usual yardstick of encrypted inference (MiniONN, AriaNN) at 28x28."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .layers import make_norm, make_pool


class SmallCNN(nn.Module):
    """Two 5x5 convolutions and two linear layers. At 28x28 the adaptive pool is the identity; other sizes
    (at least 16) are averaged to the same 4x4 map."""

    def __init__(self, classes: int, norm: str = "none", pool: str = "max", in_channels: int = 1):
        super().__init__()
        normalise = make_norm(norm)
        self.conv1, self.norm1 = nn.Conv2d(in_channels, 20, 5), normalise(20)
        self.conv2, self.norm2 = nn.Conv2d(20, 50, 5), normalise(50)
        self.pool = make_pool(pool)(2, 2)
        self.resample = nn.AdaptiveAvgPool2d(4)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.norm1(self.conv1(x))))
        x = self.pool(F.relu(self.norm2(self.conv2(x))))
        x = F.relu(self.fc1(self.resample(x).flatten(1)))
        return self.fc2(x)


def small_cnn(classes: int, norm: str = "none", pool: str = "max", in_channels: int = 1) -> SmallCNN:
    """The small CNN: 428 thousand parameters."""
    return SmallCNN(classes, norm, pool, in_channels)
