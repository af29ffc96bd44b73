"""A search on the disk: whatever is killed goes on, and whoever isn't meant to read the scores can't.

    FOLDER/search.json                  the base plan, the space, how trials are scored and charged
    FOLDER/PRIVATE.txt                  who may read this folder
    FOLDER/sites/NAME                   a digest of the films that site NAME trains and validates on; the site's own
    FOLDER/trials/0007/plan.json        what the trial tries; written when it begins
                      /scores.json      its score after each round, if trials may be pruned
                      /checkpoints/     see `checkpoint`; kept of a trial that is cut short, and of the best so far
                      /result.json      how it ended; written last
    FOLDER/ledgers/NAME                 what site NAME has spent, of a search that is charged

The folder is for its owner alone (0700). Files are written whole or not at all. Optuna holds trials in memory only and gets
them from here, since its own stores can be left with half a trial, or half a line.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import KitError
from ..storage import disk_error, write_atomically

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
_WHO = {
    "exact": "THIS FOLDER HOLDS EXACT SCORES ON PRIVATE FILMS, and models that were trained on them, without differential\n"
    "privacy. It is private data: keep it where the films may be, and export neither it nor a list of its scores.\n",
    "charged": "The scores and models in this folder are differentially private; what they cost is in the hospitals' ledgers.\n"
    "The digests below sites/ are not: they stay with the hospitals.\n",
    "public": "All scores and models in this folder are of films that were declared public.\n",
}


@dataclass(frozen=True)
class Trial:
    """A finished trial.

    number: from 0. values: key -> what the trial tried. state: "complete", "pruned" or "failed".
    score: on the validation films; None of a failed trial. rounds: that were made. seconds: of training.
    scores: round -> score after it, if trials may be pruned. reason: why it failed.
    sha256: of its plan; "" if there can be no such plan.
    """

    number: int
    values: dict[str, Any]
    state: str
    score: float | None = None
    rounds: int = 0
    seconds: float = 0.0
    scores: dict[int, float] = field(default_factory=dict)
    reason: str = ""
    sha256: str = ""


class SearchRecord:
    """The folder of one search, to be read; `open` is the way to work on it."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @classmethod
    @contextmanager
    def open(cls, folder: str | Path, terms: Mapping[str, Any], digests: Mapping[str, str], whose: str) -> Iterator[SearchRecord]:
        """Begin a search or go on with one, alone: under a lock that a killed process can't leave behind.

        Args:
            folder: made if it isn't there.
            terms: what the search is; those of a search that was begun here must be the same.
            digests: site -> that of its films.
            whose: "exact", "charged" or "public": what is to be said of those who may read the folder.

        Raises: KitError if another search was begun here, or over other films, or a process is at it.
        """
        record = cls(folder)
        try:
            record.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            record.folder.chmod(0o700)
            lock = (record.folder / ".lock").open("w")
        except OSError as error:
            raise disk_error(error, record.folder) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise KitError(f"Another process is at the search in {folder}: wait for it, or choose another folder.") from None
            record._begin(terms, digests, whose)
            yield record

    def _begin(self, terms: Mapping[str, Any], digests: Mapping[str, str], whose: str) -> None:
        for left_over in self.folder.glob("**/.*.part"):  # a writer was killed
            left_over.unlink(missing_ok=True)
        path = self.folder / "search.json"
        if path.exists():
            _check_terms(path, _read(path), terms)
        for name, digest in digests.items():
            mine = self.folder / "sites" / quote(name, safe=" ")
            if mine.exists() and mine.read_text() != digest:
                raise KitError(
                    f"Site {name}'s films aren't those that the search in {self.folder} has scored: its trials can't be compared "
                    "with others. Choose another folder to start anew."
                )
            _write(mine, digest)
        _write(self.folder / "PRIVATE.txt", _WHO[whose])
        _write(path, json.dumps(terms, indent=1, sort_keys=True) + "\n")

    @property
    def ledgers(self) -> Path:
        return self.folder / "ledgers"

    def checkpoints(self, number: int) -> Path:
        return self._trial(number) / "checkpoints"

    def finished(self) -> list[Trial]:
        """The finished trials, in order."""
        trials: list[Trial] = []
        while (path := self._trial(len(trials)) / "result.json").exists():
            stored = _read(path)
            trials.append(Trial(**{**stored, "scores": {int(r): score for r, score in stored["scores"].items()}}))
        return trials

    def begun(self, number: int) -> dict[str, Any] | None:
        """What a trial that was cut short tries, or None if it hasn't begun."""
        path = self._trial(number) / "plan.json"
        return _read(path) if path.exists() else None

    def begin(self, number: int, values: Mapping[str, Any]) -> None:
        _write(self._trial(number) / "plan.json", json.dumps(dict(values), sort_keys=True) + "\n")

    def scores(self, number: int) -> dict[int, float]:
        """round -> score of a trial that was cut short."""
        path = self._trial(number) / "scores.json"
        return {int(r): score for r, score in _read(path).items()} if path.exists() else {}

    def note_scores(self, number: int, scores: Mapping[int, float]) -> None:
        _write(self._trial(number) / "scores.json", json.dumps(dict(scores)) + "\n")

    def finish(self, trial: Trial) -> None:
        _write(self._trial(trial.number) / "result.json", json.dumps(asdict(trial), sort_keys=True) + "\n")

    def forget_models(self, keep: int | None) -> None:
        """Delete the checkpoints of all finished trials but one."""
        for trial in self.finished():
            if trial.number != keep:
                shutil.rmtree(self.checkpoints(trial.number), ignore_errors=True)

    def _trial(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"


def best_of(trials: list[Trial]) -> Trial | None:
    """The complete trial with the highest score; of equal ones the first."""
    complete = [trial for trial in trials if trial.state == COMPLETE]
    return max(complete, key=lambda trial: (trial.score, -trial.number), default=None)


def _check_terms(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in (*now, *(before.keys() - now.keys())):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):  # a plan or a space: name the key
            key = min(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
            name, old, new = f"{name}.{key}", old.get(key), new.get(key)
        raise KitError(
            f"The search in {path.parent} was begun with {name} = {_shown(old)}, now it's {_shown(new)}: its trials can't be "
            "compared with others. Go on as it was begun, or choose another folder."
        )


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)


def _write(path: Path, text: str) -> None:
    write_atomically(path, text, mode=0o600)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise KitError(f"{path} can't be read ({error}): choose another folder to start anew.") from error
