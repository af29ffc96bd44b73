"""Data owner, model owner and provider talk to each other: answers, seeds, budgets, cancelling."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from primia_kit.errors import KitError
from primia_kit.inference.network_model import Network, ThrottledChannel, seconds_over
from primia_kit.inference.parties import messages, provider
from primia_kit.inference.parties.channel import Cancelled
from primia_kit.inference.parties.model import ModelService
from primia_kit.inference.parties.teaching import TeachingSession, local_pair

from . import party_engine
from .conftest import ROOT
from .party_rooms import MODEL, OTHER_DATA, PROVIDER, Room


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path)
    yield room
    room.close()


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
    assert not room.model_thread.is_alive() and run_closed == "cancelled"
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


def test_cancelling_too_late_harms_nothing(room):
    with room.session() as session:
        room.stock(session, 2)
        run = session.run(image())
        list(run)
        run.cancel()
        assert run.state == "done" and (session.infer(image()) == right(image())).all()


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
    with pytest.raises(KitError, match="has fetched nothing in 0 s: does it reach the provider, and has it room"):
        session.prepare(patience=0)
    with pytest.raises(KitError, match=r"Nothing dealt for 2 image\(s\) is left"):
        session.prepare(2)
    session.close()


def test_halves_that_lost_the_other_half_lock_nobody_out(room, monkeypatch):
    """More than one call can name, at either side: of a data owner's folder that is gone, and of a model owner's."""
    monkeypatch.setattr(messages, "MAX_COUNT", 2)
    with room.session() as session:
        room.stock(session, 1)
        (whole,) = session._store.ready()
        session.stock(3)
        for id in room.provider.store.ready():
            room.provider.store.discard(id)
    (room.folder / "data").rename(room.folder / "kept")
    with room.session() as session:
        room.stock(session, 3)
        assert len(room.model.store.ready()) == 4
    shutil.rmtree(room.folder / "data")
    (room.folder / "kept").rename(room.folder / "data")
    with room.session() as session:
        assert len(session._store.ready()) == 4
        session.prepare(patience=0)
        assert session._ready[0] == whole.hex()
        assert (session.infer(image()) == right(image())).all()


def test_a_full_store_makes_the_model_owner_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(provider, "FETCH_SECONDS", 0.0)
    room = Room(tmp_path, limit=500)
    session = room.session()
    session.stock(2)
    assert room.model.fetch(room.to_provider) is True
    assert room.model.fetch(room.to_provider) is False
    assert room.model.fetch(room.to_provider) is False
    assert sum("too full for 272 bytes" in sentence for sentence in room.told) == 1
    assert (session.infer(image()) == right(image())).all()
    assert room.model.fetch(room.to_provider) is True  # the provider had kept it
    assert (session.infer(image()) == right(image())).all()
    session.close()
    room.close()


def test_what_fits_is_fetched_before_what_does_not(tmp_path):
    room = Room(tmp_path, limit=500)
    with room.session() as session:
        session.stock(1, batch=3)
        session.stock(1)
        assert room.model.fetch(room.to_provider) is True
        assert [meta["batch"] for meta in room.model.store.ready().values()] == [1]
        assert [meta["batch"] for meta in room.provider.store.ready().values()] == [3]
    room.close()


def test_two_connections_fetch_one_material_once(room, monkeypatch):
    """Both have seen it wait before either takes it."""
    monkeypatch.setattr(provider, "FETCH_SECONDS", 0.0)
    second, at_provider = local_pair(MODEL, PROVIDER)
    room.start(room.provider.serve, at_provider)
    room.model.register(second)
    with room.session() as session:
        session.stock(1)
        both, look = threading.Barrier(2), room.provider._pending

        def pending(model):
            found = look(model)
            with contextlib.suppress(threading.BrokenBarrierError):  # who holds the lock looks alone
                both.wait(0.3)
            return found

        monkeypatch.setattr(room.provider, "_pending", pending)
        fetched = []
        threads = [threading.Thread(target=lambda c=c: fetched.append(room.model.fetch(c))) for c in (room.to_provider, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        assert sorted(fetched) == [False, True]
    second.close()


def test_other_weights_get_another_mask_and_id(tmp_path):
    def identity(weights):
        service = ModelService(tmp_path, party_engine.PROGRAM, weights, engine=party_engine, tell=print)
        service.close()
        return service.model, service._mask_seed

    first, again = identity(party_engine.WEIGHTS), identity(party_engine.WEIGHTS)
    other = identity(party_engine.WEIGHTS | {"two": (np.full((1, 1, 1, 1), 5), np.zeros(1))})
    assert first == again and other[0] != first[0] and other[1] != first[1]
    assert (tmp_path / "model.json").stat().st_mode & 0o777 == 0o600


def test_the_mask_of_a_retired_model_is_wiped(tmp_path):
    """At both who have its seed: whoever opened the files before finds nothing in them."""
    room = Room(tmp_path)
    (record,) = (tmp_path / "provider/models").iterdir()
    files = [record.open("rb"), (tmp_path / "model/model.json").open("rb")]
    seed = room.model._mask_seed.hex().encode()
    assert all(seed in file.read() for file in files)
    room.model.close()
    room.model = ModelService(
        tmp_path / "model", party_engine.PROGRAM, party_engine.WEIGHTS | {"two": party_engine.WEIGHTS["one"]}, engine=party_engine
    )
    to_provider, at_provider = local_pair(MODEL, PROVIDER)
    room.start(room.provider.serve, at_provider)
    room.model.register(to_provider)
    to_provider.close()
    for file in files:
        file.seek(0)
        assert file.read() == b""
        file.close()
    assert [path.name for path in record.parent.iterdir()] == [room.model.model]
    assert not list((tmp_path / "model").glob(".*"))
    room.close()


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


def test_parties_need_no_torch():
    """All three, one inference through: in a process of its own, where importing torch fails."""
    program = """
import sys
sys.modules["torch"] = None
import numpy as np
from primia_kit.inference.parties.teaching import TeachingSession
from tests import party_engine
with TeachingSession(party_engine.PROGRAM, party_engine.WEIGHTS, engine=party_engine) as lesson:
    run = lesson.run(np.ones((1, 1, 4, 4)))
    list(run)
    assert (run.answer == party_engine.expected(np.ones((1, 4, 4, 1)))).all()
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


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
