"""Long vectors, block by block and in threads: masks added to them, and their extremes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_BLOCK = 1 << 16  # words: a block and its keystream stay in the cache while all masks are added
_ZEROS = bytes(4 * _BLOCK)
_THREADS = min(4, os.cpu_count() or 1)
_AES_BLOCK = 16


def add_masks(words: np.ndarray, masks: Sequence[tuple[bytes, int]]) -> None:
    """Add pseudorandom vectors to a uint32 vector [n] in place, modulo 2^32.

    Args:
        masks: (key, sign): a 32-byte key that is used for this one mask, and +1 or -1. The mask is the
            AES-256 keystream in counter mode, from counter 0, read as n little-endian words.
    """

    def add(start: int, stop: int) -> None:
        counter = (start * 4 // _AES_BLOCK).to_bytes(16, "big")
        streams = [(Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor(), sign) for key, sign in masks]
        buffer = np.empty(4 * _BLOCK + _AES_BLOCK, np.uint8)
        for at in range(start, stop, _BLOCK):
            block = words[at : min(at + _BLOCK, stop)]
            for stream, sign in streams:
                stream.update_into(memoryview(_ZEROS)[: block.nbytes], buffer)
                mask = buffer[: block.nbytes].view("<u4")
                (np.add if sign > 0 else np.subtract)(block, mask, out=block)

    in_threads(add, len(words), _BLOCK)


def extremes(reals: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest value of a flat array; NaN if there is one, (0, 0) if there is no value."""
    found = [(0.0, 0.0)]

    def find(start: int, stop: int) -> None:
        for at in range(start, stop, _BLOCK):
            block = reals[at : min(at + _BLOCK, stop)]
            found.append((block.min(), block.max()))

    in_threads(find, len(reals), _BLOCK)
    low, high = np.array(found[1:] or found, float).T
    return float(low.min()), float(high.max())


def in_threads(work: Callable[[int, int], None], length: int, block: int) -> None:
    """Call work(start, stop) on ranges that begin at multiples of `block` and cover 0 to `length`."""
    share = -(-length // (_THREADS * block)) * block
    if length <= 16 * block or _THREADS == 1:
        work(0, length)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda start: work(start, min(start + share, length)), range(0, length, share)))
