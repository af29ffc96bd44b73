"""What a hospital remembers of its secure sums, so that two of them never give a single contribution away."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import KitError
from ..storage import sync_folder


class History:
    """The attempts that a hospital took part in, and the survivors that it signed for in each round.

    The sums of the same contributions over two groups of survivors differ by single contributions. So a round may be
    tried again (somebody was missing, a process died), but a hospital that has signed a list of survivors in it signs
    no other: at least t sign each list that is opened, and two times t are more than all, so one would have to sign both.

    Args:
        path: a file, appended to and synced before the hospital goes on; processes that share it take turns. None
            remembers in this process alone.
    """

    def __init__(self, path: Path | None = None):
        self._path = path
        self._lines: set[str] = set()

    def begin(self, run: bytes, purpose: str, attempt: bytes) -> None:
        """Claim an attempt, once for ever. Raises: KitError if it was claimed before."""
        line = f"begun {_name(run.hex(), purpose, attempt.hex())}"
        with self._open() as (lines, add):
            if line in lines:
                raise KitError(f"{purpose}: this hospital has taken part in this attempt before; none is run twice.")
            add(line)

    def signs(self, run: bytes, purpose: str, survivors: Iterable[str]) -> bool:
        """Whether the hospital may sign this list of survivors in the round; if so, it has."""
        start = f"signed {_name(run.hex(), purpose)} "
        line = start + _name(*sorted(survivors))
        with self._open() as (lines, add):
            if any(earlier.startswith(start) and earlier != line for earlier in lines):
                return False
            if line not in lines:
                add(line)
            return True

    @contextmanager
    def _open(self) -> Iterator[tuple]:
        if self._path is None:
            yield self._lines, self._lines.add
            return
        new = not self._path.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()

            def add(line: str) -> None:
                # A line that was cut off by a crash claimed nothing, and mustn't swallow this one.
                file.write(("" if not text or text.endswith("\n") else "\n") + line + "\n")
                file.flush()
                os.fsync(file.fileno())
                if new:
                    sync_folder(self._path.parent)

            yield set(text.splitlines()), add


def _name(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
