"""What a private search costs: nothing on public films, all of its trials where it's charged, or the best of a random number."""

import math
import typing
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primia_kit.errors import KitError
from primia_kit.federation import LogUniform, Site, TrainingPlan, Uniform, federate, repeat_and_select, search
from primia_kit.federation import search_ways as ways
from primia_kit.federation.search_privacy import SAME_SPENDS, trial_spends
from primia_kit.federation.search_record import SearchRecord
from primia_kit.federation.validation import answer_shares
from primia_kit.privacy import Gaussian, Ledger, NoiseSource, RepeatAndSelect, SampledGaussian, epsilon
from primia_kit.privacy.accounting import _ORDERS

from .noise_sites import PLAN, films, site

pytestmark = pytest.mark.usefixtures("one_thread")

PRIVATE = replace(
    PLAN, size=16, rounds=2, sync_every=2, batch_size=5, privacy="patient", noise_multiplier=1.0, delta=1e-3, norm="none",
    pixel_statistics="public", weighting="patients", frozen=("body",), augmentation="none", validation_share=0.3,
)  # fmt: skip
SPACE = {"learning_rate": LogUniform(1e-3, 1.0), "clipping_norm": Uniform(0.1, 2.0)}
ONE = replace(PRIVATE, rounds=1)
CHARGED = {"charge": "composition", "score_noise": 4.0}


def hospital(name, seed=0, patients=24, each=2):
    """Every patient has `each` films."""
    count = patients * each
    one = site(name, [i % 3 for i in range(count)], seed, size=16, patients=[f"{name}{i // each}" for i in range(count)])
    return replace(one, test=replace(one.test, patients=tuple(f"{name} test {i}" for i in range(3))))


def hospitals():
    return [hospital(name, seed) for seed, name in enumerate("ABC")]


class Untouchable(Site):
    """Whoever looks at its films fails."""

    def update(self, *_, **__):
        raise AssertionError

    pixel_sums = class_counts = validation_sums = update


# --- what a trial spends


def test_the_keys_that_are_said_to_change_no_spend_change_none():
    """Of all texts that the plan's keys can be, beside a statistic that is charged already."""
    base, who = replace(PRIVATE, pixel_statistics="private", statistics_noise=5.0), hospital("A")
    kept, changed = set(), set()
    for key, kind in typing.get_type_hints(TrainingPlan).items():
        for value in typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ():
            try:
                plan = replace(base, **{key: value})
            except KitError:
                continue
            (kept if trial_spends(plan, who, 4.0) == trial_spends(base, who, 4.0) else changed).add(key)
    assert {"class_weights", "feature_norm"} <= changed and {"architecture", "optimizer", "strategy"} <= kept
    assert not changed & SAME_SPENDS


# --- refused


@pytest.mark.parametrize(
    ("plan", "more", "sentence"),
    [
        (PRIVATE, {}, "every trial of a search looks at films: give public films"),
        (PRIVATE, {"charge": "compositon"}, "did you mean 'composition'"),
        (PRIVATE, {"charge": "composition"}, "score_noise is 0, and trials are scored on private patients"),
        (PRIVATE, {**CHARGED, "pruning": "median"}, "what a charged trial spends mustn't depend on what it finds"),
        (PRIVATE, {**CHARGED, "public": True}, "scores are on public films, which need none"),
        (replace(PRIVATE, noise_multiplier=0.0, target_epsilon=3.0), CHARGED, "the first trial would use it up"),
        (
            replace(PRIVATE, noise="distributed", sync_every=1, min_sites=3, weighting="uniform"),
            CHARGED,
            'noise is "distributed", whose cost goes by',
        ),
        (replace(PRIVATE, delta=0.005), CHARGED, r"delta is 0\.005; for the 24 patients of site A, \d of them held out"),
        (replace(PRIVATE, validation_share=0.01), CHARGED, "sets 0 aside"),
        (PRIVATE, {**CHARGED, "space": {"batch_size": [4, 5]}, "sampler": "tpe"}, "batch_size may change what a trial spends"),
    ],
)
def test_what_isnt_covered_is_refused(plan, more, sentence, tmp_path):
    more = dict(more)
    if more.pop("public", False):
        more["public"] = [hospital("P", 9)]
    with pytest.raises(KitError, match=sentence):
        search(plan, hospitals(), more.pop("space", SPACE), trials=2, folder=tmp_path / "s", **more)
    assert not (tmp_path / "s").exists()  # nothing was begun, so nothing spent


def test_a_budget_is_kept_before_anything_is_spent(tmp_path):
    with pytest.raises(
        KitError, match=r"3 trial.s. would bring site A's ledger to epsilon \d\S+, above the .* budget of 2: nothing"
    ):
        search(PRIVATE, hospitals(), SPACE, trials=3, folder=tmp_path, budget=2.0, **CHARGED)
    assert not SearchRecord(tmp_path).ledgers.exists() and not (tmp_path / "trials").exists()


# --- public films


def test_public_films_cost_nothing_and_no_hospital_is_looked_at(tmp_path):
    private = [Untouchable(s.name, s.train, s.test) for s in hospitals()]
    public = [hospital(f"P{seed}", 10 + seed) for seed in range(2)]
    result = search(PRIVATE, private, SPACE, trials=6, folder=tmp_path, public=public, pruning="median")
    assert result.epsilons == {} and "epsilon 0" in result.cost and result.best.score > 0
    assert {s.name for s in result.sites} == {"P0", "P1"} and not SearchRecord(tmp_path).ledgers.exists()
    assert "declared public" in (tmp_path / "PRIVATE.txt").read_text()


def test_public_films_of_a_hospitals_patients_are_refused(tmp_path):
    private = hospitals()
    known = replace(hospital("P", 9), name="P")
    named = replace(known, train=replace(known.train, patients=("B3", *known.train.patients[1:])))
    copied = replace(known.train, images=torch.cat([private[1].test.images[:1], known.train.images[1:]]))
    for public, sentence in (
        (named, r"site B has 1 patient\(s\) by name too"),
        (replace(known, train=copied), r"site B has 1 film\(s\) by their pixels too"),
    ):
        with pytest.raises(KitError, match=sentence):
            search(PRIVATE, private, SPACE, trials=1, folder=tmp_path, public=[public])


# --- charged


def spends(path):
    return [(entry.mechanism, entry.count, entry.purpose) for entry in Ledger.open(path).entries]


def test_a_charged_searchs_ledgers_are_the_composition_of_all_trials(tmp_path):
    """By hand: two trials of 2 rounds x 2 steps, and a score each, whoever is held out."""
    result = search(PRIVATE, hospitals(), SPACE, trials=2, folder=tmp_path / "s", ledgers=tmp_path / "ledgers", **CHARGED)
    for one in result.sites:
        patients = len(set(one.train.patients))
        step, score = SampledGaussian(5 / patients, 1.0), Gaussian(4.0)
        rounds = [(step, 2, "round 1"), (step, 2, "round 2"), (score, 1, "search score")]
        assert spends(tmp_path / "ledgers" / one.name) == rounds * 2 and 12 < patients < 24
        wanted = epsilon([(step, 8), (score, 2)], 1e-3)
        assert result.epsilons[one.name] == pytest.approx(wanted) and wanted > 1.3 * epsilon([(step, 4), (score, 1)], 1e-3)
    assert f"{max(result.epsilons.values()):.3g}" in result.cost
    assert result.run().epsilons == result.epsilons  # paid for already


def test_trials_that_spend_differently_are_drawn_ahead(tmp_path):
    """Their values don't depend on any score, so that the composed mechanisms are fixed."""
    space = SPACE | {"batch_size": [3, 4, 5]}
    drawn = []
    for run in "xy":  # with different noise, hence other scores
        result = search(ONE, [hospital("A")], space, trials=3, folder=tmp_path / run, **CHARGED)
        drawn.append([trial.values for trial in result.trials])
    assert drawn[0] == drawn[1] and len({values["batch_size"] for values in drawn[0]}) > 1
    patients = len(set(result.sites[0].train.patients))
    wanted = [(SampledGaussian(v["batch_size"] / patients, 1.0), 2) for v in drawn[0]] + [(Gaussian(4.0), 3)]
    assert result.epsilons["A"] == pytest.approx(epsilon(wanted, 1e-3))


def test_scored_on_public_films_only_training_is_charged(tmp_path):
    private, public = hospitals(), [hospital("P", 9)]
    result = search(PRIVATE, private, SPACE, trials=2, folder=tmp_path, public=public, charge="composition")
    assert result.sites == tuple(private)  # nobody is held out
    assert result.epsilons == pytest.approx(dict.fromkeys("ABC", epsilon([(SampledGaussian(5 / 24, 1.0), 8)], 1e-3)))


def test_a_score_is_in_the_ledger_before_it_is_worked_out(tmp_path, monkeypatch):
    class Stopped(BaseException):
        pass

    def stop(*_):
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(ways, "answer_shares", stop)
        search(PRIVATE, hospitals(), SPACE, trials=1, folder=tmp_path, **CHARGED)
    before = spends(tmp_path / "ledgers" / "A")
    assert before[-1] == (Gaussian(4.0), 1, "search score") and len(before) == 3
    search(PRIVATE, hospitals(), SPACE, trials=1, folder=tmp_path, **CHARGED)  # the score is made again, and charged again
    assert spends(tmp_path / "ledgers" / "A") == [*before, before[-1]]


def test_scores_are_noised(tmp_path, monkeypatch):
    drawn, noised = [], NoiseSource.noised

    def watched(self, values, std):
        found = noised(self, values, std)
        drawn.extend([(values, found)] if std == 4.0 else [])
        return found

    monkeypatch.setattr(NoiseSource, "noised", watched)
    told, sums = [], ways.sum_over_all
    monkeypatch.setattr(ways, "sum_over_all", lambda purpose, parts, *rest: told.append(parts) or sums(purpose, parts, *rest))
    result = search(PRIVATE, hospitals(), SPACE, trials=1, folder=tmp_path, **CHARGED)
    (parts,), model = told, result.run().model
    for one, (exact, found) in zip(result.sites, drawn, strict=True):
        assert torch.equal(parts[one.name]["films"], found) and torch.equal(
            exact, answer_shares(model, one.validation, "patient")
        )
        assert float(exact.sum()) == pytest.approx(len(set(one.validation.patients)))
    noise = torch.stack([found - exact for exact, found in drawn])
    assert 1.5 < float(noise.std()) < 7 and float(noise.abs().min()) > 0  # 27 values of deviation 4


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.integers(0, 4), st.sampled_from(["patient", "film"]))
def test_one_patient_more_moves_a_score_by_one_at_most(numbers, gone, unit):
    owners = [f"p{i}" for i, number in enumerate(numbers) for _ in range(number)]
    whole = films([i % 3 for i in range(len(owners))], 3, 16, patients=owners)
    model = federate(replace(PLAN, size=16, rounds=1, frozen=("body",), augmentation="none"), [Site("A", whole, whole)]).model
    kept = [i for i, owner in enumerate(owners) if owner != f"p{gone}"]
    if unit == "film":
        kept = [i for i in range(len(owners)) if i != gone % len(owners)]
    rest = replace(whole, images=whole.images[kept], labels=whole.labels[kept], patients=tuple(owners[i] for i in kept))
    moved = answer_shares(model, whole, unit) - answer_shares(model, rest, unit)
    assert float(moved.norm()) <= 1 + 1e-12


# --- the best of a random number


def test_the_mechanism_is_what_dp_accounting_says():
    from dp_accounting.dp_event import (
        ComposedDpEvent,
        GaussianDpEvent,
        PoissonSampledDpEvent,
        RepeatAndSelectDpEvent,
        SelfComposedDpEvent,
    )
    from dp_accounting.rdp import RdpAccountant

    mechanism = RepeatAndSelect(10, 0.1, 1.2, 60, 5.0)
    step = SelfComposedDpEvent(PoissonSampledDpEvent(0.1, GaussianDpEvent(1.2)), 60)
    accountant = RdpAccountant(_ORDERS)
    accountant.compose(RepeatAndSelectDpEvent(ComposedDpEvent([step, GaussianDpEvent(5.0)]), 10.0, 1.0))
    assert epsilon([(mechanism, 1)], 1e-4) == pytest.approx(accountant.get_epsilon(1e-4), rel=1e-12)
    accountant.compose(GaussianDpEvent(3.0), 4)  # with others in the ledger: RDP as a whole
    mixed = epsilon([(Gaussian(3.0), 4), (mechanism, 1)], 1e-4)
    assert mixed == pytest.approx(accountant.get_epsilon(1e-4), rel=1e-12)
    one = [(SampledGaussian(0.1, 1.2), 60), (Gaussian(5.0), 1)]
    assert epsilon(one, 1e-4) < epsilon([(mechanism, 1)], 1e-4) < epsilon([(m, 10 * n) for m, n in one], 1e-4)


def test_it_costs_what_the_theorem_says():
    """Theorem 2 of Papernot & Steinke 2022 with eta = 1, by hand."""
    mean, delta, orders = 7, 1e-4, np.array(_ORDERS, float)
    one = orders / (2 * 2.0**2) * 5  # five Gaussians of multiplier 2
    least = 2 * np.min((1 - 1 / orders) * one + math.log(mean) / orders)
    best = one + math.log(mean) / (orders - 1) + least
    best = np.minimum.accumulate(best[::-1])[::-1]  # divergences grow with their order
    wanted = np.min(best + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1))
    assert epsilon([(RepeatAndSelect(mean, 1.0, 2.0, 5, 0.0), 1)], delta) == pytest.approx(wanted, rel=1e-6)


def best_of_geometric(probabilities, mean):
    """The distribution of the best of K outputs (ordered worst to best), K geometric: E[F(y)^K] is known in closed form."""
    below = np.concatenate([[0.0], np.cumsum(probabilities)])
    generating = below / mean / (1 - (1 - 1 / mean) * below)
    return np.diff(generating)


@pytest.mark.parametrize("mean", [1, 3, 20])
def test_the_bound_holds_for_a_mechanism_whose_best_is_known_exactly(mean):
    """Rounded Gaussians at 0 and at 1, the best of K: an exact divergence, which the bound must not undercut."""
    from scipy.stats import norm

    edges, delta, orders = np.arange(-12, 13.25, 0.25), 1e-4, np.array(_ORDERS, float)
    one = [np.diff(norm.cdf(edges - shift, scale=2.0)) for shift in (0.0, 1.0)]
    one = [p / p.sum() for p in one]
    best = [best_of_geometric(p, mean) for p in one]
    exact = max(_epsilon_of(best[a], best[b], delta) for a, b in ((0, 1), (1, 0)))
    bound = epsilon([(RepeatAndSelect(mean, 1.0, 2.0, 1, 0.0), 1)], delta)
    assert exact <= bound < 4 * exact + 2 and len(orders) > 60
    if mean > 1:
        assert exact > _epsilon_of(*one, delta)  # choosing does cost


def _epsilon_of(p, q, delta):
    """The least ε at δ of two discrete distributions, by bisection."""
    lo, hi = 0.0, 50.0
    for _ in range(60):
        middle = (lo + hi) / 2
        lo, hi = (lo, middle) if np.maximum(p - np.exp(middle) * q, 0).sum() <= delta else (middle, hi)
    return hi


SELECT = {"mean_trials": 2, "score_noise": 4.0}


def test_a_hospital_alone_selects_and_is_charged_once(tmp_path):
    one = hospital("A")
    result = repeat_and_select(ONE, one, SPACE, ledgers=tmp_path, **SELECT)
    patients = len(set(one.held_out(ONE).train.patients))
    mechanism = RepeatAndSelect(2, 5 / patients, 1.0, 2, 4.0)
    assert spends(tmp_path / "A") == [(mechanism, 1, "repeat and select")]
    assert result.epsilon == result.run.epsilons["A"] == pytest.approx(epsilon([(mechanism, 1)], 1e-3))
    assert result.run.plan == result.plan != ONE and all(r.epsilons == {} == r.ledger_heads for r in result.run.rounds)
    assert -1 <= result.score <= 1
    again = repeat_and_select(ONE, one, SPACE, ledgers=tmp_path, **SELECT)
    assert len(spends(tmp_path / "A")) == 2 and again.epsilon > result.epsilon


def test_what_the_theorem_doesnt_cover_is_refused(tmp_path):
    for plan, where, space, more, sentence in (
        (ONE, hospitals(), SPACE, SELECT, "for one hospital alone"),
        (ONE, hospital("A"), {"batch_size": [4, 5]}, SELECT, "batch_size may change what a trial spends"),
        (ONE, hospital("A"), SPACE, {"mean_trials": 2}, "score_noise is 0"),
        (ONE, hospital("A"), SPACE, {**SELECT, "mean_trials": 0}, "mean is 0"),
        (replace(ONE, privacy="none", noise_multiplier=0.0), hospital("A"), SPACE, SELECT, "only a private search"),
        (replace(ONE, class_weights="balanced", statistics_noise=5.0), hospital("A"), SPACE, SELECT, "isn't covered here"),
        (ONE, hospital("A"), SPACE, {**SELECT, "metric": "auc"}, "in clear"),
    ):
        with pytest.raises(KitError, match=sentence):
            repeat_and_select(plan, where, space, ledgers=tmp_path, **more)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def module():
    """The module, whose name the function has taken in the package."""
    import sys

    return sys.modules["primia_kit.federation.repeat_and_select"]


def test_the_search_is_charged_before_its_first_trial_and_only_the_best_comes_out(tmp_path, module, monkeypatch):
    one, made = hospital("A"), []
    run = federate(ONE, [one.held_out(ONE)])

    class Spent:
        def spend(self, mechanism, **_):
            charged.append(mechanism)

        def epsilon(self):
            return 1.0

    def trial(plan, *_):
        assert len(charged) == len(counts) + 1
        made.append(module._Trial((len(made) % 3 / 3 if len(made) % 4 else -math.inf, str(len(made))), plan, run, ""))
        return made[-1]

    monkeypatch.setattr(module, "_trial", trial)
    monkeypatch.setattr(module, "_ledger", lambda *_: Spent())
    charged, counts = [], []
    while len(counts) < 400:
        made.clear()
        result = repeat_and_select(ONE, one, SPACE, ledgers=tmp_path, mean_trials=3, score_noise=4.0)
        counts.append(len(made))
        assert result.score == max(t.order for t in made)[0]
    assert set(charged) == {RepeatAndSelect(3, charged[0].sampling_rate, 1.0, 2, 4.0)}
    # K is geometric with mean 3: P[K = k] = (2/3)^(k-1) / 3. Chi-square of 5 cells, 4 degrees: above 30 in 1 of 200,000.
    found = Counter(min(k, 5) for k in counts)
    wanted = {k: 400 * (2 / 3) ** (k - 1) / (3 if k < 5 else 1) for k in range(1, 6)}
    assert sum((found[k] - w) ** 2 / w for k, w in wanted.items()) < 30


def test_a_failing_trial_is_a_result_like_any_other(tmp_path, module, monkeypatch):
    def fail(*_, **__):
        raise KitError("It diverged.")

    monkeypatch.setattr(module, "federate", fail)
    with pytest.raises(KitError, match="Even the best trial failed: It diverged"):
        repeat_and_select(ONE, hospital("A"), SPACE, ledgers=tmp_path, **SELECT)
    assert len(spends(tmp_path / "A")) == 1
