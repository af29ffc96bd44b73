"""The two choices that every architecture of the kit leaves open: the norm and the pooling."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..errors import KitError, nearest

NORMS = ("batch", "group", "none")
POOLS = ("max", "avg")


def make_norm(norm: str) -> Callable[[int], nn.Module]:
    """A function from channels to a normalisation layer.

    "batch" keeps running statistics, which have to be averaged between sites; "group" (Wu & He 2018) has
    none and mixes no films, as differential privacy needs; "none" is the identity.
    """
    if norm == "batch":
        return nn.BatchNorm2d
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


def _groups(channels: int) -> int:
    """As many equal groups of at least 16 channels as there can be; one where the layer is narrower."""
    return next(g for g in range(max(1, channels // 16), 0, -1) if channels % g == 0)
