"""What an encrypted inference costs online, from the public program alone."""

from __future__ import annotations

from dataclasses import dataclass

from .dialogue import DATA_OWNER, Dialogue
from .program import Program


@dataclass(frozen=True)
class Cost:
    """One operation's online cost for one image.

    comparisons: signs that are computed; a ReLU6 takes two a value
    truncations: values that lose fraction bits without a comparison
    to_model, to_data: bytes that data owner and model owner send
    exchanges: one-way delays that stand in a row
    """

    name: str
    comparisons: int = 0
    truncations: int = 0
    to_model: int = 0
    to_data: int = 0
    exchanges: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.name,
            self.comparisons + other.comparisons,
            self.truncations + other.truncations,
            self.to_model + other.to_model,
            self.to_data + other.to_data,
            self.exchanges + other.exchanges,
        )


def costs(program: Program) -> list[Cost]:
    """The cost of each operation for one image, in the program's order, without the transport's own bytes.

    Where a party says something of the next operation in the same breath, that delay counts for the first.
    """
    dialogue, speaker = Dialogue(program, 1), None
    found = {}
    for op in program.ops:
        comparisons = sum(one.count for one in dialogue.rounds[op.name] if one.compares)
        truncations = sum(one.count for one in dialogue.rounds[op.name] if not one.compares)
        found[op.name] = Cost(op.name, comparisons, truncations)
    for field in dialogue.fields:
        begins, speaker = field.sender != speaker, field.sender
        to_model, to_data = (field.size, 0) if field.sender == DATA_OWNER else (0, field.size)
        found[field.op] += Cost(field.op, to_model=to_model, to_data=to_data, exchanges=int(begins))
    return [found[op.name] for op in program.ops]


def total(parts: list[Cost]) -> Cost:
    """Their sum."""
    return sum(parts, Cost("total"))
