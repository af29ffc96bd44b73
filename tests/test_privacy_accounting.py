"""ε is what two other accountants and the closed form say, composes over rounds, and bounds noise from below."""

import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from primia_kit.errors import KitError
from primia_kit.privacy import Gaussian, SampledGaussian, calibrate, epsilon, mechanism_from_dict

from .conftest import ROOT

SETTINGS = [(0.01, 1.1, 1000, 1e-5), (0.1, 1.0, 200, 1e-4), (0.05, 0.6, 300, 1e-4), (0.02, 2.0, 500, 1e-5), (1.0, 20.0, 50, 1e-5)]


def history(q, sigma, steps):
    return [(SampledGaussian(q, sigma), steps)]


@pytest.mark.parametrize(("q", "sigma", "steps", "delta"), SETTINGS)
def test_two_accountants_of_different_hands_agree(q, sigma, steps, delta):
    ours, prv = epsilon(history(q, sigma, steps), delta), epsilon(history(q, sigma, steps), delta, "prv")
    assert abs(ours - prv) <= max(0.01 * prv, 0.02)
    assert ours <= epsilon(history(q, sigma, steps), delta, "rdp") <= 1.3 * ours + 0.1


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0, 50.0])
@pytest.mark.parametrize("times", [1, 9])
def test_a_gaussian_has_the_epsilon_of_the_closed_form(sigma, times):
    """Balle & Wang 2018, Theorem 8; releases of one sum add up as 1 / σ² does."""
    one = sigma / math.sqrt(times)

    def delta_of(eps):
        return norm.cdf(0.5 / one - eps * one) - math.exp(eps) * norm.cdf(-0.5 / one - eps * one)

    exact = brentq(lambda eps: delta_of(eps) - 1e-5, 0, 300)
    assert exact <= epsilon([(Gaussian(sigma), times)], 1e-5) <= exact * 1.001 + 1e-6
    assert epsilon([(SampledGaussian(1.0, sigma), times)], 1e-5) == epsilon([(Gaussian(sigma), times)], 1e-5)


def test_the_first_accountant_of_dp_sgd_is_looser():
    """Abadi et al. 2016, section 5.1: q = 0.01, σ = 4, T = 10,000 at δ = 1e-5 is ε ≈ 1.26 by their moments accountant."""
    ours, rdp = (epsilon(history(0.01, 4, 10_000), 1e-5, accountant) for accountant in ("pld", "rdp"))
    assert 0.94 < ours < rdp < 1.26


def test_a_fresh_accountant_each_round_under_reports():
    """What a new Opacus `PrivacyEngine` each round does: it says 1.58 after the last of three rounds, and 2.58 was spent."""
    from opacus.accountants import PRVAccountant

    step, rounds, steps, delta = SampledGaussian(0.05, 1.1), 3, 40, 1e-4
    fresh = PRVAccountant()
    for _ in range(steps):
        fresh.step(noise_multiplier=step.noise_multiplier, sample_rate=step.sampling_rate)
    spent = epsilon([(step, steps)] * rounds, delta)
    assert epsilon([(step, steps)], delta) == pytest.approx(1.58, abs=0.005)
    assert fresh.get_epsilon(delta) == pytest.approx(1.58, abs=0.015)
    assert spent == pytest.approx(2.58, abs=0.005)
    assert spent == epsilon([(step, rounds * steps)], delta)


def test_what_was_spent_in_pieces_is_the_whole():
    pieces = [(Gaussian(8.0), 1), (SampledGaussian(0.1, 1.5), 10), (Gaussian(8.0), 2), (SampledGaussian(0.1, 1.5), 30)]
    whole = [(SampledGaussian(0.1, 1.5), 40), (Gaussian(8.0), 3)]
    assert epsilon(pieces, 1e-4) == epsilon(whole, 1e-4) > epsilon(whole[:1], 1e-4)


@settings(max_examples=3, deadline=None)
@given(q=st.floats(0.01, 0.3), sigma=st.floats(0.8, 4), steps=st.integers(1, 300), more=st.integers(1, 300))
def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise(q, sigma, steps, more):
    at = epsilon(history(q, sigma, steps), 1e-5)
    tiny = 1e-3 * at + 1e-6  # privacy losses are told in steps
    assert epsilon(history(q, sigma, steps + more), 1e-5) >= at - tiny
    assert epsilon(history(1.2 * q, sigma, steps), 1e-5) >= at - tiny
    assert epsilon(history(q, 1.2 * sigma, steps), 1e-5) <= at + tiny
    assert epsilon(history(q, sigma, steps), 1e-4) <= at + tiny


def test_no_release_costs_nothing_and_one_without_noise_everything():
    assert epsilon([], 1e-5) == 0
    assert epsilon([(SampledGaussian(0.1, 1.0), 5), (Gaussian(0.0), 1)], 1e-5) == math.inf
    assert epsilon([(SampledGaussian(0.1, 0.0), 1)], 1e-5) == math.inf


@pytest.mark.parametrize(("q", "sigma"), [(0.5, 1e-4), (0.5, 1e-2), (0.5, 1e6), (1e-5, 1.0), (1e-7, 0.5)])
def test_extreme_settings_are_accounted_for_in_reasonable_time_and_memory(q, sigma):
    assert 0 <= epsilon(history(q, sigma, 100), 1e-5) <= epsilon(history(q, sigma, 100), 1e-5, "rdp") < 2e12


@pytest.mark.parametrize("sigma", [0.02, 0.03, 0.04, 0.05, 0.1])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_epsilons_beyond_what_e_to_them_can_hold_are_finite(sigma, steps):
    """At q = 1, steps releases at sigma are one at sigma / sqrt(steps); the bound lies above its epsilon."""
    from dp_accounting import get_epsilon_gaussian

    found = epsilon(history(1.0, sigma, steps), 1e-5)
    assert 0.999 * get_epsilon_gaussian(sigma / steps**0.5, 1e-5) <= found < math.inf


@pytest.mark.parametrize(("target", "delta", "q", "steps"), [(8, 1e-4, 0.1, 200), (1, 1e-5, 0.02, 500), (0.1, 1e-5, 1.0, 10)])
def test_calibrated_noise_is_enough_and_little_less_isnt(target, delta, q, steps):
    sigma = calibrate(target, delta, q, steps)
    assert epsilon(history(q, sigma, steps), delta) <= target
    assert epsilon(history(q, sigma / 1.0012, steps), delta) > target


def test_calibration_counts_what_was_spent_before():
    before = [(Gaussian(4.0), 1)]
    sigma = calibrate(3.0, 1e-4, 0.1, 100, before)
    assert sigma > calibrate(3.0, 1e-4, 0.1, 100)
    assert epsilon([*before, (SampledGaussian(0.1, sigma), 100)], 1e-4) <= 3.0
    with pytest.raises(KitError, match=r"No noise is enough: epsilon 0.77\d* was spent before, of a target of 0.5"):
        calibrate(0.5, 1e-4, 0.1, 100, before)


@pytest.mark.parametrize("mechanism", [Gaussian(1.5), Gaussian(0.0), SampledGaussian(0.05, 1.1)])
def test_mechanisms_can_be_stored(mechanism):
    assert mechanism_from_dict(mechanism.to_dict()) == mechanism


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Gaussian(-1.0), "noise multiplier is -1"),
        (lambda: Gaussian(math.nan), "noise multiplier is nan"),
        (lambda: Gaussian(math.inf), "noise multiplier is inf"),
        (lambda: SampledGaussian(1.1, 1.0), "sampling rate is 1.1"),
        (lambda: SampledGaussian(0.0, 1.0), "sampling rate is 0"),
        (lambda: SampledGaussian(math.nan, 1.0), "sampling rate is nan"),
        (lambda: SampledGaussian(0.1, -0.1), "noise multiplier is -0.1"),
        (lambda: mechanism_from_dict({"kind": "gausian", "noise_multiplier": 1.0}), r"'gausian' \(did you mean 'gaussian'\?\)"),
        (lambda: mechanism_from_dict({"kind": "gaussian", "sigma": 1.0}), "other numbers"),
        (lambda: epsilon([(Gaussian(1.0), 1)], 0.0), "Delta is 0"),
        (lambda: epsilon([(Gaussian(1.0), 1)], 1.0), "Delta is 1"),
        (lambda: epsilon([(Gaussian(1.0), 1)], math.nan), "Delta is nan"),
        (lambda: epsilon([(Gaussian(1.0), 0)], 1e-5), "applied 0 times"),
        (lambda: epsilon([(Gaussian(1.0), 1.5)], 1e-5), "applied 1.5 times"),
        (lambda: epsilon([(Gaussian(1.0), 1)], 1e-5, "gdp"), "accountant is 'gdp'"),
        (lambda: calibrate(0.0, 1e-5, 0.1, 10), "wanted epsilon is 0"),
        (lambda: calibrate(-1.0, 1e-5, 0.1, 10), "wanted epsilon is -1"),
        (lambda: calibrate(1.0, 2.0, 0.1, 10), "Delta is 2"),
        (lambda: calibrate(1.0, 1e-5, 1.5, 10), "sampling rate is 1.5"),
        (lambda: calibrate(1.0, 1e-5, 0.1, 0), "applied 0 times"),
    ],
)
def test_numbers_that_cant_be_are_refused(make, sentence):
    with pytest.raises(KitError, match=sentence):
        make()


def test_the_part_is_imported_without_heavy_packages():
    code = "import sys, primia_kit.privacy; print({'torch', 'opacus', 'dp_accounting', 'scipy', 'pandas'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "set()"
