"""Whether a program's shapes, fixed-point formats and windows agree, so that no party fails in the middle."""

from __future__ import annotations

from ..errors import KitError
from .comparison import WINDOW
from .kernels import Geometry
from .program import PRIVATE, REVEALS, Op, Program


def check_shapes(program: Program) -> None:
    """Raises KitError that names the operation whose shape or fraction bits don't follow from its inputs."""
    values: dict[str, Op] = {}
    for op in program.ops:
        inputs = [values[name] for name in op.inputs]
        try:
            shape, fraction = (op.shape, op.fraction_bits) if op.kind == "input" else _result(op, inputs)
        except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError) as error:
            raise KitError(f"{op.name}: these attributes describe no {op.kind}: {error}.") from error
        if op.kind == "output" and op.attributes["reveal"] == "label":
            shape, fraction = op.shape, op.fraction_bits  # a whole number, however it's described
        if tuple(op.shape) != tuple(shape) or min(shape) < 1:
            raise KitError(f"{op.name}: a {op.kind} of such inputs has shape {list(shape)}, not {list(op.shape)}.")
        if op.fraction_bits != fraction or not 0 <= fraction < program.bits:
            raise KitError(f"{op.name}: its value has {fraction} fraction bits, not {op.fraction_bits} in {program.bits} bits.")
        if op.attributes.get("shift", 0) + WINDOW > program.bits:
            raise KitError(f"{op.name}: dropping {op.attributes['shift']} bits leaves no {WINDOW} of a ring of {program.bits}.")
        values[op.name] = op


def _result(op: Op, inputs: list[Op]) -> tuple[tuple[int, ...], int]:
    """(shape, fraction bits) of the operation's value."""
    at, (height, width, channels), fraction = op.attributes, inputs[0].shape, inputs[0].fraction_bits
    if op.kind in PRIVATE:
        return _private(op, inputs[0]), fraction + at["weight_bits"]
    if op.kind in ("truncate", "relu", "relu6"):
        if not 0 <= at["shift"] <= fraction:
            raise KitError(f"{op.name}: {at['shift']} of {fraction} fraction bits can't be dropped.")
        return inputs[0].shape, fraction - at["shift"]
    if op.kind in ("max_pool", "sum_pool"):
        kernel, stride, padding = (tuple(at[name]) for name in ("kernel", "stride", "padding"))
        if op.kind == "max_pool" and any(2 * p > k for p, k in zip(padding, kernel)):
            raise KitError(f"{op.name}: a padding of {padding} is more than half of the kernel {kernel}.")
        return (*Geometry(channels, channels, kernel, stride, padding).out_size(height, width), channels), fraction
    if op.kind == "multiply":
        return inputs[0].shape, fraction + at["bits"]
    if op.kind in ("add", "concat"):
        _check_joined(op, inputs)
        total = sum(value.shape[2] for value in inputs) if op.kind == "concat" else channels
        return (height, width, total), fraction + at["shifts"][0]
    if op.kind == "reshape":
        if op.size != inputs[0].size:
            raise KitError(f"{op.name}: {inputs[0].size} values can't take the shape {list(op.shape)}.")
        return op.shape, fraction
    if op.kind == "upsample_nearest":
        return (height * at["scale"][0], width * at["scale"][1], channels), fraction
    if op.kind == "upsample_linear":
        if any(len(row) != height for row in at["rows"]) or any(len(row) != width for row in at["columns"]):
            raise KitError(f"{op.name}: its matrices aren't for {height} × {width}.")
        return (len(at["rows"]), len(at["columns"]), channels), fraction + at["bits"]
    if op.kind == "output" and at["reveal"] not in REVEALS:
        raise KitError(f"{op.name}: reveal is one of {', '.join(REVEALS)}, not {at['reveal']!r}.")
    return inputs[0].shape, fraction


def _private(op: Op, source: Op) -> tuple[int, ...]:
    at, (height, width, channels) = op.attributes, source.shape
    kernel, stride, padding, dilation = (tuple(at[name]) for name in ("kernel", "stride", "padding", "dilation"))
    geometry = Geometry(channels, op.shape[2], kernel, stride, padding, dilation, at["groups"])
    if op.kind == "conv":
        return *geometry.out_size(height, width), op.shape[2]
    extra = at["output_padding"]
    sizes = zip((height, width), kernel, stride, padding, dilation, extra)
    return *((n - 1) * s + d * (k - 1) + 1 - 2 * p + e for n, k, s, p, d, e in sizes), op.shape[2]


def _check_joined(op: Op, inputs: list[Op]) -> None:
    shifts = op.attributes["shifts"]
    if len(shifts) != len(inputs) or min(shifts) < 0:
        raise KitError(f"{op.name}: each of its {len(inputs)} inputs has a shift to the left, from 0 on.")
    if len({value.fraction_bits + shift for value, shift in zip(inputs, shifts)}) > 1:
        raise KitError(f"{op.name}: after their shifts its inputs have different fraction bits.")
    same = [value.shape if op.kind == "add" else value.shape[:2] for value in inputs]
    if len(set(same)) > 1:
        raise KitError(f"{op.name}: its inputs have shapes {', '.join(str(list(value.shape)) for value in inputs)}.")
