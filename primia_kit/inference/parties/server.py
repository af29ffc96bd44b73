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
    3. S_0 -> S_1  pair: the id, and D's certificate. S_1 takes the id out of its store, or refuses; both prepare
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
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...errors import KitError
from ...mpc import Server, pack_words, packed_size, unpack_words
from ...mpc.outsourced import share_size
from ...mpc.program import Program
from ..certificates import Peer
from ..store import Store, remove_private, write_private
from . import messages
from .budget import QueryBudget
from .channel import Channel, Refusal
from .dealing import RETRY_SECONDS, Fetches, answer_list, common, deal
from .engine import largest_message
from .events import LayerEvent, Layers
from .provider import IDLE_SECONDS, PROGRAM_LIMIT, SEED_BYTES, program_of

PATIENCE = 120.0  # seconds in which server 1 may still fetch its half


@dataclass(frozen=True)
class Shared:
    """A model as one server has it. `owner`, `other`: certificates of the model owner and of the other server."""

    model: str
    owner: str
    other: str
    program: Program
    server: Server


@dataclass
class Meeting:
    """At server 1: an inference that server 0 has paired, until the data owner's share meets it."""

    shared: Shared
    batch: int
    data_owner: str
    share: Future = field(default_factory=Future)
    answer: Future = field(default_factory=Future)


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
        visits = {"model": _OwnerVisit, "data": (_Visit0, _Visit1)[self.index]}
        if self.index:
            visits["server0"] = _Server0Visit
        if channel.peer.role not in visits:
            channel.abort("A computing server serves data owners and a model owner.")
            raise Refusal(f"{channel.peer} has no business here.")
        visits[channel.peer.role](self, channel).serve()

    def close(self) -> None:
        self.store.close()

    # -- the model

    def share(self, owner: Peer, model: str, other: str, program: Program, share: bytes) -> None:
        """Keep a share of a model, from now on the only one. Raises: KitError."""
        head = {"model": model, "owner": owner.fingerprint, "other": other, "program": program.to_json()}
        content = json.dumps(head).encode() + b"\n" + share
        with self._changing:
            if self._shared is not None and self._shared.owner != owner.fingerprint:
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


class _OwnerVisit:
    """The model owner's connection."""

    def __init__(self, service: ServerService, channel: Channel):
        self._service, self._channel = service, channel

    def serve(self) -> None:
        messages.serve(self._channel, {"share": self._share}, IDLE_SECONDS)

    def _share(self, message: dict) -> None:
        service, channel = self._service, self._channel
        if message["bytes"] > PROGRAM_LIMIT:
            raise Refusal(f"A program of {message['bytes']} bytes is too large: at most {PROGRAM_LIMIT} are read.")
        with channel.allowing(bytes=PROGRAM_LIMIT):
            program = program_of(bytes(channel.receive_bytes(message["bytes"], "program")))
        if program.sha256 != message["sha256"]:
            raise Refusal(f"The program's SHA-256 is {program.sha256}, not {message['sha256']} as announced.")
        share = messages.receive_content(channel, share_size(program), "share")
        service.share(channel.peer, message["model"], message["other"], program, share)
        messages.send(channel, "shared")


class _Visit:
    """A data owner's connection. `shared` is the model that it was told of."""

    def __init__(self, service: ServerService, channel: Channel):
        self._service, self._channel, self._shared = service, channel, None

    def serve(self) -> None:
        self._shared = self._service.shared if self._service.ready.is_set() else None
        messages.serve(self._channel, self._calls(), IDLE_SECONDS)

    def _calls(self) -> dict[str, Callable[[dict], None]]:
        return {"describe": self._describe, "get_program": self._get_program, "ask": self._ask}

    def _describe(self, message: dict) -> None:
        shared = self._shared = self._service.shared
        left = self._service.budget.left(self._channel.peer)
        messages.send(self._channel, "description", model=shared.model, sha256=shared.program.sha256, budget=left)

    def _get_program(self, message: dict) -> None:
        messages.send_content(self._channel, self._service.shared.program.to_json().encode(), "program")

    def _ask(self, message: dict) -> None:
        raise NotImplementedError

    def _answer(self, answer: np.ndarray, images: int) -> None:
        messages.send_content(self._channel, pack_words(answer, self._shared.program.bits), "share of the answer")
        if self._service.watch is None:
            self._channel.transcript.clear()  # nobody reads it, and a connection may last for thousands of inferences
        self._service._tell(f"An inference of {images} image(s) for {self._channel.peer} is done.")


@contextmanager
def _telling():
    """What went wrong between the servers may be told to the data owner: it names no files."""
    try:
        yield
    except KitError as error:
        raise Refusal(str(error)) from error


class _Visit0(_Visit):
    """At server 0, which leads."""

    def __init__(self, service: ServerService, channel: Channel):
        super().__init__(service, channel)
        self._other: Channel | None = None
        self._reserved: tuple[str, int, object] | None = None

    def serve(self) -> None:
        try:
            super().serve()
        finally:
            if self._other is not None:
                self._other.close()

    def _calls(self):
        return super()._calls() | {"reserve": self._reserve}

    def _reserve(self, message: dict) -> None:
        service, batch = self._service, message["batch"]
        shared = self._shared = self._shared or service.shared
        service.check(shared, self._channel.peer, batch)
        other = self._connected(shared)
        id, seed = self._take(other, batch)
        self._reserved = None
        with _telling():
            messages.send(other, "pair", id=id, data_owner=self._channel.peer.fingerprint)
            with service.preparing:
                prepared = shared.server.prepare(seed, batch)
            messages.receive(other, "prepared")
        self._reserved = id, batch, prepared
        messages.send(self._channel, "reserved", id=id)

    def _take(self, other: Channel, batch: int) -> tuple[str, bytes]:
        """An id that both servers have, taken out of this one's store."""
        service, end, asked = self._service, time.monotonic() + PATIENCE, False
        while True:
            with _telling():
                id = common(other, service.store, batch)
            if id:
                with suppress(KitError):  # another connection was faster, or it's damaged: it's used, then
                    return id, bytes(service.store.take(bytes.fromhex(id))[1])
                continue
            if time.monotonic() > end:
                raise Refusal(f"Server 1 has fetched nothing in {PATIENCE:g} s: does it reach the provider, and has it room?")
            if not asked:
                asked = True
                service.stock(1, batch)
            time.sleep(0.02)

    def _connected(self, shared: Shared) -> Channel:
        if self._other is None or self._other.closed:
            self._other = self._service.to_server1()
            if self._other.peer.fingerprint != shared.other:
                raise Refusal("Server 1 shows another certificate than the model owner has named: have the model shared anew.")
            messages.greet(self._other)
        return self._other

    def _ask(self, message: dict) -> None:
        if self._reserved is None or self._reserved[0] != message["id"]:
            raise Refusal(f"The id {message['id']} isn't reserved on this connection: reserve one first.")
        (id, batch, prepared), self._reserved = self._reserved, None
        service, shared = self._service, self._shared
        share = service.receive_share(self._channel, shared, batch, message)
        with _telling():
            messages.send(self._other, "start", id=id)
            answer = service.infer(shared, prepared, share, self._other)
            messages.receive(self._other, "done")
        self._answer(answer, batch)


class _Visit1(_Visit):
    """At server 1: the data owner's share goes to the thread that serves server 0, and its answer comes from there."""

    def _ask(self, message: dict) -> None:
        service, meeting = self._service, self._service.meetings.get(message["id"])
        mine = meeting is not None and meeting.data_owner == self._channel.peer.fingerprint
        if not mine or service.meetings.pop(message["id"], None) is None:  # of two connections one is the first
            raise Refusal(f"The id {message['id']} isn't reserved for this data owner: reserve one at server 0 first.")
        self._shared = meeting.shared
        try:
            meeting.share.set_result(service.receive_share(self._channel, meeting.shared, meeting.batch, message))
        except BaseException:
            meeting.share.set_exception(Refusal("The data owner's share of the images hasn't come to server 1."))
            raise
        try:
            answer = meeting.answer.result(self._channel.timeout)
        except FutureTimeout:
            raise Refusal("Server 0 hasn't begun: it waits for its share, or is gone.") from None
        self._answer(answer, meeting.batch)


class _Server0Visit:
    """At server 1: server 0's connection on behalf of one data owner."""

    def __init__(self, service: ServerService, channel: Channel):
        self._service, self._channel = service, channel
        self._paired: tuple[str, Meeting, object] | None = None

    def serve(self) -> None:
        calls = {"list": self._list, "pair": self._pair, "start": self._start}
        try:
            messages.serve(self._channel, calls, IDLE_SECONDS)
        finally:
            self._part()

    def _part(self) -> None:
        """Nobody waits for a meeting that has ended."""
        if self._paired is not None:
            (id, meeting, _), self._paired = self._paired, None
            self._service.meetings.pop(id, None)
            if not meeting.answer.done():
                meeting.answer.set_exception(Refusal("Server 0 has ended the inference."))

    def _known(self) -> Shared:
        shared = self._service.shared
        if self._channel.peer.fingerprint != shared.other:
            raise Refusal("The model owner has named another server 0: have the model shared anew.")
        return shared

    def _list(self, message: dict) -> None:
        self._known()
        answer_list(self._channel, self._service.store, message)

    def _pair(self, message: dict) -> None:
        service, shared, id = self._service, self._known(), bytes.fromhex(message["id"])
        meta = service.store.ready().get(id)
        if meta is None or meta["data_owner"] != self._channel.peer.identity:
            raise Refusal(f"The id {message['id']} isn't ready here for server 0: used before, or never dealt. Reserve another.")
        service.check(shared, Peer("data", "data", message["data_owner"]), meta["batch"])
        self._part()
        _, material = service.store.take(id)
        seed, dealt = bytes(material[:SEED_BYTES]), np.frombuffer(material, np.uint8, offset=SEED_BYTES)
        with service.preparing:
            prepared = shared.server.prepare(seed, meta["batch"], dealt)
        meeting = service.meetings[message["id"]] = Meeting(shared, meta["batch"], message["data_owner"])
        self._paired = message["id"], meeting, prepared
        messages.send(self._channel, "prepared")

    def _start(self, message: dict) -> None:
        if self._paired is None or self._paired[0] != message["id"]:
            raise Refusal(f"The id {message['id']} isn't paired on this connection: pair it first.")
        _, meeting, prepared = self._paired
        try:
            share = meeting.share.result(self._channel.timeout)
        except FutureTimeout:
            raise Refusal("The data owner hasn't sent server 1 its share of the images.") from None
        meeting.answer.set_result(self._service.infer(meeting.shared, prepared, share, self._channel))
        self._part()
        messages.send(self._channel, "done")
        if self._service.watch is None:
            self._channel.transcript.clear()
