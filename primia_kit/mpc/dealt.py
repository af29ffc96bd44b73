"""Where each part lies in what the provider deals to party 1, and the parts themselves."""

from __future__ import annotations

import numpy as np

from ..errors import KitError
from .dialogue import field_size
from .packing import packed_size, unpack_words
from .program import PRIVATE, Op, Program
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


class Dealt:
    """What was dealt for an inference of `batch` images. Raises: KitError for another number of bytes."""

    def __init__(self, program: Program, batch: int, dealt):
        self._bytes, self._bits, self._layout = np.frombuffer(dealt, np.uint8), program.bits, Layout(program, batch)
        if self._bytes.size != self._layout.size:
            raise KitError(
                f"For {batch} image(s) {self._layout.size} bytes are dealt, but {self._bytes.size} came: ask for them again."
            )

    def part(self, name: str, number: int) -> np.ndarray:
        """The packed tuples of a round, uint8."""
        return self._bytes[self._layout.parts[name, number]]

    def product(self, op: Op, out: np.ndarray) -> np.ndarray:
        """h_1 of a private layer, written to `out`."""
        packed = self._bytes[self._layout.parts[op.name, "product"]][: packed_size(out.size, self._bits)]
        unpack_words(packed, self._bits, out.size, out=out.reshape(-1))
        return out
