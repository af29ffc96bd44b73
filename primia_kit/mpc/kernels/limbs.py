"""Cutting ring words into limbs whose products some arithmetic sums exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

SHORT_BITS = 16  # short weights w are signed: |w| < 2^15


@dataclass(frozen=True)
class Limb:
    """Bits [shift, shift + width) of a word, as a signed digit in [-2^(width-1), 2^(width-1))."""

    shift: int
    width: int


@dataclass(frozen=True)
class Product:
    """One weight limb times some limbs of x: sums of limb i count 2^(weight.shift + x[i].shift)."""

    weight: Limb
    x: tuple[Limb, ...]
    longest: int  # terms that may be added before an int32 sum could lose a bit that counts


def signed_limbs(words: np.ndarray, limbs: Sequence[Limb], out: Sequence[np.ndarray] | None = None) -> Sequence[np.ndarray]:
    """Digits with sum(digit << shift) = word modulo 2^(last limb's end), an array for each limb.

    A half of each limb's range is added first; then plain bit fields, less that half, are the signed digits.

    Args:
        words: uint64.
        out: arrays of the words' shape, int64 or float64; fresh int64 without.
    """
    halves = np.uint64(sum(1 << limb.shift + limb.width - 1 for limb in limbs))
    lifted = words + halves
    out = [np.empty(words.shape, np.int64) for _ in limbs] if out is None else out
    for limb, digits in zip(limbs, out):
        fields = lifted >> np.uint64(limb.shift)
        fields &= np.uint64((1 << limb.width) - 1)
        np.subtract(fields.view(np.int64), 1 << limb.width - 1, out=digits)
    return out


def int16_products(bits: int, short: bool) -> list[Product]:
    """Which products of int16 limbs give x * w modulo 2^bits, for int32 sums that wrap modulo 2^32.

    A sum that counts 2^s is needed modulo 2^(bits - s). From s >= bits - 32 on that is what wrapping leaves, however
    many terms there are. So x has its two upper limbs of 16 bits at bits - 32 and bits - 16, and the bits below them in
    limbs of at most 10, whose sums must not wrap: `longest` terms |x_i w_j| < 2^(width-1) * 2^15 stay below 2^31.
    For bits = 38: x = 6 + 16 + 16, and 3 products with short weights, 6 with long ones.
    """
    low = max(0, bits - 32)
    count = -(-low // 10)
    ends = [low * i // count for i in range(count + 1)] if count else [0]
    x = [Limb(start, stop - start) for start, stop in pairwise(ends)]
    x += [Limb(start, min(16, bits - start)) for start in range(low, bits, 16)]
    weights = [Limb(0, 16)] if short else [Limb(start, min(16, bits - start)) for start in range(0, bits, 16)]
    products = []
    for weight in weights:
        counting = [limb for limb in x if weight.shift + limb.shift < bits]
        while counting:
            # At most three limbs share a tile of registers, and two and two are better than three and one.
            some, counting = (counting[:2], counting[2:]) if len(counting) == 4 else (counting[:3], counting[3:])
            exact = [limb.width for limb in some if bits - weight.shift - limb.shift > 32]
            longest = min((2 ** (32 - width - weight.width + 1) - 1 for width in exact), default=1 << 30)
            products.append(Product(weight, tuple(some), longest))
    return products


def float64_limbs(bits: int, short: bool, terms: int) -> tuple[Limb, ...]:
    """Limbs of x (and of long weights) whose sums of `terms` products are exact in float64, the fewest that are.

    Short: limb times weight, terms * 2^(width-1) * 2^15 <= 2^53. Long: sums of one place take products of up to
    `count` pairs of limbs, count * terms * 2^(2 width - 2) <= 2^53.
    """
    for count in range(1, bits + 1):
        width = -(-bits // count)
        largest = terms << (width - 1 + SHORT_BITS - 1 if short else 2 * width - 2)
        if largest * (1 if short else count) <= 1 << 53:
            return tuple(Limb(start, min(width, bits - start)) for start in range(0, bits, width))
    raise ValueError(f"no limbs sum {terms} products exactly")  # from 2^38 terms on: no such array exists
