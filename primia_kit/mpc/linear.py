"""Public linear operations, on any party's share alone.

They are linear over the integers, hence over Z_2^k: applied to each share of a value they give shares of the result, and
applied to x_0 they give the x_0 of the result, so a masked value stays masked. Words are taken modulo 2^64 and not
reduced: k divides into that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .program import Op


def apply(op: Op, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """uint64 arrays [N, H, W, C] -> [N, *op.shape]; inputs stay as they are, and the result may share their memory."""
    return _APPLY[op.kind](op, inputs)


def _sum_pool(op: Op, inputs):
    (x,), (kernel, stride, padding) = inputs, (op.attributes[name] for name in ("kernel", "stride", "padding"))
    if any(padding):
        x = np.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    x = _window_sums(x, 1, kernel[0], stride[0], op.shape[0])
    return _window_sums(x, 2, kernel[1], stride[1], op.shape[1])


def _window_sums(x: np.ndarray, axis: int, taps: int, stride: int, count: int) -> np.ndarray:
    total = None
    for tap in range(taps):
        part = x[(slice(None),) * axis + (slice(tap, tap + stride * (count - 1) + 1, stride),)]
        total = part.copy() if total is None else np.add(total, part, out=total)
    return total


def _multiply(op: Op, inputs):
    return inputs[0] * np.uint64(op.attributes["factor"] % 2**64)


def _shifted(op: Op, inputs):
    return [x << np.uint64(shift) if shift else x for x, shift in zip(inputs, op.attributes["shifts"])]


def _add(op: Op, inputs):
    first, *others = _shifted(op, inputs)
    total = first + others[0] if others else first
    for x in others[1:]:
        total += x
    return total


def _concat(op: Op, inputs):
    return np.concatenate(_shifted(op, inputs), axis=3)


def _reshape(op: Op, inputs):
    return inputs[0].reshape(-1, *op.shape)


def _upsample_nearest(op: Op, inputs):
    down, across = op.attributes["scale"]
    return inputs[0].repeat(down, axis=1).repeat(across, axis=2)


def _upsample_linear(op: Op, inputs):
    x = _interpolate(inputs[0], 1, op.attributes["rows"])
    return _interpolate(x, 2, op.attributes["columns"])


def _interpolate(x: np.ndarray, axis: int, matrix) -> np.ndarray:
    """Each output line is a sum of few input lines: most of the matrix is zero."""
    x = x.swapaxes(0, axis)
    out = np.zeros((len(matrix), *x.shape[1:]), np.uint64)
    for line, factors in zip(out, matrix):
        for index, factor in enumerate(factors):
            if factor:
                line += x[index] * np.uint64(factor % 2**64)
    return np.ascontiguousarray(out.swapaxes(0, axis))


_APPLY = {
    "sum_pool": _sum_pool,
    "multiply": _multiply,
    "add": _add,
    "concat": _concat,
    "reshape": _reshape,
    "upsample_nearest": _upsample_nearest,
    "upsample_linear": _upsample_linear,
}
