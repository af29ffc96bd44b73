"""Checkpoints: a run that is killed at any moment goes on as if nothing had happened.

    FOLDER/server/round-0007.pt         the global model, the server's optimizer, the rounds' records
    FOLDER/sites/NAME/round-0007.pt     what site NAME keeps to itself (SCAFFOLD's c_i, FedBN's layers)
    FOLDER/server/run                   the run's id, in hexadecimal: it is the same for all who take it up again
    FOLDER/sites/NAME/rounds            the secure sums that site NAME has taken part in, and with whom
    FOLDER/sites/NAME/ledger            what site NAME has spent of its patients' privacy, if the plan is private

A file is one line of text and torch's format: `primia checkpoint 1 PLAN DIGEST`, where PLAN is the plan's SHA-256 and
DIGEST that of the plan's and all that follows. Files are written whole or not at all; the sites' come first, so that
the server's says: this round is done. The last two rounds are kept. In a real federation each site writes its own file
on its own disk; in one process they lie in one folder, and whoever may read it reads all of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import pickle
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from ..errors import KitError
from ..secagg import RUN_BYTES
from ..storage import write_atomically

_MAGIC = "primia checkpoint 1"
_KEPT = 2


class Damaged(Exception):
    """A checkpoint that isn't whole; what it says goes into a sentence."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: made when the first is written.
        plan_sha256: of the plan that is trained; checkpoints of another one are refused.
        sites: the names of all sites.
    """

    def __init__(self, folder: str | Path, plan_sha256: str, sites: tuple[str, ...]):
        self.folder, self.plan_sha256, self.sites = Path(folder), plan_sha256, sites
        if self.folder.exists() and not self.folder.is_dir():
            raise KitError(f"{self.folder} is a file: checkpoints need a folder.")
        for left_over in self.folder.glob("**/.round-*.part"):  # a writer was killed
            left_over.unlink(missing_ok=True)

    @property
    def run(self) -> bytes:
        """The id of the run in this folder, made when it's first asked for; processes that share the folder get the same.

        Raises: KitError if it can't be read: the sites' histories would tell nothing under another one.
        """
        path = self._path(0).parent / "run"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+", encoding="ascii", errors="replace") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            if len(text) < 2 * RUN_BYTES:  # new, or cut off by a crash before anybody had it
                text = secrets.token_hex(RUN_BYTES)
                file.truncate(0)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        try:
            return bytes.fromhex(text)
        except ValueError as error:
            raise KitError(f"{path} is damaged, so this run can't be taken up again: choose another folder.") from error

    def history(self, site: str) -> Path:
        """The file in which a site's identity remembers its secure sums."""
        return self._path(0, site).parent / "rounds"

    def ledger(self, site: str) -> Path:
        """The file of a site's privacy ledger."""
        return self._path(0, site).parent / "ledger"

    def save(self, round: int, server: Mapping[str, Any], sites: Mapping[str, Mapping[str, Any]]) -> None:
        """Write a finished round's state: tensors, numbers, texts, lists and dicts of these.

        Raises: KitError if the disk is full; the checkpoints before stay.
        """
        for name in self.sites:
            self._write(self._path(round, name), sites[name])
        self._write(self._path(round), {**server, "sites": list(self.sites)})
        for folder in self._folders():
            for number, path in _rounds(folder).items():
                if number <= round - _KEPT:
                    path.unlink(missing_ok=True)

    def latest(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]], list[str]] | None:
        """The newest whole checkpoint: server's state, site -> its state, a sentence for each damaged one.

        None if there is none at all; ({}, {}, sentences) if all are damaged.
        Raises: KitError if the newest whole one belongs to another plan or to other sites.
        """
        notes: list[str] = []
        rounds = sorted(_rounds(self._path(0).parent), reverse=True)
        for number in rounds:
            try:
                server = self._read(self._path(number))
                if tuple(server["sites"]) != self.sites:
                    raise KitError(
                        f"The checkpoints in {self.folder} are of a run over {', '.join(server['sites'])}, this one is over "
                        f"{', '.join(self.sites)}: choose another folder."
                    )
                return server, {name: self._read(self._path(number, name)) for name in self.sites}, notes
            except Damaged as damage:
                notes.append(f"The checkpoint of round {number} in {self.folder} is damaged ({damage}); the one before counts.")
        if not rounds:
            return None
        return {}, {}, [*notes, f"No checkpoint in {self.folder} is whole: the run starts anew."]

    def _write(self, path: Path, state: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        payload = buffer.getvalue()
        head = f"{_MAGIC} {self.plan_sha256} {_digest(self.plan_sha256, payload)}\n".encode()
        write_atomically(path, head + payload)

    def _read(self, path: Path) -> dict[str, Any]:
        """No code in the file is run (`weights_only=True`)."""
        try:
            head, _, payload = path.read_bytes().partition(b"\n")
        except OSError as error:
            raise Damaged(f"{path.name} can't be read: {error.strerror}") from error
        words = head.decode("ascii", "replace").split()
        if " ".join(words[:3]) != _MAGIC or len(words) != 5:
            raise Damaged("it doesn't begin like one")
        if _digest(words[3], payload) != words[4]:
            raise Damaged("its content isn't what its digest says")
        if words[3] != self.plan_sha256:
            raise KitError(
                f"The checkpoints in {self.folder} are of another plan (SHA-256 {words[3][:12]}…, this one's is "
                f"{self.plan_sha256[:12]}…): choose another folder, or go on with the plan that they were made with."
            )
        try:
            return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, LookupError, TypeError, ValueError, pickle.UnpicklingError) as error:
            raise Damaged("torch can't read it") from error

    def _path(self, round: int, site: str | None = None) -> Path:
        folder = self.folder / "server" if site is None else self.folder / "sites" / quote(site, safe=" ")
        return folder / f"round-{round:04d}.pt"

    def _folders(self) -> list[Path]:
        return [self._path(0).parent, *(self._path(0, name).parent for name in self.sites)]


def _rounds(folder: Path) -> dict[int, Path]:
    return {int(p.stem.removeprefix("round-")): p for p in folder.glob("round-*.pt") if p.stem[6:].isdecimal()}


def _digest(plan_sha256: str, payload: bytes) -> str:
    return hashlib.sha256(plan_sha256.encode() + b"\n" + payload).hexdigest()
