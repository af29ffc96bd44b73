"""Discrete Gaussian noise in whole numbers: no logarithm, no cosine, no rounding of a float, and closed under sums.

    w  width, an even number from 32 to 512        B = w / 2
    X  a whole number with chance proportional to exp(-X^2 / (2 w^2)), |X| <= 14 w (from a table)
    Z  = X_0 + B X_1 + B^2 X_2, of variance w^2 (1 + B^2 + B^4): a discrete Gaussian on all whole numbers

Sums like Z and sums of Z's are discrete Gaussians but for a factor (Micciancio & Walter 2017; Kairouz, Liu & Steinke 2021,
arXiv 2102.06387). For x + b y = z, with x, y of variances s, t, the chances of all (x, y) add up to

    exp(-z^2 / (2 (s + b^2 t))) times a sum over whole numbers of a Gaussian of variance V = 1 / (b^2 / s + 1 / t),

and the latter is constant in z within 1 ± 2.1 exp(-2 pi^2 V) (Poisson's summation formula). In Z, V is at least 3.98, a
factor of 1 ± 2^-112; between two hospitals' Z's V is 10^7 and more.

What isn't exact: the table's chances are rounded to multiples of 2^-128, and |X| stops at 14 deviations, together a
total variation of less than 2^-114 an X. How long a draw takes goes by which entries are hit, in one of 10 to 100 draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..errors import KitError

if TYPE_CHECKING:
    from .randomness import NoiseSource

NARROWEST, WIDEST = 32, 512
_DEVIATIONS = 14
_CHUNK = 1 << 16  # values made at a time, in the cache
_GUIDE_BITS = 16


def variance(width: int) -> int:
    """Of Z."""
    base = _base(width)
    return width**2 * (1 + base**2 + base**4)


def largest(width: int) -> int:
    """The largest |Z|."""
    base = _base(width)
    return _DEVIATIONS * width * (1 + base + base**2)


def discrete_gaussian(source: NoiseSource, n: int, width: int) -> np.ndarray:
    """int64 [n], each an independent Z.

    1. X_0, X_1, X_2: the number of thresholds that a uniform word of 128 bits reaches, less 14 w. The word's second half is
       drawn only if the first equals a threshold's.
    2. Z = X_0 + B X_1 + B^2 X_2.

    Raises: KitError for a width that is odd or out of range.
    """
    base, table = _base(width), _table(width)
    out = np.empty(n, np.int64)
    for start in range(0, n, _CHUNK):
        block = out[start : start + _CHUNK]
        x0, x1, x2 = table.draw(source, 3 * len(block)).reshape(3, -1)
        np.multiply(x2, base, out=block)
        block += x1
        block *= base
        block += x0
    return out


@dataclass(frozen=True)
class _Table:
    """thresholds: T_i = 2^128 P(X <= i - 14 w), rounded down, but for the last. high: their first halves, uint64. cells: of
    words that begin with the same 16 bits, how many thresholds they all reach, or -1 where that depends on the rest."""

    bound: int
    thresholds: tuple[int, ...]
    high: np.ndarray
    cells: np.ndarray

    def draw(self, source: NoiseSource, n: int) -> np.ndarray:
        """int64 [n] X's."""
        words = source.uniform_words(n)
        reached = self.cells[words >> np.uint64(64 - _GUIDE_BITS)]
        open_ = (reached < 0).nonzero()[0]
        rest = words[open_]
        found = np.searchsorted(self.high, rest)  # how many are below, by their first halves
        equal = self.high[np.minimum(found, len(self.high) - 1)] == rest
        for i in equal.nonzero()[0]:  # one draw in 2^50
            word = int(rest[i]) << 64 | int(source.uniform_words(1)[0])
            found[i] = sum(threshold <= word for threshold in self.thresholds)
        reached[open_] = found
        return reached - self.bound


@lru_cache(maxsize=8)
def _table(width: int) -> _Table:
    bound = _DEVIATIONS * width
    with localcontext() as context:
        context.prec = 80
        once = (Decimal(-1) / width**2).exp()
        chance, ratio = Decimal(1), (Decimal(-1) / (2 * width**2)).exp()  # ratio: of k + 1's chance and k's
        half = [chance]
        for _ in range(bound):
            chance *= ratio
            ratio *= once
            half.append(chance)
        chances = [*half[:0:-1], *half]
        unit, reached, thresholds = Decimal(2) ** 128 / sum(chances), Decimal(0), []
        for chance in chances[:-1]:
            reached += chance
            thresholds.append(int(reached * unit))
    high = np.array([threshold >> 64 for threshold in thresholds], np.uint64)
    starts = np.arange(1 << _GUIDE_BITS, dtype=np.uint64) << np.uint64(64 - _GUIDE_BITS)
    below = np.searchsorted(high, starts)
    through = np.append(below[1:], len(high))
    return _Table(bound, tuple(thresholds), high, np.where(below == through, below, -1))


def _base(width: int) -> int:
    if width % 2 or not NARROWEST <= width <= WIDEST:
        raise KitError(f"The noise's width is {width}; it's an even number from {NARROWEST} to {WIDEST}.")
    return width // 2
