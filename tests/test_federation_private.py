"""Private training: what is noised, what is charged, what is refused."""

import math
from dataclasses import replace

import pytest
import torch

from primia_kit.data import FilmSet
from primia_kit.errors import KitError
from primia_kit.federation import Federation, Site, federate
from primia_kit.federation import private as module
from primia_kit.federation.device import CPU
from primia_kit.federation.private import Units, _FilmStep, noised_sum
from primia_kit.federation.site import _workspace
from primia_kit.figures import learning_curves
from primia_kit.privacy import Gaussian, NoiseSource, SampledGaussian, epsilon
from primia_kit.secagg import PlainSum

from .noise_sites import site
from .private_hospitals import BUDGET, HEAD, ONE, PRIVATE, Fixed, flat, hospital, hospitals, one_update, sum_by_hand

pytestmark = pytest.mark.usefixtures("one_thread")


# --- noise, sampling, division


def spread(plan):
    """Standard deviation of S + noise: two rounds of the same patients, with different noise."""
    first, second = (flat(one_update(plan, source=NoiseSource.insecure(seed))[0]) for seed in (1, 2))
    return float((first - second).std()) * 10 / math.sqrt(2)


def test_the_noise_has_the_deviation_that_is_charged():
    plan = replace(ONE, noise_multiplier=1.5)
    assert spread(plan) == pytest.approx(1.5 * 0.7, rel=0.01)  # 427,000 values
    _, _, memory = one_update(plan)
    assert memory.privacy.ledger.history == [(SampledGaussian(1.0, 1.5), 1)]


def test_training_without_noise_is_caught(monkeypatch):
    monkeypatch.setattr(module, "noised_sum", lambda sums, std, source: sums)
    assert spread(ONE) < 0.01


def test_adaptive_clipping_is_noised_more_than_it_is_charged_for():
    plan = replace(ONE, clipping="adaptive")
    _, _, memory = one_update(plan)
    rule = module.AdaptiveClipping(0.5, 1.0, 10.0)
    assert spread(plan) == pytest.approx(rule.gradient_multiplier * 0.7, rel=0.01) and rule.gradient_multiplier > 1.03
    assert memory.privacy.ledger.history == [(SampledGaussian(1.0, 1.0), 1)] and memory.clipping_norm != 0.7


def test_sums_are_divided_by_the_expected_number_of_patients():
    plan, who = replace(ONE, batch_size=5, augmentation="none"), hospital("A")
    for sampled in ([True] * 2 + [False] * 8, [True] * 9 + [False], [False] * 10):
        parts, training, memory = one_update(plan, who, Fixed(sampled))
        wanted = torch.cat([value.flatten() for value in sum_by_hand(plan, who, sampled).values()]).double() / -5
        torch.testing.assert_close(flat(parts), wanted, atol=1e-5, rtol=1e-3)
        assert training.steps == 1 and memory.privacy.ledger.history == [(SampledGaussian(0.5, 1.0), 1)]


def test_a_step_with_nobody_in_it_is_noise_alone():
    plan = replace(ONE, batch_size=5)

    class Nobody(Fixed):
        noised = NoiseSource.noised
        _new_key = NoiseSource._new_key

    parts, training, _ = one_update(plan, source=Nobody([False] * 10))
    assert float(flat(parts).std()) * 5 == pytest.approx(0.7, rel=0.01) and training.steps == 1


def test_patients_are_sampled_by_poisson():
    drawn = []

    class Watched(Fixed):
        def bernoulli(self, n, q):
            drawn.append(NoiseSource.insecure(len(drawn)).bernoulli(n, q))
            return drawn[-1]

    who = hospital("A", patients=40, each=1)
    one_update(replace(HEAD, sync_every=300, batch_size=8), who, Watched())
    sizes = torch.tensor([mask.sum() for mask in drawn]).double()
    assert float(sizes.mean()) == pytest.approx(8, abs=0.5) and float(sizes.var()) == pytest.approx(40 * 0.2 * 0.8, rel=0.3)


def test_the_plans_seed_drives_neither_noise_nor_samples():
    first, second = federate(ONE, [hospital("A")]), federate(ONE, [hospital("A")])
    assert first.plan == second.plan
    difference = torch.cat([(first.model.weights[n] - w).flatten() for n, w in second.model.weights.items()])
    assert float(difference.std()) > 0.05
    repeated = [flat(one_update(replace(ONE, batch_size=5), source=NoiseSource.insecure(7))[0]) for _ in range(2)]
    assert torch.equal(*repeated)  # all else does come from the seed


def test_a_patients_copies_dont_depend_on_who_else_is_sampled():
    plan, who = replace(PRIVATE, augmentation_multiplicity=3), hospital("A")
    federation = Federation(plan, [who])
    network = _workspace(federation.task(), "cpu")
    step = _FilmStep(network, who.train, Units(who.train, "patient"), federation.task(), "A", CPU, None)
    all_of_them = list(step._patients(torch.ones(10, dtype=torch.bool), 4))
    alone = list(step._patients(torch.arange(10) == 6, 4))
    assert len(all_of_them) == 10 and len(alone) == 1 and alone[0][0].shape[0] == 6
    assert torch.equal(all_of_them[6][0], alone[0][0])
    later = list(step._patients(torch.arange(10) == 6, 5))
    assert not torch.equal(later[0][0], alone[0][0])
    smaller = Site("A", _without(who.train, "p2"), who.test)  # the neighbouring data set
    step = _FilmStep(network, smaller.train, Units(smaller.train, "patient"), federation.task(), "A", CPU, None)
    assert torch.equal(next(step._patients(torch.arange(9) == 5, 4))[0], alone[0][0])


def _without(data: FilmSet, patient):
    kept = [i for i, p in enumerate(data.patients) if p != patient]
    return replace(data, images=data.images[kept], labels=data.labels[kept], patients=tuple(data.patients[i] for i in kept))


@pytest.mark.parametrize("plan", [replace(ONE, augmentation_multiplicity=2), replace(HEAD, sync_every=1, rounds=1)])
def test_one_patient_less_changes_the_sum_by_c_at_most(plan):
    plan = replace(plan, clipping_norm=0.01, batch_size=5, learning_rate=1.0, momentum=0.0, weight_decay=0.0, weighting="uniform")
    plan = replace(plan, schedule="constant")
    who = site("A", [i % 3 for i in range(20)], size=16, patients=["p0"] * 11 + [f"p{i}" for i in range(1, 10)])
    whole = flat(one_update(plan, who, Fixed())[0]) * 5
    for patient in ("p0", "p4"):
        smaller = Site("A", _without(who.train, patient), who.test)
        rest = flat(one_update(plan, smaller, Fixed())[0]) * 5
        assert 0.005 < float((whole - rest).norm()) <= 0.01 * (1 + 1e-3)


def test_per_film_is_another_promise():
    """The same films under either unit: one patient with eleven films moves the sum by up to eleven C."""
    plan = replace(ONE, privacy="film", clipping_norm=0.01, batch_size=9, delta=1e-4)
    who = site("A", [i % 3 for i in range(20)], size=16, patients=["p0"] * 11 + [f"p{i}" for i in range(1, 10)])
    whole, rest = (flat(one_update(plan, Site("A", d, who.test), Fixed())[0]) * 9 for d in (who.train, _without(who.train, "p0")))
    assert float((whole - rest).norm()) > 0.04
    _, _, memory = one_update(plan, who)
    assert memory.privacy.ledger.account.unit == "film" and memory.privacy.ledger.account.patients == 20


def test_noise_is_one_draw_over_all_parameters():
    sums = {"a": torch.zeros(3, 5), "b": torch.zeros(7)}
    found = noised_sum(sums, 2.0, NoiseSource.insecure(3))
    whole = NoiseSource.insecure(3).noised(torch.zeros(22), 2.0)
    assert found["a"].shape == (3, 5) and torch.equal(torch.cat([v.flatten() for v in found.values()]), whole)


# --- refusals


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"target_epsilon": 1.0}, "exactly one of them"),
        ({"noise_multiplier": 0.0}, "exactly one of them"),
        ({"mixup": 0.2}, "blended into others"),
        ({"strategy": "scaffold", "scaffold_option": "I"}, 'use scaffold_option="II"'),
        ({"strategy": "fedbn", "norm": "batch"}, '"fedbn" trains BatchNorm layers'),
        ({"norm": "batch", "architecture": "resnet9", "size": 32}, "BatchNorm mixes the films of a batch"),
        ({"norm": "batch", "architecture": "resnet9", "size": 32, "frozen": ("body",)}, "at a public start"),
        ({"patience": 2}, "looks at validation films"),
        ({"class_weights": "balanced"}, "statistics_noise is 0"),
        ({"pixel_statistics": "private"}, "statistics_noise is 0"),
        ({**vars(HEAD), "feature_norm": "l2_centred"}, "statistics_noise is 0"),
        ({"pixel_statistics": "exact"}, "they are of private films"),
        ({"weighting": "films"}, "exact number of films"),
        ({"statistics_noise": 3.0}, "no statistic is asked for"),
        ({"augmentation_multiplicity": 2, "augmentation": "none"}, "all copies would be equal"),
        ({"privacy": "none", "pixel_statistics": "private"}, 'privacy is "none"'),
        ({"ema": 0.5, "patience": 1, "privacy": "none"}, "other weights than averaged ones"),
    ],
)
def test_what_isnt_charged_is_refused(change, sentence):
    with pytest.raises(KitError, match=sentence):
        replace(PRIVATE, **change)


def test_sites_that_a_plan_doesnt_fit_are_refused():
    with pytest.raises(KitError, match="Site A has 10 patients to train on, and batch_size"):
        Federation(replace(PRIVATE, batch_size=11), hospitals())
    with pytest.raises(KitError, match=r"delta is 0\.02; for the 10 patients of site A it may be 0\.01 at most"):
        Federation(replace(PRIVATE, delta=0.02), hospitals())
    with pytest.raises(KitError, match="fp16 scales the loss"):
        Federation(PRIVATE, hospitals(), precision="fp16")
    with pytest.raises(KitError, match=r"Layer \S+ is a Dropout: its draws"):
        who = [site("A", [0, 1, 2, 1], size=32)]
        Federation(replace(PRIVATE, architecture="vgg16", size=32, batch_size=2), who)


# --- in the federation


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "scaffold", "fedadam", "fedyogi"])
def test_every_strategy_runs_privately_in_a_secure_sum(strategy):
    run = federate(replace(PRIVATE, strategy=strategy, rounds=2), hospitals())
    assert all(r.steps == dict.fromkeys("ABC", 2) and r.losses == {} and not r.absent for r in run.rounds)
    assert all(torch.isfinite(value).all() for value in run.model.weights.values())
    wanted = epsilon([(SampledGaussian(0.5, 1.0), 4)], 1e-3)
    assert run.epsilons == pytest.approx(dict.fromkeys("ABC", wanted)) and run.largest_epsilon == max(run.epsilons.values())
    assert run.rounds[-1].epsilons == run.epsilons and run.rounds[0].epsilons["A"] < run.epsilons["A"]
    assert "ledgers end with this run" in run.notes[0]
    with pytest.raises(KitError, match="tell no training loss"):
        learning_curves({"private": run})


def test_fedprox_pulls_after_the_clipping():
    """Were its pull clipped or noised, mu would move the step by C at most."""
    plan = replace(ONE, strategy="fedprox", proximal_mu=1e4, sync_every=2, batch_size=5, learning_rate=1e-3)
    steps = {mu: flat(one_update(replace(plan, proximal_mu=mu))[0]) for mu in (0.0, 1e4)}
    first = flat(one_update(replace(plan, sync_every=1, proximal_mu=0.0))[0])
    torch.testing.assert_close(steps[1e4] - steps[0.0], -1e-3 * 1e4 * first, atol=1e-3, rtol=1e-2)


def test_nothing_exact_leaves_a_site():
    federation = Federation(PRIVATE, hospitals(), PlainSum())
    federation.run_round()
    told = {e.what for e in federation.aggregator.transcript.entries if e.sender != "server"}
    assert told == {
        "its whole contribution",
        "a number of steps and its privacy ledger's last entry and epsilon, which no film has a part in",
    }
    parts, training = federation.sites[0].update(federation.task(), federation.memories["A"])
    assert training.loss is None and training.epsilon > 0 and float(parts["weight"]) == 10  # patients, of 20 films
    assert {e.purpose for e in federation.aggregator.transcript.entries} == {"weights", "round 1 update"}  # no statistics


def test_statistics_are_charged_before_the_first_round():
    plan = replace(BUDGET, pixel_statistics="private", class_weights="balanced", statistics_noise=8.0, rounds=1, delta=1e-4)
    # So many patients that the noise, which has no seed, leaves a variance above 0 but in one run of 100,000.
    who = [hospital(name, seed, patients=600, each=1) for seed, name in enumerate("ABC")]
    federation = Federation(plan, who)
    assert federation.memories["B"].privacy.ledger.history == [(Gaussian(8.0), 1)] * 2
    exact = Federation(replace(plan, privacy="none", pixel_statistics="exact"), who)
    assert 0 < abs(federation.spec.pixel_mean - exact.spec.pixel_mean) < 0.2
    assert float(federation.class_weights.min()) > 0 and not torch.equal(federation.class_weights, exact.class_weights)
    (_,) = federation
    assert 3.9 < federation.run().largest_epsilon <= 4.0  # the rounds get what the statistics left


def test_noise_is_calibrated_to_each_hospitals_own_rate():
    who = [hospital("A", 0, 10), hospital("B", 1, 20), hospital("C", 2, 40)]
    run = federate(BUDGET, who)
    assert all(3.9 < value <= 4.0 for value in run.epsilons.values())
    multipliers = [Federation(BUDGET, who).memories[name].privacy.noise_multiplier for name in "ABC"]
    assert multipliers == sorted(multipliers, reverse=True) and multipliers[0] > multipliers[2]
