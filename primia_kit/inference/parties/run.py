"""One inference of a data owner: events while it runs, its answer afterwards, and a way to stop it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import numpy as np

from ...errors import KitError
from .channel import Cancelled, Channel
from .events import LayerEvent, Layers


class Inference:
    """Iterate for a `LayerEvent` a layer; it begins with the first. Once only.

    Stopping the iteration early, or `cancel` from any thread, ends the inference: its id stays used at both parties, the
    model owner is told, and the session is closed.

    Attributes:
        state: "ready", "running", "done", "cancelled" or "failed"
        answer: what the engine gives the data owner, once it's done
    """

    def __init__(self, channel: Channel, count: int, infer: Callable, close: Callable[[str], None], views: bool = False):
        self._channel, self._count, self._infer, self._close, self._views = channel, count, infer, close, views
        self._events: queue.SimpleQueue[LayerEvent | BaseException | None] = queue.SimpleQueue()
        self._answer: np.ndarray | None = None
        self._error: BaseException | None = None
        self.state = "ready"

    @property
    def answer(self) -> np.ndarray:
        """Raises: KitError unless the inference is done."""
        if self.state != "done":
            raise KitError(f"There's no answer: the inference is {self.state}.")
        return self._answer

    def cancel(self) -> None:
        """Stop at the next operation, or in the midst of a wait. The iteration raises `Cancelled`; one that's over stays so."""
        if self.state in ("ready", "running"):
            self._channel.cancel.set()

    def __iter__(self) -> Iterator[LayerEvent]:
        if self.state != "ready":
            raise KitError(f"This inference is {self.state}: an id serves once, so run another one.")
        self.state = "running"
        worker = threading.Thread(target=self._work, name="inference", daemon=True)
        worker.start()
        try:
            while (event := self._events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
            self.state = "done"
            self._channel.cancel.clear()  # too late
        finally:
            if self.state == "running":  # the caller has left, or something failed
                self._channel.cancel.set()
                worker.join()
                self.state = "cancelled" if self._error is None or isinstance(self._error, Cancelled) else "failed"
                self._close("cancelled")

    def _work(self) -> None:
        def on_op(*seen) -> None:
            if self._channel.cancel.is_set():
                raise Cancelled("The inference was cancelled.")
            layers(*seen)

        layers = Layers(self._channel, self._count, self._events.put, self._views)
        try:
            self._answer = self._infer(self._channel, on_op)
            self._events.put(None)
        except BaseException as error:
            self._error = error
            self._events.put(error)
