"""The two choices that every architecture of the kit leaves open, the norm and the pooling; and first weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import KitError, nearest

NORMS = ("batch", "group", "none")
POOLS = ("max", "avg")
FEATURE_NORMS = ("none", "l2", "l2_centred")


def make_norm(norm: str, eps: float = 1e-5) -> Callable[[int], nn.Module]:
    """A function from channels to a normalisation layer; `eps` is BatchNorm's.

    "batch" keeps running statistics, which have to be averaged between sites; "group" (Wu & He 2018) has
    none and mixes no films, as differential privacy needs; "none" is the identity.
    """
    if norm == "batch":
        return partial(nn.BatchNorm2d, eps=eps)
    if norm == "group":
        return lambda channels: nn.GroupNorm(_groups(channels), channels)
    if norm == "none":
        return lambda channels: nn.Identity()
    raise KitError(f"Unknown norm {norm!r}{nearest(norm, NORMS)}; there are {', '.join(NORMS)}.")


def make_pool(pool: str) -> Callable[..., nn.Module]:
    """Max or average pooling, a function of (kernel, stride, padding)."""
    if pool == "max":
        return nn.MaxPool2d
    if pool == "avg":
        return nn.AvgPool2d
    raise KitError(f"Unknown pool {pool!r}{nearest(pool, POOLS)}; there are {', '.join(POOLS)}.")


class NormalisedLinear(nn.Linear):
    """A linear layer of its input at length 1: x / |x|, film by film; its parameters' names are a linear layer's."""

    def inputs(self, x: torch.Tensor) -> torch.Tensor:
        """What the product is taken of: [..., in_features] -> the same shape."""
        return F.normalize(x, dim=-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.inputs(x))


class CentredLinear(NormalisedLinear):
    """A linear layer of u = x / |x| less the films' mean of u, at length 2: 2 (u - center) / |u - center|.

    Films resemble each other, so most of u is common to all of them. Once that is taken off, what tells films apart has the
    whole length that a gradient's clipping leaves it. At length 2 the bias, whose input is 1, takes a fifth of a film's
    squared gradient; at length 1 it would take half.

    center: buffer [in_features], the mean of u over films; 0 until it's known.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__(in_features, out_features, bias)
        self.register_buffer("center", torch.zeros(in_features))

    def inputs(self, x: torch.Tensor) -> torch.Tensor:
        u = super().inputs(x)
        return 2 * F.normalize(u - self.center, dim=-1)


def initialise_convolutions(network: nn.Module, fan: str = "fan_out") -> None:
    """Normal weights of variance 2 / fan (He et al. 2015), zero biases; `fan` is "fan_in" or "fan_out".

    The fan is counted within a group, so that a depthwise convolution keeps the scale of its input too
    (`nn.init` counts all groups' outputs together).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            channels = module.in_channels if fan == "fan_in" else module.out_channels
            count = channels // module.groups * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, 0, math.sqrt(2) / math.sqrt(count))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _groups(channels: int) -> int:
    """As many equal groups of at least 16 channels as there can be; one where the layer is narrower."""
    return next(g for g in range(max(1, channels // 16), 0, -1) if channels % g == 0)
