"""Bit packing, compiled."""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def pack(words, bits, packed):
    """words [n] -> packed uint64 [ceil(n * bits / 64)]."""
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    held, filled, place = np.uint64(0), 0, 0
    for i in range(words.size):
        word = np.uint64(words[i]) & mask
        held |= word << np.uint64(filled)
        filled += bits
        if filled >= 64:
            packed[place] = held
            place += 1
            filled -= 64
            held = word >> np.uint64(bits - filled)
    if filled:
        packed[place] = held


@njit(nogil=True, cache=True)
def unpack(packed, bits, words):
    """packed uint64, one more than is filled -> words [n]."""
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    for i in range(words.size):
        at = i * bits
        place, shift = at >> 6, np.uint64(at & 63)
        # Two shifts for the upper half: a single one by 64 is undefined.
        word = (packed[place] >> shift) | ((packed[place + 1] << np.uint64(1)) << (np.uint64(63) - shift))
        words[i] = word & mask
