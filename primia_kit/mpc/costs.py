"""What an encrypted inference costs online, from the public program alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .comparison import WINDOW
from .packing import packed_size
from .program import Op, Program

_DIGITS, _SIGN = 8, 1  # bits a value that steps 2 and 3 of a comparison open; step 1 opens the window


@dataclass(frozen=True)
class Cost:
    """One operation's online cost for one image.

    comparisons: signs that are computed; a ReLU6 takes two a value
    truncations: values that lose fraction bits without a comparison
    to_model, to_data: bytes that data owner and model owner send
    exchanges: messages that wait for each other, one way or both ways at once
    """

    name: str
    comparisons: int = 0
    truncations: int = 0
    to_model: int = 0
    to_data: int = 0
    exchanges: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.name,
            self.comparisons + other.comparisons,
            self.truncations + other.truncations,
            self.to_model + other.to_model,
            self.to_data + other.to_data,
            self.exchanges + other.exchanges,
        )


def costs(program: Program) -> list[Cost]:
    """The cost of each operation, in the program's order, without the transport's own bytes."""
    by_name = {op.name: op for op in program.ops}
    return [_cost(op, [by_name[name] for name in op.inputs], program.bits) for op in program.ops]


def total(parts: list[Cost]) -> Cost:
    """Their sum."""
    return sum(parts, Cost("total"))


def pool_comparisons(op: Op, given: Op) -> tuple[int, ...]:
    """Comparisons of each step of a max pool: a row's neighbours one after the other, then a column's.

    The second step works on rows of windows already narrowed to their maxima; padding is compared with as if it were there.
    """
    (rows, columns), (height, _, channels) = op.attributes["kernel"], given.shape
    out_height, out_width, _ = op.shape
    return (height * out_width * channels,) * (columns - 1) + (out_height * out_width * channels,) * (rows - 1)


def _cost(op: Op, inputs: list[Op], ring: int) -> Cost:
    if op.kind in ("input", "mask"):
        return Cost(op.name, to_model=packed_size(op.size, ring), exchanges=1)
    if op.kind == "truncate":
        opened = packed_size(op.size, WINDOW)
        return Cost(op.name, truncations=op.size, to_model=opened, to_data=opened, exchanges=1)
    if op.kind in ("relu", "relu6"):
        return _comparisons(op.name, op.size * (1 if op.kind == "relu" else 2))
    if op.kind == "max_pool":
        return sum((_comparisons(op.name, count) for count in pool_comparisons(op, inputs[0])), Cost(op.name))
    if op.kind == "output":
        return _output(op, inputs[0], ring)
    return Cost(op.name)


def _comparisons(name: str, count: int) -> Cost:
    """One batch: three exchanges, the same bytes both ways."""
    opened = packed_size(count, WINDOW) + packed_size(count, _DIGITS) + packed_size(count, _SIGN)
    return Cost(name, comparisons=count, to_model=opened, to_data=opened, exchanges=3)


def _output(op: Op, given: Op, ring: int) -> Cost:
    height, width, channels = given.shape
    if op.attributes["reveal"] != "label":
        return Cost(op.name, to_data=packed_size(given.size, ring), exchanges=1)
    cost, pixels, left = Cost(op.name), height * width, channels
    while left > 1:  # a tournament: each round compares pairs of channels
        cost += _comparisons(op.name, pixels * (left // 2))
        left -= left // 2
    return cost + Cost(op.name, to_data=packed_size(pixels, max(1, math.ceil(math.log2(channels)))), exchanges=1)
