"""Words of b bits without gaps: what is sent or dealt carries not one bit more than its declared width."""

from __future__ import annotations

import sys

import numpy as np

from ...errors import KitError
from ..compiled import loops
from ..threads import spread

_GROUP = 64  # 64 words of b bits fill b 64-bit words exactly, so groups are packed side by side


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` words of `bits` bits take: ceil(count * bits / 8)."""
    return -(-count * bits // 8)


def pack_words(words: np.ndarray, bits: int, out: np.ndarray | None = None) -> np.ndarray:
    """The lowest `bits` bits of each word, one after the other, little-endian.

    Bits above are dropped: they may hold carries that depend on secrets, and must not be sent.

    Args:
        words: uint8, uint32 or uint64, any shape, taken in C order.
        bits: from 1 to 63.
        out: uint64 [ceil(words.size * bits / 64)] to write to; a fresh array without.

    Returns: uint8 [packed_size(words.size, bits)]; bits after the last word are zero.
    """
    _check(bits)
    if words.dtype not in (np.uint8, np.uint32, np.uint64):
        raise KitError(f"Only words of uint8, uint32 or uint64 are packed, not {words.dtype}.")
    words = np.ascontiguousarray(words).reshape(-1)
    packed = np.empty(-(-words.size * bits // 64), np.uint64) if out is None else out
    pack = loops(__name__).pack
    spread(
        lambda start, stop: pack(words[start:stop], bits, packed[start * bits // 64 : -(-stop * bits // 64)]),
        words.size,
        _GROUP * 64,
    )
    if sys.byteorder == "big":
        packed.byteswap(inplace=True)
    return packed.view(np.uint8)[: packed_size(words.size, bits)]


def unpack_words(packed, bits: int, count: int, dtype=np.uint64, out: np.ndarray | None = None) -> np.ndarray:
    """The inverse of `pack_words`.

    Args:
        packed: packed_size(count, bits) bytes: bytes, a memoryview or uint8.
        bits, count: as they were packed.
        dtype: of the words: uint8, uint32 or uint64, at least `bits` wide.
        out: [count] of that dtype, to be filled; a fresh array without.

    Returns: [count] words, each below 2^bits.
    Raises: KitError if the number of bytes is another.
    """
    _check(bits)
    packed = np.frombuffer(packed, np.uint8)
    if packed.size != packed_size(count, bits):
        raise KitError(f"{count} words of {bits} bits take {packed_size(count, bits)} bytes, but {packed.size} came.")
    if np.iinfo(dtype).bits < bits:
        raise KitError(f"Words of {bits} bits don't fit {np.dtype(dtype)}.")
    if packed.size % 8 or packed.ctypes.data % 8 or sys.byteorder == "big":
        whole = np.zeros(-(-packed.size // 8), "<u8")
        whole.view(np.uint8)[: packed.size] = packed
        whole = whole.astype(np.uint64, copy=False)
    else:
        whole = packed.view(np.uint64)
    words = np.empty(count, dtype) if out is None else out
    unpack = loops(__name__).unpack
    spread(lambda start, stop: unpack(whole[start * bits // 64 :], bits, words[start:stop]), count, _GROUP * 64)
    return words


def _check(bits: int) -> None:
    if not 1 <= bits <= 63:
        raise KitError(f"Words of {bits} bits can't be packed: 1 to 63 can.")
