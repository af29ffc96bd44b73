"""The interface of all convolution backends."""

from __future__ import annotations

import numpy as np

from ...errors import KitError
from ..ring import Ring
from .geometry import Geometry
from .limbs import SHORT_BITS


class PackedConv:
    """Weights in the form that a backend multiplies with: made once, used for every image.

    Args:
        weights: [Cout, Cin / groups, KH, KW]; short: int64 with |w| < 2^15; long: int64 or uint64, any ring words.
        ring: outputs are reduced modulo 2^ring.bits.
        short: which of the two.
        geometry: sizes, stride, padding, dilation, groups.

    A subclass packs in `_pack` and multiplies in `_conv`; all subclasses give the same words.
    """

    name = ""

    def __init__(self, weights: np.ndarray, ring: Ring, short: bool, geometry: Geometry):
        self.ring, self.short, self.geometry = ring, short, geometry
        self._pack(weights)

    def conv(self, x: np.ndarray) -> np.ndarray:
        """Cross-correlation over the ring, as torch.nn.functional.conv2d in integers modulo 2^bits.

        Args:
            x: uint64 [N, H, W, Cin], C-contiguous; bits above the ring's don't matter.

        Returns: uint64 [N, OH, OW, Cout], reduced.
        Raises: KitError for another dtype, layout or number of channels, or an input smaller than the kernel.
        """
        if x.dtype != np.uint64 or x.ndim != 4 or not x.flags.c_contiguous or x.shape[3] != self.geometry.inputs:
            raise KitError(
                f"A convolution of {self.geometry.inputs} channels takes contiguous uint64 [N, H, W, {self.geometry.inputs}], "
                f"not {x.dtype} {list(x.shape)}."
            )
        rows, columns = self.geometry.out_size(*x.shape[1:3])
        if not x.shape[0]:
            return np.empty((0, rows, columns, self.geometry.outputs), np.uint64)
        return self._conv(x, rows, columns)

    def _pack(self, weights: np.ndarray) -> None:
        raise NotImplementedError

    def _conv(self, x: np.ndarray, rows: int, columns: int) -> np.ndarray:
        raise NotImplementedError


def checked_weights(weights, short: bool) -> np.ndarray:
    """int64 [Cout, Cin / groups, KH, KW]; a matrix [Cout, Cin] is a 1 × 1 convolution. Raises KitError."""
    weights = np.asarray(weights)
    if weights.ndim == 2:
        weights = weights[:, :, None, None]
    if weights.ndim != 4 or not weights.size or weights.dtype not in (np.int64, np.uint64):
        raise KitError(
            f"Weights are int64 or uint64 [Cout, Cin / groups, KH, KW] or [Cout, Cin], not {weights.dtype} {list(weights.shape)}."
        )
    weights = weights.astype(np.int64, copy=False)
    if short:
        limit = 1 << SHORT_BITS - 1
        outside = (weights >= limit) | (weights <= -limit)
        if outside.any():
            where = tuple(int(i) for i in np.unravel_index(int(np.argmax(outside)), weights.shape))
            raise KitError(
                f"The weight at {where} is {weights[where]}, but short weights lie below 2^{SHORT_BITS - 1} in size: "
                "encode with fewer fraction bits, or pack it as long."
            )
    return weights
