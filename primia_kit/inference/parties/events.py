"""What a party sees of an inference while it runs, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...mpc.evaluation import View
from ...mpc.program import Op
from .channel import Channel


@dataclass(frozen=True)
class LayerEvent:
    """One operation of the program has been done.

    index, count: its number, from 1, of how many
    name, kind, shape: as in the program; (H, W, C)
    seconds: this party's wall clock, waiting for the other included
    sent, received: bytes
    exchanges: one-way delays of the network that stood in a row in this operation
    view: what this party itself has seen, if it was asked for: its share of the value, and what comparisons opened.
        Never the other's share
    """

    index: int
    count: int
    name: str
    kind: str
    shape: tuple[int, int, int]
    seconds: float
    sent: int
    received: int
    exchanges: int
    view: View | None


class Layers:
    """The engine's `on_op`: makes events of it, and names the transcript's messages after their operation."""

    def __init__(self, channel: Channel, count: int, take: Callable[[LayerEvent], None], views: bool = False):
        self._channel, self._count, self._take, self._views = channel, count, take, views
        self._index, self._depth, self._messages = 0, channel.depth, len(channel.transcript)

    def __call__(self, op: Op, seconds: float, sent: int, received: int, view: View) -> None:
        channel = self._channel
        for message in channel.transcript[self._messages :]:
            message.what = message.what or op.name
        exchanges = channel.depth - self._depth
        self._index, self._depth, self._messages = self._index + 1, channel.depth, len(channel.transcript)
        seen = View(view.share.copy(), tuple(c.copy() for c in view.opened)) if self._views else None
        event = LayerEvent(self._index, self._count, op.name, op.kind, op.shape, seconds, sent, received, exchanges, seen)
        self._take(event)
