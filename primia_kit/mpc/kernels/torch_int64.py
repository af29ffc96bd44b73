"""Convolution by torch in int64, which wraps modulo 2^64: everywhere, and slow. Backend "torch"."""

from __future__ import annotations

import numpy as np

from ..threads import get_threads
from .packed import PackedConv


class TorchConv(PackedConv):
    """The last resort, and the reference that the others are tested against."""

    name = "torch"

    def _pack(self, weights):
        import torch

        self._weights = torch.from_numpy(weights)

    def _conv(self, x, rows, columns):
        import torch
        from torch.nn.functional import conv2d

        geometry = self.geometry
        before = torch.get_num_threads()
        torch.set_num_threads(get_threads())
        try:
            image = torch.from_numpy(x.view(np.int64)).permute(0, 3, 1, 2)
            y = conv2d(image, self._weights, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
        finally:
            torch.set_num_threads(before)
        return self.ring.reduce(np.ascontiguousarray(y.permute(0, 2, 3, 1).numpy()).view(np.uint64))
