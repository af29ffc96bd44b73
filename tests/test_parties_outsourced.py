"""The outsourced mode: five parties, what each is told, and that nothing serves twice."""

import os
import threading
import time

import numpy as np
import pytest

from primia_kit.errors import KitError
from primia_kit.inference.certificates import Peer
from primia_kit.inference.parties import server_visits
from primia_kit.inference.parties.channel import Channel
from primia_kit.inference.parties.outsourced import OutsourcedSession
from primia_kit.inference.parties.sharing import share_between
from primia_kit.inference.parties.teaching_outsourced import OutsourcedLesson
from primia_kit.mpc import Ring, outsourced
from primia_kit.mpc.outsourced import ServerDialogue

from .mpc_programs import Builder, random_weights, words
from .test_mpc_protocol import check


def small(reveal="logits"):
    b = Builder((6, 6, 1))
    x = b.same("mask", b.same("relu", b.conv("input", 3), shift=8))
    return b.program(b.same("truncate", b.conv(x, 2), shift=8), reveal)


class Lesson(OutsourcedLesson):
    """With the interface of `mpc_programs.Parties.values`."""

    def values(self, images):
        answer, ring = self.infer(images), Ring(self.program.bits)
        both = {event.server0.name: (event.server0.view.share, event.server1.view.share) for event in self.events}
        return {name: ring.signed(one + other) for name, (one, other) in both.items()}, answer


@pytest.fixture
def lesson():
    program = small()
    with Lesson(program, random_weights(program)) as lesson:
        yield lesson


def test_answers_of_one_image_and_of_a_batch(lesson):
    for batch in (1, 3, 1):
        check(lesson.program, words((batch, 6, 6, 1)), random_weights(lesson.program), lesson)
    assert lesson.troubles == []
    used = [sorted(os.listdir(f"{lesson._folder.name}/server{i}/{name}/used")) for i, name in ((0, "seeds"), (1, "dealt"))]
    assert used[0] == used[1] and len(used[0]) == 3


def test_exchanges_that_were_counted_are_those_that_the_protocol_foresees(lesson):
    lesson.prepare()
    lesson.infer(words((1, 6, 6, 1)))
    dialogue = ServerDialogue(lesson.program, 1)
    assert sum(event.server0.exchanges for event in lesson.events) <= dialogue.exchanges
    sizes = [sum(13 + size for size in sizes) for sizes in dialogue.messages]  # with the frames' headers
    assert [sum(getattr(e, f"server{i}").sent for e in lesson.events) for i in (0, 1)] == sizes


def test_secrets_reach_nobody_else(monkeypatch):
    """Every byte between each pair is looked through for seeds and for shares."""
    sent, real = {}, Channel._send

    def recorded(self, kind, *buffers, what=""):
        sent.setdefault(self.peer.role, bytearray()).extend(b"".join(bytes(memoryview(b).cast("B")) for b in buffers))
        return real(self, kind, *buffers, what=what)

    monkeypatch.setattr(Channel, "_send", recorded)
    program = small()
    with Lesson(program, random_weights(program)) as lesson:
        seeds, put = {}, lesson._provider.store.put

        def keep(id, meta, first, second):
            seeds["server0"], seeds["server1"] = first, second
            put(id, meta, first, second)

        monkeypatch.setattr(lesson._provider.store, "put", keep)
        lesson.infer(words((1, 6, 6, 1)))
        shares = [server.folder.joinpath("model").read_bytes().partition(b"\n")[2][-100:] for server in lesson._servers]

        def reached(secret):
            return {role for role, all in sent.items() if secret in all or secret.hex().encode() in all}

        assert {role: reached(seed) for role, seed in seeds.items()} == {"server0": {"server0"}, "server1": {"server1"}}
        assert [reached(share) for share in shares] == [{"server0"}, {"server1"}]
        roles = {role: {m.peer for m in messages} for role, messages in lesson.transcripts.items()}
        assert not roles["data"] & {"the crypto provider", "the model owner"}, "the data owner needs neither"


def test_the_model_owner_may_be_away_and_servers_restart(tmp_path):
    from primia_kit.inference.parties.server import ServerService

    program = small()
    with Lesson(program, random_weights(program)) as lesson:
        lesson.infer(words((1, 6, 6, 1)))
        kept = lesson._servers[0]
        assert (kept.folder / "model").stat().st_mode & 0o777 == 0o600
        kept.close()
        again = ServerService(0, kept.folder, tell=lambda sentence: None)
        assert again.model == kept.model and again.shared.program == program
        again.close()


def test_the_budget_is_counted_by_both_servers():
    program = small("label")
    with Lesson(program, random_weights(program), budget=2) as lesson:
        assert lesson._session.budget == 2
        lesson.infer(words((2, 6, 6, 1)))
        peer = lesson._peers["data"]
        assert [server.budget.left(peer) for server in lesson._servers] == [0, 0]
        with pytest.raises(KitError, match="query budget of the data owner is 2 images: 0 are left"):
            lesson.infer(words((1, 6, 6, 1)))


def test_each_data_owner_has_a_budget_of_its_own_at_both_servers():
    program = small("label")
    with Lesson(program, random_weights(program), budget=1) as lesson:
        lesson.infer(words((1, 6, 6, 1)))
        lesson._peers["data"] = Peer("data", "clinic", "c" * 64)
        clinic = OutsourcedSession([lesson._to(f"server{i}", "data") for i in (0, 1)])
        clinic.infer(words((1, 6, 6, 1)))
        with pytest.raises(KitError, match="query budget of the data owner clinic is 1 images: 0 are left"):
            clinic.infer(words((1, 6, 6, 1)))


def test_transcripts_dont_show_the_seed_of_the_answers_shares(lesson, monkeypatch):
    seeds = []
    monkeypatch.setattr(outsourced.secrets, "token_bytes", lambda n: seeds.append(os.urandom(n)) or seeds[-1])
    lesson.infer(words((1, 6, 6, 1)))
    previews = [m.preview for role in ("server0", "server1") for m in lesson.transcripts[role] if m.kind == "data"]
    assert seeds and previews and not any(preview and preview in seed for preview in previews for seed in seeds)


def test_another_sharing_takes_the_place_of_the_first_and_of_what_was_dealt(lesson):
    lesson.infer(words((1, 6, 6, 1)))
    lesson._servers[0].stock(2)
    program, before = lesson.program, lesson._servers[0].model
    other = random_weights(program, seed=5)

    def share(who):
        channels = [lesson._to(role, who) for role in ("provider", "server0", "server1")]
        return share_between(program, other, channels[0], channels[1:])

    lesson._peers["stranger"], lesson._ends["stranger"] = Peer("model", "stranger", "f" * 64), []
    with pytest.raises(KitError, match="Server 0 has a model of another owner"):
        share("stranger")
    assert lesson._servers[0].model == before
    assert share("model") == lesson._servers[0].model == lesson._servers[1].model != before
    assert all(meta["model"] != before for server in lesson._servers for meta in server.store.ready().values())
    with pytest.raises(KitError, match="shared anew in the meantime"):
        lesson.infer(words((1, 6, 6, 1)))


def session_of(lesson, who="data"):
    return OutsourcedSession([lesson._to(f"server{i}", who) for i in (0, 1)])


def test_two_data_owners_side_by_side_and_ids_that_are_not_theirs(lesson):
    lesson._peers["other"], lesson._ends["other"] = Peer("data", "other", "e" * 64), []
    one, other = session_of(lesson), session_of(lesson, "other")
    one.prepare()
    other.prepare()
    other._reserved, mine = one._reserved, other._reserved
    with pytest.raises(KitError, match="isn't reserved"):
        other.infer(words((1, 6, 6, 1)))
    assert mine != one._reserved
    images = words((1, 6, 6, 1))
    answers = []
    threads = [threading.Thread(target=lambda s=s: answers.append(s.infer(images))) for s in (one, session_of(lesson, "other"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(answers) == 2 and np.abs(answers[0] - answers[1]).max() < 1
    one.close()


def test_an_id_serves_once_at_each_server(lesson, monkeypatch):
    session = session_of(lesson)
    session.prepare()
    id = session._reserved[0]
    session.infer(words((1, 6, 6, 1)))
    session._reserved = id, 1
    with pytest.raises(KitError, match="isn't reserved"):
        session.infer(words((1, 6, 6, 1)))
    assert all(server.store.is_used(bytes.fromhex(id)) for server in lesson._servers)
    lesson._servers[0].store.take = lambda _: ({}, bytearray(32))  # a server 0 that forgot
    other = session_of(lesson)
    lesson._servers[0].store.ready = lambda: {bytes.fromhex(id): {"batch": 1}}
    monkeypatch.setattr(server_visits, "common", lambda *_: id)
    with pytest.raises(KitError, match="used before, or never dealt"):
        other.prepare()


def test_a_data_owner_that_leaves_in_the_midst_harms_nobody(lesson):
    session = session_of(lesson)
    session.prepare()
    session.close("it leaves")
    end = time.monotonic() + 5
    while lesson._servers[1].meetings and time.monotonic() < end:
        time.sleep(0.02)
    assert not lesson._servers[1].meetings
    check(lesson.program, words((1, 6, 6, 1)), random_weights(lesson.program), lesson)


def test_a_servers_material_is_for_the_servers_that_the_model_owner_named(lesson):
    from primia_kit.inference.parties import messages

    lesson._peers["false"], lesson._ends["false"] = Peer("server0", "false", "d" * 64), []
    shared = lesson._servers[0].shared
    for who in ("false", "data"):
        channel = lesson._to("provider", who)
        messages.greet(channel)
        messages.send(channel, "deal", model=shared.model, sha256=shared.program.sha256, batch=1, count=1)
        with pytest.raises(KitError, match="has named another party to deal for"):
            messages.receive(channel, "dealt")
    channel = lesson._to("server1", "false")
    messages.greet(channel)
    messages.send(channel, "list", batch=1, ids=[])
    with pytest.raises(KitError, match="has named another server 0"):
        messages.receive(channel, "ids")
