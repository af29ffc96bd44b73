"""The steps of a comparison, over arrays and threads. Symbols, ranges and what is opened: see the package."""

from __future__ import annotations

import numpy as np

from ...errors import KitError
from ..compiled import loops
from ..ring import Ring
from ..threads import spread
from .tables import CONSTANT, SELECT, WINDOW
from .tuples import CompareTuples, LiftTuples

_GRAIN = 1 << 13


def mask_value(z: np.ndarray, tuples: LiftTuples, shift: int, party: int) -> np.ndarray:
    """Step 1: a party's share of the masked, truncated value.

    Args:
        z: uint64 [n], the party's share of z; bits from shift + 22 on don't matter.
        shift: f, fraction bits to drop, from 0 to 42; 0 compares without truncating.
        party: 0 or 1.

    Returns: uint32 [n] of 22 bits, to be exchanged and added by `open_value`.
    """
    if not 0 <= shift <= 64 - WINDOW:
        raise KitError(f"A shift by {shift} bits leaves no window of {WINDOW} bits: choose 0 to {64 - WINDOW}.")
    return _run("mask_value", np.uint32, tuples, (z,), ("masks",), (shift, value_offset(shift, party)))


def value_offset(shift: int, party: int) -> int:
    """What `mask_value` adds: party 0's 2^20, and 1 that makes up for what two floors lose on average."""
    return ((1 << WINDOW - 2) + (shift > 0)) if party == 0 else 0


def open_value(share: np.ndarray, other: np.ndarray) -> np.ndarray:
    """c = share + other mod 2^22, uint32 [n]."""
    return np.bitwise_and(share + other, np.uint32((1 << WINDOW) - 1))


def mask_digits(c: np.ndarray, tuples: CompareTuples, party: int) -> np.ndarray:
    """Step 2: c uint32 [n] -> the party's share of the masked digit bits, uint8 [n], to be exchanged and XORed."""
    return _run("mask_digits", np.uint8, tuples, (c,), ("masks", "digits", "products"), (party == 0,))


def mask_sign(p: np.ndarray, c: np.ndarray, tuples: CompareTuples, party: int) -> np.ndarray:
    """Step 3: p uint8 [n], c uint32 [n] -> the party's share of the masked sign, uint8 [n] of 0 or 1, to be XORed.

    Send it packed: `pack_words(t, 1)`.
    """
    return _run("mask_sign", np.uint8, tuples, (p, c), ("masks", "products"), (party == 0, SELECT, CONSTANT))


def relu(t: np.ndarray, c: np.ndarray, tuples: CompareTuples, party: int) -> np.ndarray:
    """Step 4: t uint8 [n], c uint32 [n] -> the party's share of max(v, 0), uint64 [n], modulo 2^tuples.bits."""
    names = ("masks", "wrap", "top", "s", "rs", "top_s")
    return _run("relu", np.uint64, tuples, (t, c), names, (party == 0, Ring(tuples.bits).mask))


def lift(c: np.ndarray, tuples: LiftTuples, party: int) -> np.ndarray:
    """Step 4 without a sign: c uint32 [n] -> the party's share of v, uint64 [n], modulo 2^tuples.bits."""
    return _run("lift", np.uint64, tuples, (c,), ("masks", "wrap", "top"), (party == 0, Ring(tuples.bits).mask))


def _run(step: str, dtype, tuples: LiftTuples, words, names, constants) -> np.ndarray:
    """Call a loop on pieces: step(*words, *fields of the tuples, *constants, out)."""
    for array in words:
        if array.shape != (len(tuples),):
            raise KitError(f"{step}: {len(tuples)} tuples were dealt for an array of shape {list(array.shape)}.")
    out = np.empty(len(tuples), dtype)
    arrays = (*words, *(getattr(tuples, name) for name in names))
    loop = getattr(loops(__package__), step)
    spread(lambda a, b: loop(*(array[a:b] for array in arrays), *constants, out[a:b]), len(tuples), _GRAIN)
    return out
