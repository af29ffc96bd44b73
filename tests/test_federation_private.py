"""Private training: what is noised, what is charged, what is refused, and what a hospital's ledger remembers."""

import math
import multiprocessing
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from primia_kit.data import FilmSet
from primia_kit.errors import KitError
from primia_kit.federation import Federation, Site, federate, trainable
from primia_kit.federation import private as module
from primia_kit.federation.device import CPU
from primia_kit.federation.private import Units, _FilmStep, noised_sum
from primia_kit.federation.site import _workspace
from primia_kit.federation.trainable import trained_head
from primia_kit.figures import learning_curves
from primia_kit.models import feature_extractor, weights_sha256
from primia_kit.privacy import Gaussian, Ledger, NoiseSource, SampledGaussian, epsilon
from primia_kit.privacy.gradients import FilmGradients, clipped_sum
from primia_kit.secagg import PlainSum

from .noise_sites import PLAN, films, site

pytestmark = pytest.mark.usefixtures("one_thread")

PRIVATE = replace(
    PLAN, size=16, rounds=3, sync_every=2, batch_size=5, privacy="patient", noise_multiplier=1.0, delta=1e-3,
    pixel_statistics="public", weighting="patients",
)  # fmt: skip
BUDGET = replace(PRIVATE, noise_multiplier=0.0, target_epsilon=4.0)
HEAD = replace(PRIVATE, frozen=("body",), augmentation="none")
# One step of plain SGD at rate 1 from everybody: what a site sends is -(S + noise) / B, times its weight.
ONE = replace(
    PRIVATE, sync_every=1, rounds=1, batch_size=10, learning_rate=1.0, momentum=0.0, weight_decay=0.0, schedule="constant",
    weighting="uniform", clipping_norm=0.7,
)  # fmt: skip


def hospital(name, seed=0, patients=10, each=2):
    """Every patient has `each` films."""
    count = patients * each
    return site(name, [i % 3 for i in range(count)], seed, size=16, patients=[f"p{i // each}" for i in range(count)])


def hospitals(names="ABC"):
    return [hospital(name, seed) for seed, name in enumerate(names)]


class Fixed(NoiseSource):
    """A test double: samples whom it is told, and adds no noise."""

    def __init__(self, sampled=None):
        self.sampled = sampled

    def bernoulli(self, n, q):
        return torch.ones(n, dtype=torch.bool).numpy() if self.sampled is None else torch.tensor(self.sampled).numpy()

    def noised(self, values, std):
        return values.clone()


def one_update(plan, who=None, source=None):
    """The parts that a site sends after one round, and its ledger."""
    who = who or hospital("A")
    federation = Federation(plan, [who])
    memory = federation.memories["A"]
    memory.privacy.source = source or NoiseSource.insecure(1)
    parts, training = who.update(federation.task(), memory)
    return parts, training, memory


def flat(parts):
    return torch.cat([value.flatten() for name, value in parts.items() if name != "weight"]).double()


def sum_by_hand(plan, who, sampled):
    """S of the sampled patients at the first weights, by another way than `train_privately`'s."""
    federation = Federation(plan, [who])
    network, spec = federation.spec.build_with(federation.weights), federation.spec
    people = [
        (spec.normalise(who.train.images[chosen]), who.train.labels[chosen])
        for unit, chosen in enumerate(Units(who.train, "patient").films)
        if sampled[unit]
    ]
    return clipped_sum(FilmGradients(network), people, plan.clipping_norm, 8).sums


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


# --- the last layer alone


@pytest.mark.parametrize("norm", ["l2", "l2_centred"])
def test_the_fast_path_for_the_last_layer_is_the_slow_one(monkeypatch, norm):
    plan = replace(HEAD, feature_norm=norm, statistics_noise=float(norm == "l2_centred"), sync_every=3)
    monkeypatch.setattr(NoiseSource, "noised", lambda self, values, std: values)
    fast, _, memory = one_update(plan)
    assert memory.features.shape == (20, 500) and fast.keys() == {"weight", "fc2.weight", "fc2.bias"}
    torch.testing.assert_close(memory.features.norm(dim=1), torch.full((20,), {"l2": 1.0, "l2_centred": 2.0}[norm]))
    monkeypatch.setattr("primia_kit.federation.site.trained_head", lambda network, plan: None)
    slow, _, memory = one_update(plan)
    assert memory.features is None
    torch.testing.assert_close(flat(fast), flat(slow), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("norm", ["none", "l2_centred"])
def test_the_same_recipe_without_privacy_uses_the_features_too(monkeypatch, norm):
    plan = replace(HEAD, privacy="none", rounds=2, feature_norm=norm)
    who = hospitals()
    fast = federate(plan, who, aggregator=PlainSum())
    assert all(r.losses.keys() == set("ABC") and not r.epsilons for r in fast.rounds) and fast.largest_epsilon is None
    monkeypatch.setattr("primia_kit.federation.site.trained_head", lambda network, plan: None)
    slow = federate(plan, who, aggregator=PlainSum())
    for name, weights in slow.model.weights.items():
        torch.testing.assert_close(fast.model.weights[name], weights, atol=1e-5, rtol=1e-3)
    start = Federation(plan, who).weights
    assert all(torch.equal(weights, start[name]) == (not name.startswith("fc2")) for name, weights in slow.model.weights.items())


def unit_features(run, films):
    network = feature_extractor(run.model.network())
    return F.normalize(network(run.model.spec.normalise(films.images)), dim=1)


def test_the_center_is_the_mean_over_all_films():
    who = [hospital("A", 0), hospital("B", 1, patients=4), hospital("C", 2)]
    run = federate(replace(HEAD, privacy="none", feature_norm="l2_centred"), who)
    everybody = torch.cat([unit_features(run, hospital.train) for hospital in who])
    torch.testing.assert_close(run.model.weights["fc2.center"], everybody.mean(0), atol=1e-5, rtol=0)
    layer, features = run.model.network().fc2, everybody[:3]
    torch.testing.assert_close(layer(5 * features), F.linear(2 * F.normalize(features - layer.center), layer.weight, layer.bias))


def test_a_private_center_is_noised_and_charged(monkeypatch, tmp_path):
    """Patients count alike, each moves the sum by 1 at most, and the ledger has it before the first round."""
    plan = replace(HEAD, feature_norm="l2_centred", statistics_noise=3.0)
    who = [
        hospital("A", 0),
        site("B", [i % 3 for i in range(20)], 1, size=16, patients=["p0"] * 11 + [f"p{i}" for i in range(1, 10)]),
    ]
    asked = []

    def noised(self, values, std):
        asked.append(std)
        return values

    monkeypatch.setattr(NoiseSource, "noised", noised)
    run = federate(plan, who, aggregator=PlainSum(), ledgers=tmp_path)
    assert asked[:2] == [3.0, 3.0]
    rows = []
    for hospital_ in who:
        features = unit_features(run, hospital_.train)
        for patient in dict.fromkeys(hospital_.train.patients):
            rows.append(features[[p == patient for p in hospital_.train.patients]].mean(0))
    torch.testing.assert_close(run.model.weights["fc2.center"], torch.stack(rows).mean(0), atol=1e-5, rtol=0)
    assert Ledger.open(tmp_path / "A").history[0] == (Gaussian(3.0), 1)
    with pytest.raises(KitError, match="needs features that never change"):
        replace(plan, augmentation="shift")


def test_a_noised_center_is_never_longer_than_features_are():
    plan = replace(HEAD, feature_norm="l2_centred", statistics_noise=1000.0)
    assert float(Federation(plan, hospitals()).weights["fc2.center"].norm()) == pytest.approx(1)


def test_a_resumed_run_keeps_its_center(tmp_path):
    plan = replace(HEAD, feature_norm="l2_centred", statistics_noise=1.0)
    first = Federation(plan, hospitals(), checkpoints=tmp_path)
    first.run_round()
    again = Federation(plan, hospitals(), checkpoints=tmp_path)
    assert torch.equal(again.weights["fc2.center"], first.weights["fc2.center"])
    assert len(again.memories["A"].privacy.ledger.history) == 2  # the center isn't charged twice


def test_features_are_worked_out_once_for_all_runs(monkeypatch):
    who, made = hospitals(), []
    monkeypatch.setattr(
        trainable, "feature_extractor", lambda network: made.append(CountedCalls(feature_extractor(network))) or made[-1]
    )
    for seed in (0, 1):
        federate(replace(HEAD, noise_multiplier=1.0 + seed), who, aggregator=PlainSum())
    assert sum(extractor.calls for extractor in made) == 3
    federate(replace(HEAD, seed=7), who, aggregator=PlainSum())  # another body
    assert sum(extractor.calls for extractor in made) == 6
    for hospital_ in who:
        hospital_.train.images.mul_(0.5)
    federate(replace(HEAD, seed=7), who, aggregator=PlainSum())  # other films in the same memory
    assert sum(extractor.calls for extractor in made) == 9


class CountedCalls(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, x):
        self.calls += 1
        return self.network(x)


# --- start, frozen layers, averaged weights


def start_of(plan):
    weights = plan.model_spec(0.5, 0.25).build(9).state_dict()
    for name in weights:
        if name.endswith("running_mean"):
            weights[name] += 0.1
    return weights


def test_frozen_batchnorm_keeps_the_public_starts_statistics():
    plan = replace(PRIVATE, architecture="resnet9", size=32, frozen=("body",), rounds=1, batch_size=2)
    start = start_of(replace(plan, privacy="none", norm="batch"))
    plan = replace(plan, norm="batch", start=weights_sha256(start))
    who = [site(name, [0, 1, 2, 1], seed, size=32) for seed, name in enumerate("ABC")]
    run = federate(plan, who, start=start)
    for name, value in run.model.weights.items():
        assert torch.equal(value, start[name]) == (not name.startswith("fc.")), name
    with pytest.raises(KitError, match=r"Layer layer4.0.bn1 is a BatchNorm2d in training mode"):
        federate(replace(plan, frozen=("conv1", "bn1", "layer1", "layer2", "layer3")), who, start=start)


def test_a_start_is_what_the_plan_says():
    start = start_of(PRIVATE)
    named = replace(PRIVATE, start=weights_sha256(start))
    with pytest.raises(KitError, match="give them as start"):
        federate(named, hospitals())
    with pytest.raises(KitError, match="the plan's key start names none"):
        federate(PRIVATE, hospitals(), start=start)
    other = {**start, "fc2.bias": start["fc2.bias"] + 1}
    with pytest.raises(KitError, match=f"have SHA-256 {weights_sha256(other)}, and the plan's key start says"):
        federate(named, hospitals(), start=other)
    assert all(torch.equal(value, start[name]) for name, value in Federation(named, hospitals(), start=start).weights.items())


@pytest.mark.parametrize(
    ("frozen", "sentence"),
    [(("layer9",), "frozen names 'layer9'"), (("conv1", "conv2", "fc1", "fc2"), "no layer is left to train")],
)
def test_frozen_names_layers(frozen, sentence):
    with pytest.raises(KitError, match=sentence):
        Federation(replace(PLAN, size=16, frozen=frozen), hospitals())


def test_averaged_weights_are_the_models():
    plan = replace(PRIVATE, ema=0.75)
    federation, seen = Federation(plan, hospitals()), []
    for _ in federation:
        seen.append(federation.weights["fc2.bias"])
    shares = torch.tensor([0.75**2, 0.75, 1.0])
    wanted = (torch.stack(seen) * (shares / shares.sum())[:, None]).sum(0)
    torch.testing.assert_close(federation.run().model.weights["fc2.bias"], wanted)


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


def accuracy(plan):
    """Of the model that three hospitals of 60 patients train, on films of others."""
    who = [hospital(name, seed, patients=60, each=2) for seed, name in enumerate("ABC")]
    model = federate(plan, who).model
    test = films([0, 1, 2] * 10, 50, 16)
    with torch.no_grad():
        return float((model.network()(model.spec.normalise(test.images)).argmax(1) == test.labels).double().mean())


def test_private_training_learns_and_too_much_noise_stops_it():
    plan = replace(HEAD, rounds=8, sync_every=5, batch_size=20, learning_rate=0.5, delta=1e-4)
    assert accuracy(replace(plan, noise_multiplier=0.5)) > 0.9 > accuracy(replace(plan, noise_multiplier=500.0))


def test_the_head_is_told_by_what_is_trained():
    network = _workspace(Federation(HEAD, hospitals()).task(), "cpu")
    assert trained_head(network, HEAD) is network.fc2
    assert trained_head(network, replace(HEAD, augmentation="shift")) is None
    network = _workspace(Federation(PRIVATE, hospitals()).task(), "cpu")
    assert trained_head(network, replace(PRIVATE, augmentation="none")) is None
