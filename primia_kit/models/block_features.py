"""A classifier of public features: all but its last layer is known without any private film.

Middle layers of a network that was trained on other pictures tell more of a film than its last ones, and a linear layer on
them has few enough parameters for differential privacy with a small ε (Tramèr & Boneh 2021, arXiv 2011.11660). So a hospital
computes each film's features once, and only the last layer is trained (a plan's `frozen=("body",)` and `start`).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import KitError
from .efficientnet import EfficientNetLite

BLOCKS = (10, 14, 15)  # of 16, from 0; chosen by cross-validation on patients that were declared public
WIDTH = 2 * (112 + 192 + 320)
COMPONENTS = 64
_LIMIT = 6.0  # deviations
_CONSTANT = 0.5


class PublicTransform(nn.Module):
    """A fixed map of features, [n, inputs] -> [n, outputs + 1], each film by itself.

    1. z <- (x - mean) / deviation, between -6 and 6
    2. z <- z A for the public matrix A [inputs, outputs], if there is one
    3. z <- z / |z|, and a constant 0.5 behind it, in place of a bias

    Its numbers are parameters, so that a plan's `frozen` can name them; as made here they change nothing.
    """

    def __init__(self, inputs: int, outputs: int = 0):
        super().__init__()
        self.mean, self.deviation = nn.Parameter(torch.zeros(inputs)), nn.Parameter(torch.ones(inputs))
        self.matrix = nn.Parameter(torch.eye(inputs, outputs)) if outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = ((x - self.mean) / self.deviation).clamp(-_LIMIT, _LIMIT)
        if self.matrix is not None:
            z = z @ self.matrix
        return F.pad(F.normalize(z, dim=1), (0, 1), value=_CONSTANT)

    @torch.no_grad()
    def fit(self, features: torch.Tensor) -> None:
        """Take mean and deviation from public films' features [n, inputs], n at least 2; and for A their principal axes, each
        divided by the square root of its deviation, so that small ones aren't lost in the noise.

        Raises: KitError for fewer films than axes.
        """
        x = features.double()
        needed = 2 if self.matrix is None else self.matrix.shape[1] + 1
        if len(x) < needed:
            raise KitError(f"There are {len(x)} public films; these features take {needed} at least.")
        self.mean.copy_(x.mean(0))
        self.deviation.copy_(x.std(0, correction=0) + 1e-6)
        if self.matrix is not None:
            z = ((x - x.mean(0)) / (x.std(0, correction=0) + 1e-6)).clamp(-_LIMIT, _LIMIT)
            _, lengths, axes = torch.linalg.svd(z, full_matrices=False)
            lengths = (lengths / len(z) ** 0.5)[: self.matrix.shape[1]].clamp(min=1e-6)
            self.matrix.copy_((axes[: len(lengths)] / lengths.sqrt()[:, None]).T)


class BlockFeatures(EfficientNetLite):
    """EfficientNet-Lite0 up to its 16th block; means and deviations over space of three blocks' outputs; `PublicTransform`;
    a linear layer without bias: [n, in_channels, size, size] -> [n, classes].

    Deviations and lengths have no encrypted form: a model for encrypted inference is another one.
    """

    def __init__(self, classes: int, norm: str = "batch", in_channels: int = 1, components: int = 0):
        super().__init__(classes, norm, in_channels)
        del self._conv_head, self._bn1, self._avg_pooling, self._dropout
        self.transform = PublicTransform(WIDTH, components)
        self._fc = nn.Linear((components or WIDTH) + 1, classes, bias=False)

    def block_features(self, x: torch.Tensor) -> torch.Tensor:
        """[n, in_channels, size, size] -> [n, 1248], before any transform."""
        x, found = self._relu6(self._bn0(self._conv_stem(self._pad(x)))), []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in BLOCKS:
                found += [x.mean((2, 3)), (x.var((2, 3), correction=0) + 1e-6).sqrt()]
        return torch.cat(found, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._fc(self.transform(self.block_features(x)))


def lite0_blocks(classes: int, norm: str = "batch", pool: str = "max", in_channels: int = 1) -> BlockFeatures:
    """`BlockFeatures` of 1,248 numbers, standardised. It has no pooling that `pool` could choose."""
    return BlockFeatures(classes, norm, in_channels)


def lite0_components(classes: int, norm: str = "batch", pool: str = "max", in_channels: int = 1) -> BlockFeatures:
    """`BlockFeatures` of 64 numbers, along principal axes of public films. It has no pooling that `pool` could choose."""
    return BlockFeatures(classes, norm, in_channels, COMPONENTS)
