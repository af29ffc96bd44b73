"""One party's used-once material for an inference."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

from ..errors import KitError
from .comparison import LiftTuples
from .dealt import Dealt
from .program import Op
from .rooms import Rooms
from .rounds import Round


@dataclass
class Material:
    """For an inference of `batch` images; the arrays lie in `rooms`, which serve again.

    tuples: (operation, round) -> correlated randomness
    known: values whose share was ready before the inference began
    said: operation -> (c_i uint32 [n], its packed pieces), for comparisons whose input was known
    products: what is added to each private layer, of the model owner h_1 plus bias
    """

    batch: int
    rooms: Rooms
    tuples: dict[tuple[str, int], LiftTuples] = field(default_factory=dict)
    known: dict[str, np.ndarray] = field(default_factory=dict)
    said: dict[str, tuple[np.ndarray, list[np.ndarray]]] = field(default_factory=dict)
    products: dict[str, np.ndarray] = field(default_factory=dict)

    def expand(self, op: Op, rounds: list[Round], bits: int, seed: bytes) -> None:
        """Party 0's tuples of an operation, from its seed."""
        for number, one in enumerate(rounds):
            self.tuples[op.name, number] = one.tuples.expand(one.count, bits, seed, op.name, number, room=self._room(one, bits))

    def unpack(self, op: Op, rounds: list[Round], bits: int, seed: bytes, dealt: Dealt) -> None:
        """Party 1's, from what was dealt and its seed."""
        for number, one in enumerate(rounds):
            part = dealt.part(op.name, number)
            self.tuples[op.name, number] = one.tuples.unpack(
                part, one.count, bits, seed, op.name, number, room=self._room(one, bits)
            )

    def _room(self, one: Round, bits: int) -> np.ndarray:
        return self.rooms.take(one.tuples.room_size(one.count, bits), np.uint8)


class Prepared:
    """What one inference uses up. It serves once: a mask that is used twice gives differences of images away."""

    def __init__(self, material: Material):
        self.batch = material.batch
        self._material: Material | None = material
        self._lock = threading.Lock()

    def use(self) -> Material:
        """The material, the first time. Raises: KitError from the second on."""
        with self._lock:
            material, self._material = self._material, None
        if material is None:
            raise KitError("This preparation has served an inference: each one needs its own, so prepare again.")
        return material
