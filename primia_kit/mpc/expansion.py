"""Pseudorandom words from a 32-byte seed: HKDF-SHA256 for a key of each purpose, AES-256-CTR for its words.

There is no generator object, hence no state that a fork could double or a crash could repeat: the words are a function
of (seed, purpose). Whoever holds the seed expands the same words; a purpose must therefore never serve two masks.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from ..errors import KitError

SEED_BYTES = 32
_CHUNK = 1 << 18  # zeros stay in the processor's second-level cache while they are encrypted
_ZEROS = memoryview(bytes(_CHUNK))


def expand(out: np.ndarray, seed: bytes, *purpose: int | str) -> np.ndarray:
    """Fill `out` with the pseudorandom words of (seed, purpose): `fill(out, stream_key(seed, *purpose))`."""
    return fill(out, stream_key(seed, *purpose))


def stream_key(seed: bytes, *purpose: int | str) -> bytes:
    """The 32-byte key of one stream: HKDF-SHA256(seed, info = JSON list of the purpose).

    Args:
        seed: 32 bytes from the operating system's generator.
        purpose: what the words are for, e.g. (inference id, "relu", 4), at least one part; ("1", "2"), ("12",) and (12,)
            differ.

    Raises: KitError for a seed of another length, or a missing purpose.
    """
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    if len(seed) != SEED_BYTES:
        raise KitError(f"A seed has {SEED_BYTES} bytes, not {len(seed)}: take it from the operating system's generator.")
    if not purpose:
        raise KitError("Words are expanded for a named purpose: two uses of the same words would give both away.")
    return HKDF(SHA256(), 32, salt=None, info=b"primia expand v1 " + json.dumps(purpose).encode()).derive(seed)


def fill(out: np.ndarray, key: bytes, start: int = 0) -> np.ndarray:
    """Fill `out` with a stretch of a stream: AES-256 in counter mode from counter 0 (NIST SP 800-38A), little-endian.

    About 6 GB/s on a core with VAES; fresh pages of memory cost more than that, so reuse `out`.

    Args:
        out: any C-contiguous array of whole numbers.
        key: of the stream.
        start: bytes of the stream to pass over, a multiple of 16: pieces can be filled apart, and side by side.

    Returns: `out`.
    Raises: KitError for an array that can't be filled in place, or a start within a block.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    if not (out.flags.c_contiguous and out.flags.writeable and out.dtype.kind in "iu"):
        raise KitError(f"Words are expanded into contiguous arrays of whole numbers, not {out.dtype} with strides {out.strides}.")
    if start < 0 or start % 16:
        raise KitError(f"A stream is entered at a multiple of 16 bytes, not at {start}.")
    encryptor = Cipher(algorithms.AES(key), modes.CTR((start // 16).to_bytes(16, "big"))).encryptor()
    room = memoryview(out.reshape(-1).view(np.uint8))
    for at in range(0, len(room), _CHUNK):
        part = room[at : at + _CHUNK]
        encryptor.update_into(_ZEROS[: len(part)], part)
    if sys.byteorder == "big":
        out.byteswap(inplace=True)
    return out
