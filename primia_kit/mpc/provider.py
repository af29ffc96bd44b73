"""The crypto provider: deals correlated randomness, and sees neither image nor model nor any message of an inference."""

from __future__ import annotations

import numpy as np

from . import linear
from .dealt import Layout
from .layers import expand_mask, expand_product, model_masks, pack_layer
from .packing import pack_words
from .program import LINEAR, PRIVATE, Op, Program
from .rooms import Rooms
from .rounds import rounds
from .shapes import check_shapes


class Provider:
    """For one model: b's kernels, from the seed that the model owner has given.

    1. x_0 of every masked value is expanded from the data owner's seed, and follows the public linear operations.
    2. For every private layer h_1 = conv(x_0, b) - h_0, with h_0 expanded from the data owner's seed.
    3. For every round of comparisons, party 1's tuples: see `comparison`.

    The data owner is dealt nothing but its seed. Between deals words lie in memory until the next deal
    writes over them, and nowhere else.

    Args:
        program: public.
        mask_seed: 32 bytes, from the model owner.
    """

    def __init__(self, program: Program, mask_seed: bytes):
        check_shapes(program)
        self.program = program
        masks = model_masks(program, mask_seed)
        self._layers = {
            op.name: pack_layer(op, masks[op.name], program.bits, short=False) for op in program.ops if op.name in masks
        }
        self._rooms = Rooms()
        self._dealt = np.empty(0, np.uint64)

    def deal(self, data_seed: bytes, model_seed: bytes, batch: int = 1, out: np.ndarray | None = None) -> np.ndarray:
        """All that the model owner needs for one inference.

        Args:
            data_seed, model_seed: 32 bytes each, of this inference alone.
            batch: images.
            out: uint8 [size(batch)] to write to, its start a multiple of 8; without, memory of this provider that the
                next deal overwrites.

        Returns: uint8 [size(batch)], for the model owner alone.
        """
        bits, layout = self.program.bits, Layout(self.program, batch)
        if out is None:
            if self._dealt.size < layout.size // 8:
                self._dealt = np.empty(layout.size // 8, np.uint64)
            out = self._dealt.view(np.uint8)[: layout.size]
        rooms, values = self._rooms.rewind(), {}
        for op in self.program.ops:
            for number, one in enumerate(rounds(self.program, op, batch)):
                part = out[layout.parts[op.name, number]]
                one.tuples.deal(one.count, bits, data_seed, model_seed, op.name, number, out=part)
            if op.kind in ("input", "mask"):
                values[op.name] = self._mask(op, batch, (data_seed, model_seed), rooms)
            elif op.kind in PRIVATE:
                product = self._layers[op.name].conv(np.ascontiguousarray(values[op.inputs[0]]))
                product -= expand_product(rooms.take(product.shape, np.uint64), data_seed, op.name)
                pack_words(product, bits, out[layout.parts[op.name, "product"]].view(np.uint64))
            elif op.kind in LINEAR and all(name in values for name in op.inputs):
                values[op.name] = linear.apply(op, [values[name] for name in op.inputs])
        return out

    def _mask(self, op: Op, batch: int, seeds: tuple[bytes, bytes], rooms: Rooms) -> np.ndarray:
        """The mask of a masked value."""
        return expand_mask(rooms.take((batch, *op.shape), np.uint64), seeds[0], op.name)

    def size(self, batch: int = 1) -> int:
        """Bytes of a deal."""
        return Layout(self.program, batch).size
