"""The ideal functionality: what an encrypted inference computes, by one machine that knows everything.

Integers and rounding are the protocol's, except that truncation is floor(z / 2^f) here, where truncation of shares gives
that or one more, at random; `rounding` draws as the shares do. It is the reference that the protocol is tested against,
and shows how near its windows a test set comes: under encryption, a value outside its window gives a wrong answer in
silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from ..errors import KitError
from ..mpc.comparison import WINDOW
from ..mpc.kernels import pack, pack_transposed
from ..mpc.program import PRIVATE, Op, Program
from ..mpc.ring import Ring
from .encoding import decode_outputs, encode_images

_HALF = 1 << WINDOW - 2  # values compared lie in [-2^20, 2^20)


@dataclass
class ClearRun:
    """An inference in clear.

    rounding: what truncations draw with, if they draw
    outputs: as `decode_outputs` gives them
    used: op name -> largest |value| over its window's limit, for each operation that has a window; below 1 is safe
    overflows: op name -> how many values lay outside
    """

    rounding: np.random.Generator | None = None
    outputs: np.ndarray | None = None
    used: dict[str, float] = field(default_factory=dict)
    overflows: dict[str, int] = field(default_factory=dict)

    def check(self, name: str, values: np.ndarray, limit: int = _HALF, above: int = 0) -> None:
        """Note int64 values that must lie in [-limit, limit), as they are and with `above` added."""
        largest = max(int(values.max(initial=0)) + 1 + above, -int(values.min(initial=0)))
        self.used[name] = max(self.used.get(name, 0.0), largest / limit)
        if largest > limit:
            outside = int(((values >= limit - above) | (values < -limit)).sum())
            self.overflows[name] = self.overflows.get(name, 0) + outside


def run_clear(
    program: Program,
    weights: Mapping[str, tuple[np.ndarray, np.ndarray]],
    images: torch.Tensor | np.ndarray,
    *,
    strict: bool = True,
    rounding: np.random.Generator | None = None,
    backend: str = "auto",
) -> ClearRun:
    """Run a program in clear.

    Args:
        weights: op name -> (int64 weights, int64 bias at the output's fraction bits).
        images: float [N, C, H, W] before normalisation, as for `encode_images`.
        strict: whether a value outside its window is an error; otherwise it's counted in `overflows`, and the answer is
            what unbounded integers give. Without `rounding`, a value is outside too if one more would be.
        rounding: None for floor(z / 2^f); a generator for one more with probability (z mod 2^f + 1) / 2^f, which is how
            truncation of uniform shares is distributed, and right on average but for 2^-f. Rounding depends on the
            shares, so coins drawn apart from them are right in distribution only, see docs/protocol.md.
        backend: of the kernels, see `primia_kit.mpc.kernels`.

    Raises: KitError if weights are missing, or if strict and values overflow, naming the operations.
    """
    missing = [op.name for op in program.ops if op.kind in PRIVATE and op.name not in weights]
    if missing:
        raise KitError(f"No weights for {', '.join(missing)}: take `weights` of the model that the program was compiled from.")
    run, ring = ClearRun(rounding), Ring(program.bits)
    values: dict[str, np.ndarray] = {}
    last_use = {given: op.name for op in program.ops for given in op.inputs}
    for op in program.ops:
        given = [values[name] for name in op.inputs]
        if op.kind == "input":
            value = ring.signed(encode_images(program, images))
        elif op.kind in PRIVATE:
            value = _private(op, given[0], *weights[op.name], program.bits, backend)
        elif op.kind == "output":
            run.outputs = _output(program, run, given[0])
            break
        else:
            value = _STEPS[op.kind](run, op, *given)
        values[op.name] = value
        for name in set(op.inputs):
            if last_use[name] == op.name:
                del values[name]
    if strict and run.overflows:
        worst = max(run.overflows, key=lambda name: run.used[name])
        raise KitError(
            f"{worst}: values reach {run.used[worst]:.3g} times what its window holds, and in {len(run.overflows)} operation(s) "
            "some lie outside. Compile again with calibration images like these, or a larger margin."
        )
    return run


def _private(op: Op, x: np.ndarray, weights: np.ndarray, bias: np.ndarray, bits: int, backend: str) -> np.ndarray:
    options = {key: op.attributes[key] for key in op.attributes if key not in ("kernel", "weight_bits")}
    packer = pack if op.kind == "conv" else pack_transposed
    packed = packer(weights, bits, short=True, backend=backend, **options)
    words = packed.conv(np.ascontiguousarray(x).view(np.uint64)) + bias.view(np.uint64)
    return Ring(bits).signed(words)


def _truncate(run: ClearRun, op: Op, x: np.ndarray) -> np.ndarray:
    shift = op.attributes["shift"]
    if shift and run.rounding is not None:
        x = x + 1 + run.rounding.integers(0, 1 << shift, x.shape)  # carries with that probability
    v = x >> shift
    run.check(op.name, v, above=int(shift > 0 and run.rounding is None))  # truncation of shares may give one more
    return v


def _relu6(run: ClearRun, op: Op, x: np.ndarray) -> np.ndarray:
    v, six = _truncate(run, op, x), 6 << op.fraction_bits
    run.check(op.name, v - six)
    return np.clip(v, 0, six)


def _windows(op: Op, x: np.ndarray, padding: int) -> list[np.ndarray]:
    """The values at each place of a kernel, [N, OH, OW, C] each."""
    (rows, columns), (down, across), (top, left) = (op.attributes[key] for key in ("kernel", "stride", "padding"))
    height, width, _ = op.shape
    x = np.pad(x, ((0, 0), (top, top), (left, left), (0, 0)), constant_values=padding)
    return [
        x[:, r : r + (height - 1) * down + 1 : down, c : c + (width - 1) * across + 1 : across]
        for r in range(rows)
        for c in range(columns)
    ]


def _max_pool(run: ClearRun, op: Op, x: np.ndarray) -> np.ndarray:
    run.check(op.name, x, _HALF // 2)  # differences of these lie in the window, whichever are compared
    return np.maximum.reduce(_windows(op, x, np.iinfo(np.int64).min))


def _sum_pool(run: ClearRun, op: Op, x: np.ndarray) -> np.ndarray:
    return sum(_windows(op, x, 0))


def _shifted(op: Op, x: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    return [value << shift for value, shift in zip(x, op.attributes["shifts"])]


def _upsample_nearest(run: ClearRun, op: Op, x: np.ndarray) -> np.ndarray:
    rows, columns = op.attributes["scale"]
    return x.repeat(rows, 1).repeat(columns, 2)


def _upsample_linear(run: ClearRun, op: Op, x: np.ndarray) -> np.ndarray:
    rows, columns = (np.array(op.attributes[axis], np.int64) for axis in ("rows", "columns"))
    return np.einsum("ih,nhwc,jw->nijc", rows, x, columns, optimize=True)


def _output(program: Program, run: ClearRun, x: np.ndarray) -> np.ndarray:
    op, ring = program.ops[-1], Ring(program.bits)
    if op.attributes["reveal"] == "label":
        run.check(op.name, x, _HALF // 2)
        return decode_outputs(program, x.argmax(-1)[..., None].astype(np.uint64))
    run.check(op.name, x, 1 << program.bits - (2 if op.attributes["reveal"] == "probabilities" else 1))
    return decode_outputs(program, ring.reduce(x.view(np.uint64)))


_STEPS: dict[str, Callable[..., np.ndarray]] = {
    "mask": lambda run, op, x: x,
    "truncate": _truncate,
    "relu": lambda run, op, x: np.maximum(_truncate(run, op, x), 0),
    "relu6": _relu6,
    "max_pool": _max_pool,
    "sum_pool": _sum_pool,
    "multiply": lambda run, op, x: x * op.attributes["factor"],
    "add": lambda run, op, *x: sum(_shifted(op, x)),
    "concat": lambda run, op, *x: np.concatenate(_shifted(op, x), -1),
    "reshape": lambda run, op, x: x.reshape(len(x), *op.shape),
    "upsample_nearest": _upsample_nearest,
    "upsample_linear": _upsample_linear,
}
