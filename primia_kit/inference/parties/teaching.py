"""A lesson: all three parties in one process, so that a class can look at what each of them saw, side by side.

Whoever runs this holds the image, the model and every seed. It protects nobody: it takes no address, no certificate and no
channel, so it can't be connected to a real party.
"""

from __future__ import annotations

import queue
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import KitError
from ...mpc.program import Program
from ..certificates import Peer
from .channel import Channel, Message
from .data import Session
from .dealing import Fetches
from .engine import Engine
from .events import LayerEvent
from .model import ModelService
from .provider import ProviderService
from .run import Inference

WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class TeachingEvent:
    """One operation, as both computing parties saw it: together their views are the value."""

    data_owner: LayerEvent
    model_owner: LayerEvent


class TeachingInference:
    """Iterate for a `TeachingEvent` a layer, then read `answer`. Stopping early cancels, as in `Inference`."""

    def __init__(self, inference: Inference, events: queue.SimpleQueue):
        self._inference, self._events = inference, events

    @property
    def answer(self) -> np.ndarray:
        return self._inference.answer

    @property
    def state(self) -> str:
        return self._inference.state

    def cancel(self) -> None:
        self._inference.cancel()

    def __iter__(self) -> Iterator[TeachingEvent]:
        for event in self._inference:
            try:
                yield TeachingEvent(event, self._events.get(timeout=WAIT_SECONDS))
            except queue.Empty:
                raise KitError(f"The lesson's model owner has stopped before {event.name}: begin a new lesson.") from None


class Lesson:
    """Threads over local channels, and a folder that goes with them. `troubles`: sentences of services that ended in trouble."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="primia-lesson-")
        self.troubles: list[str] = []
        self._stop, self._threads = threading.Event(), []

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(10)

    def _start(self, work: Callable, *arguments) -> None:
        def guarded() -> None:
            try:
                work(*arguments)
            except KitError as error:
                self.troubles.append(str(error))

        thread = threading.Thread(target=guarded, name="lesson", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _keep_fetching(self, party: Fetches, channel: Channel) -> None:
        try:
            while not self._stop.is_set():
                party.fetch(channel)
        except KitError:
            if not self._stop.is_set():
                raise
        finally:
            channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        raise NotImplementedError


class TeachingSession(Lesson):
    """The three parties as threads over local channels, with real messages of real sizes.

    Args:
        program, weights: of `compile_private`.
        budget: as the model owner's.
        engine: the kit's own by default.

    Attributes: `transcripts`: what data owner, model owner and provider sent and received; `troubles`: sentences of
    services that ended in trouble.
    """

    def __init__(self, program: Program, weights: Mapping[str, Any], *, budget: int | None = None, engine: Engine | None = None):
        super().__init__()
        folder = Path(self._folder.name)
        self._events: queue.SimpleQueue[LayerEvent] = queue.SimpleQueue()
        self._provider = ProviderService(folder / "provider", engine=engine, tell=lambda sentence: None)
        self._model = ModelService(
            folder / "model",
            program,
            weights,
            budget=budget,
            engine=engine,
            tell=lambda sentence: None,
            watch=lambda peer, event: self._events.put(event),
        )
        data, model, provider = (Peer(role, role, f"{number:064x}") for number, role in enumerate(("data", "model", "provider")))
        to_provider, from_model = local_pair(model, provider)
        self._start(self._provider.serve, from_model)
        self._model.register(to_provider)
        self._fetching = to_provider
        self._start(self._keep_fetching, self._model, to_provider)
        to_model, self._from_data = local_pair(data, model)
        self._start(self._model.serve, self._from_data)
        asking, self._asked = local_pair(data, provider)
        self._start(self._provider.serve, self._asked)
        self._session = Session(to_model, asking, folder / "data", engine=engine)
        self._of_provider = from_model

    @property
    def program(self) -> Program:
        return self._session.program

    @property
    def transcripts(self) -> dict[str, list[Message]]:
        return {
            "data owner": self._session.transcript,
            "model owner": self._fetching.transcript + self._from_data.transcript,
            "provider": self._of_provider.transcript + self._asked.transcript,
        }

    def prepare(self, batch: int = 1) -> None:
        """As `Session.prepare`."""
        self._session.prepare(batch)

    def run(self, images) -> TeachingInference:
        """As `Session.run`, with both parties' views in its events."""
        while not self._events.empty():  # of an inference that was cancelled
            self._events.get_nowait()
        return TeachingInference(self._session.run(images, views=True), self._events)

    def close(self) -> None:
        self._stop.set()
        self._fetching.cancel.set()
        self._provider.stop()
        self._session.close()
        self._join()
        self._model.close()
        self._provider.close()
        self._folder.cleanup()


def local_pair(one: Peer, other: Peer, timeout: float = WAIT_SECONDS) -> tuple[Channel, Channel]:
    """Two ends of a connection within a process: `one`'s, whose peer is `other`, and `other`'s."""
    left, right = socket.socketpair()
    return Channel(left, other, timeout), Channel(right, one, timeout)
