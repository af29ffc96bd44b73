"""Noise and samples that nobody can repeat: words of AES-256 in counter mode, Gaussians without telltale last bits.

There is no generator object, hence no state that a fork could double or a checkpoint could repeat: every call takes a new
256-bit key from the operating system and uses each word of its stream once.

Gaussian noise in floating point is attacked through the values that it can and can't take (Mironov 2012): the last bits of
a sum tell what was added to what. Two things are done about that here.

* Each value is made from four words of 53 bits. To find out which words can give a value, three of them have to be
  guessed: about 2^159 trials. (The argument is Holohan & Braghin's 2021, section 5.1, whose remedy with two draws Opacus's
  secure mode has too; one Box-Muller draw from two words falls in 2^53.)
* Noise lies on a grid of step g = 2^-32 of its standard deviation (rounded down to a power of two), and `noised` rounds
  the value to the same grid first. Both are then whole numbers below 2^53 and add up exactly, so that the last bits of the
  result tell nothing of the value. To add normal noise, rounded, to a value on the grid is to round the sum of both:
  post-processing of the Gaussian mechanism, whose accounting therefore holds.

What is left is float64's own error in logarithm and cosine, some 2^-19 of a grid step.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import KitError

if TYPE_CHECKING:
    import torch

GRID_BITS = 32
_CHUNK = 1 << 16  # values made at a time: their words and intermediate results stay in the cache
_ZEROS = memoryview(bytes(1 << 18))


class NoiseSource:
    """Secure random words, Gaussian noise and Poisson samples; threads and forked processes may share one."""

    def uniform_words(self, n: int) -> np.ndarray:
        """uint64 [n], uniform."""
        return _fill(np.empty(n, np.uint64), self._new_key())

    def bernoulli(self, n: int, q: float) -> np.ndarray:
        """bool [n], each True with probability q (rounded down to a multiple of 2^-64): a Poisson sample.

        Raises: KitError for a q outside of [0, 1].
        """
        if not 0 <= q <= 1:
            raise KitError(f"A sampling rate is a probability, and {q:g} isn't in [0, 1].")
        numerator, denominator = float(q).as_integer_ratio()
        threshold = (numerator << 64) // denominator
        if threshold == 1 << 64:
            return np.ones(n, bool)
        return self.uniform_words(n) < np.uint64(threshold)

    def gaussian(self, shape: Sequence[int] | int, std: float) -> torch.Tensor:
        """float32 normal noise of mean 0. Use `noised` to add it to something: float32 sums show where they were rounded."""
        import torch

        return self.noised(torch.zeros(shape), std)

    def noised(self, values: torch.Tensor, std: float) -> torch.Tensor:
        """`values` + normal noise, as the exact sum of two numbers on one grid, rounded to the values' type.

        1. g = 2^(⌊log2(std)⌋ - 32)
        2. k = round(value / g)
        3. z = round(std · (n1 + n2) / √2 / g) for n = √(-2 ln u) cos(a) of two uniform words each (Box & Muller 1958)
        4. (k + z) · g

        Step 2 changes a value by at most 2^-33 std, hence the norm of 10 million values by at most 4e-7 std.

        Args:
            values: float32 or float64, any shape, within ±2^19 std.
            std: the noise's standard deviation, above 0.

        Returns: a new tensor of the values' shape and type.
        Raises: KitError for a std that isn't finite and above 0, or values that aren't finite or are too large for it.
        """
        import torch

        if not (math.isfinite(std) and std > 0):
            raise KitError(f"The noise's standard deviation is {std:g}; it must be finite and above 0.")
        if not values.is_floating_point():
            raise KitError(f"Noise is added to floating-point numbers, not to {values.dtype}.")
        grid = 2.0 ** (math.floor(math.log2(std)) - GRID_BITS)
        flat, out = values.detach().reshape(-1), torch.empty(values.numel(), dtype=values.dtype)
        largest = float(flat.abs().max()) if flat.numel() else 0.0
        if not largest <= 2.0**19 * std:
            # Not by how much: the sentence may leave the hospital, and the values have no noise yet.
            raise KitError(f"Noise of standard deviation {std:g} is too little to be added to these values exactly: use more.")
        key, words = self._new_key(), np.empty(4 * min(_CHUNK, len(flat)), np.uint64)
        for start in range(0, len(flat), _CHUNK):
            block = flat[start : start + _CHUNK].double()
            n = len(block)
            # Each value has 4 words, hence 2 blocks of the stream.
            draws = _normal_pairs(_fill(words[: 4 * n], key, 2 * start), n)
            whole = (draws * (std / math.sqrt(2) / grid)).round_() + (block / grid).round_()
            out[start : start + n] = whole * grid
        return out.reshape(values.shape)

    def _new_key(self) -> bytes:
        return os.urandom(32)

    @staticmethod
    def insecure(seed: int) -> NoiseSource:
        """For tests alone: whoever knows the seed knows the noise and can take it away."""
        return _InsecureSource(seed)


class _InsecureSource(NoiseSource):
    def __init__(self, seed: int) -> None:
        self._seed, self._calls = seed, 0

    def _new_key(self) -> bytes:
        self._calls += 1
        return hashlib.sha256(f"insecure {self._seed} {self._calls}".encode()).digest()


def _normal_pairs(words: np.ndarray, n: int) -> torch.Tensor:
    """float64 [n], each the sum of two standard normal draws, from uint64 [4 n]."""
    import torch

    radius, angle = torch.from_numpy(words.view(np.int64)).view(2, 2, n)
    u = (radius & (2**53 - 1)).double().add_(0.5).mul_(2.0**-53)  # above 0; may round to 1
    a = (angle >> 11).double().mul_(2.0**-52 * math.pi)  # [-π, π)
    return u.log_().mul_(-2).sqrt_().mul_(a.cos_()).sum(0)


def _fill(out: np.ndarray, key: bytes, counter: int = 0) -> np.ndarray:
    """AES-256 in counter mode (NIST SP 800-38A) from a counter (of 16-byte blocks) on, as little-endian words."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    encryptor = Cipher(algorithms.AES(key), modes.CTR(counter.to_bytes(16, "big"))).encryptor()
    room = memoryview(out.view(np.uint8))
    for at in range(0, len(room), len(_ZEROS)):
        part = room[at : at + len(_ZEROS)]
        encryptor.update_into(_ZEROS[: len(part)], part)
    return out.byteswap(inplace=True) if sys.byteorder == "big" else out
