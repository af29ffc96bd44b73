"""Cutting words into limbs, compiled."""

import numpy as np
from numba import njit


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
