"""The same words with numpy alone."""

import numpy as np

from ..comparison.in_numpy import mask_digits, mask_sign, mask_value
from ..packing.in_numpy import pack, unpack

_BITS = 22
_WINDOW = np.uint32((1 << 22) - 1)


def lead(heard, packed, z, masks, digits, products, c, p, shift, add, first):
    own = np.empty(c.size, np.uint32)
    mask_value(z, masks, shift, add, own)
    unpack(heard, _BITS, c)
    c[:] = c + own & _WINDOW
    mask_digits(c, masks, digits, products, first, p)
    pack(own, _BITS, packed)


def follow(heard, other, own, masks, digits, products, c, p, t, first, select, constant):
    unpack(heard, _BITS, c)
    c[:] = c + own & _WINDOW
    mask_digits(c, masks, digits, products, first, p)
    mask_sign(p ^ other, c, masks, products, first, select, constant, t)


def unmask(heard, bits, y, x):
    unpack(heard, bits, x)
    x += y
