"""Exercises of the notebooks that check themselves: a reader's answer goes in, a sentence comes out."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from itertools import combinations

import numpy as np

from .mpc import Ring

NOT_YET = "Not tried yet: replace None."
RIGHT = "Right!"


def check_three_shares(split: Callable | None, ring: Ring) -> str:
    """Additive sharing among three: the shares add up, and no two of them depend on the secret.

    Args:
        split: uint64 [n] -> three arrays of that shape.
    """
    draws = 4096
    for secret in (0, 1, int(ring.mask)):
        values = np.full(draws, secret, np.uint64)
        shares = split(values.copy())
        if shares is None:
            return NOT_YET
        if len(shares) != 3 or any(np.shape(share) != (draws,) for share in shares):
            return "Not yet: give back three arrays, each of the secret's shape."
        shares = [np.asarray(share).astype(np.uint64) for share in shares]
        if (ring.reduce(sum(shares)) != values).any():
            return f"Not yet: the shares of {secret} don't add up to it modulo 2^{ring.bits}."
        for count in (1, 2):
            for chosen in combinations(range(3), count):
                if not _looks_uniform(ring.reduce(sum(shares[i] for i in chosen)), ring):
                    named = " and ".join(str(i + 1) for i in chosen)
                    return f"Not yet: share {named} {'tell' if count == 2 else 'tells'} something of the secret."
    return RIGHT


def check_product_share(share: Callable | None, ring: Ring) -> str:
    """Beaver's multiplication, the second party's part: z_2 = c_2 + d b_2 + e a_2."""
    x, y, a, b, *first = (ring.random(64, secrets.token_bytes(32), "exercise") for _ in range(7))
    a2, b2, c2 = (ring.reduce(whole - part) for whole, part in zip((a, b, a * b), first, strict=True))
    d, e = ring.reduce(x - a), ring.reduce(y - b)
    answer = share(a2, b2, c2, d, e)
    if answer is None:
        return NOT_YET
    alice = first[2] + d * first[1] + e * first[0] + d * e
    if np.shape(answer) == (64,) and (ring.reduce(alice + np.asarray(answer)) == ring.reduce(x * y)).all():
        return RIGHT
    if np.shape(answer) == (64,) and (ring.reduce(alice + np.asarray(answer) - d * e) == ring.reduce(x * y)).all():
        return "Nearly: d * e is in it twice now, once from Alice and once from Bob."
    return "Not yet: Alice's share and yours don't add up to x * y."


def check_bits(bits: int | None) -> str:
    """Bits that hold products of two numbers within ±100 with 13 fraction bits each, sign included."""
    if bits is None:
        return NOT_YET
    needed = (2 * 100 * 2**13 * 100 * 2**13 - 1).bit_length()
    if bits == needed:
        return RIGHT
    return "Too few: the largest product wraps." if bits < needed else "Enough, but fewer will do."


def check_maximum(larger: Callable | None) -> str:
    """max(a, b) from a ReLU of a difference."""
    calls = []

    def relu(value):
        calls.append(value)
        return max(value, 0)

    for a, b in ((1, 5), (5, 1), (-3, -7), (0, 0)):
        answer = larger(a, b, relu)
        if answer is None:
            return NOT_YET
        if answer != max(a, b):
            return f"Not yet: the larger of {a} and {b} isn't {answer}."
    return RIGHT if len(calls) == 4 else "Right, but by a comparison in clear, or more than one ReLU: use relu once."


def check_clipped_sum(clipped_sum: Callable | None) -> str:
    """A sum of patients' gradients in which no patient counts for more than C, and short gradients count as they are.

    Args:
        clipped_sum: (float64 [patients, n], C) -> [n].
    """
    random = np.random.default_rng()
    gradients = random.normal(size=(12, 40)) * np.geomspace(0.05, 20, 12)[:, None]
    norms, norm = np.linalg.norm(gradients, axis=1), 3.0
    answer = clipped_sum(gradients.copy(), norm)
    if answer is None:
        return NOT_YET
    if np.shape(answer) != (40,):
        return "Not yet: give back one number for each parameter, the sum over the patients."
    if np.allclose(answer, (gradients * np.minimum(1, norm / norms)[:, None]).sum(0)):
        return RIGHT
    if np.allclose(answer, (gradients * (norm / norms)[:, None]).sum(0)):
        return "Nearly: the bound holds, but short gradients are stretched to C. Only those longer than C are to be changed."
    moved = max(np.linalg.norm(answer - clipped_sum(np.delete(gradients, i, 0), norm)) for i in range(len(gradients)))
    if moved > norm * (1 + 1e-9):
        return f"Not yet: one patient less moves your sum by {moved:.1f}, and C is {norm:g}. Clip each row, not the sum."
    return "Not yet: no patient moves your sum by more than C, but it isn't the sum of the clipped gradients."


def _looks_uniform(words: np.ndarray, ring: Ring) -> bool:
    """Each bit is a fair coin, to within five standard deviations."""
    bits = (words[:, None] >> np.arange(ring.bits, dtype=np.uint64)) & np.uint64(1)
    return bool(np.abs(bits.mean(0) - 0.5).max() < 2.5 / np.sqrt(len(words)))
