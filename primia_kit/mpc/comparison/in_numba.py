"""The steps of a comparison, compiled: the same words as in_numpy, which is the easier to read.

The tables are arguments: numba would freeze globals into code that its cache keeps when `tables` changes.
"""

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

_ONE, _M, _OFF = np.uint64(1), np.uint64(22), np.uint64(1 << 20)
_MASK = np.uint64((1 << 22) - 1)
_DIGITS = np.uint64((1 << 60) - 1)
_CODE = np.uint64((1 << 15) - 1)


@intrinsic
def count_ones(typing, word):
    """The number of ones in a uint64: LLVM's ctpop, in vectors, also on processors without such an instruction."""
    return types.uint64(types.uint64), lambda context, builder, signature, arguments: builder.ctpop(arguments[0])


@njit(nogil=True, cache=True)
def mask_value(z, masks, shift, add, c):
    for i in range(z.size):
        c[i] = ((z[i] >> np.uint64(shift)) + np.uint64(masks[i]) + np.uint64(add)) & _MASK


@njit(nogil=True, cache=True)
def mask_digits(c, masks, digits, products, first, p):
    lowest = np.uint64(first)
    for i in range(c.size):
        opened, codes = np.uint64(c[i]), digits[i]
        code = codes & _CODE
        byte = ((code >> (opened & np.uint64(15))) & _ONE) << np.uint64(7)
        for j in range(1, 4):
            digit = (opened >> np.uint64(4 * j)) & np.uint64(15)
            code = (codes >> np.uint64(15 * j)) & _CODE
            byte |= ((code >> digit) & _ONE) << np.uint64(7 - j)
            byte |= (((code ^ (code << _ONE | lowest)) >> digit) & _ONE) << np.uint64(4 - j)
        digit = (opened >> np.uint64(16)) & np.uint64(15)
        code = products[i] & _CODE
        byte |= ((code ^ (code << _ONE | lowest)) >> digit) & _ONE
        p[i] = byte ^ np.uint64(masks[i] >> np.uint32(22))


@njit(nogil=True, cache=True)
def mask_sign(p, c, masks, products, first, select, constant, t):
    for i in range(p.size):
        own, opened, mask = products[i], np.uint64(c[i]), np.uint64(masks[i])
        known = ((own >> np.uint64(15)) << np.uint64(8)) | ((mask >> _M) & np.uint64(255))
        x = count_ones(known & select[p[i]])  # its lowest bit is the parity
        x ^= (own & _CODE) >> ((opened >> np.uint64(16)) & np.uint64(15))
        x ^= mask >> np.uint64(30)
        if first:
            x ^= np.uint64(constant[p[i]]) ^ (opened >> np.uint64(20))
        t[i] = x & _ONE


@njit(nogil=True, cache=True)
def lift(c, masks, wrap, top, first, kept, v):
    for i in range(c.size):
        opened = np.uint64(c[i])
        low = np.uint64(0) - (_ONE - (opened >> np.uint64(21)))  # all ones where c's bit 21 is 0
        value = ((np.uint64(wrap[i]) + (np.uint64(top[i]) & low)) << _M) - (np.uint64(masks[i]) & _MASK)
        if first:
            value += opened - _OFF
        v[i] = value & kept


@njit(nogil=True, cache=True)
def relu(t, c, masks, wrap, top, s, rs, top_s, first, kept, out):
    for i in range(c.size):
        opened = np.uint64(c[i])
        low = np.uint64(0) - (_ONE - (opened >> np.uint64(21)))
        value = ((np.uint64(wrap[i]) + (np.uint64(top[i]) & low)) << _M) - (np.uint64(masks[i]) & _MASK)
        if first:
            value += opened - _OFF
        part = opened * s[i] - (s[i] << np.uint64(20)) - rs[i] + ((np.uint64(top_s[i]) & low) << _M)
        flip = np.uint64(0) - np.uint64(t[i])
        out[i] = (part ^ ((part ^ (value - part)) & flip)) & kept


@njit(nogil=True, cache=True)
def deal_lift(masks0, masks1, wrap0, top0, high, wrap1, top1):
    for i in range(masks0.size):
        total = (np.uint64(masks0[i]) & _MASK) + (np.uint64(masks1[i]) & _MASK)
        wrap1[i] = ((total >> _M) - np.uint64(wrap0[i])) & high
        top1[i] = (((total >> np.uint64(21)) & _ONE) - np.uint64(top0[i])) & high


@njit(nogil=True, cache=True)
def deal_compare(
    masks0, masks1, digits0, products0, s0, rs0, top_s0, kept, high, all_products, digits1, products1, s1, rs1, top_s1
):
    for i in range(masks0.size):
        r = ((np.uint64(masks0[i]) & _MASK) + (np.uint64(masks1[i]) & _MASK)) & _MASK
        differ = np.uint64(masks0[i] ^ masks1[i])
        q, s = (differ >> _M) & np.uint64(255), (differ >> np.uint64(30)) & _ONE
        codes = np.uint64(0)
        for j in range(4):
            codes |= ((_ONE << ((r >> np.uint64(4 * j)) & np.uint64(15))) - _ONE) << np.uint64(15 * j)
        digits1[i] = (codes ^ digits0[i]) & _DIGITS
        codes = (_ONE << ((r >> np.uint64(16)) & np.uint64(15))) - _ONE
        codes |= all_products[q] << np.uint64(15) | ((r >> np.uint64(20)) & _ONE) << np.uint64(52)
        products1[i] = (codes ^ products0[i]) & np.uint64((1 << 53) - 1)
        s1[i] = (s - s0[i]) & kept
        rs1[i] = (r * s - rs0[i]) & kept
        top_s1[i] = (((r >> np.uint64(21)) & s) - np.uint64(top_s0[i])) & high
