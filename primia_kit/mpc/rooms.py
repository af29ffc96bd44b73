"""Memory that is used again: fresh pages cost more time than what is written to them."""

from __future__ import annotations

import math

import numpy as np


class Rooms:
    """Arrays in the order in which they are asked for; after `rewind` the same memory is given out again in that order."""

    def __init__(self):
        self._blocks: list[np.ndarray] = []
        self._next = 0

    def rewind(self) -> Rooms:
        """Whoever still holds an array must not use it any more."""
        self._next = 0
        return self

    def take(self, shape: int | tuple[int, ...], dtype) -> np.ndarray:
        """An array of this shape with whatever was in it before."""
        shape = (shape,) if isinstance(shape, int) else shape
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if self._next == len(self._blocks):
            self._blocks.append(np.empty(size, np.uint8))
        elif self._blocks[self._next].size < size:
            self._blocks[self._next] = np.empty(size, np.uint8)
        block = self._blocks[self._next]
        self._next += 1
        return block[:size].view(dtype).reshape(shape)


class SpareRooms:
    """Rooms that no inference uses at the moment; of one that failed they aren't given back."""

    def __init__(self):
        self._spare: list[Rooms] = []

    def take(self) -> Rooms:
        try:
            return self._spare.pop().rewind()  # of a list this is safe among threads
        except IndexError:
            return Rooms()

    def give_back(self, rooms: Rooms) -> None:
        self._spare.append(rooms)

    def __len__(self) -> int:
        return len(self._spare)
