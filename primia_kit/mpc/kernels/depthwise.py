"""Depthwise convolution: one filter a channel, vectorised over channels. Used by all backends but "torch"."""

from __future__ import annotations

import numpy as np

from ..threads import spread
from .packed import PackedConv


class DepthwiseConv(PackedConv):
    """64-bit products that wrap; with so few terms an output, cutting into limbs would cost more than it saves."""

    name = "depthwise"

    def _pack(self, weights):
        self._weights = np.ascontiguousarray(weights[:, 0].transpose(1, 2, 0)).view(np.uint64)  # [KH, KW, Cout]

    def _conv(self, x, rows, columns):
        from .depthwise_loops import convolve

        geometry = self.geometry
        if geometry.outputs != geometry.inputs:  # several filters a channel: torch's order is (channel, filter)
            x = np.repeat(x, geometry.outputs // geometry.inputs, axis=3)
        images, height, width, channels = x.shape
        top, left = geometry.padding
        padded = np.zeros((images, *geometry.padded(height, width), channels), np.uint64)
        padded[:, top : top + height, left : left + width] = x
        out = np.empty((images, rows, columns, channels), np.uint64)
        mask = self.ring.mask
        spread(
            lambda a, b: convolve(padded, self._weights, geometry.stride, geometry.dilation, mask, out, a, b), images * rows, 4
        )
        return out
