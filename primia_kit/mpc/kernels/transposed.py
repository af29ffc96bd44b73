"""Transposed convolution: each input pixel's multiples of the kernel, added up where they fall."""

from __future__ import annotations

import numpy as np

from ...errors import KitError
from .geometry import Geometry
from .packed import PackedConv


class TransposedConv:
    """A 1 × 1 convolution to KH * KW * Cout channels, whose outputs are added in place modulo 2^bits.

    Not one product more than needed, whatever the stride; the sums before the last cost memory, KH * KW * Cout words for
    each input pixel.

    Args:
        taps: the 1 × 1 convolution, channels ordered (group, row, column, output of the group).
        geometry: of the transposed convolution; `inputs` are what it takes.
        output_padding: rows and columns added below and to the right, as torch.nn.ConvTranspose2d counts them.
    """

    def __init__(self, taps: PackedConv, geometry: Geometry, output_padding: tuple[int, int]):
        if any(extra >= max(s, d) for extra, s, d in zip(output_padding, geometry.stride, geometry.dilation)):
            raise KitError(f"Output padding {output_padding} must be below stride {geometry.stride} or dilation.")
        self.taps, self.geometry, self.output_padding = taps, geometry, output_padding
        self.name, self.ring, self.short = taps.name, taps.ring, taps.short

    def conv(self, x: np.ndarray) -> np.ndarray:
        """uint64 [N, H, W, Cin] -> uint64 [N, OH, OW, Cout], OH = (H - 1) stride + dilation (KH - 1) + 1 - 2 padding + extra."""
        geometry, groups = self.geometry, self.geometry.groups
        kernel_rows, kernel_columns = geometry.kernel
        (down, across), (apart, aside) = geometry.stride, geometry.dilation
        parts = self.taps.conv(x)
        images, height, width, _ = parts.shape
        parts = parts.reshape(images, height, width, groups, kernel_rows, kernel_columns, geometry.outputs // groups)
        high = (height - 1) * down + apart * (kernel_rows - 1) + 1 + self.output_padding[0]
        wide = (width - 1) * across + aside * (kernel_columns - 1) + 1 + self.output_padding[1]
        total = np.zeros((images, high, wide, groups, geometry.outputs // groups), np.uint64)
        for r in range(kernel_rows):
            for c in range(kernel_columns):
                y, z = r * apart, c * aside
                total[:, y : y + height * down : down, z : z + width * across : across][:, :height, :width] += parts[
                    :, :, :, :, r, c
                ]
        (top, left), total = geometry.padding, total.reshape(images, high, wide, geometry.outputs)
        if high <= 2 * top or wide <= 2 * left:
            raise KitError(f"Padding {geometry.padding} leaves nothing of an output of {high} × {wide}.")
        return self.ring.reduce(np.ascontiguousarray(total[:, top : high - top, left : wide - left]))
