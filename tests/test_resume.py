"""A run that is killed goes on as if nothing had happened, to the bit."""

import multiprocessing
import random
import threading
import time
from dataclasses import replace

import pytest
import torch

from primia_kit.errors import KitError
from primia_kit.federation import Federation, Site, federate
from primia_kit.federation.checkpoint import Checkpoints

from .noise_sites import PLAN, digest, site

pytestmark = pytest.mark.usefixtures("one_thread")

BASE = replace(PLAN, norm="batch", size=16, rounds=6, mixup=0.3, participation=0.75, class_weights="balanced", batch_size=8)
PLANS = {
    "fedavg": replace(BASE, sync_every=2),
    "fedprox": replace(BASE, strategy="fedprox", warmup=0.2),
    "scaffold": replace(BASE, strategy="scaffold", weighting="uniform"),
    "fedadam": replace(BASE, strategy="fedadam", schedule="step"),
    "fedyogi": replace(BASE, strategy="fedyogi", optimizer="adam", learning_rate=0.001),
    "fedbn": replace(BASE, strategy="fedbn", patience=4, learning_rate=0.005),
}


def hospitals():
    return [site(name, [0, 1, 2, 1] * 5, seed, size=16) for seed, name in enumerate(("A", "B/2", "C", "D"))]


@pytest.fixture(scope="module")
def unbroken():
    """strategy -> digest of its run without a break; each is trained once."""
    found = {}

    def get(strategy):
        if strategy not in found:
            found[strategy] = digest(federate(PLANS[strategy], hospitals()))
        return found[strategy]

    return get


def test_all_who_take_a_run_up_know_it_by_one_id(tmp_path):
    first, beside = (Checkpoints(tmp_path, "0" * 64, ("A",)) for _ in range(2))
    run, path = first.run, tmp_path / "server" / "run"
    assert beside.run == first.run == run and len(run) == 16
    path.write_text(run.hex()[:5])  # a crash, before anybody had it
    assert first.run == beside.run != run
    path.write_text("no id, but thirty-two letters long")
    with pytest.raises(KitError, match=r"run is damaged.*choose another folder"):
        first.run  # noqa: B018 - a property that raises


class Killed(BaseException):
    """In place of SIGKILL, between a round's sum and its checkpoint."""


def test_a_round_that_is_made_again_gives_no_hospital_away(tmp_path, monkeypatch):
    """Its sum may be known. A second sum over fewer hospitals, of the same updates, would be one's update less."""
    plan, sites = replace(PLANS["fedavg"], participation=1.0), hospitals()

    def kill(self):
        if self.finished == 2:
            raise Killed
        save(self)

    save = Federation._save
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Federation, "_save", kill)
        federate(plan, sites, checkpoints=tmp_path)
    again = Federation(plan, sites, checkpoints=tmp_path)
    assert again.finished == 1
    again.aggregator.dropouts = {"D": "before masking"}
    with pytest.raises(KitError, match=r"round 2 update: .* signed another list of survivors in an earlier attempt"):
        again.run_round()
    whole = federate(plan, sites, checkpoints=tmp_path)
    assert digest(whole) == digest(federate(plan, sites))


@pytest.mark.parametrize("strategy", list(PLANS))
def test_a_run_stopped_after_a_round_ends_as_an_unbroken_one(strategy, unbroken, tmp_path):
    for rounds in (1, 4):
        folder = tmp_path / str(rounds)
        federation = Federation(PLANS[strategy], hospitals(), checkpoints=folder)
        for _ in range(rounds):
            if not federation.done:
                federation.run_round()
        del federation
        assert digest(federate(PLANS[strategy], hospitals(), checkpoints=folder)) == unbroken(strategy)


def _train(folder, strategy, started):
    torch.set_num_threads(1)
    sites = hospitals()
    started.set()
    federate(PLANS[strategy], sites, checkpoints=folder)


def kill_and_resume(kills, tmp_path, unbroken):
    """Returns how many rounds each killed process had finished."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.noise_sites"])  # torch is imported once
    moments, survived = random.Random(0), []
    for number in range(kills):
        strategy = list(PLANS)[number % len(PLANS)]
        folder, started = tmp_path / str(number), context.Event()
        process = context.Process(target=_train, args=(folder, strategy, started))
        expected = unbroken(strategy)
        round = moments.randrange(PLANS[strategy].rounds - 1)  # kill it somewhere in the round after this one
        process.start()
        assert started.wait(120)
        while round and process.is_alive() and not (folder / "server" / f"round-{round:04d}.pt").exists():
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.join()
        before = Checkpoints(folder, PLANS[strategy].sha256, ("A", "B/2", "C", "D")).latest()
        survived.append(len(before[0]["rounds"]) if before else 0)
        assert digest(federate(PLANS[strategy], hospitals(), checkpoints=folder)) == expected, f"kill {number}, {strategy}"
        assert not list(folder.glob("**/*.part"))
    return survived


def test_three_killed_runs_go_on(tmp_path, unbroken):
    survived = kill_and_resume(3, tmp_path, unbroken)
    assert any(0 < rounds < BASE.rounds for rounds in survived), survived  # else nothing was cut short


def test_a_run_of_sites_side_by_side_goes_on_to_the_bit(tmp_path, monkeypatch):
    """Where torch has several threads, sites compute at the same time, and their answers come in any order."""
    update, threads = Site.update, set()

    def noted(*args, **options):
        threads.add(threading.current_thread())
        return update(*args, **options)

    monkeypatch.setattr(Site, "update", noted)
    torch.set_num_threads(2)  # `one_thread` sets it back
    plan = PLANS["scaffold"]
    broken = Federation(plan, hospitals(), checkpoints=tmp_path)
    for _ in range(3):
        broken.run_round()
    del broken
    resumed = Federation(plan, hospitals(), checkpoints=tmp_path)
    assert resumed.finished == 3
    for _ in resumed:
        pass
    assert digest(resumed.run()) == digest(federate(plan, hospitals()))
    assert threads and threading.main_thread() not in threads  # the way that the other tests here don't go


@pytest.mark.slow
def test_twenty_killed_runs_go_on(tmp_path, unbroken):
    survived = kill_and_resume(20, tmp_path, unbroken)
    assert len(set(survived)) > 2, survived  # the kills fell into different rounds


def test_a_finished_run_isnt_trained_again(tmp_path):
    plan = PLANS["fedavg"]
    first = federate(plan, hospitals(), checkpoints=tmp_path)
    told = []
    again = federate(plan, hospitals(), checkpoints=tmp_path, on_round=lambda *a: told.append(a))
    assert told == [] and digest(first) == digest(again)
    assert first.rounds == again.rounds  # their seconds, too


def test_the_last_two_rounds_are_kept(tmp_path):
    federate(PLANS["scaffold"], hospitals(), checkpoints=tmp_path)
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.glob("**/*.pt"))
    folders = ("server", *(f"sites/{name}" for name in ("A", "B%2F2", "C", "D")))
    assert found == sorted(f"{folder}/round-000{n}.pt" for folder in folders for n in (5, 6))


@pytest.mark.parametrize("where", ["server", "sites/C"])
@pytest.mark.parametrize("damage", ["half", "flip", "head", "empty", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(where, damage, tmp_path, unbroken):
    plan = PLANS["scaffold"]
    federation = Federation(plan, hospitals(), checkpoints=tmp_path)
    for _ in range(3):
        federation.run_round()
    path = tmp_path / where / "round-0003.pt"
    content = path.read_bytes()
    middle = len(content) // 2
    damaged = {
        "half": content[:middle], "flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "head": b"x" + content[1:], "empty": b"", "gone": None,
    }[damage]  # fmt: skip
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)
    resumed = Federation(plan, hospitals(), checkpoints=tmp_path)
    assert resumed.finished == 2
    if (where, damage) != ("server", "gone"):  # then there is nothing to tell
        assert len(resumed.notes) == 1 and "round 3" in resumed.notes[0] and "damaged" in resumed.notes[0]
    run = federate(plan, hospitals(), checkpoints=tmp_path)
    assert digest(run) == unbroken("scaffold")
    assert run.notes == tuple(resumed.notes)


def test_where_no_checkpoint_is_whole_the_run_starts_anew(tmp_path, unbroken):
    Federation(PLANS["fedavg"], hospitals(), checkpoints=tmp_path).run_round()
    (tmp_path / "server" / "round-0001.pt").write_bytes(b"")
    run = federate(PLANS["fedavg"], hospitals(), checkpoints=tmp_path)
    assert "starts anew" in run.notes[-1] and digest(run) == unbroken("fedavg")


def test_what_doesnt_belong_together_is_refused(tmp_path):
    Federation(PLANS["fedavg"], hospitals(), checkpoints=tmp_path).run_round()
    other = replace(PLANS["fedavg"], seed=1)
    with pytest.raises(KitError, match=f"another plan .SHA-256 {PLANS['fedavg'].sha256[:12]}"):
        federate(other, hospitals(), checkpoints=tmp_path)
    with pytest.raises(KitError, match="a run over A, B/2, C, D, this one is over A, B/2, C:"):
        federate(PLANS["fedavg"], hospitals()[:3], checkpoints=tmp_path)
    with pytest.raises(KitError, match="Site A's films aren't those"):
        federate(PLANS["fedavg"], [site("A", [0, 1, 2] * 4, 9, size=16), *hospitals()[1:]], checkpoints=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match="is a file"):
        federate(PLANS["fedavg"], hospitals(), checkpoints=tmp_path / "file")


def test_a_checkpoint_runs_no_code(tmp_path):
    """A pickle that would call something is damage, not a command, though its digest is right."""
    import hashlib
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    plan = PLANS["fedavg"]
    Federation(plan, hospitals(), checkpoints=tmp_path / "run").run_round()
    payload = pickle.dumps(Evil(), protocol=2)
    seal = hashlib.sha256(plan.sha256.encode() + b"\n" + payload).hexdigest()
    path = tmp_path / "run" / "server" / "round-0001.pt"
    path.write_bytes(f"primia checkpoint 1 {plan.sha256} {seal}\n".encode() + payload)
    assert "torch can't read it" in Federation(plan, hospitals(), checkpoints=tmp_path / "run").notes[0]
    assert not (tmp_path / "touched").exists()
