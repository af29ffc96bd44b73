"""One party's used-once material for an inference."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

from ..errors import KitError
from .comparison import LiftTuples
from .rooms import Rooms


@dataclass
class Material:
    """For an inference of `batch` images; the arrays lie in `rooms`, which serve again.

    tuples: (operation, round) -> correlated randomness
    known: values whose share was ready before the inference began
    said: operation -> (c_i uint32 [n], its packed pieces), for comparisons whose input was known
    products: the model owner's h_1 plus bias of each private layer
    """

    batch: int
    rooms: Rooms
    tuples: dict[tuple[str, int], LiftTuples] = field(default_factory=dict)
    known: dict[str, np.ndarray] = field(default_factory=dict)
    said: dict[str, tuple[np.ndarray, list[np.ndarray]]] = field(default_factory=dict)
    products: dict[str, np.ndarray] = field(default_factory=dict)


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
