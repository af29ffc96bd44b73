"""What a hospital has spent of its patients' privacy: a file that outlives rounds, restarts and crashes.

A spend is on the disk before `spend` returns, hence before anything looks at the patients. So a process that is killed may
have spent what it didn't use; it can't have used what it didn't spend. The file is only ever appended to; each line holds
the hash of the one before (see `chain`), and the last line's, the head, stands for all.

Whoever can write the file can write another one that is whole in itself. An older copy, a shorter one or a new one is
noticed by those who have kept a later head (checkpoints, the server, other hospitals), and by nobody else. Nor does a lock
(flock) hold on every network file system: a ledger belongs on a disk of the hospital's own machine.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import KitError
from ..storage import disk_error, sync_folder
from .accounting import check_count, epsilon
from .chain import Account, Chain, Entry, entry_line, first_line, read_chain
from .mechanisms import Mechanism

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_log = logging.getLogger(__name__)


class Ledger:
    """A hospital's spends. Make one with `Ledger.create`, go on with one with `Ledger.open`.

    It's what this object has last seen of the file: another process may have spent since. `spend` looks again.
    """

    def __init__(self, path: Path, chain: Chain) -> None:
        self.path, self._chain = path, chain

    @classmethod
    def create(
        cls, path: str | Path, *, site: str, delta: float, budget: float | None, patients: int, unit: str = "patient"
    ) -> Ledger:
        """Begin a ledger.

        Args:
            path: where; there mustn't be one yet. Missing folders are made.
            site: the hospital's name.
            delta: at most 1 / (10 x patients).
            budget: the ε that is never passed, above 0; None for no bound.
            patients: how many there are to train on (films, if that's the unit).
            unit: "patient" or "film".

        Raises: KitError for numbers that can't be, and for a file that is there already.
        """
        path = Path(path)
        account = Account(site, unit, patients, float(delta), None if budget is None else float(budget), secrets.token_hex(16))
        part = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
            with os.fdopen(handle, "wb") as file:
                file.write(first_line(account))
                file.flush()
                os.fsync(file.fileno())
            os.link(part, path)  # unlike a rename, never in the place of another ledger
            sync_folder(path.parent)
        except FileExistsError:
            raise KitError(f"There is a file {path} already: open that ledger, since its spends count for good.") from None
        except OSError as error:
            raise disk_error(error, path) from error
        finally:
            if part is not None:
                Path(part).unlink(missing_ok=True)
        return cls.open(path)

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
                raise _gone(path)
            raise KitError(f"There is no ledger {path}: begin one with Ledger.create.")
        with _locked(path, shared=True) as file:
            chain = read_chain(path, file.readall())
        for name, wanted in (("site", site), ("delta", delta), ("unit", unit)):
            if wanted is not None and (found := getattr(chain.account, name)) != wanted:
                raise KitError(f"The ledger {path} is for {name} {found!r}, not {wanted!r}: open the one that belongs here.")
        if expected_head:
            _require(path, chain, expected_head)
        ledger = cls(path, chain)
        if chain.torn:
            _log.warning("%s", ledger.torn)
        return ledger

    @property
    def account(self) -> Account:
        """What stands in the first line: site, unit, patients, δ, budget."""
        return self._chain.account

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The spends, oldest first."""
        return self._chain.entries

    @property
    def head(self) -> str:
        """The last line's hash, 64 hexadecimal digits."""
        return self._chain.head

    @property
    def history(self) -> list[tuple[Mechanism, int]]:
        return [(entry.mechanism, entry.count) for entry in self.entries]

    @property
    def torn(self) -> str:
        """What is to be told of a last line that a crash cut off, or ""."""
        if not self._chain.torn:
            return ""
        return (
            f"The ledger {self.path} ends in a line that a crash cut off: that spend was never granted, so nothing was done "
            f"for it, and the next spend takes its place."
        )

    @property
    def remaining(self) -> float:
        """ε left of the budget; infinite without one."""
        return math.inf if self.account.budget is None else self.account.budget - self.epsilon()

    def epsilon(self, delta: float | None = None) -> float:
        """ε of all spends together, at the ledger's δ or another."""
        return epsilon(self.history, self.account.delta if delta is None else delta)

    def spend(self, mechanism: Mechanism, count: int = 1, *, purpose: str, run: str = "", limit: float | None = None) -> str:
        """Write down that a mechanism is going to be applied `count` times. It's on the disk when this returns.

        1. Lock the file and read it again: another process may have spent. The head known so far must still be in it.
        2. Refuse if ε would pass the budget, or `limit`.
        3. Cut off a last line that a crash has torn.
        4. Append the entry, sync the file, unlock.

        A spend that fails on the way isn't granted, but may be in the file; then it counts.

        Args:
            purpose: what for, in words, e.g. "round 3".
            run: the training run's id.
            limit: an ε of this run's own, above 0; None for the budget alone.

        Returns: the new head.
        Raises: KitError if the budget would be passed (nothing is written), or the file was set back, edited or can't be
            written to.
        """
        check_count(count)
        if not purpose:
            raise KitError("A spend needs a purpose: say what it's for, e.g. 'round 3'.")
        with _locked(self.path, shared=False) as file:
            content = file.readall()
            chain = read_chain(self.path, content)
            _require(self.path, chain, self.head)
            self._chain = chain
            self._keep_budget(mechanism, count, purpose, limit)
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            line = entry_line(mechanism, count, purpose, run, stamp, chain.head)
            try:
                if chain.torn:
                    os.ftruncate(file.fileno(), chain.size)
                    os.fsync(file.fileno())  # or a crash might leave the new line's last bytes behind the torn one's first
                _append(file.fileno(), line, chain.size)
                os.fsync(file.fileno())
            except OSError as error:
                raise disk_error(error, self.path) from error
            self._chain = read_chain(self.path, content[: chain.size] + line)
        return self.head

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """How ε grew: int64 [n + 1] numbers of spends, 0 to n, and float64 [n + 1] ε after as many."""
        import numpy as np

        history = self.history
        so_far = [epsilon(history[:n], self.account.delta) for n in range(len(history) + 1)]
        return np.arange(len(so_far)), np.array(so_far)

    def table(self) -> pd.DataFrame:
        """A row a spend: purpose, run, mechanism, count, ε so far, time (UTC)."""
        import pandas as pd

        columns = {name: [getattr(entry, name) for entry in self.entries] for name in ("purpose", "run", "mechanism", "count")}
        columns |= {"epsilon": self.curve()[1][1:], "time": [entry.time for entry in self.entries]}
        return pd.DataFrame(columns)

    def _keep_budget(self, mechanism: Mechanism, count: int, purpose: str, limit: float | None) -> None:
        bounds = [bound for bound in (self.account.budget, limit) if bound is not None]
        if not bounds:
            return
        budget = min(bounds)
        after = epsilon([*self.history, (mechanism, count)], self.account.delta)
        if after > budget:
            raise KitError(
                f"{self.account.site}'s privacy budget of epsilon {budget:g} doesn't allow {purpose!r}: {self.epsilon():.4g} is "
                f"spent, and it would come to {after:.4g}. Stop here, or plan fewer steps or more noise."
            )


@contextmanager
def _locked(path: Path, *, shared: bool) -> Iterator[FileIO]:
    try:
        file = path.open("rb" if shared else "r+b", buffering=0)
    except FileNotFoundError:
        raise _gone(path) from None
    except OSError as error:
        raise KitError(f"Can't open the ledger {path}: {error.strerror or error}.") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield file


def _append(handle: int, line: bytes, at: int) -> None:
    while line:
        written = os.pwrite(handle, line, at)
        line, at = line[written:], at + written


def _require(path: Path, chain: Chain, head: str) -> None:
    if not chain.holds(head):
        raise KitError(
            f"The ledger {path} lacks the entry {head[:12]}, which it once had: it was set back to an older copy, cut short or "
            f"replaced by another. Put the latest copy back, since what it held was spent."
        )


def _gone(path: Path) -> KitError:
    return KitError(f"The ledger {path} is gone, though it was begun: put it back, since what it held was spent.")
