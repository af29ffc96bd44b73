"""Distributed noise in a run: what the sum carries, what each hospital is charged, who may leave, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from primia_kit.errors import KitError
from primia_kit.federation import Federation, federate
from primia_kit.federation.distributed import NoiseTerms, mean_step, noise_terms
from primia_kit.federation.local import make_optimizer
from primia_kit.privacy import DistributedNoise, Gaussian, Ledger, NoiseSource, SampledDiscreteGaussian, SampledGaussian, epsilon
from primia_kit.privacy.distributed import most_sampled
from primia_kit.secagg import AggregationAborted, PlainSum, SecureSum

from .noise_sites import Gone
from .private_hospitals import HEAD, PRIVATE, Fixed, accuracy, hospital, hospitals

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = replace(HEAD, noise="distributed", sync_every=1, weighting="uniform", min_sites=3)
WHOLE = replace(PRIVATE, noise="distributed", sync_every=1, weighting="uniform", min_sites=3, augmentation="none")
# One step of plain SGD at rate 1.
ONE = replace(PLAN, rounds=1, learning_rate=1.0, momentum=0.0, weight_decay=0.0, schedule="constant")
FOUR = replace(ONE, min_sites=4)


class Everybody(NoiseSource):
    """Samples all, so that two runs differ in noise alone."""

    def bernoulli(self, n, q):
        return np.ones(n, bool)


class Quiet(Everybody):
    """Its hospital adds no noise: one that cheats, or one whose noise the observer knows."""


@pytest.fixture
def silenced(monkeypatch):
    share = DistributedNoise.share
    monkeypatch.setattr(DistributedNoise, "share", lambda terms, source: share(terms, source) * (not isinstance(source, Quiet)))


def begun(plan, names="ABC", quiet="", **options):
    federation = Federation(plan, hospitals(names), **options)
    for name, memory in federation.memories.items():
        memory.privacy.source = Quiet() if name in quiet else Everybody()
    return federation


def flat(federation):
    return torch.cat([federation.weights[f"fc2.{name}"].flatten() for name in ("weight", "bias")]).double()


def noise_of(plan, names="ABC", quiet="", repeats=3, **options):
    """The deviation of the noise in the sum, over C, from pairs of runs that differ in it alone; and how many were in it."""
    squares, count = 0.0, 0
    for _ in range(repeats):
        pair = [begun(plan, names, quiet, **options) for _ in range(2)]
        for federation in pair:
            federation.run_round()
        survivors = len(pair[0].aggregator.survivors)
        difference = (flat(pair[0]) - flat(pair[1])) * plan.batch_size * survivors
        squares, count = squares + float(difference.square().sum()) / 2, count + len(difference)
    return math.sqrt(squares / count) / plan.clipping_norm, survivors


def charged(plan, names="ABC"):
    return begun(plan, names).memories["A"].privacy.mechanism(plan, 10).noise_multiplier


# --- the sum's noise


def test_the_sum_has_the_noise_of_all_and_of_the_honest_what_is_charged(silenced):
    """1,503 values, 3 pairs: 1.1% standard error."""
    plan = replace(FOUR, noise_multiplier=1.5, colluders=2)
    assert charged(plan, "ABCD") == pytest.approx(1.5, rel=1e-6)
    assert noise_of(plan, "ABCD")[0] == pytest.approx(1.5 * math.sqrt(4 / 2), rel=0.05)
    assert noise_of(plan, "ABCD", quiet="BD")[0] == pytest.approx(1.5, rel=0.05)  # what two colluders have left


def test_a_hospital_without_noise_is_caught(silenced):
    assert noise_of(ONE, quiet="C")[0] < 0.93 * noise_of(ONE)[0]


def test_noise_that_is_divided_once_more_is_caught(monkeypatch):
    share = DistributedNoise.share
    monkeypatch.setattr(DistributedNoise, "share", lambda t, s: np.rint(share(t, s) / math.sqrt(3)).astype(np.int64))
    assert noise_of(ONE)[0] < 0.8 * charged(ONE)


def test_noise_that_counts_on_colluders_is_caught(monkeypatch, silenced):
    """With shares for m hospitals instead of m - c, the honest ones' noise is less than what is charged."""
    plan = replace(FOUR, colluders=2)
    monkeypatch.setattr(NoiseTerms, "at", lambda t, z: DistributedNoise.fitted(
        z, t.plan.clipping_norm, t.values, shares=t.plan.min_sites, sites=t.sites, sampled=t.sampled))  # fmt: skip
    assert noise_of(plan, "ABCD", quiet="BD")[0] < 0.8 * charged(plan, "ABCD")


def test_a_hospital_that_leaves_takes_its_noise_and_enough_is_left(silenced):
    names, least = "ABCD", replace(ONE, colluders=1)
    leaving = {"D": "before masking"}
    found, survivors = noise_of(least, names, aggregator=SecureSum(dropouts=leaving, min_survivors=3))
    assert survivors == 3 and found == pytest.approx(math.sqrt(3 / 2), rel=0.05)
    found, _ = noise_of(least, names, quiet="B", aggregator=SecureSum(dropouts=leaving, min_survivors=3))
    assert found == pytest.approx(charged(least, names), rel=0.05)
    later, survivors = noise_of(least, names, aggregator=SecureSum(dropouts={"D": "after masking"}, min_survivors=3))
    assert survivors == 4 and later == pytest.approx(math.sqrt(4 / 2), rel=0.05)


def test_with_fewer_than_min_sites_nobody_learns_a_sum():
    federation = begun(ONE, "ABCD", aggregator=SecureSum(dropouts={"C": "before masking", "D": "before masking"}))
    with pytest.raises(AggregationAborted, match="2 of 4 sites sent"):
        federation.run_round()
    assert federation.finished == 0 and federation.memories["A"].privacy.ledger.history  # charged all the same
    with pytest.raises(KitError, match="3 of 4 sites answered, min_sites is 4"):
        gone = hospital("D", 3)
        who = [*hospitals(), Gone("D", gone.train, gone.test)]
        Federation(FOUR, who).run_round()


# --- the step


def test_without_noise_it_is_the_local_plans_step(silenced):
    """Momentum, weight decay, clipping, division by the expected number: as if each hospital had made the step itself."""
    for plan in (replace(WHOLE, rounds=2, clipping_norm=0.3), replace(PLAN, rounds=2, strategy="fedyogi")):
        ours, theirs = begun(plan, quiet="ABC"), Federation(replace(plan, noise="local"), hospitals())
        for memory in theirs.memories.values():
            memory.privacy.source = Fixed()
        start = ours.weights
        for federation in (ours, theirs):
            for _ in federation:
                pass
        for name, value in theirs.weights.items():
            torch.testing.assert_close(ours.weights[name], value, atol=1e-5, rtol=1e-4)
        assert any(float((start[name] - value).abs().max()) > 1e-3 for name, value in ours.weights.items())


def test_the_last_layers_closed_form_is_the_slow_one(silenced, monkeypatch):
    plan = replace(PLAN, feature_norm="l2", virtual_batch=3)
    fast = begun(plan, quiet="ABC")
    fast.run_round()
    monkeypatch.setattr("primia_kit.federation.site.trained_head", lambda network, plan: None)
    slow = begun(plan, quiet="ABC")
    slow.run_round()
    torch.testing.assert_close(flat(fast), flat(slow), atol=1e-6, rtol=1e-4)


def test_the_servers_step_is_the_plans_optimizers():
    plan = replace(PLAN, rounds=4, learning_rate=0.3)
    federation = begun(plan)
    task, terms = replace(federation.task(), number=3), federation.memories["A"].privacy.distributed
    total = {"weight": torch.tensor(3.0, dtype=torch.float64), "fc2.bias": torch.tensor([1e5, -2e6, 0], dtype=torch.float64)}
    found = mean_step(task, total, terms)
    parameter = torch.nn.Parameter(task.weights["fc2.bias"].clone())
    optimizer = make_optimizer(torch.nn.ParameterList([parameter]), plan)
    optimizer.param_groups[0]["lr"] = plan.learning_rate_in(3)
    parameter.grad = (total["fc2.bias"] / terms.scale / 15).float()
    optimizer.step()
    torch.testing.assert_close(found["fc2.bias"] / 3, parameter.detach() - task.weights["fc2.bias"])
    assert float(found["weight"]) == 3


def test_no_value_can_leave_its_field():
    """The largest that a hospital can send, with as many patients as it may sample: their sum stays within 32 bits."""
    who = [hospital(name, seed, patients) for seed, (name, patients) in enumerate(zip("ABC", (10, 10, 40), strict=True))]
    terms = noise_terms(PLAN, who)
    assert terms.sampled == max(most_sampled(n, 5) for n in (10, 10, 40)) and terms.values == 1503
    agreed = terms.at(1.0)
    assert 3 * agreed.largest(terms.sampled) < 2**31 and agreed.largest(terms.sampled) <= agreed.room(3)


# --- ledgers


def test_each_hospitals_ledger_is_charged_the_whole_noise():
    who = [hospital(name, seed, patients) for seed, (name, patients) in enumerate(zip("ABC", (10, 10, 40), strict=True))]
    run = federate(PLAN, who)
    for name, patients in zip("ABC", (10, 10, 40), strict=True):
        alike = epsilon([(SampledGaussian(5 / patients, 1.0), 3)], 1e-3)
        assert alike <= run.epsilons[name] <= alike * (1 + 1e-4)
    assert all(r.steps == dict.fromkeys("ABC", 1) and r.losses == {} and not r.absent for r in run.rounds)
    assert all(r.update_bytes == 4 * (1503 + 1) for r in run.rounds)


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedyogi"])
def test_every_strategy_that_takes_a_sum_runs(strategy):
    run = federate(replace(WHOLE, strategy=strategy, rounds=1), hospitals())
    assert all(torch.isfinite(value).all() for value in run.model.weights.values()) and not run.rounds[0].absent


def test_one_noise_keeps_every_hospitals_target():
    who = [hospital(name, seed, patients) for seed, (name, patients) in enumerate(zip("ABC", (10, 10, 40), strict=True))]
    plan = replace(PLAN, rounds=2, noise_multiplier=0.0, target_epsilon=4.0)
    federation = Federation(plan, who)
    assert len({memory.privacy.noise_multiplier for memory in federation.memories.values()}) == 1
    for _ in federation:
        pass
    found = federation.run().epsilons
    assert 3.98 < found["A"] == found["B"] <= 4.0 and found["C"] < found["B"]  # A samples half of its patients, C an eighth


def test_distributed_and_local_spends_compose_in_one_ledger(tmp_path):
    local = replace(HEAD, rounds=1, sync_every=3)
    federate(local, hospitals(), ledgers=tmp_path)
    plan = replace(PLAN, statistics_noise=8.0, class_weights="balanced", rounds=2)
    run = federate(plan, hospitals(), ledgers=tmp_path)
    wanted = [(SampledGaussian(0.5, 1.0), 5), (Gaussian(8.0), 1)]
    assert run.epsilons["A"] == pytest.approx(epsilon(wanted, 1e-3), rel=1e-4)
    kinds = [type(entry.mechanism) for entry in Ledger.open(tmp_path / "A").entries]
    assert kinds == [SampledGaussian, Gaussian, SampledDiscreteGaussian, SampledDiscreteGaussian]


def test_a_spend_is_on_the_disk_before_the_first_gradient(tmp_path, monkeypatch):
    seen = []

    def looked(self, gradient, source):
        seen.append(len(Ledger.open(tmp_path / "A").entries))
        return np.zeros(len(gradient), np.int64)

    monkeypatch.setattr(DistributedNoise, "rounded", looked)
    federation = begun(PLAN, ledgers=tmp_path)
    federation.run_round()
    assert set(seen) == {1} and len(seen) == 30


def test_a_run_that_is_cut_off_goes_on_with_new_noise_and_pays_again(tmp_path, monkeypatch):
    plan = replace(PLAN, noise_multiplier=0.0, target_epsilon=4.0)
    federation = Federation(plan, hospitals(), checkpoints=tmp_path)
    federation.run_round()
    sent = []

    def killed(task, total, terms):
        sent.append(total["fc2.bias"])
        raise KeyboardInterrupt

    monkeypatch.setattr("primia_kit.federation.engine.mean_step", killed)
    for again in range(2):  # the second time as a process of its own would
        with pytest.raises(KeyboardInterrupt):
            (federation if not again else Federation(plan, hospitals(), checkpoints=tmp_path)).run_round()
    monkeypatch.undo()
    assert not torch.equal(*sent)
    resumed = Federation(plan, hospitals(), checkpoints=tmp_path)
    assert resumed.finished == 1 and resumed.aggregator.min_survivors == 3
    before, after = (f.memories["B"].privacy for f in (federation, resumed))
    assert before.distributed == after.distributed and before.noise_multiplier == after.noise_multiplier
    for memory in resumed.memories.values():
        entries = memory.privacy.ledger.entries
        assert [entry.purpose for entry in entries] == ["round 1", "round 2", "round 2"]
    assert resumed.done and resumed.finished == 1  # three rounds' worth is spent
    assert 3.98 < resumed.run().largest_epsilon <= 4.0


def test_runs_of_one_plan_have_different_noise():
    first, second = (federate(ONE, hospitals()).model.weights["fc2.weight"] for _ in range(2))
    assert float((first - second).std()) > 0.01


def test_it_learns_and_too_much_noise_stops_it():
    plan = replace(PLAN, rounds=10, batch_size=60, learning_rate=2.0, delta=1e-4)
    assert accuracy(plan) > 0.9 > accuracy(replace(plan, noise_multiplier=500.0))


# --- refusals


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sync_every": 2}, "Set sync_every=1"),
        ({"sync_every": 0}, "Set sync_every=1"),
        ({"strategy": "scaffold"}, 'use "fedavg", "fedadam" or "fedyogi"'),
        ({"strategy": "fedprox"}, 'use "fedavg", "fedadam" or "fedyogi"'),
        ({"optimizer": "adam"}, 'strategy="fedadam"'),
        ({"participation": 0.5}, "all hospitals have to add their noise"),
        ({"weighting": "patients"}, 'Use "uniform"'),
        ({"clipping": "adaptive"}, 'use "fixed"'),
        ({"min_sites": 2}, "a secure sum needs 3"),
        ({"colluders": 2}, "would have to add the whole noise"),
        ({"privacy": "none", "noise_multiplier": 0.0}, "there is no noise"),
        ({"colluders": -1}, "colluders is -1; the least is 0"),
        ({"noise": "distributd"}, r"did you mean 'distributed'\?"),
    ],
)
def test_plans_that_one_sum_doesnt_serve_are_refused(change, sentence):
    with pytest.raises(KitError, match=sentence) as error:
        replace(PLAN, **change)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize(
    ("plan", "names", "aggregator", "sentence"),
    [
        (PLAN, "ABC", PlainSum(), "use SecureSum"),
        (PLAN, "AB", None, "at least 3 hospitals"),
        (PLAN, "A", None, "at least 3 hospitals"),
        (FOUR, "ABCD", SecureSum(), r"make it SecureSum\(min_survivors=4\)"),
        (PLAN, "ABC", SecureSum(unsafe_two_survivors=True), "min_survivors is 2"),
        (replace(PLAN, noise_multiplier=1e-4), "ABC", None, "could leave 32 bits"),
        (replace(PLAN, noise_multiplier=1e9), "ABC", None, "too coarse for 1,503 parameters"),
    ],
)
def test_sums_that_the_noise_cant_hide_in_are_refused(plan, names, aggregator, sentence):
    with pytest.raises(KitError, match=sentence):
        Federation(plan, hospitals(names), aggregator)


def test_the_plan_shows_its_colluders():
    assert "colluders" in str(PLAN) and "colluders" not in str(PRIVATE)
