"""How long an inference would take over a network, from what was counted; and a channel that is as slow as one.

    seconds = computing + sum over operations of (exchanges * latency + 8 * max(sent, received) / bits_per_second)

*computing* is the wall clock of a run over a loopback, where messages cost next to nothing: it holds the waiting for the
other party's computing. *exchanges* are the one-way delays that stand in a row in an operation (`Channel.depth`); the two
directions of a link carry at the same time. Nothing is said of packets lost, of TCP's slow start, of other traffic.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Network:
    """A link between the two parties.

    bits_per_second: each way
    latency: seconds that a message takes one way
    """

    name: str
    bits_per_second: float
    latency: float


LAN = Network("LAN: 1 Gb/s, 0.5 ms", 1e9, 0.5e-3)
WAN = Network("WAN: 100 Mb/s, 40 ms", 1e8, 40e-3)


class Counted(Protocol):
    """What `parties.events.LayerEvent` has."""

    seconds: float
    sent: int
    received: int
    exchanges: int


def seconds_over(network: Network, events: Iterable[Counted]) -> float:
    """Seconds that an inference would take over `network`, from one party's events of a run over a loopback."""
    return sum(
        event.seconds + event.exchanges * network.latency + 8 * max(event.sent, event.received) / network.bits_per_second
        for event in events
    )


class ThrottledChannel:
    """A channel whose messages arrive as late as over a slower link. Both ends are wrapped, on one machine.

    Each message carries the sender's clock (8 bytes). The receiver waits until the message would have arrived:
    messages of one direction follow one another through the link, then each takes the latency.

    Args:
        channel: with `send(*buffers)` and `receive(size)`.
        bits_per_second: each way.
        latency: seconds one way.
    """

    _STAMP = struct.Struct("<q")

    def __init__(self, channel: Any, bits_per_second: float, latency: float):
        self._channel, self._rate, self._latency = channel, bits_per_second, latency
        self._free = 0.0  # when the incoming direction of the link has carried all so far

    def send(self, *buffers) -> None:
        self._channel.send(self._STAMP.pack(time.monotonic_ns()), *buffers)

    def receive(self, size: int) -> memoryview:
        message = self._channel.receive(size + self._STAMP.size)
        (stamp,) = self._STAMP.unpack(message[: self._STAMP.size])
        self._free = max(self._free, stamp / 1e9) + 8 * size / self._rate
        if (wait := self._free + self._latency - time.monotonic()) > 0:
            time.sleep(wait)
        return message[self._STAMP.size :]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)  # counts, depth, transcript
