"""The one-run audit: its bound is the paper's, holds where the claim is true, and catches claims that aren't."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia_kit.attacks.audit import AuditResult, chance_of_as_many, epsilon_lower_bound, judge
from primia_kit.errors import KitError


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
