"""The compiled part of direct convolution: cutting into limbs, and walking tiles with a microkernel."""

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from .microkernel import ARGUMENTS, ROWS, emit, ifma_flavour, int16_flavour
from .processor import has_avx2, has_ifma

_SIGNATURE = types.void(*[types.int64] * ARGUMENTS)


def _generator(flavour, limbs):
    def generate(context, builder, signature, arguments):
        emit(builder, arguments, flavour, limbs)
        return context.get_dummy_value()

    return generate


# One intrinsic each, by name: numba's cache knows compiled code by the names in a module, not by closures.
@intrinsic
def _int16_1(typing, starts, offsets, rows, steps, weights, out, out_stride, shifts, mask, add):
    return _SIGNATURE, _generator(int16_flavour(has_avx2()), 1)


@intrinsic
def _int16_2(typing, starts, offsets, rows, steps, weights, out, out_stride, shifts, mask, add):
    return _SIGNATURE, _generator(int16_flavour(has_avx2()), 2)


@intrinsic
def _int16_3(typing, starts, offsets, rows, steps, weights, out, out_stride, shifts, mask, add):
    return _SIGNATURE, _generator(int16_flavour(has_avx2()), 3)


@intrinsic
def _ifma(typing, starts, offsets, rows, steps, weights, out, out_stride, shifts, mask, add):
    return _SIGNATURE, _generator(ifma_flavour(has_ifma()), 1)


@njit(nogil=True, cache=True)
def walk_int16(planes, pixels, offsets, blocks, steps, weights, shifts, mask, out, column, panels, tile, add):
    """One product of limbs over pixels and panels of one group; see `DirectConv`.

    Args:
        planes: int64 [L], address of each limb's plane, moved on to the group's first channel.
        pixels: int64 [a multiple of 6], bytes from a plane's start to the pixel's first run; `out` has as many rows.
        offsets: int64 [rows], bytes from a pixel's start to each run.
        blocks: int64 [B + 1], the runs at which a block of the reduction starts, and their number.
        weights: int16 [panels, rows, steps, 16, 2].
        shifts: int64 [L].
        out: uint64 [pixels, columns]; panel p fills columns [column + 16 p, column + 16 (p + 1)).
        panels: (first, last) to do.
        tile: pixels whose outputs stay in the second-level cache while all panels of weights pass.
        add: to what stands in out, else overwrite.
    """
    limbs = planes.size
    held = ROWS // limbs
    starts = np.empty(ROWS, np.int64)
    width = 16
    run_bytes = steps * width * 4
    panel_bytes = offsets.size * run_bytes
    out_stride = out.shape[1] * 8
    for near in range(0, pixels.size, tile):
        for panel in range(panels[0], panels[1]):
            for block in range(blocks.size - 1):
                run = blocks[block]
                rows = blocks[block + 1] - run
                at_offsets = offsets.ctypes.data + run * 8
                at_weights = weights.ctypes.data + panel * panel_bytes + run * run_bytes
                adding = 1 if add or block else 0
                for pixel in range(near, min(near + tile, pixels.size), held):
                    for i in range(held):
                        for limb in range(limbs):
                            starts[i * limbs + limb] = planes[limb] + pixels[pixel + i]
                    at = out.ctypes.data + pixel * out_stride + (column + panel * width) * 8
                    s, t = starts.ctypes.data, shifts.ctypes.data
                    if limbs == 1:
                        _int16_1(s, at_offsets, rows, steps, at_weights, at, out_stride, t, mask, adding)
                    elif limbs == 2:
                        _int16_2(s, at_offsets, rows, steps, at_weights, at, out_stride, t, mask, adding)
                    else:
                        _int16_3(s, at_offsets, rows, steps, at_weights, at, out_stride, t, mask, adding)


@njit(nogil=True, cache=True)
def walk_ifma(planes, pixels, offsets, blocks, steps, weights, shifts, mask, out, column, panels, tile, add):
    """The same for one plane of 52-bit words: weights uint64 [panels, rows, steps, 32]."""
    starts = np.empty(ROWS, np.int64)
    width = 32
    run_bytes = steps * width * 8
    panel_bytes = offsets.size * run_bytes
    out_stride = out.shape[1] * 8
    for near in range(0, pixels.size, tile):
        for panel in range(panels[0], panels[1]):
            for block in range(blocks.size - 1):
                run = blocks[block]
                rows = blocks[block + 1] - run
                at_offsets = offsets.ctypes.data + run * 8
                at_weights = weights.ctypes.data + panel * panel_bytes + run * run_bytes
                adding = 1 if add or block else 0
                for pixel in range(near, min(near + tile, pixels.size), ROWS):
                    for m in range(ROWS):
                        starts[m] = planes[0] + pixels[pixel + m]
                    at = out.ctypes.data + pixel * out_stride + (column + panel * width) * 8
                    s, t = starts.ctypes.data, shifts.ctypes.data
                    _ifma(s, at_offsets, rows, steps, at_weights, at, out_stride, t, mask, adding)


@njit(nogil=True, cache=True)
def cut(x, planes, corner, padded, shifts, widths, first, last):
    """Lines [first, last) of x [N, H, W, C] as signed digits: see `limbs.signed_limbs`.

    Args:
        planes: int16 [L, room], each plane [N, *padded, C] and more.
        corner: (top, left) padding; padded: (height, width).
        shifts, widths: int64 [L], the limbs.
    """
    images, height, width, channels = x.shape
    halves = np.uint64(0)
    for limb in range(shifts.size):
        halves += np.uint64(1) << np.uint64(shifts[limb] + widths[limb] - 1)
    flat = x.reshape(images * height, width * channels)
    for line in range(first, last):
        image, row = line // height, line % height
        start = ((image * padded[0] + row + corner[0]) * padded[1] + corner[1]) * channels
        source = flat[line]
        for limb in range(shifts.size):
            target = planes[limb, start : start + source.size]
            shift, field = np.uint64(shifts[limb]), (np.uint64(1) << np.uint64(widths[limb])) - np.uint64(1)
            half = np.uint64(1) << np.uint64(widths[limb] - 1)
            for j in range(source.size):
                target[j] = np.int16((((source[j] + halves) >> shift) & field) - half)
