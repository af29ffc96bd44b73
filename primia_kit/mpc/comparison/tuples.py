"""Correlated randomness for comparisons and truncations: expanded by both parties, corrected by what is dealt.

Party 0 expands all of its fields from its seed. Party 1 expands `masks` from its own, and is dealt the rest: 60 + 53 +
2 k + 3 (k - 22) bits a comparison, 30 bytes at k = 38; 2 (k - 22) bits a truncation, 4 bytes.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields

import numpy as np

from ...errors import KitError
from ..compiled import loops
from ..expansion import fill, stream_key
from ..packing import pack_words, packed_size, unpack_words
from ..ring import MAX_BITS, Ring
from ..threads import spread
from .tables import DIGITS_BITS, PRODUCTS, PRODUCTS_BITS, WINDOW

_CHUNK = 1 << 16  # comparisons that the provider works on at a time, a multiple of 64: their words stay in the cache
_here = threading.local()


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
        return sum(_field_size(count, width) for width in cls.widths(bits).values())

    @classmethod
    def expand(cls, count: int, bits: int, seed: bytes, *purpose: int | str, room: np.ndarray | None = None):
        """Party 0's tuples, from its 32-byte seed with the provider.

        Args:
            purpose: as in `mpc.expand`; a purpose serves once.
            room: uint8 [room_size], reused from an earlier image: fresh memory takes longer than the expansion.
        """
        room = cls._room(count, bits, room)
        spread_fill(room, stream_key(seed, *purpose))
        return cls._over(room, count, bits)

    @classmethod
    def deal(
        cls, count: int, bits: int, seed0: bytes, seed1: bytes, *purpose: int | str, out: np.ndarray | None = None
    ) -> np.ndarray:
        """The provider's work: uint8 [packed_size], for party 1. It keeps the two seeds and nothing else.

        Args:
            out: uint8 [packed_size] to write to, reused from an earlier deal: fresh memory costs time.
        """
        keys = stream_key(seed0, *purpose), stream_key(seed1, *purpose, "masks")
        layout, packing = _layout(cls, count, bits), cls.widths(bits)
        dealt = np.empty(cls.packed_size(count, bits), np.uint8) if out is None else out

        def work(first, last):
            rooms = _scratch()
            for start in range(first, last, _CHUNK):
                some = min(_CHUNK, last - start)
                zero, one = (cls._over(room, some, bits) for room in rooms)
                for name, (offset, dtype) in layout.items():
                    fill(getattr(zero, name), keys[0], offset + start * dtype.itemsize)
                fill(one.masks, keys[1], start * one.masks.itemsize)
                zero._correct(one)
                at = 0
                for name, width in packing.items():
                    place = at // 8 + start * width // 64
                    pack_words(getattr(one, name), width, dealt.view(np.uint64)[place : place - (-some * width // 64)])
                    at += _field_size(count, width)

        spread(work, count, _CHUNK)
        return dealt

    @classmethod
    def unpack(cls, packed, count: int, bits: int, seed: bytes, *purpose: int | str, room: np.ndarray | None = None):
        """Party 1's tuples, from what was dealt and its own seed with the provider. Raises KitError for a wrong size."""
        packed = np.frombuffer(packed, np.uint8)
        if packed.size != cls.packed_size(count, bits):
            raise KitError(f"{count} tuples of {bits} bits take {cls.packed_size(count, bits)} bytes, but {packed.size} came.")
        tuples = cls._over(cls._room(count, bits, room), count, bits)
        spread_fill(tuples.masks, stream_key(seed, *purpose, "masks"))
        at = 0
        for name, width in cls.widths(bits).items():
            words = getattr(tuples, name)
            unpack_words(packed[at : at + packed_size(count, width)], width, count, words.dtype, words)
            at += _field_size(count, width)
        return tuples

    @classmethod
    def room_size(cls, count: int, bits: int) -> int:
        """Bytes of memory that one party's tuples take."""
        return sum(dtype.itemsize for _, dtype in _layout(cls, count, bits).values()) * _padded(count)

    @classmethod
    def _room(cls, count: int, bits: int, room: np.ndarray | None) -> np.ndarray:
        size = cls.room_size(count, bits)
        if room is None:
            return np.empty(size, np.uint8)
        if room.dtype != np.uint8 or room.size < size:
            raise KitError(f"{count} tuples of {bits} bits need room of {size} bytes as uint8, not {room.size} as {room.dtype}.")
        return room[:size]

    @classmethod
    def _over(cls, room: np.ndarray, count: int, bits: int):
        """Tuples whose fields lie in `room`, as an expansion fills it."""
        layout = _layout(cls, count, bits)
        return cls(bits, **{name: room[at:].view(kind)[:count] for name, (at, kind) in layout.items()})

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
            self.masks, one.masks, self.digits, self.products, self.s, self.rs, self.top_s, kept, high, PRODUCTS,
            one.digits, one.products, one.s, one.rs, one.top_s,
        )  # fmt: skip


def _field_size(count: int, width: int) -> int:
    """Bytes of a packed field, rounded up to whole 64-bit words, so that the next one is packed in place too."""
    return -(-count * width // 64) * 8


def _scratch() -> list[np.ndarray]:
    """Room for two parties' tuples of a chunk, kept for the thread's next chunk."""
    if not hasattr(_here, "rooms"):
        _here.rooms = [np.empty(CompareTuples.room_size(_CHUNK, MAX_BITS), np.uint8) for _ in range(2)]
    return _here.rooms


def _padded(count: int) -> int:
    """Fields start at multiples of 16 bytes, AES's blocks."""
    return -(-count // 4) * 4


def _layout(cls: type[LiftTuples], count: int, bits: int) -> dict[str, tuple[int, np.dtype]]:
    """name -> (byte at which the field starts in an expansion, dtype); 64-bit fields first."""
    widths = {"masks": 32} | cls.widths(bits)
    layout, at = {}, 0
    for name in sorted(widths, key=lambda name: widths[name] <= 32):
        dtype = np.dtype(np.uint32 if widths[name] <= 32 else np.uint64)
        layout[name] = at, dtype
        at += _padded(count) * dtype.itemsize
    return layout


def spread_fill(out: np.ndarray, key: bytes) -> None:
    """`fill` by all threads."""
    room = out.view(np.uint8)
    spread(lambda start, stop: fill(room[start:stop], key, start), room.size, 1 << 18)
