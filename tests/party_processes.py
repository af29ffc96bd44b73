"""The three parties as processes of their own, by the command `primia party` over TLS, which can be killed at a chosen place.

A process dies by SIGKILL, sent to itself right before or after a call: nothing is cleaned up, no socket says farewell.
"""

import importlib
import multiprocessing
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from primia_kit.cli import main
from primia_kit.inference.parties import model
from primia_kit.inference.parties.data import open_session

_PROCESSES = multiprocessing.get_context("forkserver")  # fresh processes without a second of imports each
_PROCESSES.set_forkserver_preload(
    ["tests.party_processes", "primia_kit.inference.model_file", "primia_kit.mpc"]
    + [f"primia_kit.mpc.{name}.in_numba" for name in ("comparison", "packing", "wire")]
    + ["primia_kit.mpc.kernels.direct"]
)
PATIENCE = 60.0  # seconds for anything that a busy machine may take


@dataclass(frozen=True)
class Kill:
    """Where a process dies.

    place: "module:name" or "module:Class.name", below `primia_kit`
    when: "before" the call or "after" it
    number: which call, from 1
    argument: count only calls with this string among their arguments
    """

    place: str
    when: str
    number: int = 1
    argument: str | None = None

    def __str__(self):
        return f"{self.when} {self.number}. {self.place.rpartition(':')[2]} {self.argument or ''}".strip()

    def install(self):
        module, _, path = self.place.partition(":")
        owner = importlib.import_module(f"primia_kit.{module}")
        *outer, name = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        real, calls = getattr(owner, name), 0

        def dying(*arguments, **named):
            nonlocal calls
            calls += self.argument is None or any(isinstance(a, str) and a == self.argument for a in arguments)
            here = calls == self.number
            if here and self.when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **named)
            if here and self.when == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, dying)


def _work(arguments, log, kill):
    handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)
    model.RETRY_SECONDS = 0.2  # a restarted peer is found at once
    if kill:
        kill.install()
    sys.exit(main(["party", *arguments]))


class Party:
    """A process, and what it says.

    Args:
        arguments: of `primia party`.
        log: the file that its output goes to; `lines` reads those of this process alone.
    """

    def __init__(self, arguments, log: Path, kill: Kill | None = None):
        self.log, self.before = log, log.stat().st_size if log.exists() else 0
        self.process = _PROCESSES.Process(target=_work, args=([str(a) for a in arguments], log, kill), daemon=True)
        self.process.start()

    @property
    def lines(self) -> list[str]:
        return self.log.read_bytes()[self.before :].decode().splitlines() if self.log.exists() else []

    def wait_for(self, pattern: str, seconds: float = PATIENCE) -> re.Match:
        """The first line with the pattern; it fails if none comes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in self.lines:
                if found := re.search(pattern, line):
                    return found
            time.sleep(0.01)
        raise AssertionError(f"nobody said {pattern!r}: {self.lines}")

    def ended(self, seconds: float = PATIENCE) -> int:
        """Its exit status, -9 for SIGKILL; it fails if the process still runs."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"it still runs: {self.lines}"
        return self.process.exitcode

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        assert self.ended() == -signal.SIGKILL

    def stop(self):
        if self.process.exitcode is None:
            self.process.terminate()
            self.ended()


class House:
    """The parties' folders, and their processes: `start` one, `session` for a data owner in this process."""

    def __init__(self, folder: Path):
        self.folder, self.parties, self.addresses = folder, {}, {}

    def start(self, role: str, kill: Kill | None = None) -> Party:
        """Start a service where it was before, and wait until it listens unless it's to be killed."""
        arguments = [role, "--listen", self.addresses.get(role, "127.0.0.1:0"), *self._own(role)]
        if role == "model":
            arguments += ["--connect-provider", self.addresses["provider"], "--model", self.folder / "model.npz"]
        party = self.parties[role] = Party(arguments, self.folder / f"{role}.log", kill)
        if not kill or role in self.addresses:
            self.addresses[role] = party.wait_for(r"listens at (\S+);")[1]
        return party

    def ask(self, *arguments, kill: Kill | None = None) -> Party:
        """A data owner's command."""
        to = ["--connect-model", self.addresses["model"], "--connect-provider", self.addresses["provider"]]
        return Party(["data", *to, *self._own("data"), *arguments], self.folder / "data.log", kill)

    def session(self, timeout=PATIENCE):
        to = self.addresses["model"], self.addresses["provider"]
        return open_session(*to, self.folder / "certificates/data", self.folder / "data", timeout=timeout, patience=PATIENCE)

    def _own(self, role: str) -> list:
        return ["--cert", self.folder / "certificates" / role, "--store", self.folder / role, "--timeout", PATIENCE]

    def close(self):
        for party in self.parties.values():
            party.stop()

    # -- what lies on the disk

    def ids(self, role: str, state: str) -> set[str]:
        place = self.folder / role / {"model": "dealt"}.get(role, "seeds") / state
        return {path.name for path in place.iterdir() if not path.name.startswith(".")} if place.exists() else set()

    def holds(self, secret: bytes) -> list[Path]:
        """Files of any party that have these bytes."""
        files = (path for role in ("provider", "model", "data") for path in (self.folder / role).rglob("*") if path.is_file())
        return [path for path in files if secret in path.read_bytes()]

    def material(self, role: str, id: str) -> bytes:
        """What this party keeps under an id that is ready, without the file's head."""
        content = (self.folder / role / {"model": "dealt"}.get(role, "seeds") / "ready" / id).read_bytes()
        return content[4 + int.from_bytes(content[:4], "big") :]
