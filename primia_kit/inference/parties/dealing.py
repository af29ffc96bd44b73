"""What parties ask of the provider, and how two of them find what was dealt to both. The steps stand in `provider`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from ...errors import KitError
from ...mpc.program import Program
from ..store import Store
from . import messages
from .channel import Channel

RETRY_SECONDS = 2.0


def register(channel: Channel, program: Program, model: str, mask_seed: bytes, servers: Sequence[str] = ()) -> None:
    """Give the provider program and mask of a model; it may know them already. Raises: KitError.

    Args:
        servers: outsourced, the certificates of servers 0 and 1: nobody else is dealt anything for this model.
    """
    messages.greet(channel)
    text = program.to_json().encode()
    about = {"model": model, "sha256": program.sha256, "mask_seed": mask_seed.hex(), "servers": list(servers)}
    messages.send(channel, "register", **about, bytes=len(text))
    channel.send_bytes(text, "program")
    messages.receive(channel, "registered")


def deal(channel: Channel, store: Store, model: str, sha256: str, count: int, batch: int) -> list[bytes]:
    """Have the provider deal for `count` inferences, and keep the ids and seeds of party 0. Raises: KitError."""
    messages.send(channel, "deal", model=model, sha256=sha256, batch=batch, count=count)
    found = messages.receive(channel, "dealt")
    if not len(found["ids"]) == len(found["seeds"]) == count:
        raise KitError(f"The provider dealt {len(found['ids'])} inferences where {count} were asked for.")
    ids = [bytes.fromhex(id) for id in found["ids"]]
    for id, seed in zip(ids, found["seeds"], strict=True):
        store.put(id, {"model": model, "batch": batch}, bytes.fromhex(seed))
    return ids


def common(channel: Channel, store: Store, batch: int) -> str | None:
    """An id that both have, dealt for this batch.

    Each side may hold material whose other half was lost, so this one names all that it has, the newest first.
    """
    mine = [id.hex() for id, meta in store.ready().items() if meta["batch"] == batch][::-1]
    for start in range(0, len(mine), messages.MAX_COUNT):
        asked = mine[start : start + messages.MAX_COUNT]
        messages.send(channel, "list", batch=batch, ids=asked)
        there = messages.receive(channel, "ids")["ids"]
        if found := next((id for id in there if id in asked), None):
            return found
    return None


def answer_list(channel: Channel, store: Store, message: dict) -> None:
    """Party 1's answer to `list`: those ids that were dealt for the asker and this batch."""
    wanted, ready = (message["batch"], channel.peer.identity), store.ready()
    metas = ((id, ready.get(bytes.fromhex(id))) for id in message["ids"])
    ids = [id for id, meta in metas if meta and (meta["batch"], meta["data_owner"]) == wanted]
    messages.send(channel, "ids", ids=ids)


class Fetches:
    """Party 1 fetches what is dealt. A subclass has `store`, `model` (its id), `_tell`, and says how a connection begins."""

    store: Store
    model: str
    _tell: Callable[[str], None]
    _told_needed = 0  # bytes that there was no room for, told once

    def _begin(self, channel: Channel) -> None:
        raise NotImplementedError

    def _shares(self, room: int) -> dict[str, int]:
        """Bytes that may come for each party 0 that has something here; for others it's `room`."""
        return {}

    def fetch(self, channel: Channel) -> bool:
        """Fetch the next material that waits at the provider and fits; False if none came within its patience.

        Raises: KitError.
        """
        room, model = self.store.room, self.model
        messages.send(channel, "fetch", model=model, room=room, shares=self._shares(room))
        with channel.allowing(bytes=room + 1):
            found = messages.receive(channel, "material", "nothing")
            if found["type"] == "nothing":
                if found["needed"] > self._told_needed:
                    self._told_needed = found["needed"]
                    self._tell(
                        f"{self.store.folder} is too full for {found['needed']:,} bytes more, or a data owner has its share of "
                        "it: inferences make room."
                    )
                return False
            dealt = channel.receive_bytes(found["bytes"], "dealt")
        self._told_needed = 0
        meta = {"model": model, "batch": found["batch"], "data_owner": found["data_owner"]}
        self.store.put(bytes.fromhex(found["id"]), meta, bytes.fromhex(found["seed"]), dealt)
        return True

    def keep_stocked(self, connect: Callable[[], Channel], stop: threading.Event) -> None:
        """Fetch until `stop` is set, over a connection that is made anew when it breaks. Tells troubles, raises none."""
        told = ""
        while not stop.is_set():
            channel = None
            try:
                channel = connect()
                self._begin(channel)
                told = ""
                while not stop.is_set():
                    if self.fetch(channel):
                        self._tell(f"Fetched dealt material; {len(self.store.ready())} inferences are ready.")
                    elif not self.store.room:
                        stop.wait(RETRY_SECONDS)
            except KitError as error:
                if str(error) != told:
                    self._tell(told := str(error))
                stop.wait(RETRY_SECONDS)
            finally:
                if channel is not None:
                    channel.close()
