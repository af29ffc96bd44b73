"""U-Net (Ronneberger et al. 2015) for segmentation, with BatchNorm and with padding, so that the side stays."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..errors import KitError, nearest
from .layers import initialise_convolutions, make_norm, make_pool

UPSAMPLINGS = ("transpose", "bilinear")
Norm = Callable[[int], nn.Module]


class UNet(nn.Module):
    """Four halvings, four doublings, and a shortcut at every side.

    [n, in_channels, size, size] -> each pixel's logits [n, classes, size, size]; size is a multiple of 16.

    Args:
        width: channels at full side; each halving doubles them. 64 in the paper.
        upsampling: "transpose" (2x2 transposed convolution, the paper's) or "bilinear" (after a 1x1 convolution).
    """

    def __init__(
        self, classes: int, norm: str = "batch", pool: str = "max", in_channels: int = 1, *,
        width: int = 64, upsampling: str = "transpose",
    ):  # fmt: skip
        super().__init__()
        if upsampling not in UPSAMPLINGS:
            raise KitError(
                f"Unknown upsampling {upsampling!r}{nearest(upsampling, UPSAMPLINGS)}; there are {', '.join(UPSAMPLINGS)}."
            )
        normalise = make_norm(norm)
        widths = [width * 2**level for level in range(5)]
        self.pool = make_pool(pool)(2, 2)
        self.down = nn.ModuleList(_double(i, o, normalise) for i, o in zip([in_channels, *widths[:-1]], widths))
        self.up = nn.ModuleList(_doubling(w, upsampling) for w in widths[:0:-1])
        self.merge = nn.ModuleList(_double(w, w // 2, normalise) for w in widths[:0:-1])
        self.head = nn.Conv2d(width, classes, 1)
        initialise_convolutions(self, "fan_in")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down[0](x)  # [n, width, size, size]
        shortcuts = []
        for down in self.down[1:]:
            shortcuts.append(x)
            x = down(self.pool(x))
        # x is [n, 16 width, size / 16, size / 16]
        for up, merge in zip(self.up, self.merge):
            x = merge(torch.cat([shortcuts.pop(), up(x)], 1))
        return self.head(x)


def _double(inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    """Two 3x3 convolutions: [n, inputs, h, w] -> [n, outputs, h, w]."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        normalisation = norm(outputs)
        bias = isinstance(normalisation, nn.Identity)  # a norm has its own
        layers += [nn.Conv2d(channels, outputs, 3, 1, 1, bias=bias), normalisation, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _doubling(channels: int, upsampling: str) -> nn.Module:
    """Twice the side, half the channels: [n, channels, h, w] -> [n, channels / 2, 2h, 2w]."""
    if upsampling == "transpose":
        return nn.ConvTranspose2d(channels, channels // 2, 2, 2)
    # A 1x1 convolution commutes with interpolation and costs a quarter at the smaller side.
    return nn.Sequential(
        nn.Conv2d(channels, channels // 2, 1), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    )  # fmt: skip


def unet(
    classes: int, norm: str = "batch", pool: str = "max", in_channels: int = 1, *, width: int = 64, upsampling: str = "transpose"
) -> UNet:
    """U-Net: 31 million parameters at the paper's width of 64."""
    return UNet(classes, norm, pool, in_channels, width=width, upsampling=upsampling)
