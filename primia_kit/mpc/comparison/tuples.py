"""Correlated randomness for comparisons and truncations: expanded by both parties, corrected by what is dealt.

Party 0 expands all of its fields from its seed. Party 1 expands `masks` from its own, and is dealt the rest: 60 + 53 +
2 k + 3 (k - 22) bits a comparison, 30 bytes at k = 38; 2 (k - 22) bits a truncation, 4 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from ...errors import KitError
from ..compiled import loops
from ..expansion import expand
from ..packing import pack_words, packed_size, unpack_words
from ..ring import Ring
from ..threads import spread
from .tables import DIGITS_BITS, PRODUCTS_BITS, WINDOW

_GRAIN = 1 << 13


@dataclass(frozen=True)
class LiftTuples:
    """One party's part of n truncations; see the package for the fields.

    masks: uint32 [n]: bits 0-21 r_i, 22-29 q_i, 30 s_i; bit 31 unused
    wrap, top: uint32 [n], modulo 2^(bits - 22)
    """

    bits: int  # k, of the ring that results are in
    masks: np.ndarray
    wrap: np.ndarray
    top: np.ndarray

    @classmethod
    def widths(cls, bits: int) -> dict[str, int]:
        """Bits of each dealt field, in the order in which they are packed."""
        if not WINDOW < bits <= 52:
            raise KitError(f"A comparison's result needs a ring of {WINDOW + 1} to 52 bits, not {bits}.")
        return {"wrap": bits - WINDOW, "top": bits - WINDOW}

    @classmethod
    def packed_size(cls, count: int, bits: int) -> int:
        """Bytes dealt to party 1 for `count` tuples."""
        return sum(packed_size(count, width) for width in cls.widths(bits).values())

    @classmethod
    def expand(cls, count: int, bits: int, seed: bytes, *purpose: int | str):
        """Party 0's tuples, from its 32-byte seed with the provider; purpose as in `mpc.expand`, used once."""
        room = {name: _room(count, width) for name, width in cls.widths(bits).items()}
        filled = {name: expand(words, seed, *purpose, name) for name, words in room.items()}
        return cls(bits, _masks(count, seed, purpose), **filled)

    @classmethod
    def deal(cls, count: int, bits: int, seed0: bytes, seed1: bytes, *purpose: int | str) -> np.ndarray:
        """The provider's work: uint8 [packed_size], for party 1. It keeps the two seeds and nothing else."""
        zero = cls.expand(count, bits, seed0, *purpose)
        one = cls(bits, _masks(count, seed1, purpose), **{n: _room(count, w) for n, w in cls.widths(bits).items()})
        spread(lambda a, b: zero[a:b]._correct(one[a:b]), count, _GRAIN)
        return np.concatenate([pack_words(getattr(one, name), width) for name, width in cls.widths(bits).items()])

    @classmethod
    def unpack(cls, packed, count: int, bits: int, seed: bytes, *purpose: int | str):
        """Party 1's tuples, from what was dealt and its own seed with the provider. Raises KitError for a wrong size."""
        packed = np.frombuffer(packed, np.uint8)
        if packed.size != cls.packed_size(count, bits):
            raise KitError(f"{count} tuples of {bits} bits take {cls.packed_size(count, bits)} bytes, but {packed.size} came.")
        found, at = {}, 0
        for name, width in cls.widths(bits).items():
            size = packed_size(count, width)
            found[name] = unpack_words(packed[at : at + size], width, count, _dtype(width))
            at += size
        return cls(bits, _masks(count, seed, purpose), **found)

    def __getitem__(self, part: slice):
        """The tuples of some comparisons, without a copy."""
        return type(self)(self.bits, *(getattr(self, field.name)[part] for field in fields(self)[1:]))

    def __len__(self) -> int:
        return self.masks.size

    def _correct(self, one: LiftTuples) -> None:
        """Set party 1's fields so that they and party 0's, self's, are shares of what they should be."""
        high = np.uint64((1 << self.bits - WINDOW) - 1)
        loops(__package__).deal_lift(self.masks, one.masks, self.wrap, self.top, high, one.wrap, one.top)


@dataclass(frozen=True)
class CompareTuples(LiftTuples):
    """One party's part of n comparisons: a truncation's, and

    digits: uint64 [n], 60 bits, thermometer codes T_0 .. T_3 of 15 bits each
    products: uint64 [n], 53 bits, T_4, 37 products of q's bits, r's bit 20
    s, rs: uint64 [n], modulo 2^bits; top_s: uint32 [n], modulo 2^(bits - 22)
    """

    digits: np.ndarray
    products: np.ndarray
    s: np.ndarray
    rs: np.ndarray
    top_s: np.ndarray

    @classmethod
    def widths(cls, bits: int) -> dict[str, int]:
        more = {"digits": DIGITS_BITS, "products": PRODUCTS_BITS, "s": bits, "rs": bits, "top_s": bits - WINDOW}
        return super().widths(bits) | more

    def _correct(self, one: CompareTuples) -> None:
        super()._correct(one)
        kept, high = Ring(self.bits).mask, np.uint64((1 << self.bits - WINDOW) - 1)
        loops(__package__).deal_compare(
            self.masks, one.masks, self.digits, self.products, self.s, self.rs, self.top_s, kept, high,
            one.digits, one.products, one.s, one.rs, one.top_s,
        )  # fmt: skip


def _masks(count: int, seed: bytes, purpose) -> np.ndarray:
    return expand(np.empty(count, np.uint32), seed, *purpose, "masks")


def _dtype(width: int):
    return np.uint32 if width <= 32 else np.uint64


def _room(count: int, width: int) -> np.ndarray:
    return np.empty(count, _dtype(width))
