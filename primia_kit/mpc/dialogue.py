"""Who sends what when: both parties work it out from the program, so that messages need no description.

A comparison of the values z, in pieces, between a *leader* and a *follower* (see `comparison` for c, p and t):

    1. follower -> leader   c_F
    2. leader -> follower   c_L, p_L      the leader knows c, so it needn't wait before step 2 of the comparison
    3. follower -> leader   p_F, t_F      likewise
    4. leader -> follower   t_L

The follower is whoever spoke last: its c_F goes along with what it said. So after `input` and `mask` the data owner
follows, and its c_0 (ready since preparation, as its share is) travels with the masked value while the model owner
multiplies; and in a chain of comparisons, as of a max-pool, the parties take turns and each costs three flights.

From one masked value to the next each party sends 31 bits for each value of a layer, and the data owner k bits more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from .comparison import WINDOW
from .program import Program
from .rounds import rounds

DATA_OWNER, MODEL_OWNER = 0, 1
PIECE = 1 << 16  # comparisons that are sent at a time: parties work side by side, on words that stay in their caches


@dataclass(frozen=True)
class Field:
    """Words that are sent: `count` of `bits` bits, in whole 64-bit words.

    op: the operation that they belong to
    part: "masked", "c", "p", "t", "output"; outsourced, "seed" too
    ends: whether they go out at once, whatever the sender says next
    """

    op: str
    part: str
    sender: int
    count: int
    bits: int
    ends: bool

    @property
    def size(self) -> int:
        """Bytes."""
        return field_size(self.count, self.bits)


def field_size(count: int, bits: int) -> int:
    return -(-count * bits // 64) * 8


def pieces(count: int) -> Iterator[slice]:
    for start in range(0, count, PIECE):
        yield slice(start, min(start + PIECE, count))


class Dialogue:
    """The messages of one inference of `batch` images.

    Attributes:
        fields: all that is sent, in an order in which it can be said: what comes later may depend on all before.
        rounds: operation -> the rounds of comparisons that it makes.
        leaders: (operation, round) -> the party that leads it.
        messages: for each party the sizes of its messages, in bytes. A message ends where the other party speaks, or
            where a piece of several ends.
        exchanges: how many times the speaker changes, and one: so many one-way delays stand in a row.
    """

    def __init__(self, program: Program, batch: int):
        self.rounds = {op.name: rounds(program, op, batch) for op in program.ops}
        self.leaders: dict[tuple[str, int], int] = {}
        self.fields = tuple(self._fields(program, batch))
        self.exchanges = len(list(groupby(self.fields, lambda field: field.sender)))
        self.messages: tuple[list[int], list[int]] = ([], [])
        for sender, said in groupby(self.fields, lambda field: field.sender):
            size = 0
            for field in said:
                size += field.size
                if field.ends:
                    self.messages[sender].append(size)
                    size = 0
            if size:
                self.messages[sender].append(size)

    def _fields(self, program: Program, batch: int) -> Iterator[Field]:
        speaker = DATA_OWNER
        for op in program.ops:
            for number, one in enumerate(self.rounds[op.name]):
                follower, leader = speaker, 1 - speaker
                self.leaders[op.name, number] = speaker = leader
                yield from _stage(op.name, follower, one.count, c=WINDOW)
                if one.compares:
                    yield from _stage(op.name, leader, one.count, c=WINDOW, p=8)
                    yield from _stage(op.name, follower, one.count, p=8, t=1)
                    yield from _stage(op.name, leader, one.count, t=1)
                else:
                    yield from _stage(op.name, leader, one.count, c=WINDOW)
            if op.kind in ("input", "mask"):
                for sender in self._maskers(speaker):
                    yield from _stage(op.name, sender, batch * op.size, masked=program.bits)
                    speaker = sender
            elif op.kind == "output":
                yield from self._output(program, batch)

    def _maskers(self, speaker: int) -> tuple[int, ...]:
        """Who says a masked value, after `speaker` has spoken last."""
        return (DATA_OWNER,)

    def _output(self, program: Program, batch: int) -> Iterator[Field]:
        yield Field(program.ops[-1].name, "output", MODEL_OWNER, output_count(program, batch), program.bits, True)


def output_count(program: Program, batch: int) -> int:
    """Words that the model owner opens to the data owner."""
    output = program.ops[-1]
    source = next(op for op in program.ops if op.name == output.inputs[0])
    return batch * source.size // (source.shape[2] if output.attributes["reveal"] == "label" else 1)


def _stage(op: str, sender: int, count: int, **widths: int) -> Iterator[Field]:
    """The same fields of each piece. The last of a piece ends its message, if there are several pieces."""
    *_, last = widths
    for piece in pieces(count):
        for part, bits in widths.items():
            yield Field(op, part, sender, piece.stop - piece.start, bits, part == last and count > PIECE)
