"""What a hospital has spent of its patients' privacy: a file that outlives rounds, restarts and crashes.

A ledger is a file of JSON lines, only ever appended to. The first line says whose it is; every other one is a spend. Each
holds the SHA-256 of the line before, so that the last line's hash, the head, stands for all:

    {"ledger": 1, "site": "A", "unit": "patient", "patients": 812, "delta": 1e-4, "budget": 8.0, "nonce": …, "hash": h0}
    {"mechanism": {…}, "count": 40, "purpose": "round 1", "run": "…", "time": "2024-05-01T09:30:00Z", "previous": h0, "hash": h1}

A spend is on the disk before `spend` returns, hence before anything looks at the patients. So a process that is killed
may have spent what it didn't use; it can't have used what it didn't spend.

Whoever can write the file can write another with the same numbers: an old copy, a shorter one or a new one is noticed by
those who have kept a later head (checkpoints, the server, other hospitals), and by nobody else.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import KitError
from ..storage import disk_error, sync_folder
from .accounting import check_count, check_delta, epsilon
from .mechanisms import Mechanism, mechanism_from_dict

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_FORMAT = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One spend: a mechanism that is applied `count` times, for a purpose, in a run."""

    mechanism: Mechanism
    count: int
    purpose: str
    run: str
    time: str  # when it was written, UTC
    previous: str  # hash of the line before
    hash: str


@dataclass(frozen=True)
class Account:
    """A ledger's first line: whose patients, how they count, and the bounds that hold for good.

    site: the hospital.
    patients: how many units the hospital trains on.
    unit: what one neighbouring data set lacks, "patient" or "film".
    delta: at which ε is counted.
    budget: ε that is never passed, or None.
    nonce: so that no two ledgers have the same head.
    """

    site: str
    unit: str
    patients: int
    delta: float
    budget: float | None
    nonce: str


class Ledger:
    """A hospital's spends. Make one with `Ledger.create`, go on with one with `Ledger.open`.

    account: what stands in its first line.
    entries: the spends, oldest first.
    torn: what was said of a last line that a crash had cut off, or "".
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = ""
        self._read_locked(shared=True)

    @classmethod
    def create(
        cls, path: str | Path, *, site: str, delta: float, budget: float | None, patients: int, unit: str = "patient"
    ) -> Ledger:
        """Begin a ledger.

        Args:
            path: where; there mustn't be one yet.
            site: the hospital's name.
            delta: at most 1 / (10 x patients).
            budget: the ε that is never passed, above 0; None for no bound.
            patients: how many there are to train on (units, if `unit` is something else).
            unit: "patient" or "film".

        Raises: KitError for numbers that can't be, and for a file that is there already.
        """
        path = Path(path)
        check_delta(delta)
        if isinstance(patients, bool) or not isinstance(patients, int) or patients < 1:
            raise KitError(f"A ledger is for a number of {unit}s of at least 1, not {patients!r}.")
        if unit not in ("patient", "film"):
            raise KitError(f"A ledger's unit is 'patient' or 'film', not {unit!r}.")
        if not site:
            raise KitError("A ledger needs its hospital's name.")
        if delta * 10 * patients > 1 + 1e-9:
            raise KitError(
                f"Delta {delta:g} is too large for {patients} {unit}s: choose at most {1 / (10 * patients):.3g}, one in ten times "
                f"their number, since it's the chance that the promise doesn't hold at all."
            )
        if budget is not None and not 0 < budget < math.inf:
            raise KitError(f"The budget is {budget:g}; it's a finite epsilon above 0, or None for no bound.")
        account = Account(site, unit, patients, float(delta), None if budget is None else float(budget), secrets.token_hex(16))
        line = _line({"ledger": _FORMAT, **vars(account)})
        part = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
            with os.fdopen(handle, "wb") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            os.link(part, path)  # unlike a rename, never in place of another
            sync_folder(path.parent)
        except FileExistsError:
            raise KitError(f"There is a ledger {path} already: open it, its spends count for good.") from None
        except OSError as error:
            raise disk_error(error, path) from error
        finally:
            if part is not None:
                Path(part).unlink(missing_ok=True)
        return cls(path)

    @classmethod
    def open(
        cls,
        path: str | Path,
        expected_head: str | None = None,
        *,
        site: str | None = None,
        delta: float | None = None,
        unit: str | None = None,
    ) -> Ledger:
        """Go on with a ledger.

        Args:
            expected_head: a head that it once had, e.g. from a checkpoint; later spends may have followed.
            site, delta, unit: what its first line must say, or None.

        Raises: KitError for a file that isn't there, isn't a whole chain, lacks the expected head, or is another's.
        """
        path = Path(path)
        if not path.exists():
            if expected_head:
                raise KitError(
                    f"The ledger {path} is gone, but its entry {expected_head[:12]} is known: put the file back, since what it "
                    f"held was spent; a new ledger would count from nothing."
                )
            raise KitError(f"There is no ledger {path}: begin one with Ledger.create.")
        ledger = cls(path)
        for name, wanted in (("site", site), ("delta", delta), ("unit", unit)):
            if wanted is not None and (found := getattr(ledger.account, name)) != wanted:
                raise KitError(f"The ledger {path} is for {name} {found!r}, not {wanted!r}: open the one that belongs here.")
        if expected_head is not None:
            ledger._require(expected_head)
        return ledger

    @property
    def head(self) -> str:
        """The last line's hash, 64 hexadecimal digits."""
        return self.entries[-1].hash if self.entries else self._first

    @property
    def history(self) -> list[tuple[Mechanism, int]]:
        return [(entry.mechanism, entry.count) for entry in self.entries]

    @property
    def remaining(self) -> float:
        """ε left of the budget; infinite without one."""
        return math.inf if self.account.budget is None else self.account.budget - self.epsilon()

    def epsilon(self, delta: float | None = None) -> float:
        """ε of all spends together, at the ledger's δ or another."""
        return epsilon(self.history, self.account.delta if delta is None else delta)

    def spend(self, mechanism: Mechanism, count: int = 1, *, purpose: str, run: str = "") -> str:
        """Write down that a mechanism is going to be applied `count` times. It's on the disk when this returns.

        1. Lock the file, read it again: another process may have spent. The head known so far must still be in it.
        2. Refuse if ε would pass the budget.
        3. Cut off a last line that a crash has torn.
        4. Append the entry, sync the file, unlock.

        Args:
            purpose: what for, in words, e.g. "round 3: 20 steps".
            run: the training run's id.

        Returns: the new head.
        Raises: KitError if the budget would be passed (nothing is written), the file was tampered with, or can't be written.
        """
        check_count(count)
        if not purpose:
            raise KitError("A spend needs a purpose: say what it's for, e.g. 'round 3'.")
        with self._locked(shared=False) as file:
            known = self.head
            whole = self._read(file)
            self._require(known)
            self._check_budget(mechanism, count, purpose)
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            entry = {"mechanism": mechanism.to_dict(), "count": count, "purpose": purpose, "run": run, "time": stamp}
            line = _line(entry | {"previous": self.head})
            try:
                if self.torn:
                    _log.warning("%s", self.torn)
                    os.ftruncate(file.fileno(), whole)
                    os.fsync(file.fileno())  # else the new line's pages might reach the disk beside the torn ones
                    self.torn = ""
                _append(file.fileno(), line, whole)
                os.fsync(file.fileno())
            except OSError as error:
                raise disk_error(error, self.path) from error
            self.entries = (*self.entries, _entry(json.loads(line)))
        return self.head

    def table(self) -> pd.DataFrame:
        """One row a spend: purpose, run, mechanism, count, ε so far, time."""
        import pandas as pd

        _, so_far = self.curve()
        rows = [
            {
                "purpose": e.purpose,
                "run": e.run,
                "mechanism": str(e.mechanism),
                "count": e.count,
                "epsilon": after,
                "time": e.time,
            }
            for e, after in zip(self.entries, so_far[1:])
        ]
        return pd.DataFrame(rows, columns=["purpose", "run", "mechanism", "count", "epsilon", "time"])

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """ε as spends went on: int64 [n + 1] numbers of spends from 0 on, float64 [n + 1] ε after each."""
        import numpy as np

        history = self.history
        return np.arange(len(history) + 1), np.array([epsilon(history[:n], self.account.delta) for n in range(len(history) + 1)])

    def _check_budget(self, mechanism: Mechanism, count: int, purpose: str) -> None:
        budget = self.account.budget
        if budget is None:
            return
        after = epsilon([*self.history, (mechanism, count)], self.account.delta)
        if after > budget:
            raise KitError(
                f"{self.account.site}'s privacy budget of epsilon {budget:g} doesn't allow {purpose!r}: {self.epsilon():.4g} is "
                f"spent, and it would come to {after:.4g}. Stop training here, or plan fewer steps or more noise."
            )

    def _require(self, head: str) -> None:
        if head != self._first and all(entry.hash != head for entry in self.entries):
            raise KitError(
                f"The ledger {self.path} lacks the entry {head[:12]} that it once had: it was set back to an older copy, cut "
                f"short or replaced. Put the latest copy back, since what it held was spent."
            )

    @contextmanager
    def _locked(self, shared: bool) -> Iterator[BinaryIO]:
        try:
            file = self.path.open("rb" if shared else "r+b", buffering=0)
        except FileNotFoundError:
            raise KitError(f"The ledger {self.path} is gone: put it back, since what it held was spent.") from None
        except OSError as error:
            raise KitError(f"Can't open the ledger {self.path}: {error.strerror or error}.") from error
        with file:
            fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield file

    def _read_locked(self, shared: bool) -> None:
        with self._locked(shared) as file:
            self._read(file)
        if self.torn:
            _log.warning("%s", self.torn)

    def _read(self, file: BinaryIO) -> int:
        """Take the file's account and entries over if the chain is whole; the bytes up to a torn line."""
        content = file.readall()
        whole = content.rfind(b"\n") + 1
        lines = content[:whole].splitlines()
        if not lines:
            raise KitError(f"{self.path} isn't a ledger: its first line is missing.")
        account, first = _account(self.path, lines[0])
        entries, previous = [], first
        for number, line in enumerate(lines[1:], start=2):
            stored = _checked(line)
            if stored is None or stored.get("previous") != previous:
                raise KitError(
                    f"Line {number} of the ledger {self.path} isn't what was written: the file was edited or damaged. Put back a "
                    f"copy that is whole and has all spends."
                )
            entries.append(_entry(stored))
            previous = entries[-1].hash
        self.account, self._first, self.entries = account, first, tuple(entries)
        self.torn = "" if whole == len(content) else (
            f"The ledger {self.path} ends in a line that a crash cut off; that spend was never granted, so nothing was done for "
            f"it, and it's left out."
        )  # fmt: skip
        return whole


def _line(content: dict) -> bytes:
    """A line of the file, with the hash of the rest of it."""
    return _canonical(content | {"hash": hashlib.sha256(_canonical(content)).hexdigest()}) + b"\n"


def _canonical(content: dict) -> bytes:
    return json.dumps(content, ensure_ascii=True, allow_nan=False).encode()


def _checked(line: bytes) -> dict | None:
    """A line's content, or None if it isn't to the byte what `_line` writes."""
    try:
        content = json.loads(line)
        return content if _line({k: v for k, v in content.items() if k != "hash"}) == line + b"\n" else None
    except (ValueError, AttributeError, RecursionError):
        return None


def _account(path: Path, line: bytes) -> tuple[Account, str]:
    stored = _checked(line)
    if stored is None or stored.get("ledger") != _FORMAT:
        raise KitError(f"{path} isn't a ledger of this version of the kit, or its first line was edited.")
    return Account(**{name: stored[name] for name in Account.__dataclass_fields__}), stored["hash"]


def _entry(stored: dict) -> Entry:
    return Entry(**stored | {"mechanism": mechanism_from_dict(stored["mechanism"])})


def _append(handle: int, line: bytes, at: int) -> None:
    while line:
        written = os.pwrite(handle, line, at)
        line, at = line[written:], at + written
