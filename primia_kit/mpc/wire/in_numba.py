"""Compiled: the loops of `packing` and `comparison`, block by block.

numba keeps compiled code until this file changes, whatever happens to the loops that it calls: `CALLS` is their files'
SHA-256, and a test says so when it isn't.
"""

import numpy as np
from numba import njit

from ..comparison.in_numba import mask_digits, mask_sign, mask_value
from ..packing.in_numba import pack, unpack

CALLS = "9252f38cb742014d"
_BLOCK = 1024  # words, a multiple of 64
_BITS = 22
_WINDOW = np.uint32((1 << 22) - 1)


@njit(nogil=True, cache=True)
def lead(heard, packed, z, masks, digits, products, c, p, shift, add, first):
    own = np.empty(_BLOCK, np.uint32)
    for start in range(0, c.size, _BLOCK):
        stop = min(start + _BLOCK, c.size)
        at, end = start * _BITS // 64, (stop * _BITS + 63) // 64
        mine, opened = own[: stop - start], c[start:stop]
        mask_value(z[start:stop], masks[start:stop], shift, add, mine)
        unpack(heard[at:end], _BITS, opened)
        for i in range(opened.size):
            opened[i] = (opened[i] + mine[i]) & _WINDOW
        mask_digits(opened, masks[start:stop], digits[start:stop], products[start:stop], first, p[start:stop])
        pack(mine, _BITS, packed[at:end])


@njit(nogil=True, cache=True)
def follow(heard, other, own, masks, digits, products, c, p, t, first, select, constant):
    together = np.empty(_BLOCK, np.uint8)
    for start in range(0, c.size, _BLOCK):
        stop = min(start + _BLOCK, c.size)
        at, end = start * _BITS // 64, (stop * _BITS + 63) // 64
        opened, both = c[start:stop], together[: stop - start]
        unpack(heard[at:end], _BITS, opened)
        for i in range(opened.size):
            opened[i] = (opened[i] + own[start + i]) & _WINDOW
        mask_digits(opened, masks[start:stop], digits[start:stop], products[start:stop], first, p[start:stop])
        for i in range(both.size):
            both[i] = p[start + i] ^ other[start + i]
        mask_sign(both, opened, masks[start:stop], products[start:stop], first, select, constant, t[start:stop])


@njit(nogil=True, cache=True)
def unmask(heard, bits, y, x):
    for start in range(0, x.size, _BLOCK):
        stop = min(start + _BLOCK, x.size)
        some = x[start:stop]
        unpack(heard[start * bits // 64 : (stop * bits + 63) // 64], bits, some)
        for i in range(some.size):
            some[i] += y[start + i]
