"""Maxima on shares: max-pools, and which channel is largest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .comparing import sign
from .program import Op
from .rooms import Rooms

Compare = Callable[..., np.ndarray]


def largest(op: Op, x: np.ndarray, compare: Compare, rooms: Rooms) -> np.ndarray:
    """A party's share of a max-pool: the largest of each column of a window, then the largest of these.

    Padding repeats the outermost line. As it's at most half a kernel, that line is in every window that reaches beyond
    it, so that this is padding with the smallest value there is; no constant has to fit the window of comparisons.

    Args:
        x: uint64 [N, H, W, C], values v with |v| < 2^19: comparisons see differences.
        compare: the op's next round, share [n] of z -> share [n] of max(z, 0).

    Returns: uint64 [N, *op.shape].
    """
    for axis in (0, 1):
        kernel, stride, padding = (op.attributes[name][axis] for name in ("kernel", "stride", "padding"))
        starts = np.arange(op.shape[axis]) * stride - padding
        shape = (*x.shape[: axis + 1], starts.size, *x.shape[axis + 2 :])
        taps = []
        for lines in (starts + tap for tap in range(kernel)):
            if lines[0] >= 0 and lines[-1] < x.shape[axis + 1]:
                taps.append(x[(slice(None),) * (axis + 1) + (slice(lines[0], lines[-1] + 1, stride),)])
            else:
                taps.append(x.take(lines, axis + 1, out=rooms.take(shape, np.uint64), mode="clip"))
        x = _tournament(taps, compare, rooms)
    return x


def _tournament(values: list[np.ndarray], compare: Compare, rooms: Rooms) -> np.ndarray:
    """max(a, b) = b + relu(a - b), all pairs of a round side by side."""
    while len(values) > 1:
        pairs = list(zip(values[::2], values[1::2]))
        differences = rooms.take((len(pairs), *values[0].shape), np.uint64)
        for difference, (a, b) in zip(differences, pairs):
            np.subtract(a, b, out=difference)
        gains = compare(differences.reshape(-1)).reshape(differences.shape)
        rest = values[len(pairs) * 2 :]
        values = [np.add(gain, b, out=gain) for gain, (_, b) in zip(gains, pairs)] + rest
    return values[0]


def winner(z: np.ndarray, party: int, compare: Compare) -> np.ndarray:
    """A party's share of the index of the largest channel, the lowest among equals. Nothing is opened.

    1. b_ij = [v_i >= v_j] for all pairs of channels i < j, in one round.
    2. score_i = sum_j>i b_ij + sum_j<i (1 - b_ji): how many channels i is before, in an order without ties.
    3. relu(score_i - (C - 2)) is 1 for the one channel with score C - 1, and 0 for the others.
    4. index = sum_i i relu(score_i - (C - 2)).

    The values keep all of their 22 bits; C (C - 1) / 2 comparisons a pixel are its price.

    Args:
        z: uint64 [N, H, W, C], values v with |v| < 2^19.
        compare: the op's next round.

    Returns: uint64 [N, H, W, 1].
    """
    *pixels, channels = z.shape
    if channels == 1:
        return np.zeros_like(z)
    first, second = np.triu_indices(channels, 1)
    better = compare((z[..., first] - z[..., second]).reshape(-1), finish=sign).reshape(-1, first.size)
    table = np.zeros((better.shape[0], channels, channels), np.uint64)
    table[:, first, second] = better
    score = table.sum(2) - table.sum(1)
    if party == 0:
        score += np.arange(channels, dtype=np.uint64) - np.uint64(channels - 2)  # i channels stand before channel i
    chosen = compare(score.reshape(-1)).reshape(score.shape)
    return (chosen @ np.arange(channels, dtype=np.uint64)).reshape(*pixels, 1)
