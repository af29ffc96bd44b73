"""The ring Z_2^k in 64-bit words, and fixed-point numbers in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import KitError
from .expansion import expand

MAX_BITS = 52


@dataclass(frozen=True)
class Ring:
    """Integers modulo 2^bits, held in uint64.

    Sums, differences and products of words are right modulo 2^bits whatever their upper bits hold, since bits
    divides into 64; `reduce` clears those bits. A word that leaves a party must be reduced: its upper bits are
    carries that depend on secrets.

    Args:
        bits: k, from 2 to 52.
    """

    bits: int

    def __post_init__(self):
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 2 <= self.bits <= MAX_BITS:
            raise KitError(f"A ring of {self.bits!r} bits: choose a whole number from 2 to {MAX_BITS}.")

    @property
    def mask(self) -> np.uint64:
        """2^bits - 1."""
        return np.uint64((1 << self.bits) - 1)

    def reduce(self, words: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """`words` (uint64, any shape) modulo 2^bits; `out` may be `words` itself."""
        return np.bitwise_and(words, self.mask, out=out)

    def signed(self, words: np.ndarray) -> np.ndarray:
        """int64 representatives in [-2^(bits-1), 2^(bits-1)) of uint64 words; upper bits don't matter."""
        unused = np.int64(64 - self.bits)
        return (words << np.uint64(unused)).view(np.int64) >> unused

    def encode(self, values, fraction_bits: int, what: str = "value") -> np.ndarray:
        """Fixed point: round(values * 2^fraction_bits), halves to even, modulo 2^bits.

        Args:
            values: real numbers, any shape, with -2^(bits-1) <= rounded value < 2^(bits-1).
            fraction_bits: bits after the point, from 0 to bits - 1.
            what: the name that an error gives to the values.

        Returns: uint64, reduced, the shape of `values`.
        Raises: KitError that names the first value that isn't finite or doesn't fit.
        """
        self._check_fraction(fraction_bits)
        values = np.asarray(values, np.float64)
        scaled = np.rint(np.ldexp(values, fraction_bits))
        half = 2.0 ** (self.bits - 1)
        fits = (scaled >= -half) & (scaled < half)  # False for NaN
        if not fits.all():
            where = np.unravel_index(int(np.argmin(fits)), fits.shape) if fits.shape else ()
            at = f" at {tuple(int(i) for i in where)}" if where else ""
            limit = f"±2^{self.bits - 1 - fraction_bits}"
            raise KitError(
                f"{what}{at} is {values[where]:g}, outside {limit}, which {self.bits} bits with {fraction_bits} after the "
                "point can hold: take a larger ring or fewer fraction bits."
            )
        return self.reduce(scaled.astype(np.int64).view(np.uint64))

    def decode(self, words: np.ndarray, fraction_bits: int) -> np.ndarray:
        """float64 numbers in [-2^(bits-1-fraction_bits), 2^(bits-1-fraction_bits)); exact."""
        self._check_fraction(fraction_bits)
        return np.ldexp(self.signed(np.asarray(words, np.uint64)).astype(np.float64), -fraction_bits)

    def random(self, shape: int | tuple[int, ...], seed: bytes, *purpose: int | str) -> np.ndarray:
        """Uniform ring elements, reduced, from the stream that `expand` derives for (seed, purpose)."""
        words = expand(np.empty(shape, np.uint64), seed, *purpose)
        return self.reduce(words, out=words)

    def _check_fraction(self, fraction_bits: int) -> None:
        if not 0 <= fraction_bits < self.bits:
            raise KitError(f"{fraction_bits} fraction bits don't fit a ring of {self.bits} bits: choose 0 to {self.bits - 1}.")
