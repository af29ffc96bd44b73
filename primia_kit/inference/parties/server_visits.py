"""The connections that a computing server has, each served by a thread: the calls of the steps in `server`."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ...errors import KitError
from ...mpc import pack_words
from ...mpc.outsourced import share_size
from ..certificates import Peer
from . import messages
from .channel import Channel, Refusal
from .dealing import answer_list, common
from .provider import IDLE_SECONDS, PROGRAM_LIMIT, SEED_BYTES, program_of

if TYPE_CHECKING:
    from .server import ServerService, Shared

PATIENCE = 120.0  # seconds in which server 1 may still fetch its half


@dataclass
class Meeting:
    """At server 1: an inference that server 0 has paired, until the data owner's share meets it."""

    shared: Shared
    batch: int
    data_owner: str
    share: Future = field(default_factory=Future)
    answer: Future = field(default_factory=Future)


class OwnerVisit:
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


class VisitAtServer0(_Visit):
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
            messages.send(other, "pair", id=id, data_owner=self._channel.peer.identity)
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


class VisitAtServer1(_Visit):
    """At server 1: the data owner's share goes to the thread that serves server 0, and its answer comes from there."""

    def _ask(self, message: dict) -> None:
        service, meeting = self._service, self._service.meetings.get(message["id"])
        mine = meeting is not None and meeting.data_owner == self._channel.peer.identity
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


class Server0Visit:
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
        service.check(shared, Peer.of(message["data_owner"]), meta["batch"])
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
