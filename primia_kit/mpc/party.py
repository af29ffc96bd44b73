"""What every computing party of an encrypted inference has."""

from __future__ import annotations

from .dialogue import Dialogue
from .program import Program
from .ring import Ring
from .rooms import SpareRooms
from .shapes import check_shapes


class Party:
    """A party that computes with shares, for one model. Raises: KitError for a program that can't be run."""

    _kind: type[Dialogue] = Dialogue

    def __init__(self, program: Program):
        check_shapes(program)
        self.program, self.ring = program, Ring(program.bits)
        self._spare = SpareRooms()
        self._dialogues: dict[int, Dialogue] = {}

    def dialogue(self, batch: int = 1) -> Dialogue:
        """What is said in an inference."""
        if batch not in self._dialogues:
            self._dialogues[batch] = self._kind(self.program, batch)
        return self._dialogues[batch]
