"""A lesson on the outsourced mode: all five parties in one process, as `teaching` has the three of the other mode.

Whoever runs this holds the image, the model and every seed. It protects nobody, and can't be connected to a real party.
"""

from __future__ import annotations

import queue
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...mpc.program import Program
from ..certificates import Peer
from .channel import Channel, Message
from .events import LayerEvent
from .outsourced import OutsourcedSession
from .provider import ProviderService
from .server import ServerService
from .sharing import share_between
from .teaching import WAIT_SECONDS, Lesson, local_pair

ROLES = ("provider", "server0", "server1", "model", "data")


@dataclass(frozen=True)
class OutsourcedEvent:
    """One operation, as both servers saw it: together their views are the value."""

    server0: LayerEvent
    server1: LayerEvent


class OutsourcedLesson(Lesson):
    """Provider, two servers, model owner and data owner as threads over local channels.

    Args:
        program, weights: of `compile_private`. The model owner shares them, and leaves.
        budget: as the servers'.

    Attributes: `events`: of the last inference, an `OutsourcedEvent` an operation; `transcripts`: what each party sent and
    received; `troubles`.
    """

    def __init__(self, program: Program, weights: Mapping[str, Any], *, budget: int | None = None):
        super().__init__()
        folder, self.events = Path(self._folder.name), []
        self._peers = {role: Peer(role, role, f"{number:064x}") for number, role in enumerate(ROLES)}
        self._ends: dict[str, list[Channel]] = {role: [] for role in ROLES}
        self._seen = queue.SimpleQueue(), queue.SimpleQueue()
        quiet = {"tell": lambda sentence: None, "budget": budget}
        watch = [lambda peer, event, seen=seen: seen.put(event) for seen in self._seen]
        self._provider = ProviderService(folder / "provider", tell=lambda sentence: None)
        self._servers = (
            ServerService(
                0,
                folder / "server0",
                to_provider=lambda: self._to("provider", "server0"),
                to_server1=lambda: self._to("server1", "server0"),
                watch=watch[0],
                **quiet,
            ),
            ServerService(1, folder / "server1", watch=watch[1], **quiet),
        )
        share_between(program, weights, self._to("provider", "model"), [self._to(f"server{i}", "model") for i in (0, 1)])
        self._fetching = self._to("provider", "server1")
        self._servers[1]._begin(self._fetching)
        self._start(self._keep_fetching, self._servers[1], self._fetching)
        self._session = OutsourcedSession([self._to(f"server{i}", "data") for i in (0, 1)])

    @property
    def program(self) -> Program:
        return self._session.program

    @property
    def transcripts(self) -> dict[str, list[Message]]:
        return {role: [m for channel in list(ends) for m in channel.transcript] for role, ends in self._ends.items()}

    def prepare(self, batch: int = 1) -> None:
        """As `OutsourcedSession.prepare`."""
        self._session.prepare(batch)

    def infer(self, images) -> np.ndarray:
        """As `OutsourcedSession.infer`; `events` has what the servers saw."""
        for seen in self._seen:
            while not seen.empty():
                seen.get_nowait()
        answer = self._session.infer(images)
        self.events = [OutsourcedEvent(*(seen.get(timeout=WAIT_SECONDS) for seen in self._seen)) for _ in self.program.ops]
        return answer

    def close(self) -> None:
        self._stop.set()
        self._provider.stop()
        self._session.close()
        for ends in self._ends.values():
            for channel in ends:
                channel.cancel.set()
        self._join()
        for service in (*self._servers, self._provider):
            service.close()
        self._folder.cleanup()

    def _to(self, role: str, who: str) -> Channel:
        """A new connection of `who` to a service."""
        ours, theirs = local_pair(self._peers[who], self._peers[role])
        service = {"provider": self._provider, "server0": self._servers[0], "server1": self._servers[1]}[role]
        self._ends[who].append(ours)
        self._ends[role].append(theirs)
        self._start(service.serve, theirs)
        return ours
