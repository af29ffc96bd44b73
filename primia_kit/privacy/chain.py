"""The lines of a ledger's file: each a JSON object that holds the SHA-256 of the one before.

    {"ledger": 1, "site": "A", "unit": "patient", "patients": 812, "delta": 1e-4, "budget": 8.0, "nonce": …, "hash": h0}
    {"mechanism": {…}, "count": 40, "purpose": "round 1", "run": …, "time": "2026-05-01T09:30:00Z", "previous": h0, "hash": h1}

A line's hash is of the same object without "hash", so the last one, the head, stands for all. There is one way to write a
line, and a line that isn't written so to the byte isn't accepted.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import KitError
from .accounting import check_count, check_delta
from .mechanisms import Mechanism, mechanism_from_dict

_FORMAT = 1
UNITS = ("patient", "film")


@dataclass(frozen=True)
class Account:
    """A ledger's first line: whose patients, how they are counted, and the bounds that hold for good.

    site: the hospital.
    unit: what one of two neighbouring data sets lacks, "patient" or "film".
    patients: how many units the hospital trains on, at least 1.
    delta: at which ε is counted, at most 1 / (10 x patients).
    budget: the ε that is never passed, above 0; None for no bound.
    nonce: random digits, so that a ledger begun anew with the same numbers has another head.

    Raises: KitError for numbers that can't be.
    """

    site: str
    unit: str
    patients: int
    delta: float
    budget: float | None
    nonce: str

    def __post_init__(self) -> None:
        check_delta(self.delta)
        if self.unit not in UNITS:
            raise KitError(f"A ledger's unit is {' or '.join(map(repr, UNITS))}, not {self.unit!r}.")
        if isinstance(self.patients, bool) or not isinstance(self.patients, int) or self.patients < 1:
            raise KitError(f"A ledger is for a whole number of {self.unit}s of at least 1, not {self.patients!r}.")
        if not isinstance(self.site, str) or not self.site:
            raise KitError("A ledger needs its hospital's name: say site='…'.")
        if self.delta * 10 * self.patients > 1 + 1e-9:
            raise KitError(
                f"Delta {self.delta:g} is too large for {self.patients} {self.unit}s: it's the chance that the promise doesn't "
                f"hold, so choose at most {1 / (10 * self.patients):.3g}, a tenth of one in all of them."
            )
        if self.budget is not None and not 0 < self.budget < math.inf:
            raise KitError(f"The budget is {self.budget:g}; it's a finite epsilon above 0, or None for no bound.")


@dataclass(frozen=True)
class Entry:
    """One spend.

    mechanism, count: what is applied how often.
    purpose, run: what for, in words, and in which training run.
    time: when it was written, UTC.
    previous, hash: of the line before and of this one, 64 hexadecimal digits.
    """

    mechanism: Mechanism
    count: int
    purpose: str
    run: str
    time: str
    previous: str
    hash: str


@dataclass(frozen=True)
class Chain:
    """A ledger file's content.

    first: the first line's hash.
    size: bytes of all whole lines.
    torn: whether something without a line's end follows them.
    """

    account: Account
    first: str
    entries: tuple[Entry, ...]
    size: int
    torn: bool

    @property
    def head(self) -> str:
        return self.entries[-1].hash if self.entries else self.first

    def holds(self, head: str) -> bool:
        return head == self.first or any(entry.hash == head for entry in self.entries)


def first_line(account: Account) -> bytes:
    return _line({"ledger": _FORMAT, **asdict(account)})


def entry_line(mechanism: Mechanism, count: int, purpose: str, run: str, time: str, previous: str) -> bytes:
    spend = {"mechanism": mechanism.to_dict(), "count": count, "purpose": purpose, "run": run, "time": time}
    return _line(spend | {"previous": previous})


def read_chain(path: Path, content: bytes) -> Chain:
    """Check and decode a ledger's file. Raises: KitError that names the line which isn't what was written."""
    size = content.rfind(b"\n") + 1
    lines = content[:size].split(b"\n")[:-1]
    if not lines or (head := _checked(lines[0])) is None or head.pop("ledger", None) != _FORMAT:
        raise KitError(f"{path} isn't a ledger of this version of the kit, or its first line was edited: put back a whole copy.")
    first = previous = head.pop("hash")
    entries = []
    try:
        account = Account(**head)
        for number, line in enumerate(lines[1:], start=2):
            stored = _checked(line)
            if stored is None or stored.get("previous") != previous:
                raise KitError(
                    f"Line {number} of the ledger {path} isn't what was written there: the file was edited or damaged. Put back "
                    f"a copy that is whole and has all spends."
                )
            check_count(stored["count"])
            entries.append(Entry(**stored | {"mechanism": mechanism_from_dict(stored["mechanism"])}))
            previous = entries[-1].hash
    except (TypeError, KeyError, ValueError) as error:
        raise KitError(f"The ledger {path} holds something that this version of the kit doesn't know: {error}.") from error
    return Chain(account, first, tuple(entries), size, size < len(content))


def _line(content: dict) -> bytes:
    digest = hashlib.sha256(_canonical(content)).hexdigest()
    return _canonical(content | {"hash": digest}) + b"\n"


def _canonical(content: dict) -> bytes:
    return json.dumps(content, allow_nan=False).encode("ascii")


def _checked(line: bytes) -> dict | None:
    """A line's content, or None if it isn't to the byte what `_line` writes."""
    try:
        content = json.loads(line)
        same = _line({name: value for name, value in content.items() if name != "hash"}) == line + b"\n"
    except (ValueError, AttributeError, RecursionError):
        return None
    return content if same else None
