"""Where each part lies in what the provider deals to the model owner."""

from __future__ import annotations

from .dialogue import field_size
from .program import PRIVATE, Program
from .rounds import rounds


class Layout:
    """The dealt buffer of one inference of `batch` images.

    Attributes:
        parts: (operation, round) and (private layer, "product") -> slice of bytes, in the program's order, without gaps.
        size: bytes in all.
    """

    def __init__(self, program: Program, batch: int):
        self.parts: dict[tuple[str, int | str], slice] = {}
        self.size = 0
        for op in program.ops:
            for number, one in enumerate(rounds(program, op, batch)):
                self._add((op.name, number), one.tuples.packed_size(one.count, program.bits))
            if op.kind in PRIVATE:
                self._add((op.name, "product"), field_size(batch * op.size, program.bits))

    def _add(self, key: tuple[str, int | str], size: int) -> None:
        self.parts[key] = slice(self.size, self.size + size)
        self.size += size
