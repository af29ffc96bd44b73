"""What a hospital's ledger remembers of private training, over rounds, crashes and runs."""

import multiprocessing
import shutil
from dataclasses import replace

import pytest
import torch

from primia_kit.errors import KitError
from primia_kit.federation import Federation, federate
from primia_kit.federation.private import _FilmStep
from primia_kit.federation.site import _workspace
from primia_kit.federation.trainable import trained_head
from primia_kit.privacy import Ledger, SampledGaussian, epsilon

from .private_hospitals import BUDGET, HEAD, PRIVATE, accuracy, hospital, hospitals

pytestmark = pytest.mark.usefixtures("one_thread")


# --- ledgers


def spends(path):
    return [(e.mechanism, e.count, e.purpose, e.run) for e in Ledger.open(path).entries]


def _one_round(folder, rounds):
    torch.set_num_threads(1)
    Federation(replace(PRIVATE, rounds=rounds), hospitals(), checkpoints=folder).run_round()


@pytest.mark.parametrize("rounds", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_ledger_after_rounds_in_processes_of_their_own_is_the_unbroken_ones(rounds, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.noise_sites", "dp_accounting.pld"])
    for _ in range(rounds):
        process = context.Process(target=_one_round, args=(tmp_path / "broken", rounds))
        process.start()
        process.join()
        assert process.exitcode == 0
    plan = replace(PRIVATE, rounds=rounds)
    federation = Federation(plan, hospitals(), checkpoints=tmp_path / "broken")
    assert federation.done and federation.finished == rounds and not federation.notes
    whole = federate(plan, hospitals(), checkpoints=tmp_path / "whole")
    for name in "ABC":
        broken, unbroken = (tmp_path / which / "sites" / name / "ledger" for which in ("broken", "whole"))
        assert spends(broken) == spends(unbroken) and len(spends(broken)) == rounds
    assert federation.run().epsilons == whole.epsilons


def test_a_ledger_that_was_set_back_is_refused(tmp_path):
    federation = Federation(PRIVATE, hospitals(), checkpoints=tmp_path)
    federation.run_round()
    ledger, copy = tmp_path / "sites" / "B" / "ledger", tmp_path / "copy"
    shutil.copy(ledger, copy)
    done = federation.run_round()
    assert done.ledger_heads["B"] == Ledger.open(ledger).head
    later = tmp_path / "later"
    shutil.copy(ledger, later)
    shutil.copy(copy, ledger)
    with pytest.raises(KitError, match="set back to an older copy"):
        Federation(PRIVATE, hospitals(), checkpoints=tmp_path)
    ledger.unlink()
    with pytest.raises(KitError, match="is gone"):
        Federation(PRIVATE, hospitals(), checkpoints=tmp_path)
    shutil.copy(later, ledger)
    assert Federation(PRIVATE, hospitals(), checkpoints=tmp_path).finished == 2


class Killed(BaseException):
    pass


def test_a_round_that_was_cut_short_is_charged_twice(tmp_path, monkeypatch):
    """Its gradients may have been seen; so the spend is on the disk before the first of them, and stays."""
    federation = Federation(PRIVATE, hospitals("A"), checkpoints=tmp_path)
    federation.run_round()
    path = tmp_path / "sites" / "A" / "ledger"

    def killed(*_):
        assert len(spends(path)) == 2  # before any gradient
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(_FilmStep, "__call__", killed)
        federation.run_round()
    run = federate(PRIVATE, hospitals("A"), checkpoints=tmp_path)
    assert [purpose for _, _, purpose, _ in spends(path)] == ["round 1", "round 2", "round 2", "round 3"]
    assert run.epsilons["A"] == pytest.approx(epsilon([(SampledGaussian(0.5, 1.0), 8)], 1e-3))


def test_a_hospital_without_budget_leaves_and_the_others_go_on(tmp_path):
    plan, who = replace(BUDGET, rounds=2), hospitals("ABCD")
    federation = Federation(plan, who, checkpoints=tmp_path)
    federation.run_round()
    spent = federation.memories["D"].privacy
    spent.ledger.spend(spent.mechanism(plan, 10), 1, purpose="another study")
    second = federation.run_round()
    assert second.absent == {"D": second.absent["D"]} and "doesn't allow 'round 2'" in second.absent["D"]
    assert second.epsilons.keys() == set("ABC") and federation.done


def test_a_run_ends_where_too_few_hospitals_have_budget():
    federation = Federation(BUDGET, hospitals())
    federation.run_round()
    spent = federation.memories["C"].privacy
    spent.ledger.spend(spent.mechanism(BUDGET, 10), 2, purpose="another study")
    assert not federation.done  # one more round is within the budget
    assert [done.number for done in federation] == [2]
    run = federation.run()
    assert len(run.rounds) == 2 and "Ended after 2 of 3 rounds: the privacy budgets of C are spent." in run.notes


def test_hospitals_ledgers_last_over_runs(tmp_path):
    """The target is for a ledger, so what was spent before makes the next run noisier, and in the end impossible."""
    early = replace(BUDGET, target_epsilon=0.0, noise_multiplier=3.0, rounds=1)
    federate(early, hospitals(), ledgers=tmp_path)
    fresh, after = Federation(BUDGET, hospitals()), Federation(BUDGET, hospitals(), ledgers=tmp_path)
    assert not after.notes
    multipliers = [f.memories["A"].privacy.noise_multiplier for f in (fresh, after)]
    assert multipliers[0] < multipliers[1]
    run = federate(BUDGET, hospitals(), ledgers=tmp_path)
    assert 3.9 < run.largest_epsilon <= 4.0 and len(spends(tmp_path / "A")) == 4
    with pytest.raises(KitError, match="No noise is enough"):
        federate(replace(BUDGET, target_epsilon=3.0), hospitals(), ledgers=tmp_path)
    with pytest.raises(KitError, match="is for 10 patients, and site A has 12"):
        federate(BUDGET, [hospital("A", patients=12)], ledgers=tmp_path)


def test_a_resumed_run_keeps_its_noise_and_its_clipping_norm(tmp_path):
    plan = replace(BUDGET, clipping="adaptive", ema=0.5)
    federation = Federation(plan, hospitals(), checkpoints=tmp_path)
    federation.run_round()
    again = Federation(plan, hospitals(), checkpoints=tmp_path)
    for name in "ABC":
        before, after = federation.memories[name], again.memories[name]
        assert before.privacy.noise_multiplier == after.privacy.noise_multiplier
        assert before.clipping_norm == after.clipping_norm != plan.clipping_norm
    assert again.average.keys() == federation.average.keys()


def test_private_training_learns_and_too_much_noise_stops_it():
    plan = replace(HEAD, rounds=8, sync_every=5, batch_size=20, learning_rate=0.5, delta=1e-4)
    assert accuracy(replace(plan, noise_multiplier=0.5)) > 0.9 > accuracy(replace(plan, noise_multiplier=500.0))


def test_the_head_is_told_by_what_is_trained():
    network = _workspace(Federation(HEAD, hospitals()).task(), "cpu")
    assert trained_head(network, HEAD) is network.fc2
    assert trained_head(network, replace(HEAD, augmentation="shift")) is None
    network = _workspace(Federation(PRIVATE, hospitals()).task(), "cpu")
    assert trained_head(network, replace(PRIVATE, augmentation="none")) is None
