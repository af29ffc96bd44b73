"""What an encrypted inference costs online, from the public program alone."""

from __future__ import annotations

from collections.abc import Iterator
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


def rounds(op: Op, given: Op) -> list[int]:
    """How many comparisons each round of an operation makes side by side, for one image.

    A max pool takes the largest of each column of a window, then of these; a label compares all pairs of channels, then
    each channel's number of wins.
    """
    if op.kind in ("relu", "relu6"):
        return [op.size * (1 if op.kind == "relu" else 2)]
    if op.kind == "max_pool":
        (rows, columns), (_, width, channels) = op.attributes["kernel"], given.shape
        first = op.shape[0] * width * channels
        return [pairs * first for pairs in _pairs(rows)] + [pairs * op.size for pairs in _pairs(columns)]
    if op.kind == "output" and op.attributes["reveal"] == "label":
        height, width, channels = given.shape
        return [height * width * channels * (channels - 1) // 2, given.size]
    return []


def _pairs(count: int) -> Iterator[int]:
    """Of each round of a tournament among `count` values."""
    while count > 1:
        yield count // 2
        count -= count // 2


def _cost(op: Op, inputs: list[Op], ring: int) -> Cost:
    cost = Cost(op.name)
    for count in rounds(op, inputs[0]) if inputs else ():
        opened = packed_size(count, WINDOW) + packed_size(count, _DIGITS) + packed_size(count, _SIGN)
        cost += Cost(op.name, comparisons=count, to_model=opened, to_data=opened, exchanges=3)
    if op.kind in ("input", "mask"):
        cost += Cost(op.name, to_model=packed_size(op.size, ring), exchanges=1)
    elif op.kind == "truncate":
        opened = packed_size(op.size, WINDOW)
        cost += Cost(op.name, truncations=op.size, to_model=opened, to_data=opened, exchanges=1)
    elif op.kind == "output":
        cost += Cost(op.name, to_data=packed_size(op.size, ring), exchanges=1)
    return cost
