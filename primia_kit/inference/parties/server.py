"""The two computing servers of the outsourced mode: neither sees image, model or answer.

Set-up, by the model owner (M), who can go away afterwards (`sharing`):

    1. M -> S_i  share: the model's id, the program and its SHA-256, the other server's certificate; then the program, and
                 δ, W_i, bias_i. S_i keeps them (mode 0600). Another model takes the place of this one, from the same M alone
    2. S_i -> M  shared

Dealing (`provider`): S_0 has the provider deal, as a data owner does in the other mode, and is given its seeds; S_1 fetches
the other half. Both may be done long before there is an image.

An inference for a data owner (D), who has a connection to each server; S_0 has one to S_1 for each D:

    1. D -> S_0    reserve: how many images
    2. S_0 -> S_1  list, answered by `ids`: an id that both have; S_0 takes it out of its own store: used, on the disk
    3. S_0 -> S_1  pair: the id, and who D is. S_1 takes the id out of its store, or refuses; both prepare
    4. S_1 -> S_0  prepared; S_0 -> D: reserved: the id
    5. D -> S_i    ask: the id; then D's share x_i of the images. Each server counts them against D's budget, on its disk
    6. S_0 -> S_1  start, when it has x_0. S_1 waits for x_1
    7. S_0 <-> S_1 the program's messages (`mpc.outsourced`); S_1 -> S_0: done
    8. S_i -> D    content: its share of the answer. D adds the two

Whatever ends a connection after 2, the id stays used at both.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import KitError
from ...mpc import Server, packed_size, unpack_words
from ...mpc.program import Program
from ..certificates import Peer
from ..store import Store, remove_private, write_private
from . import messages
from .budget import QueryBudget
from .channel import Channel, Refusal
from .dealing import RETRY_SECONDS, Fetches, deal
from .engine import largest_message
from .events import LayerEvent, Layers
from .server_visits import Meeting, OwnerVisit, Server0Visit, VisitAtServer0, VisitAtServer1


@dataclass(frozen=True)
class Shared:
    """A model as one server has it. owner: the model owner's identity. other: the other server's certificate."""

    model: str
    owner: str
    other: str
    program: Program
    server: Server


class ServerService(Fetches):
    """Serves the model owner, data owners and, if it is server 1, server 0; each connection in a thread: `serve(channel)`.

    Args:
        index: 0 or 1.
        folder: the share of the model, seeds or dealt material, budgets. Kept across restarts.
        to_provider, to_server1: server 0's ways to connect to them, with this party's own certificate.
        limit: bytes that seeds or dealt material may take on the disk.
        budget: images that each data owner may ask about; None for no limit. Each server counts for itself.
        tell: called with a sentence when something of note has happened.
        watch: called with (peer, event) after each operation: this server's own view.
    """

    def __init__(
        self,
        index: int,
        folder: str | Path,
        *,
        to_provider: Callable[[], Channel] | None = None,
        to_server1: Callable[[], Channel] | None = None,
        limit: int = 8 << 30,
        budget: int | None = None,
        tell: Callable[[str], None] = print,
        watch: Callable[[Peer, LayerEvent], None] | None = None,
    ):
        self.index, self.folder, self._tell, self.watch = index, Path(folder), tell, watch
        self._to_provider, self.to_server1 = to_provider, to_server1
        self.store = Store(self.folder / ("dealt" if index else "seeds"), limit)
        self.budget = QueryBudget(self.folder / "budget.json", budget)
        self.preparing = threading.Lock()  # a server reuses memory
        self.meetings: dict[str, Meeting] = {}
        self.ready = threading.Event()  # there is a model
        self._changing = threading.Lock()
        self._shared: Shared | None = None
        if (self.folder / "model").exists():
            self._take_up((self.folder / "model").read_bytes())

    @property
    def shared(self) -> Shared:
        """Raises: KitError before a model was shared."""
        if self._shared is None:
            raise Refusal(f"No model has been shared with server {self.index} yet: its owner runs `primia party share-model`.")
        return self._shared

    @property
    def model(self) -> str:
        return self.shared.model

    def serve(self, channel: Channel) -> None:
        """Answer one party until it hangs up. Raises: KitError if it ends in trouble."""
        visits = {"model": OwnerVisit, "data": (VisitAtServer0, VisitAtServer1)[self.index]}
        if self.index:
            visits["server0"] = Server0Visit
        if channel.peer.role not in visits:
            channel.abort("A computing server serves data owners and a model owner.")
            raise Refusal(f"{channel.peer} has no business here.")
        visits[channel.peer.role](self, channel).serve()

    def close(self) -> None:
        self.store.close()

    # -- the model

    def share(self, owner: Peer, model: str, other: str, program: Program, share: bytes) -> None:
        """Keep a share of a model, from now on the only one. Raises: KitError."""
        head = {"model": model, "owner": owner.identity, "other": other, "program": program.to_json()}
        content = json.dumps(head).encode() + b"\n" + share
        with self._changing:
            if self._shared is not None and self._shared.owner != owner.identity:
                raise Refusal(f"Server {self.index} has a model of another owner: its folder must be emptied first.")
            path = self.folder / "model"
            remove_private(path)
            write_private(path, content)
            self._take_up(content)
        self._tell(f"{owner} has shared a model of {len(program.ops)} operations, program {program.sha256}.")

    def _take_up(self, content: bytes) -> None:
        head, _, share = content.partition(b"\n")
        known = json.loads(head)
        program = Program.from_json(known["program"])
        server = Server(program, self.index, share)
        self._shared = Shared(known["model"], known["owner"], known["other"], program, server)
        for id, meta in self.store.ready().items():
            if meta["model"] != known["model"]:  # dealt for another sharing
                self.store.discard(id)
        self.ready.set()

    # -- with the provider

    def _begin(self, channel: Channel) -> None:
        messages.greet(channel)

    def keep_stocked(self, connect: Callable[[], Channel], stop: threading.Event) -> None:
        """Server 1: as `Fetches`, from when it has a model on."""
        while not self.ready.wait(RETRY_SECONDS):
            if stop.is_set():
                return
        super().keep_stocked(connect, stop)

    def stock(self, count: int, batch: int = 1) -> None:
        """Server 0: have the provider deal for `count` inferences. Raises: KitError if it refuses or doesn't answer."""
        shared, channel = self.shared, self._to_provider()
        try:
            messages.greet(channel)
            for start in range(0, count, messages.MAX_COUNT):
                some = min(messages.MAX_COUNT, count - start)
                deal(channel, self.store, shared.model, shared.program.sha256, some, batch)
        finally:
            channel.close()

    def keep_dealt(self, count: int, stop: threading.Event) -> None:
        """Server 0: have `count` inferences of one image dealt ahead, until `stop` is set. Tells troubles, raises none."""
        told = ""
        while not stop.wait(RETRY_SECONDS):
            try:
                lacking = count - sum(meta["batch"] == 1 for meta in self.store.ready().values())
                if self.ready.is_set() and lacking > 0:
                    self.stock(lacking)
                told = ""
            except KitError as error:
                if str(error) != told:
                    self._tell(told := str(error))

    def check(self, shared: Shared, data_owner: Peer, images: int) -> None:
        """Raises: KitError if the model was shared anew in the meantime, or the budget is spent."""
        if shared is not self._shared:
            raise Refusal("The model was shared anew in the meantime: connect again.")
        self.budget.check(data_owner, images)

    def receive_share(self, channel: Channel, shared: Shared, batch: int, message: dict) -> np.ndarray:
        """The body of `ask`: uint64 [N, H, W, C], when its images have been counted."""
        shape, bits = (batch, *shared.program.ops[0].shape), shared.program.bits
        size = packed_size(batch * shared.program.ops[0].size, bits)
        if message["bytes"] != size:
            raise Refusal(f"A share of {batch} image(s) takes {size} bytes, not {message['bytes']}.")
        with channel.allowing(bytes=size):
            packed = channel.receive_bytes(size, "share of the images")
            share = unpack_words(packed, bits, int(np.prod(shape))).reshape(shape)
        self.budget.spend(channel.peer, batch)
        return share

    def infer(self, shared: Shared, prepared, share: np.ndarray, channel: Channel) -> np.ndarray:
        """This server's part of an inference, over the channel to the other."""
        views = self.watch is not None
        layers = Layers(channel, len(shared.program.ops), lambda event: views and self.watch(channel.peer, event), views=views)
        with channel.allowing(data=largest_message(shared.server, prepared.batch)):
            return shared.server.infer(prepared, share, channel, on_op=layers)
