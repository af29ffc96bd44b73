"""Several data owners at one model owner: shares of its disk, budgets, renewed certificates, and pinned peers."""

import contextlib
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia_kit.cli import main
from primia_kit.errors import KitError
from primia_kit.inference.certificates import Credentials, Peer, fingerprint_of, make_certificates
from primia_kit.inference.parties import provider
from primia_kit.inference.parties.budget import QueryBudget
from primia_kit.inference.parties.channel import Channel
from primia_kit.inference.parties.model import ModelService
from primia_kit.inference.parties.teaching import local_pair
from primia_kit.inference.parties.tls import Listener, connect

from . import party_engine
from .party_rooms import DATA, MODEL, OTHER_DATA, PROVIDER, Room

IMAGE = np.ones((1, 1, 4, 4))
RENEWED = Peer("data", "data", "f" * 64)


@pytest.fixture
def _at_once(monkeypatch):
    monkeypatch.setattr(provider, "FETCH_SECONDS", 0.0)


def fetch_all(room):
    while room.model.fetch(room.to_provider):
        pass


# -- shares of the disk


def test_a_greedy_data_owner_leaves_room_for_the_others(tmp_path, _at_once):
    """It has far more dealt than fits, first, and uses none; each of the others finds its part, and is answered."""
    room = Room(tmp_path, limit=20_000)
    greedy = room.session()
    greedy.stock(100)
    fetch_all(room)
    greedy_has = room.model.store.held_by("data_owner")["data:data"]
    assert 0.4 * 20_000 < greedy_has <= 0.5 * 20_000
    for name in ("b", "c"):
        with room.session(Peer("data", name, "b" * 64)) as session:
            session.stock(100)
            fetch_all(room)
            assert (session.infer(IMAGE) == party_engine.expected(np.ones((1, 4, 4, 1)))).all()
            fetch_all(room)
    held = room.model.store.held_by("data_owner")
    assert held["data:data"] == greedy_has and min(held.values()) > 1000 and room.model.store.room > 1000
    greedy.close()
    room.close()


def test_nobody_waits_behind_anothers_stock(tmp_path):
    room = Room(tmp_path)
    with room.session() as greedy, room.session(OTHER_DATA) as other:
        greedy.stock(10)
        assert room.model.fetch(room.to_provider)
        other.stock(1)
        assert room.model.fetch(room.to_provider)
        assert set(room.model.store.held_by("data_owner")) == {"data:data", "data:other"}
    room.close()


def test_a_store_that_holds_one_inference_serves(tmp_path, _at_once):
    """Whoever has nothing there may have all of it."""
    room = Room(tmp_path, limit=500)
    with room.session() as session:
        for _ in range(2):
            room.stock(session)
            session.infer(IMAGE)
    room.close()


@settings(max_examples=30, deadline=None)
@given(
    held=st.dictionaries(st.from_regex(r"data:[a-z]{1,8}", fullmatch=True), st.integers(1, 10**9), max_size=300), data=st.data()
)
def test_after_what_comes_nobody_has_more_than_stays_free(held, data):
    class Held:
        def held_by(self, field):
            return held

    service = ModelService.__new__(ModelService)
    service.store, room = Held(), data.draw(st.integers(0, 10**9))
    shares = service._shares(room)
    assert len(shares) == min(len(held), 256)
    for owner, may in shares.items():
        assert may == 0 or held[owner] + may <= room - may


# -- deals side by side


def test_deals_side_by_side_keep_to_the_bound(tmp_path, monkeypatch):
    """Both connections of one data owner have counted what waits before either puts any."""
    monkeypatch.setattr(provider, "PENDING", 3)
    room = Room(tmp_path)
    both, look = threading.Barrier(2), room.provider.store.ready

    def ready():
        found = look()
        with contextlib.suppress(threading.BrokenBarrierError):  # who holds the lock looks alone
            both.wait(0.3)
        return found

    monkeypatch.setattr(room.provider.store, "ready", ready)
    call = {"model": room.model.model, "sha256": room.model.program.sha256, "batch": 1, "count": 3}

    def deal():
        here, there = local_pair(DATA, PROVIDER)
        refused.append(ended(lambda: room.provider._deal(there, call)))
        here.close()

    refused = []
    threads = [threading.Thread(target=deal) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert sorted(map(bool, refused)) == [False, True] and len(look()) == 3
    room.close()


def test_a_model_that_is_retired_during_a_deal_leaves_nothing_that_waits(tmp_path, monkeypatch):
    room = Room(tmp_path)
    old, put, retired = room.model.model, room.provider.store.put, threading.Event()

    def slowly(*arguments):
        retired.wait(0.5)
        return put(*arguments)

    monkeypatch.setattr(room.provider.store, "put", slowly)
    here, there = local_pair(DATA, PROVIDER)
    call = {"model": old, "sha256": room.model.program.sha256, "batch": 1, "count": 1}
    dealing = threading.Thread(target=lambda: room.provider._deal(there, call))
    dealing.start()
    room.model.close()
    other = party_engine.WEIGHTS | {"two": party_engine.WEIGHTS["one"]}
    room.model = ModelService(tmp_path / "model", party_engine.PROGRAM, other, engine=party_engine, tell=print)
    to_provider, at_provider = local_pair(MODEL, PROVIDER)
    room.start(room.provider.serve, at_provider)
    room.model.register(to_provider)
    retired.set()
    dealing.join(5)
    assert not room.provider.store.ready()
    for channel in (here, there, to_provider):
        channel.close()
    room.close()


def ended(call):
    """The sentence that it ends with, if any."""
    try:
        call()
    except KitError as error:
        return str(error)
    return None


# -- renewed certificates


def test_a_renewed_certificate_keeps_budget_and_what_was_dealt(tmp_path):
    room = Room(tmp_path, budget=3)
    with room.session() as session:
        room.stock(session, 2)
        session.infer(IMAGE)
    assert RENEWED.fingerprint != DATA.fingerprint
    with room.session(RENEWED) as session:
        assert session.budget == 2
        session._provider.close()
        session._provider = None
        session.infer(IMAGE)
        assert session.budget == 2 and room.model.budget.left(DATA) == 1
    room.close()


def test_names_keep_data_owners_apart(tmp_path):
    budget = QueryBudget(tmp_path / "budget.json", 2)
    budget.spend(DATA, 2)
    assert budget.left(RENEWED) == 0 and budget.left(OTHER_DATA) == 2
    assert QueryBudget(tmp_path / "budget.json", 2).left(RENEWED) == 0


def test_a_model_owner_with_a_renewed_certificate_keeps_its_model(tmp_path):
    room = Room(tmp_path)
    to_provider, at_provider = local_pair(Peer("model", "model", "e" * 64), PROVIDER)
    room.start(room.provider.serve, at_provider)
    room.model.register(to_provider)
    other, at_provider = local_pair(Peer("model", "impostor", "e" * 64), PROVIDER)
    room.start(room.provider.serve, at_provider)
    with pytest.raises(KitError, match="another program, mask or owner"):
        room.model.register(other)
    to_provider.close()
    other.close()
    room.close()


# -- pinned peers


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("federation")
    make_certificates(folder, ["provider", "model", "model:second", "data"])
    return folder


@pytest.fixture
def address(federation):
    listener = Listener("127.0.0.1:0", Credentials(federation / "model", "model"), {"data"}, Channel.close, lambda s: None, 3.0)
    yield listener.address
    listener.stop()


def test_a_pinned_peer_is_that_one(federation, address):
    mine, print_ = Credentials(federation / "data", "data"), fingerprint_of(federation / "model")
    colons = ":".join(print_[i : i + 2] for i in range(0, 64, 2)).upper()
    for pin in (None, "model", print_, colons):
        connect(address, mine, "model", 3.0, pin=pin).close()
    for pin in ("second", fingerprint_of(federation / "second"), "mode", ""):
        with pytest.raises(KitError, match=rf"'model' with the fingerprint {print_}, not '{pin}' as pinned"):
            connect(address, mine, "model", 3.0, pin=pin)


def test_pins_on_the_command_line(federation, address, tmp_path, capsys):
    ask = ["party", "data", "--connect-model", address, "--cert", str(federation / "data"), "--store", str(tmp_path / "d")]
    assert main([*ask, "--stock", "1", "--pin-model", "second"]) == 2
    assert "not 'second' as pinned" in capsys.readouterr().err


def test_certificates_say_their_fingerprints(tmp_path, capsys):
    assert main(["certificates", str(tmp_path), "data"]) == 0
    assert f"Fingerprint {fingerprint_of(tmp_path / 'data')}" in capsys.readouterr().out
