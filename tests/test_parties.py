"""Data owner, model owner and provider talk to each other: answers, seeds, budgets, cancelling, TLS, three processes."""

import os
import re
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from primia_kit.errors import KitError
from primia_kit.inference.certificates import Credentials, make_certificates
from primia_kit.inference.network_model import LAN, WAN, Network, ThrottledChannel, seconds_over
from primia_kit.inference.parties.channel import Cancelled
from primia_kit.inference.parties.events import LayerEvent
from primia_kit.inference.parties.model import ModelService
from primia_kit.inference.parties.teaching import TeachingSession, local_pair
from primia_kit.inference.parties.tls import Listener, address_of, connect

from . import party_engine
from .conftest import ROOT
from .party_rooms import DATA, MODEL, OTHER_DATA, Room


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path)
    yield room
    room.close()


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("federation")
    make_certificates(folder, ["provider", "model", "data", "data:other"])
    return folder


def image(batch=1, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, 1, 4, 4))


def right(images):
    return party_engine.expected(np.moveaxis(images, 1, -1))


def test_answers_of_one_image_and_of_a_batch(room):
    with room.session() as session:
        room.stock(session, 2)
        room.stock(session, 1, batch=3)
        for batch, seed in ((1, 0), (3, 1), (1, 2)):
            images = image(batch, seed)
            assert (session.infer(images) == right(images)).all()
        ids = os.listdir(room.folder / "data/seeds/used")
        assert len(ids) == 3 and sorted(os.listdir(room.folder / "model/dealt/used")) == sorted(ids)


def test_layer_events_and_transcript(room):
    with room.session() as session:
        room.stock(session)
        run = session.run(image(), views=True)
        with pytest.raises(KitError, match="no answer: the inference is ready"):
            run.answer  # noqa: B018
        events = list(run)
        assert [event.name for event in events] == ["image", "one", "mask", "two", "logits"]
        assert [(event.index, event.count) for event in events] == [(n, 5) for n in range(1, 6)]
        assert events[0].sent == 128 + 13 and events[-1].received == 128 + 13
        assert events[-1].exchanges == 2  # image and mask out, the answer back
        assert events[0].view.share.shape == (1, 4, 4, 1) and run.state == "done"
        data = [(m.direction, m.what, m.bytes) for m in session.transcript if m.kind == "data"]
        assert data == [("sent", "image", 128), ("sent", "mask", 128), ("received", "logits", 128)]
        with pytest.raises(KitError, match="is done: an id serves once"):
            next(iter(run))


def test_seeds_never_travel_to_the_other_party(room, monkeypatch):
    """Every byte between each pair is recorded; each seed is looked for, raw and in hexadecimal."""
    from primia_kit.inference.parties.channel import Channel

    sent = {}
    real = Channel._send

    def recorded(self, kind, *buffers, what=""):
        sent.setdefault(self.peer.role, bytearray()).extend(b"".join(bytes(memoryview(b).cast("B")) for b in buffers))
        return real(self, kind, *buffers, what=what)

    monkeypatch.setattr(Channel, "_send", recorded)
    with room.session() as session:
        session.stock(1)
        (id,) = room.provider.store.ready()
        seeds = (room.folder / "provider/seeds/ready" / id.hex()).read_bytes()[-64:]
        data_seed, model_seed = seeds[:32], seeds[32:]
        assert room.model.fetch(room.to_provider)
        session.infer(image())
    mask = room.model._mask_seed

    def reached(role, seed):
        return seed in sent[role] or seed.hex().encode() in sent[role]

    assert reached("data", data_seed) and reached("model", model_seed)
    assert not reached("model", data_seed) and not reached("data", model_seed)
    assert not reached("data", mask) and not reached("provider", data_seed) and not reached("provider", model_seed)


def test_a_cancelled_inference_ends_at_both_and_its_id_stays_used(room):
    session = room.session()
    room.stock(session, 1)
    run = session.run(image())
    for event in run:
        if event.name == "one":
            break  # the generator is closed
    del event
    run_closed = run.state
    room.model_thread.join(5)
    assert not room.model_thread.is_alive() and run_closed in ("running", "cancelled")
    assert len(os.listdir(room.folder / "model/dealt/used")) == 1
    with pytest.raises(KitError, match="session has ended"):
        session.run(image())
    session.close()


def test_cancel_interrupts_a_wait(room, monkeypatch):
    """The model owner never answers; the data owner needn't wait for the time-out."""
    session = room.session()
    room.stock(session)
    begun = threading.Event()

    def never(self, prepared, channel, on_op=None):
        begun.set()
        channel.receive(128), channel.receive(128), channel.receive(128)

    monkeypatch.setattr(party_engine.ModelOwner, "infer", never)
    run = session.run(image())
    threading.Thread(target=lambda: (begun.wait(5), run.cancel()), daemon=True).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        list(run)
    assert time.monotonic() - start < 3 and run.state == "cancelled"
    room.model_thread.join(5)
    assert any(end and "data owner" in end for end in room.ends), room.ends


def test_the_budget_is_of_each_data_owner_and_survives(tmp_path):
    room = Room(tmp_path, budget=3)
    session = room.session()
    assert session.budget == 3
    room.stock(session, 2)
    room.stock(session, 1, batch=2)
    session.infer(image(2))
    session.infer(image())
    with pytest.raises(KitError, match="query budget of the data owner is 3 images: 0 are left, and 1 were asked for"):
        session.infer(image())
    other = room.session(OTHER_DATA)
    assert other.budget == 3
    other.close()
    room.close()
    again = Room(tmp_path, budget=3)
    session = again.session()
    assert session.budget == 0
    session.close()
    again.close()


def test_material_of_another_data_owner_is_refused(room):
    session = room.session()
    room.stock(session)
    (id,) = room.model.store.ready()
    other = room.session(OTHER_DATA)
    other._store.put(id, {"model": other._model_id, "batch": 1}, bytes(32))
    monkey = other._common
    other._common = lambda batch: id.hex()
    with pytest.raises(KitError, match="dealt for another data owner"):
        other.prepare()
    assert monkey and not room.model.store.is_used(id)
    assert (session.infer(image()) == right(image())).all()
    session.close()


def test_a_replayed_id_is_refused_by_whoever_has_used_it(room):
    session = room.session()
    room.stock(session)
    (id,) = room.model.store.ready()
    session.infer(image())
    session._common = lambda batch: id.hex()
    with pytest.raises(KitError, match="used before"):  # by the data owner itself, before any message
        session.prepare()
    assert not session.open
    second = room.session()
    second._store.take = lambda id: ({}, bytes(32))  # a data owner that forgot
    second._common = lambda batch: id.hex()
    with pytest.raises(KitError, match=f"The id {id.hex()} was used before"):
        second.prepare()


def test_material_that_was_lost_on_its_way_is_replaced(room):
    """The provider took it out of its store, and the model owner never got it: a new session has some more dealt."""
    first = room.session()
    first.stock(1)
    (lost,) = room.provider.store.ready()
    room.provider.store.take(lost)
    first.close()
    with room.session() as session:
        thread = threading.Thread(target=lambda: room.model.fetch(room.to_provider))
        thread.start()
        assert (session.infer(image()) == right(image())).all()
        thread.join(5)
    session = room.session()
    session._provider.close()
    session._provider = None
    with pytest.raises(KitError, match="has fetched nothing in 0 s"):
        session.prepare(patience=0)
    with pytest.raises(KitError, match=r"Nothing dealt for 2 image\(s\) is left"):
        session.prepare(2)
    session.close()


def test_a_full_store_makes_the_model_owner_wait(tmp_path):
    room = Room(tmp_path, limit=500)
    session = room.session()
    session.stock(2)
    assert room.model.fetch(room.to_provider) is True
    assert room.model.fetch(room.to_provider) is False
    assert any("too full for 272 bytes" in sentence for sentence in room.told)
    assert (session.infer(image()) == right(image())).all()
    assert room.model.fetch(room.to_provider) is True  # the provider had kept it
    assert (session.infer(image()) == right(image())).all()
    session.close()
    room.close()


def test_other_weights_get_another_mask_and_id(tmp_path):
    def identity(weights):
        service = ModelService(tmp_path, party_engine.PROGRAM, weights, engine=party_engine, tell=print)
        service.close()
        return service.model, service._mask_seed

    first, again = identity(party_engine.WEIGHTS), identity(party_engine.WEIGHTS)
    other = identity(party_engine.WEIGHTS | {"two": (np.full((1, 1, 1, 1), 5), np.zeros(1))})
    assert first == again and other[0] != first[0] and other[1] != first[1]
    assert (tmp_path / "model.json").stat().st_mode & 0o777 == 0o600


def test_another_program_than_expected_is_refused_before_anything_is_asked(room):
    with pytest.raises(KitError, match="not 00 as expected"):
        room.session(sha256="00")
    room.model_thread.join(5)
    calls = [message.what for message in room.at_model.transcript if message.direction == "received"]
    assert calls == ["hello", "describe"]


def test_a_provider_with_another_program_refuses(room):
    session = room.session()
    session._sha256 = party_engine.OTHER.sha256
    with pytest.raises(KitError, match="provider's program of this model has the SHA-256"):
        session.stock(1)
    session.close()


def test_a_lesson_shows_both_views(tmp_path):
    with TeachingSession(party_engine.PROGRAM, party_engine.WEIGHTS, engine=party_engine) as lesson:
        run = lesson.run(image())
        events = list(run)
        assert (run.answer == right(image())).all()
        assert [e.data_owner.name for e in events] == [e.model_owner.name for e in events]
        first = events[0]
        assert first.model_owner.view.share.shape == first.data_owner.view.share.shape
        assert lesson.troubles == [] and all(lesson.transcripts.values())
    with pytest.raises(TypeError):
        TeachingSession(party_engine.PROGRAM, party_engine.WEIGHTS, channel=None)  # no way in for a real peer


# -- certificates and TLS


def serve_echo(channel):
    with channel.allowing(data=1 << 26):
        while True:
            size = int.from_bytes(channel.receive(8), "big")
            body = channel.receive(size)
            channel.send(body)


@pytest.fixture
def echo(federation):
    told = []
    listener = Listener("127.0.0.1:0", Credentials(federation / "model", "model"), {"data"}, serve_echo, told.append, 3.0)
    listener.told = told
    yield listener
    listener.stop()


def test_tls_carries_large_messages_both_ways_at_once(echo, federation):
    channel = connect(echo.address, Credentials(federation / "data", "data"), "model", 10.0)
    assert channel._socket.version() == "TLSv1.3" and "GCM" in channel._socket.cipher()[0]
    assert channel.peer.role == "model" and channel.peer.name == "model"
    body = os.urandom(8 << 20)
    with channel.allowing(data=1 << 26):
        for _ in range(3):
            channel.send(len(body).to_bytes(8, "big"))
            channel.send(body)
            assert channel.receive(len(body)) == body
    channel.close()


def test_two_parties_that_both_send_first_dont_wait_for_each_other():
    left, right_end = local_pair(DATA, MODEL, 10.0)
    body = os.urandom(16 << 20)  # far more than sockets hold

    def other():
        with right_end.allowing(data=1 << 26):
            right_end.send(body)
            assert right_end.receive(len(body)) == body

    thread = threading.Thread(target=other)
    thread.start()
    with left.allowing(data=1 << 26):
        left.send(body)
        assert left.receive(len(body)) == body
    thread.join(10)
    assert not thread.is_alive()


def test_roles_authorities_and_open_keys_are_checked(echo, federation, tmp_path):
    with pytest.raises(KitError, match="shows the certificate of the model owner; here a crypto provider is wanted"):
        connect(echo.address, Credentials(federation / "data", "data"), "provider", 2.0)
    channel = connect(echo.address, Credentials(federation / "provider", "provider"), "model", 2.0)
    with pytest.raises(KitError, match="model owner"), channel.allowing(data=100):
        channel.receive(1)
    make_certificates(tmp_path, ["data", "model"])  # another federation
    with pytest.raises(KitError, match="no party of this federation"):
        connect(echo.address, Credentials(tmp_path / "data", "data"), "model", 2.0)
    (tmp_path / "data" / "ca.pem").write_bytes((federation / "ca.pem").read_bytes())  # it trusts us; we don't trust it
    channel = connect(echo.address, Credentials(tmp_path / "data", "data"), "model", 2.0)
    with pytest.raises(KitError, match="model owner"), channel.allowing(data=100):
        channel.receive(1)
    with pytest.raises(KitError, match="is of the data owner, not of a crypto provider"):
        Credentials(federation / "data", "provider")
    key = federation / "data:other".replace("data:", "") / "key.pem"
    assert key.stat().st_mode & 0o777 == 0o600 and (federation / "ca.key").stat().st_mode & 0o777 == 0o600
    key.chmod(0o644)
    with pytest.raises(KitError, match="can be read by others"):
        Credentials(key.parent, "data")
    key.chmod(0o600)
    time.sleep(0.2)
    assert len(echo.told) >= 3, echo.told


@pytest.mark.parametrize(
    ("party", "words"), [("doctor", "a party is one of"), ("data:../x", "letters"), ("data", "name of its own")]
)
def test_certificates_of_odd_parties_are_refused(federation, party, words):
    with pytest.raises(KitError, match=words):
        make_certificates(federation, [party])


@pytest.mark.parametrize("text", ["", "host", "host:", ":7", "host:x", "host:70000"])
def test_odd_addresses(text):
    with pytest.raises(KitError, match="HOST:PORT"):
        address_of(text)
    assert address_of("[::1]:7") == ("::1", 7)


# -- the network model


def test_seconds_over_a_network():
    event = LayerEvent(1, 1, "a", "relu", (1, 1, 1), 0.5, 1_000_000, 3_000_000, 4, None)
    assert seconds_over(LAN, [event, event]) == pytest.approx(2 * (0.5 + 4 * 0.5e-3 + 24e6 / 1e9))
    assert seconds_over(WAN, [event]) == pytest.approx(0.5 + 0.16 + 0.24)


def test_the_model_predicts_a_throttled_run(tmp_path):
    """One real run over a link of 2 Mb/s and 30 ms, against the model's figure from a run over the plain one."""
    network = Network("test", 2e5, 30e-3)
    seconds = {}
    for name, wrap in (("plain", lambda channel: channel), ("slow", lambda c: ThrottledChannel(c, 2e5, 30e-3))):
        room = Room(tmp_path / name, wrap=wrap)
        session = room.session(wrap=wrap)
        room.stock(session, batch=8)
        session.prepare(8)
        run = session.run(image(8))
        start = time.monotonic()
        events = list(run)
        seconds[name] = time.monotonic() - start
        assert (run.answer == right(image(8))).all()
        if name == "plain":
            predicted = seconds_over(network, events)
        session.close()
        room.close()
    assert seconds["slow"] > seconds["plain"] + 0.1
    assert seconds["slow"] == pytest.approx(predicted, rel=0.25)


def test_exchanges_that_were_counted_are_those_that_the_protocol_foresees():
    """The messages' own clock, against the dialogue that both parties work out from the program; with the kit's engine."""
    import torch
    from torch import nn

    from primia_kit.inference import compile_private
    from primia_kit.mpc import Dialogue

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3))
    images = torch.randn(4, 1, 8, 8)
    compiled = compile_private(net, images)
    with TeachingSession(compiled.program, compiled.weights) as lesson:
        run = lesson.run(images.numpy())
        events = [event.data_owner for event in run]
        assert np.allclose(run.answer.reshape(4, 3), net(images).detach(), atol=5e-3)
    foreseen = Dialogue(compiled.program, 4)
    assert sum(event.exchanges for event in events) == foreseen.exchanges
    sizes = [sum(13 + size for size in sizes) for sizes in foreseen.messages]  # with the frames' headers
    assert [sum(event.sent for event in events), sum(event.received for event in events)] == sizes


# -- the command line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data", "--connect-model", "localhost:1", "--cert", "CERT/data", "--store", "s"], "Name an --image"),
        (["data", "--connect-model", "localhost", "--cert", "CERT/data", "--store", "s", "--stock", "1"], "HOST:PORT"),
        (["provider", "--listen", "localhost:0", "--cert", "CERT/data", "--store", "s"], "not of a crypto provider"),
        (["provider", "--listen", "localhost:0", "--cert", "nowhere", "--store", "s"], "primia certificates FOLDER provider"),
        (
            [
                "model",
                "--listen",
                "localhost:0",
                "--connect-provider",
                "h:1",
                "--cert",
                "CERT/model",
                "--store",
                "s",
                "--model",
                "m",
            ],
            "m can't be read",
        ),
    ],
)
def test_mistakes_on_the_command_line_are_sentences(arguments, words, federation, tmp_path, monkeypatch, capsys):
    from primia_kit.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["party", *(argument.replace("CERT", str(federation)) for argument in arguments)]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["certificates"], ["party"], ["party", "provider"], ["party", "model"], ["party", "data"]])
def test_help_teaches(arguments, capsys):
    from primia_kit.cli import main

    with pytest.raises(SystemExit):
        main([*arguments, "--help"])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100 and len(text) > 500


# -- three processes


def test_three_processes_and_an_answer(tmp_path):
    import torch
    from torch import nn

    from primia_kit.inference import compile_private
    from primia_kit.inference.model_file import save_compiled

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    images = torch.randn(4, 1, 12, 12)
    compiled = compile_private(net, images, classes=("normal", "bacterial", "viral"))
    save_compiled(tmp_path / "model.npz", compiled.program, compiled.weights)
    np.save(tmp_path / "image.npy", images[0].numpy())

    def primia(*arguments):
        return [sys.executable, "-m", "primia_kit.cli", *map(str, arguments)]

    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "text": True}
    subprocess.run(primia("certificates", "fed", "provider", "model", "data"), check=True, capture_output=True, **options)
    running = []

    def start(*arguments):
        process = subprocess.Popen(primia("party", *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        running.append(process)
        for line in process.stdout:
            if found := re.search(r"listens at (\S+);", line):
                return found[1]
        raise AssertionError(f"{arguments[0]} has ended")

    try:
        provider = start("provider", "--listen", "127.0.0.1:0", "--cert", "fed/provider", "--store", "p")
        model = start(
            *("model", "--listen", "127.0.0.1:0", "--connect-provider", provider, "--cert", "fed/model"),
            *("--store", "m", "--model", "model.npz", "--budget", "1"),
        )
        ask = primia(
            *("party", "data", "--connect-model", model, "--connect-provider", provider, "--cert", "fed/data"),
            *("--store", "d", "--image", "image.npy", "--expect", compiled.program.sha256),
        )
        done = subprocess.run(ask, capture_output=True, timeout=60, **options)
        assert done.returncode == 0, done.stderr
        found = [float(re.search(rf"{name} +(\S+)", done.stdout)[1]) for name in compiled.program.classes]
        assert np.allclose(found, net(images[:1]).detach().numpy(), atol=5e-3)
        refused = subprocess.run(ask, capture_output=True, timeout=60, **options)
        assert refused.returncode == 2 and "query budget" in refused.stderr
    finally:
        for process in running:
            process.terminate()
            process.wait(10)
            process.stdout.close()
