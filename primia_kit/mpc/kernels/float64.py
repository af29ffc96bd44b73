"""Convolution by exact float64 limbs over numpy's BLAS: portable, also to ARM. Backend "float64"."""

from __future__ import annotations

from functools import cache

import numpy as np

from ..threads import get_threads, spread
from .limbs import float64_limbs, signed_limbs
from .packed import PackedConv

# Of the im2col matrix this much stands in memory at a time, for each thread: it should fit a cache. A matrix product
# with few rows is slow, though, since BLAS rearranges the weights for each, so there are at least some pixels.
_BLOCK_BYTES, _BLOCK_PIXELS = 1 << 20, 128
_CUT_WORDS = 1 << 14  # cut into limbs at a time, so that what lies between stays in the cache


class Float64Conv(PackedConv):
    """im2col of a few output rows at a time, one matrix product for each place that limbs' products may have.

    With limbs x = sum_i x_i 2^(b i), place d of a long product is [x_0 .. x_d] · [w_d; ..; w_0], one matrix product over
    a longer reduction; with short weights it is x_d · w. `float64_limbs` takes as many limbs as keep all sums exact.
    """

    name = "float64"

    def _pack(self, weights):
        geometry = self.geometry
        self._limbs = float64_limbs(self.ring.bits, self.short, geometry.terms)
        # [groups, terms, outputs of a group], terms ordered (row, column, channel) as NHWC memory is
        by_group = weights.reshape(geometry.groups, -1, *weights.shape[1:]).transpose(0, 3, 4, 2, 1)
        by_group = by_group.reshape(geometry.groups, geometry.terms, -1)
        if self.short:
            self._places = [by_group.astype(np.float64)]
        else:
            digits = np.stack(signed_limbs(by_group.view(np.uint64), self._limbs)).astype(np.float64)
            self._places = [
                np.ascontiguousarray(np.concatenate(digits[d::-1], axis=1)) for d in range(len(self._limbs))
            ]  # [groups, (d + 1) * terms, outputs of a group]

    def _conv(self, x, rows, columns):
        geometry, count = self.geometry, len(self._limbs)
        images, height, width, channels = x.shape
        high, wide = geometry.padded(height, width)
        top, left = geometry.padding
        planes = np.zeros((images, count, high, wide, channels))
        inside = planes[:, :, top : top + height, left : left + width]

        lines = max(1, _CUT_WORDS // (images * width * channels))

        def cut(first, last):
            for start in range(first, last, lines):
                part = slice(start, min(start + lines, last))
                signed_limbs(x[:, part], self._limbs, [inside[:, limb, part] for limb in range(count)])

        spread(cut, height, lines)
        # Views of all windows: [images, limbs, rows, columns, KH, KW, channels]
        step = planes.strides
        (down, across), (apart, aside) = geometry.stride, geometry.dilation
        windows = np.lib.stride_tricks.as_strided(
            planes,
            (images, count, rows, columns, *geometry.kernel, channels),
            (*step[:2], step[2] * down, step[3] * across, step[2] * apart, step[3] * aside, step[4]),
            writeable=False,
        )
        out = np.empty((images * rows, columns, geometry.outputs), np.uint64)
        room = max(_BLOCK_BYTES // (columns * count * geometry.terms * 8), -(-_BLOCK_PIXELS // columns))
        block = min(room, -(-images * rows // get_threads()))

        def work(first, last):
            for start in range(first, last, block):
                stop = min(start + block, last)
                for image in range(start // rows, (stop - 1) // rows + 1):  # a block may reach into the next image
                    a, b = max(start, image * rows), min(stop, (image + 1) * rows)
                    self._block(windows[image, :, a - image * rows : b - image * rows], out[a:b])

        with _single_threaded_blas():
            spread(work, images * rows, block)
        return out.reshape(images, rows, columns, geometry.outputs)

    def _block(self, windows, out):
        """windows [limbs, rows, columns, KH, KW, channels] -> out [rows, columns, Cout]."""
        geometry, count = self.geometry, len(self._limbs)
        pixels = windows.shape[1] * windows.shape[2]
        per_group, outputs = geometry.inputs // geometry.groups, geometry.outputs // geometry.groups
        for group in range(geometry.groups):
            some = windows[..., group * per_group : (group + 1) * per_group]
            if self.short:
                columns = np.ascontiguousarray(some).reshape(count * pixels, geometry.terms)
                sums = (columns @ self._places[0][group]).reshape(count, pixels, outputs)
            else:
                columns = np.ascontiguousarray(some.transpose(1, 2, 0, 3, 4, 5)).reshape(pixels, count * geometry.terms)
                sums = [columns[:, : place.shape[1]] @ place[group] for place in self._places]
            total = sums[0].astype(np.int64)
            for limb, found in zip(self._limbs[1:], sums[1:]):
                total += found.astype(np.int64) << limb.shift
            part = out[..., group * outputs : (group + 1) * outputs]
            self.ring.reduce(total.view(np.uint64).reshape(part.shape), out=part)


def _single_threaded_blas():
    """A context in which numpy's matrix products use one thread each: the kit's own threads share out the blocks."""
    return _controller().limit(limits=1, user_api="blas")


@cache
def _controller():
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
