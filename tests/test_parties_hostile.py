"""Peers that die, lie, babble or trickle: each connection ends in a sentence, nothing hangs, services go on."""

import json
import random
import socket
import threading
import time

import numpy as np
import pytest

from primia_kit.errors import KitError
from primia_kit.inference.certificates import Credentials, make_certificates
from primia_kit.inference.model_file import load_compiled, save_compiled
from primia_kit.inference.parties import channel as channel_module
from primia_kit.inference.parties import messages
from primia_kit.inference.parties.budget import QueryBudget
from primia_kit.inference.parties.channel import ABORT, BYTES, CONTROL, HEADER, Channel
from primia_kit.inference.parties.channel import DATA as DATA_KIND
from primia_kit.inference.parties.data import Session
from primia_kit.inference.parties.model import ModelService
from primia_kit.inference.parties.provider import ProviderService
from primia_kit.inference.parties.teaching import local_pair
from primia_kit.inference.parties.tls import Listener, connect

from . import party_engine
from .party_rooms import DATA, MODEL, Room

HELLO = json.dumps({"type": "hello", "version": messages.VERSION}).encode()


def frame(kind, body=b"", size=None, depth=0):
    return HEADER.pack(kind, depth, len(body) if size is None else size) + body


def call(type, **fields):
    return frame(CONTROL, json.dumps({"type": type, **fields}).encode())


# -- frames


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"", "has gone"),
        (b"\x02", "in the middle of a message"),
        (frame(DATA_KIND, b"1234", size=8), "in the middle of a message"),
        (frame(DATA_KIND, b"1234567"), "sent 7 bytes where the program asks for 8"),
        (frame(DATA_KIND, size=1 << 40), "announced a data message of 1099511627776 bytes"),
        (frame(CONTROL, size=1 << 20), "announced a control message"),
        (frame(BYTES, b"12345678"), "where none was due"),
        (frame(CONTROL, HELLO), "sent a control message where a data message was due"),
        (frame(9, b"12345678"), "unknown kind 9"),
        (frame(ABORT, b"tired \x1b[31m of it"), r"has stopped: tired  \[31m of it"),
        (frame(ABORT, b"\xff\xfe"), "has stopped"),
    ],
)
def test_a_bad_frame_is_a_sentence(sent, words):
    ours, theirs = socket.socketpair()
    channel = Channel(ours, MODEL, 2.0)
    theirs.sendall(sent)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(KitError, match=words), channel.allowing(data=1 << 20):
        channel.receive(8)
    channel.close()
    theirs.close()


def test_silence_and_trickling_end_in_a_time_out(monkeypatch):
    from primia_kit.inference.parties import channel as module

    monkeypatch.setattr(module, "SLOWEST", 1e9)
    ours, theirs = socket.socketpair()
    channel = Channel(ours, MODEL, 0.3)
    with pytest.raises(KitError, match="has said nothing for"), channel.allowing(data=100):
        channel.receive(8)
    stop = threading.Event()

    def trickle():
        for byte in frame(DATA_KIND, bytes(80)):
            if stop.wait(0.1):
                return
            theirs.sendall(bytes([byte]))

    thread = threading.Thread(target=trickle)
    thread.start()
    start = time.monotonic()
    with pytest.raises(KitError, match="has said nothing"), channel.allowing(data=100):
        channel.receive(80)
    assert time.monotonic() - start < 2
    stop.set()
    thread.join()
    with pytest.raises(KitError, match="doesn't read what it is sent"):
        channel.send(bytes(16 << 20))
    channel.close()
    theirs.close()


def test_a_peer_that_doesnt_shake_hands_is_dropped(tmp_path):
    make_certificates(tmp_path, ["model", "data"])
    told = []
    listener = Listener("127.0.0.1:0", Credentials(tmp_path / "model", "model"), {"data"}, Channel.close, told.append, 0.5)
    host, port = listener.address.split(":")
    silent, babbling = socket.create_connection((host, int(port))), socket.create_connection((host, int(port)))
    babbling.sendall(b"GET / HTTP/1.0\r\n\r\n")
    while len(told) < 2:
        time.sleep(0.02)
    assert all("is no party of this federation, or left while shaking hands" in sentence for sentence in told), told
    connect(listener.address, Credentials(tmp_path / "data", "data"), "model", 2.0).close()  # others are served
    for end in (silent, babbling):
        end.close()
    listener.stop()
    with pytest.raises(KitError, match="doesn't answer"):
        connect(listener.address, Credentials(tmp_path / "data", "data"), "model", 2.0)


# -- a peer dies at every message, and at every operation


@pytest.mark.parametrize("victim", ["data", "model"])
def test_a_peer_that_dies_at_any_message_leaves_a_sentence_and_a_used_id(tmp_path, victim, monkeypatch):
    """The victim's connection is cut before its n-th message to the other, for every n."""
    real = Channel._send
    for cut in range(12):
        room = Room(tmp_path / str(cut), timeout=3.0)
        count, error = 0, None

        def cutting(self, kind, *buffers, what="", room=room, cut=cut):
            nonlocal count
            if self.peer.role == ("model" if victim == "data" else "data") and what != "abort":
                count += 1
                if count == cut + 1:
                    self._socket.shutdown(socket.SHUT_RDWR)
                    raise KitError("cut")
            return real(self, kind, *buffers, what=what)

        with monkeypatch.context() as patch:
            try:
                session = None
                if victim == "model":
                    patch.setattr(Channel, "_send", cutting)
                session = room.session()
                patch.setattr(Channel, "_send", cutting)
                room.stock(session)
                images = np.zeros((1, 1, 4, 4))
                session.infer(images)
            except KitError as found:
                error = str(found)
            finally:
                if session:
                    session.close()
        room.close()  # asserts that no service hangs
        begun = count > cut
        assert (error is not None) == begun, (cut, error)
        for store in (room.folder / "data/seeds", room.folder / "model/dealt"):
            if store.exists():
                assert not {p.name for p in (store / "ready").iterdir()} & {p.name for p in (store / "used").iterdir()}
        if not begun:
            break
    assert cut >= 5


@pytest.mark.parametrize("name", [op.name for op in party_engine.PROGRAM.ops])
def test_cancelling_at_any_operation(tmp_path, name):
    room = Room(tmp_path, timeout=3.0)
    session = room.session()
    room.stock(session)
    run = session.run(np.zeros((1, 1, 4, 4)))
    events = iter(run)
    for event in events:
        if event.name == name:
            break
    events.close()
    assert run.state == "cancelled" and not session.open
    for store in ("data/seeds/used", "model/dealt/used"):
        assert len(list((tmp_path / store).iterdir())) == 1
    room.close()


def test_a_service_outlives_a_dead_peer(tmp_path):
    room = Room(tmp_path, timeout=3.0)
    first = room.session()
    room.stock(first)
    first.prepare()
    first._model._socket.close()
    first._provider.close()
    first._store.close()
    with room.session() as second:
        room.stock(second)
        assert second.infer(np.zeros((1, 1, 4, 4))).shape == (1, 4, 4, 1)
    room.close()


# -- babble


MODEL_ID = "0" * 32
CALLS = {
    "provider from model": [
        call("register", model=MODEL_ID, sha256=party_engine.PROGRAM.sha256, mask_seed="1" * 64, servers=[],
             bytes=len(party_engine.PROGRAM.to_json()))
        + frame(BYTES, party_engine.PROGRAM.to_json().encode()),
        call("fetch", model=MODEL_ID, room=1000, shares={"data:data": 500}),
    ],
    "provider from data": [call("deal", model=MODEL_ID, sha256=party_engine.PROGRAM.sha256, batch=1, count=1)],
    "model from data": [
        call("describe"), call("get_program"), call("get_delta"), call("list", batch=1, ids=["2" * 32]),
        call("prepare", id="2" * 32), call("start", id="2" * 32), frame(DATA_KIND, bytes(128)),
    ],
    "data from model": [
        call("description", model=MODEL_ID, sha256=party_engine.PROGRAM.sha256, budget=-1),
        call("content", bytes=len(party_engine.PROGRAM.to_json())) + frame(BYTES, party_engine.PROGRAM.to_json().encode()),
        call("content", bytes=16) + frame(BYTES, bytes(16)),
        call("ids", ids=["2" * 32]), call("prepared"), frame(DATA_KIND, bytes(128)), call("done"),
    ],
}  # fmt: skip


def mutated(script, chance):
    """A peer's messages with bytes flipped, cut, doubled, reordered, and JSON fields of other types."""
    parts = [frame(CONTROL, HELLO), *script]
    for _ in range(chance.randint(1, 3)):
        kind, at = chance.randrange(7), chance.randrange(len(parts))
        part = bytearray(parts[at])
        if kind == 0 and part:
            part[chance.randrange(len(part))] = chance.randrange(256)
        elif kind == 1:
            part = part[: chance.randrange(len(part) + 1)]
        elif kind == 2:
            parts.insert(at, bytes(part))
        elif kind == 3:
            chance.shuffle(parts)
            continue
        elif kind == 4:
            part = bytearray(chance.randbytes(chance.randrange(60)))
        elif kind == 5:
            odd = chance.choice(
                [None, -1, 1 << 60, 1.5, True, "", "0" * 32, "é" * 32, [], [[]], {}, "x" * 70000, ["0" * 32] * 65]
            )
            body = {"type": chance.choice(list(messages.MESSAGES)), chance.choice(["id", "batch", "model", "bytes", "ids"]): odd}
            part = bytearray(frame(CONTROL, json.dumps(body).encode()))
        else:
            part = bytearray(frame(chance.randrange(256), b"x", size=chance.choice([0, 1, 2, 1 << 16, 1 << 31, (1 << 64) - 1])))
        parts[at] = bytes(part)
    return b"".join(parts)


def babble(serve, ours, sent):
    """Run `serve` on what a peer sends before it hangs up; the error that it ends with, if any."""
    here, there = socket.socketpair()
    there.sendall(sent[:100_000])
    there.shutdown(socket.SHUT_WR)
    channel = Channel(here, ours, 1.0)
    try:
        serve(channel)
        return None
    except KitError as error:
        return str(error)
    finally:
        there.close()
        channel.close()


def fuzz(tmp_path, count, seed):
    chance = random.Random(seed)
    room = ProviderService(tmp_path / "p", engine=party_engine, tell=lambda sentence: None)
    owner = ModelService(
        tmp_path / "m", party_engine.PROGRAM, party_engine.WEIGHTS, engine=party_engine, tell=lambda sentence: None, budget=5
    )

    def ask(channel):
        with Session(channel, None, tmp_path / "d", engine=party_engine) as session:
            session.prepare(patience=0)
            session.infer(np.zeros((1, 1, 4, 4)))

    served = {
        "provider from model": (room.serve, MODEL),
        "provider from data": (room.serve, DATA),
        "model from data": (owner.serve, DATA),
        "data from model": (ask, MODEL),
    }
    for name, (serve, peer) in served.items():
        ended = {True: 0, False: 0}
        for _ in range(count):
            error = babble(serve, peer, mutated(CALLS[name], chance))
            ended[error is None] += 1
        assert ended[False] > count / 2, (name, ended)  # most of it isn't harmless
    room.close()
    owner.close()


@pytest.fixture
def _quick(monkeypatch):
    from primia_kit.inference import store
    from primia_kit.inference.parties import provider

    monkeypatch.setattr(provider, "FETCH_SECONDS", 0.0)
    monkeypatch.setattr(store.os, "fsync", lambda handle: None)


def test_babble_ends_in_a_sentence(tmp_path, _quick):
    fuzz(tmp_path, 250, 1)


@pytest.mark.slow
def test_ten_thousand_babbles_for_each_service(tmp_path, _quick):
    fuzz(tmp_path, 10_000, 2)


def test_ten_thousand_control_messages_are_parsed_or_refused():
    chance, known = random.Random(3), 0
    bodies = [part[HEADER.size :] for script in CALLS.values() for part in script if part[0] == CONTROL]
    for _ in range(10_000):
        body = bytearray(chance.choice(bodies))
        for _ in range(chance.randrange(3)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        try:
            assert messages.parse(bytes(body))["type"] in messages.MESSAGES
            known += 1
        except KitError:
            pass
    assert 100 < known < 9_000


@pytest.mark.parametrize("body", [b"[" * 50_000, b"1" * 5_000, b'{"type":"fetch","model":1,"room":NaN}', b'{"type":[]}', b"\xff"])
def test_json_that_hurts_parsers(body):
    with pytest.raises(KitError):
        messages.parse(body)


def test_another_version_is_refused_by_name():
    def old(channel):
        messages.serve(channel, {}, 1.0)

    error = babble(old, DATA, call("hello", version=7))
    assert f"the data owner speaks version 7 of the protocol, this party {messages.VERSION}" in error


def test_a_services_own_trouble_stays_its_own(tmp_path, monkeypatch):
    """A sentence that names the service's files isn't told to the peer."""
    room = Room(tmp_path, timeout=3.0)
    session = room.session()
    room.stock(session)

    def full(*arguments):
        raise KitError("/secret/place: no space left")

    monkeypatch.setattr(QueryBudget, "spend", full)
    with pytest.raises(KitError) as found:
        session.infer(np.zeros((1, 1, 4, 4)))
    assert "secret" not in str(found.value) and "its log says which" in str(found.value)
    session.close()
    room.close()
    assert "/secret/place: no space left" in room.ends


def test_a_flood_of_deals_is_bounded(tmp_path, _quick):
    room = Room(tmp_path)
    session = room.session()
    with pytest.raises(KitError, match="at most 256 may"):
        session.stock(257)
    assert len(room.provider.store.ready()) == 256 and not session.open
    room.close()


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04broken"])
def test_a_file_that_is_no_compiled_model(tmp_path, content):
    (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(KitError, match=r"m\.npz"):
        load_compiled(tmp_path / "m.npz")
    save_compiled(tmp_path / "m.npz", party_engine.PROGRAM, party_engine.WEIGHTS)
    program, weights = load_compiled(tmp_path / "m.npz")
    assert program == party_engine.PROGRAM and (weights["two"][0] == party_engine.WEIGHTS["two"][0]).all()
    assert (tmp_path / "m.npz").stat().st_mode & 0o777 == 0o600


def test_a_budget_file_that_was_spoilt_is_a_sentence(tmp_path):
    for text in ("{", "[]", '{"a": -1}', '{"a": "x"}'):
        (tmp_path / "budget.json").write_text(text)
        with pytest.raises(KitError, match="no record of spent budgets"):
            QueryBudget(tmp_path / "budget.json", 3)


def test_a_message_may_be_larger_than_what_may_pile_up(monkeypatch):
    monkeypatch.setattr(channel_module, "QUEUE_LIMIT", 1000)
    ours, theirs = local_pair(DATA, MODEL)
    with ours.allowing(bytes=5000):
        theirs.send_bytes(bytes(5000), "dealt")
        assert len(ours.receive_bytes(5000, "dealt")) == 5000
        theirs.send_bytes(bytes(800), "dealt")
        theirs.send_bytes(bytes(800), "dealt")
        with pytest.raises(KitError, match="sends more than is asked for: 1600 bytes wait"):
            ours._take_in()
