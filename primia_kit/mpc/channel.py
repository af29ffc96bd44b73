"""Messages between the data owner and the model owner."""

from __future__ import annotations

import queue
from typing import Protocol

from ..errors import KitError


class Channel(Protocol):
    """One end of an ordered, reliable connection.

    Attributes: `sent_bytes`, `received_bytes`, `sent_messages` so far.
    """

    sent_bytes: int
    received_bytes: int
    sent_messages: int

    def send(self, *buffers) -> None:
        """Send one message made of these contiguous buffers, which are free again when it returns.

        It must not wait for the peer to answer, nor for ever on a peer that is sending itself: parties send each other
        several messages before they look at what came. Raises: KitError if the peer is gone.
        """

    def receive(self, size: int) -> memoryview:
        """The next whole message; the view holds until the next call.

        Raises: KitError if it has another size than `size` bytes, if the peer is gone, or late.
        """


class LocalChannel:
    """One end of a connection within a process: for lessons and tests. See `local_channels`."""

    def __init__(self, inbox: queue.SimpleQueue, outbox: queue.SimpleQueue, timeout: float):
        self._inbox, self._outbox, self._timeout = inbox, outbox, timeout
        self.sent_bytes = self.received_bytes = self.sent_messages = 0

    def send(self, *buffers) -> None:
        message = b"".join(memoryview(buffer).cast("B") for buffer in buffers)  # a copy: the sender goes on writing there
        self.sent_bytes += len(message)
        self.sent_messages += 1
        self._outbox.put(message)

    def receive(self, size: int) -> memoryview:
        try:
            message = self._inbox.get(timeout=self._timeout)
        except queue.Empty:
            raise KitError(
                f"The other party has said nothing for {self._timeout:g} s: see why it stopped, then begin again."
            ) from None
        if len(message) != size:
            raise KitError(f"{size} bytes were due from the other party, but {len(message)} came: it runs another program.")
        self.received_bytes += size
        return memoryview(message)


def local_channels(timeout: float = 60.0) -> tuple[LocalChannel, LocalChannel]:
    """The two ends of a connection for two threads of one process; no wait lasts longer than `timeout` seconds."""
    one, other = queue.SimpleQueue(), queue.SimpleQueue()
    return LocalChannel(one, other, timeout), LocalChannel(other, one, timeout)
