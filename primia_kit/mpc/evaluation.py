"""A party's walk through a program: what both computing parties do alike."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from . import linear
from .channel import Channel
from .comparing import compare, truncate
from .comparison import WINDOW, LiftTuples, mask_value
from .dialogue import DATA_OWNER, Dialogue, pieces
from .material import Material
from .pooling import largest, winner
from .program import LINEAR, Op, Program
from .ring import Ring
from .talk import Talk, pack

OnOp = Callable[[Op, float, int, int, "View"], None]


@dataclass(frozen=True)
class View:
    """What a party itself has seen of one operation. It lies in memory that is used again: copy what is kept.

    share: uint64 [N, H, W, C], its share of the value; the model owner's share of a masked value is x - x_0. Bits above
        the ring's are meaningless
    opened: the masked values c that comparisons opened, uint32 [n] of 22 bits, one array for each round
    """

    share: np.ndarray
    opened: tuple[np.ndarray, ...]


def comparison_input(op: Op, z: np.ndarray, party: int) -> np.ndarray:
    """The words that a truncate, relu or relu6 compares: uint64 [n], of a relu6 [2 n], the second half less six.

    Six less must lie in the window too: v >= 6 * 2^fraction_bits - 2^20.
    """
    z = z.reshape(-1)
    if op.kind != "relu6":
        return z
    six = np.uint64(6 << op.fraction_bits + op.attributes["shift"]) if party == DATA_OWNER else np.uint64(0)
    return np.concatenate([z, z - six])


def speak_ahead(op: Op, z: np.ndarray, tuples: LiftTuples) -> tuple[np.ndarray, list[np.ndarray]]:
    """The data owner's c_0 of an operation whose share z is known, and its pieces ready to be sent."""
    own = mask_value(comparison_input(op, z, DATA_OWNER), tuples, op.attributes["shift"], DATA_OWNER)
    return own, [pack(own[piece], WINDOW) for piece in pieces(own.size)]


class Evaluation:
    """One inference of one party. A subclass computes `input`, `mask`, private layers and `output`.

    Args:
        party: DATA_OWNER or MODEL_OWNER.
        program, dialogue: as both parties have them.
        material: used once.
        on_op: called after each operation with (op, seconds, bytes sent, bytes received, View).
    """

    def __init__(
        self, party: int, program: Program, dialogue: Dialogue, material: Material, channel: Channel, on_op: OnOp | None = None
    ):
        self.party, self.program, self.dialogue, self.material = party, program, dialogue, material
        self.ring = Ring(program.bits)
        self.channel, self.talk, self.on_op = channel, Talk(channel, dialogue, party), on_op
        self.values: dict[str, np.ndarray] = {}
        self._opened: list[np.ndarray] = []
        self._last_use = {name: op.name for op in program.ops for name in op.inputs}

    def run(self) -> np.ndarray:
        """The party's result of the output."""
        for op in self.program.ops:
            start, sent, received = time.perf_counter(), self.channel.sent_bytes, self.channel.received_bytes
            self._opened = []
            value = self.values[op.name] = self._compute(op)
            for name in op.inputs:
                if self._last_use[name] == op.name:
                    self._forget(name)
            if self.on_op:
                seconds = time.perf_counter() - start
                view = View(value, tuple(self._opened))
                self.on_op(op, seconds, self.channel.sent_bytes - sent, self.channel.received_bytes - received, view)
        self.talk.end()
        return self.values[self.program.ops[-1].name]

    def _forget(self, name: str) -> None:
        """The memory of a value that isn't needed any more serves the next ones."""
        self.values.pop(name, None)

    def _compute(self, op: Op) -> np.ndarray:
        inputs = [self.values[name] for name in op.inputs]
        if op.kind in LINEAR:
            return linear.apply(op, inputs)
        return getattr(self, op.kind)(op, *inputs)

    def truncate(self, op: Op, z: np.ndarray) -> np.ndarray:
        return self._shared(op, z).reshape(-1, *op.shape)

    relu = truncate

    def relu6(self, op: Op, z: np.ndarray) -> np.ndarray:
        below, above = self._shared(op, z).reshape(2, -1, *op.shape)
        return below - above  # relu(v) - relu(v - 6)

    def max_pool(self, op: Op, z: np.ndarray) -> np.ndarray:
        return largest(op, z, self._comparer(op), self.material.rooms)

    def label(self, op: Op, z: np.ndarray) -> np.ndarray:
        return winner(z, self.party, self._comparer(op))

    def revealed(self, op: Op, z: np.ndarray) -> np.ndarray:
        """The share of what the output opens: see `program.KINDS` for how much that is."""
        reveal = op.attributes["reveal"]
        if reveal == "label":
            return self.label(op, z)
        if reveal == "probabilities":
            # The same uniformly random number for all channels of a pixel: the logits' common part is gone.
            return z + np.frombuffer(os.urandom(8 * z[..., :1].size), np.uint64).reshape(z[..., :1].shape)
        return z

    def _shared(self, op: Op, z: np.ndarray) -> np.ndarray:
        """The one round of a truncate, relu or relu6."""
        own, said = self.material.said.get(op.name, (None, None))
        words = comparison_input(op, z, self.party) if own is None else None
        return self._comparer(op)(words, own=own, said=said, after=self._after(op))

    def _after(self, op: Op):
        """What to do with each piece of a result, or None."""
        return None

    def _comparer(self, op: Op):
        """compare(z [n], **options of `comparing.compare`) -> the party's share [n] of the operation's next round."""
        numbers = iter(enumerate(self.dialogue.rounds[op.name]))

        def step(z, after=None, **options):
            number, one = next(numbers)
            leads = self.dialogue.leaders[op.name, number] == self.party
            tuples = self.material.tuples.pop((op.name, number))  # used once
            out = self.material.rooms.take(one.count, np.uint64)
            ask = compare if one.compares else truncate
            after = None if leads else after  # a leader still has t to say
            self._opened.append(ask(self.talk, leads, self.party, z, one.shift, tuples, out, after=after, **options))
            return out

        return step

    def input(self, op: Op) -> np.ndarray:
        raise NotImplementedError

    def mask(self, op: Op, y: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def conv(self, op: Op, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def conv_transposed(self, op: Op, x: np.ndarray) -> np.ndarray:
        return self.conv(op, x)

    def output(self, op: Op, z: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class MaskingEvaluation(Evaluation):
    """Of a party that says its share of a value less its mask, where the program has a `mask`."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._masked: set[str] = set()
        self._following = {op.name: following for op, following in pairwise(self.program.ops)}

    def say_masked(self, op: Op, y: np.ndarray) -> None:
        """Say all pieces of the masked value `op`, unless they went out with the operation before."""
        if op.name not in self._masked:
            y = y.reshape(-1)
            for piece in pieces(y.size):
                self.say_piece(op, piece, y[piece])

    def say_piece(self, op: Op, piece: slice, y: np.ndarray) -> None:
        """Say a piece of the masked value `op`, of the party's share y of it, uint64 [n]."""
        raise NotImplementedError

    def _after(self, op):
        """If the next operation masks the result, send each piece as it comes."""
        following = self._following[op.name]
        if following.kind != "mask" or following.inputs != (op.name,) or op.kind == "relu6":
            return None
        if self.dialogue.leaders[op.name, 0] == self.party:
            return None
        self._masked.add(following.name)
        return lambda piece, y: self.say_piece(following, piece, y)


def one_round(op: Op) -> bool:
    """Whether the operation is a single round, of its input as it is."""
    return op.kind in ("truncate", "relu", "relu6")
