"""The steps of a comparison in numpy, for machines without numba: symbols as in this package's protocol."""

import numpy as np

_M, _MASK = np.uint64(22), np.uint64((1 << 22) - 1)
_OFF = np.uint64(1 << 20)
_CODE = np.uint64((1 << 15) - 1)


def _bits(word, first: int, count: int = 1):
    """Bits [first, first + count) as uint64."""
    return word.astype(np.uint64) >> np.uint64(first) & np.uint64((1 << count) - 1)


def mask_value(z, masks, shift, add, c):
    c[:] = (z >> np.uint64(shift)) + masks + np.uint64(add) & _MASK


def mask_digits(c, masks, digits, products, first, p):
    byte = _bits(masks, 22, 8)
    for j in range(5):
        digit = _bits(c, 4 * j, 4)
        code = _bits(digits, 15 * j, 15) if j < 4 else _bits(products, 0, 15)
        if j < 4:
            byte ^= (code >> digit & np.uint64(1)) << np.uint64(7 - j)  # l_j
        if j > 0:
            shifted = code << np.uint64(1) | np.uint64(first)
            byte ^= ((code ^ shifted) >> digit & np.uint64(1)) << np.uint64(4 - j)  # e_j
    p[:] = byte


def mask_sign(p, c, masks, products, first, select, constant, t):
    known = _bits(products, 15, 38) << np.uint64(8) | _bits(masks, 22, 8)
    share = np.bitwise_count(known & select[p]).astype(np.uint64)
    share ^= (products & _CODE) >> _bits(c, 16, 4)  # l_4
    share ^= _bits(masks, 30)
    if first:
        share ^= constant[p] ^ _bits(c, 20)
    t[:] = share & np.uint64(1)


def lift(c, masks, wrap, top, first, kept, v):
    low = np.uint64(1) - _bits(c, 21)
    value = (wrap + low * top << _M) - _bits(masks, 0, 22)
    if first:
        value += c - _OFF
    v[:] = value & kept


def relu(t, c, masks, wrap, top, s, rs, top_s, first, kept, out):
    value = np.empty(c.shape, np.uint64)
    lift(c, masks, wrap, top, first, kept, value)
    low = np.uint64(1) - _bits(c, 21)
    part = (c - _OFF) * s - rs + (low * top_s << _M)
    out[:] = np.where(t, value - part, part) & kept


def deal_lift(masks0, masks1, wrap0, top0, high, wrap1, top1):
    total = _bits(masks0, 0, 22) + _bits(masks1, 0, 22)
    wrap1[:] = (total >> _M) - wrap0 & high
    top1[:] = _bits(total, 21) - top0 & high


def deal_compare(
    masks0, masks1, digits0, products0, s0, rs0, top_s0, kept, high, all_products, digits1, products1, s1, rs1, top_s1
):
    r = _bits(masks0, 0, 22) + _bits(masks1, 0, 22) & _MASK
    q, s = _bits(masks0 ^ masks1, 22, 8), _bits(masks0 ^ masks1, 30)
    codes = [(np.uint64(1) << _bits(r, 4 * j, 4)) - np.uint64(1) for j in range(5)]
    digits1[:] = _bits(digits0, 0, 60)
    for j in range(4):
        digits1 ^= codes[j] << np.uint64(15 * j)
    products1[:] = _bits(products0, 0, 53) ^ codes[4] ^ all_products[q] << np.uint64(15) ^ _bits(r, 20) << np.uint64(52)
    s1[:] = s - s0 & kept
    rs1[:] = r * s - rs0 & kept
    top_s1[:] = (_bits(r, 21) & s) - top_s0 & high
