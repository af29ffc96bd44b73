"""Which comparisons an operation makes, one round after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import KitError
from .comparison import CompareTuples, LiftTuples
from .program import Op, Program


@dataclass(frozen=True)
class Round:
    """Comparisons, or truncations, that run side by side.

    tuples: the kind of correlated randomness
    count: of all images together
    shift: fraction bits that are dropped
    """

    tuples: type[LiftTuples]
    count: int
    shift: int = 0

    @property
    def compares(self) -> bool:
        return self.tuples is CompareTuples


def rounds(program: Program, op: Op, batch: int) -> list[Round]:
    """The rounds of one operation for `batch` images, at least one; empty for most kinds. Raises: KitError for none."""
    if batch < 1:
        raise KitError(f"An inference of {batch} images: choose 1 or more.")
    count = batch * op.size
    if op.kind == "truncate":
        return [Round(LiftTuples, count, op.attributes["shift"])]
    if op.kind in ("relu", "relu6"):
        return [Round(CompareTuples, count * (2 if op.kind == "relu6" else 1), op.attributes["shift"])]
    source = next((other for other in program.ops if op.inputs and other.name == op.inputs[0]), None)
    if op.kind == "max_pool":
        rows, columns = op.attributes["kernel"]
        (_, width, channels), height = source.shape, op.shape[0]
        pairs = [some * batch * height * width * channels for some in halvings(rows)]
        return [Round(CompareTuples, n) for n in pairs + [some * count for some in halvings(columns)]]
    if op.kind == "output" and op.attributes["reveal"] == "label" and source.shape[2] > 1:
        channels, pixels = source.shape[2], batch * source.size // source.shape[2]
        return [Round(CompareTuples, pixels * channels * (channels - 1) // 2), Round(CompareTuples, pixels * channels)]
    return []


def halvings(count: int) -> Iterator[int]:
    """Pairs compared in each round of a tournament of `count` values."""
    while count > 1:
        yield count // 2
        count -= count // 2
