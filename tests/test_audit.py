"""The one-run audit: its bound is the paper's, holds where the claim is true, and catches claims that aren't."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia_kit.attacks import audit_training
from primia_kit.attacks.audit import AuditResult, chance_of_as_many, epsilon_lower_bound, judge
from primia_kit.errors import KitError
from primia_kit.federation import TrainingPlan
from primia_kit.privacy import NoiseSource


@pytest.mark.parametrize(("epsilon", "needed"), [(2, 24), (6, 1211)])
def test_the_guesses_that_it_takes(epsilon, needed):
    assert epsilon_lower_bound(needed, needed) > epsilon > epsilon_lower_bound(needed - 1, needed - 1)


def test_perfect_guesses_in_closed_form():
    """q^r = 5%."""
    for r in (1, 5, 50, 1000):
        q = 0.05 ** (1 / r)
        expected = max(0.0, math.log(q / (1 - q)))
        assert epsilon_lower_bound(r, r) == pytest.approx(expected, abs=2e-4)


def test_delta_by_the_theorem_s_formula():
    """Every term summed one by one: f(v) + 2 m delta max_i (f(v - i) - f(v)) / i."""
    r, v, m, epsilon, delta = 12, 10, 40, 0.7, 1e-3
    q = math.exp(epsilon) / (1 + math.exp(epsilon))

    def f(x):
        return sum(math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(max(x, 0), r + 1))

    by_hand = f(v) + 2 * m * delta * max((f(v - i) - f(v)) / i for i in range(1, m + 1))
    assert chance_of_as_many(v, r, epsilon, m, delta) == pytest.approx(by_hand)
    assert chance_of_as_many(v, r, epsilon, m) == pytest.approx(f(v))


@given(st.integers(1, 300), st.data())
def test_the_bound_is_monotone(guesses, data):
    right = data.draw(st.integers(0, guesses))
    bound = epsilon_lower_bound(right, guesses)
    assert 0 <= bound <= epsilon_lower_bound(guesses, guesses)
    assert epsilon_lower_bound(right, guesses, 2 * guesses, 1e-4) <= bound + 1e-4
    assert epsilon_lower_bound(right, guesses, confidence=0.99) <= bound + 1e-4
    if right:
        assert epsilon_lower_bound(right - 1, guesses) <= bound + 1e-4


@pytest.mark.parametrize("guesses", [10, 100, 500])
@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1, 2])
def test_the_bound_is_above_a_fair_player_s_epsilon_in_5_percent_at_most(guesses, epsilon):
    """One who plays randomised response attains the theorem, so its chance of a bound too high is computed exactly."""
    from scipy.stats import binom

    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    refuting = [v for v in range(guesses + 1) if chance_of_as_many(v, guesses, epsilon) < 0.05]
    assert epsilon_lower_bound(refuting[0], guesses) >= epsilon - 1e-4 if refuting else guesses == 10
    if refuting and refuting[0]:
        assert epsilon_lower_bound(refuting[0] - 1, guesses) <= epsilon
    chance = binom.pmf(refuting, guesses, q).sum()
    assert chance <= 0.05 and (guesses == 10 or chance > 0.01)


def test_guesses_are_the_highest_and_the_lowest():
    scores, included = np.array([5.0, 4, 3, 2, 1, 0]), np.array([True, False, True, False, True, False])
    assert judge(scores, included, 0, 1, guesses=(2, 2)).right == 2
    assert judge(scores, included, 0, 1, guesses=(1, 1)).right == 2
    assert judge(scores, included, 0, 1, guesses=(0, 1)).guesses == 1
    assert judge(np.arange(20.0), np.arange(20) >= 10, 0, 1).guesses == 4


def test_what_an_audit_can_prove_at_most():
    result = AuditResult(canaries=500, guesses=100, right=100, delta=0.0, claimed=2.0)
    assert result.refuted and result.bound == result.most == pytest.approx(3.49, abs=0.01)
    assert not AuditResult(500, 100, 60, 0.0, claimed=2.0).refuted


def test_audits_that_mean_nothing_are_refused():
    with pytest.raises(KitError, match="1 are numbers"):
        judge(np.array([1, np.nan]), np.array([True, False]), 0, 1)
    with pytest.raises(KitError, match=r"2 \+ 1 guesses of 2"):
        judge(np.array([1.0, 2]), np.array([True, False]), 0, 1, guesses=(2, 1))
    with pytest.raises(KitError, match="No audit"):
        epsilon_lower_bound(3, 2)
    with pytest.raises(KitError, match="confidence is 95"):
        epsilon_lower_bound(2, 2, confidence=95)


# --- canaries in the kit's own private training


@pytest.fixture(scope="module")
def plan():
    """500 canaries among 500 places, 25 steps at q = 1/5: epsilon 1.98 at delta 1e-4."""
    return TrainingPlan(
        architecture="small_cnn", norm="none", size=16, privacy="patient", noise_multiplier=2.06, delta=1e-4, frozen=("body",),
        augmentation="none", pixel_statistics="public", weighting="uniform", rounds=5, batch_size=100, learning_rate=0.01,
        momentum=0.0,
    )  # fmt: skip


class Silent(NoiseSource):
    def noised(self, values, std):
        return values.clone()


class Faint(NoiseSource):
    def noised(self, values, std):
        return super().noised(values, std / 5)


class Everybody(NoiseSource):
    def bernoulli(self, n, q):
        return np.ones(n, bool)


def test_audits_of_honest_training_stay_below_the_ledger_and_above_nothing(plan):
    results = [audit_training(plan) for _ in range(20)]
    assert results[0].canaries == 500 and 1.8 < results[0].claimed < 2
    # Bounds lie near 0.5; one run in 20 may pass the true epsilon, and hundreds of audits none did.
    assert sum(result.refuted for result in results) <= 1
    assert np.median([result.bound for result in results]) > 0.2


@pytest.mark.parametrize("source", [Silent(), Faint(), Everybody()], ids=["no noise", "a fifth of it", "no sampling"])
def test_audits_catch_noise_and_sampling_that_are_not_what_the_ledger_says(plan, source):
    assert audit_training(plan, source=source).refuted


def test_audits_catch_clipping_that_is_left_out(plan, monkeypatch):
    import torch

    from primia_kit.privacy import gradients

    monkeypatch.setattr(gradients, "clip_factors", lambda norms, clipping_norm: torch.ones_like(norms))
    assert audit_training(plan).refuted


def test_coins_that_say_nothing_of_the_canaries_prove_nothing(plan, monkeypatch):
    """If the canaries never reach the sum, the audit has nothing to tell them by."""
    from primia_kit.attacks import canaries

    monkeypatch.setattr(canaries, "LOUDNESS", 1e-9)
    assert np.median([audit_training(plan).bound for _ in range(5)]) < 0.3


def test_a_hospital_s_own_films_are_trained_on_as_well(plan):
    import torch

    from primia_kit.data import FilmSet

    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(200, 1, 16, 16, generator=generator), torch.randint(0, 3, (200,), generator=generator)
    films = FilmSet(images, labels, tuple(f"p{i // 2}" for i in range(200)), plan.classes, plan.geometry)
    honest, silent = audit_training(plan, films), audit_training(plan, films, source=Silent())
    assert not honest.refuted and silent.refuted and silent.claimed < 2  # q is lower, since N is 600


def test_plans_that_the_audit_is_not_for_are_refused(plan):
    for change, sentence in (
        ({"privacy": "film"}, "patient"),
        ({"clipping": "adaptive"}, "fixed"),
        ({"frozen": ()}, "last layer alone"),
        ({"strategy": "scaffold"}, "no server"),
    ):
        with pytest.raises(KitError, match=sentence):
            audit_training(replace(plan, **change))
    with pytest.raises(KitError, match="501 canaries need a feature each, and small_cnn has 500"):
        audit_training(plan, canaries=501)


def test_an_absent_unit_counts_and_adds_nothing():
    import torch

    from primia_kit.data import FilmSet
    from primia_kit.federation.private import Units

    films = FilmSet(torch.rand(3, 1, 16, 16), torch.zeros(3, dtype=torch.int64), ("a", "b", "a"), ("x", "y"), "pad")
    units = Units(films, "patient", absent=("c", "d"))
    assert len(units) == 4 and units.present.tolist() == [False, False, True, True]
    assert [part.tolist() for part in units.films] == [[], [], [0, 2], [1]]
