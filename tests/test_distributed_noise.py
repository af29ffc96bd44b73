"""Shares of discrete noise: their distribution, what their sum is accounted as, and what a patient can change in it."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from primia_kit.errors import KitError
from primia_kit.privacy import (
    DistributedNoise,
    Gaussian,
    NoiseSource,
    SampledDiscreteGaussian,
    SampledGaussian,
    calibrate,
    epsilon,
    mechanism_from_dict,
)
from primia_kit.privacy import distributed as module
from primia_kit.privacy.discrete_gaussian import NARROWEST, WIDEST, _table, discrete_gaussian, largest, variance
from primia_kit.privacy.distributed import most_sampled

TERMS = DistributedNoise.fitted(1.0, 0.5, 300, shares=2, sites=3, sampled=100)


# --- the noise of a share


def base_chances(width):
    """P(X = k) of k from -14 w to 14 w, as the table's thresholds tell it."""
    reached = [0, *_table(width).thresholds, 1 << 128]
    return np.array([(b - a) / 2.0**128 for a, b in pairwise(reached)])


@pytest.mark.parametrize("width", [NARROWEST, 50, WIDEST])
def test_the_table_holds_a_discrete_gaussian(width):
    k = np.arange(-14 * width, 14 * width + 1)
    wanted = np.exp(-(k**2) / (2 * width**2))
    np.testing.assert_allclose(base_chances(width), wanted / wanted.sum(), rtol=1e-12, atol=2.0**-127)


def test_three_draws_make_a_discrete_gaussian():
    """Exactly: the chances of all that X_0 + B X_1 + B^2 X_2 can be, added up."""
    chances, base = base_chances(NARROWEST), NARROWEST // 2

    def stretched(p):
        out = np.zeros((len(p) - 1) * base + 1)
        out[::base] = p
        return out

    found = np.convolve(chances, stretched(np.convolve(chances, stretched(chances))))
    k = np.arange(len(found)) - len(found) // 2
    sigma = math.sqrt(variance(NARROWEST))
    wanted = np.exp(-((k / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
    inner = np.abs(k) < 6 * sigma
    assert len(found) // 2 == largest(NARROWEST)
    np.testing.assert_allclose(found[inner], wanted[inner], rtol=1e-11)


def test_a_base_too_large_for_the_table_is_caught():
    """With B = w the sum of two draws isn't a discrete Gaussian: what the one-half in B = w / 2 is for."""
    chances = base_chances(NARROWEST)
    out = np.zeros((len(chances) - 1) * 2 * NARROWEST + 1)
    out[:: 2 * NARROWEST] = chances
    found = np.convolve(chances, out)
    middle = found[len(found) // 2 - 200 : len(found) // 2 + 200]
    assert middle.max() / middle.min() > 1.01


@pytest.mark.parametrize("width", [NARROWEST, WIDEST])
def test_draws_follow_the_table(width):
    draws = _table(width).draw(NoiseSource.insecure(3), 200_000)
    edges = np.linspace(-3 * width, 3 * width, 61).astype(int)  # bins of whole numbers
    counts = np.histogram(draws, [-np.inf, *(edges - 0.5), np.inf])[0]
    below = np.concatenate([[0], np.cumsum(base_chances(width))])
    cuts = np.concatenate([[0], below[edges + 14 * width], [1]])
    assert stats.chisquare(counts, np.diff(cuts) * len(draws), sum_check=False).pvalue > 0.001


@pytest.mark.parametrize("width", [NARROWEST, 134, WIDEST])
def test_shares_are_normal_but_whole(width):
    noise = discrete_gaussian(NoiseSource.insecure(1), 200_000, width)
    assert noise.dtype == np.int64 and abs(noise).max() <= largest(width)
    scaled = noise / math.sqrt(variance(width))
    assert stats.kstest(scaled, "norm").pvalue > 0.01
    assert abs(scaled.mean()) < 4 / math.sqrt(len(noise)) and abs(scaled.var() - 1) < 4 * math.sqrt(2 / len(noise))
    assert abs(stats.kurtosis(scaled)) < 4 * math.sqrt(24 / len(noise))
    for modulus in (2, 3, 16):  # the last digits are uniform
        assert stats.chisquare(np.bincount(noise % modulus)).pvalue > 0.001
    assert abs((scaled[1:] * scaled[:-1]).mean()) < 4 / math.sqrt(len(noise))


def test_a_word_that_equals_a_threshold_is_decided_by_64_more_bits():
    table = _table(50)
    index = 700  # of the middle one
    first, second = table.thresholds[index] >> 64, table.thresholds[index] & (2**64 - 1)

    class Chosen(NoiseSource):
        def __init__(self, *words):
            self.words = list(words)

        def uniform_words(self, n):
            return np.array([self.words.pop(0) for _ in range(n)], np.uint64)

    assert 0 < second < 2**64 - 1
    below = [int(table.draw(Chosen(first, word), 1)[0]) for word in (second - 1, 0)]
    above = [int(table.draw(Chosen(first, word), 1)[0]) for word in (second, 2**64 - 1)]
    assert below == [index - 700] * 2 and above == [index - 699] * 2
    assert table.draw(Chosen(first - 1, first + 1), 2).tolist() == [index - 700, index - 699]


def test_noise_is_never_the_same_twice():
    assert not np.array_equal(*(discrete_gaussian(NoiseSource(), 50, 64) for _ in range(2)))


@pytest.mark.parametrize("width", [0, 33, 30, 514])
def test_widths_that_the_proof_doesnt_cover_are_refused(width):
    with pytest.raises(KitError, match=f"width is {width}"):
        discrete_gaussian(NoiseSource(), 1, width)


# --- what the sum is accounted as


def discrete(mu, shift=0, reach=14):
    """P(N = k - shift) of k from -reach to reach deviations."""
    k = np.arange(-math.ceil(reach * math.sqrt(mu)), math.ceil(reach * math.sqrt(mu)) + 1)
    return np.exp(-((k - shift) ** 2) / (2 * mu)) / math.sqrt(2 * math.pi * mu)


@pytest.mark.parametrize("mu", [100, 1000, 10_000])
def test_the_distance_from_a_rounded_gaussian_is_what_the_proof_says(mu):
    """Its steps b and c, against the exact squared Hellinger distance of one value."""
    p, k = discrete(mu), np.arange(-math.ceil(14 * math.sqrt(mu)), math.ceil(14 * math.sqrt(mu)) + 1)
    a = k / mu
    u, weights = np.polynomial.legendre.leggauss(12)
    ratio = (np.exp(-(u / 2 * a[:, None]) - u**2 / (8 * mu)) * weights / 2).sum(1)  # P(G = k) / P(N = k)
    exact = float((p * (np.sqrt(ratio) - 1) ** 2).sum() / 2)
    assert 0.0004 / mu**2 < exact < 0.0055 / mu**2
    assert (np.abs(np.log(ratio)) <= (3 + k**2 / mu) / (24 * mu) + 1e-15).all()


def hockey_stick(p, q, eps):
    return max(float(np.maximum(p - math.exp(eps) * q, 0).sum()), float(np.maximum(q - math.exp(eps) * p, 0).sum()))


@pytest.mark.parametrize(("rate", "multiplier", "delta"), [(1, 1.0, 1e-3), (1, 3.0, 1e-2), (0.2, 0.8, 1e-3), (0.5, 2.0, 1e-3)])
def test_epsilon_bounds_the_exact_divergence_and_little_less_doesnt(rate, multiplier, delta):
    mu = 40_000
    shift = round(math.sqrt(mu) / multiplier)
    without = discrete(mu)
    with_one = (1 - rate) * without + rate * discrete(mu, shift)
    eps = epsilon([(SampledDiscreteGaussian(rate, math.sqrt(mu) / shift, 1, mu), 1)], delta)
    assert hockey_stick(with_one, without, eps) <= delta < hockey_stick(with_one, without, 0.97 * eps)


@pytest.mark.parametrize("rate", [1.0, 0.3])
@pytest.mark.parametrize("shift", [(100, 0), (80, 60), (-36, 93)])
def test_epsilon_bounds_the_exact_divergence_of_two_values(rate, shift):
    """A patient's vector of norm 100 in two dimensions, wherever it points."""
    mu, delta = 10_000, 2e-3
    without = np.outer(discrete(mu, reach=7), discrete(mu, reach=7))
    with_one = (1 - rate) * without + rate * np.outer(*(discrete(mu, s, reach=7) for s in shift))
    norm = math.hypot(*shift)
    eps = epsilon([(SampledDiscreteGaussian(rate, math.sqrt(mu) / norm, 2, mu), 1)], delta)
    assert hockey_stick(with_one, without, eps) <= delta < hockey_stick(with_one, without, 0.95 * eps)


def test_two_releases_compose():
    mu, delta, rate, shift = 10_000, 2e-3, 0.4, 100
    without, once = discrete(mu, reach=7), 0.6 * discrete(mu, reach=7) + 0.4 * discrete(mu, shift, reach=7)
    eps = epsilon([(SampledDiscreteGaussian(rate, 1.0, 1, mu), 2)], delta)
    exact = hockey_stick(np.outer(once, once), np.outer(without, without), eps)
    assert exact <= delta < hockey_stick(np.outer(once, once), np.outer(without, without), 0.95 * eps)


@pytest.mark.parametrize(("rate", "steps"), [(1.0, 20), (0.1, 200)])
def test_at_the_kits_widths_it_is_a_gaussians_epsilon(rate, steps):
    terms = DistributedNoise.fitted(3.0, 1.0, 308_000, shares=2, sites=3, sampled=200)
    found = epsilon([(terms.mechanism(rate), steps)], 1e-4)
    gaussian = epsilon([(SampledGaussian(rate, 3.0), steps)], 1e-4)
    assert gaussian <= found <= gaussian * (1 + 1e-4)
    assert found <= epsilon([(terms.mechanism(rate), steps)], 1e-4, "rdp") <= 1.3 * found + 0.1


def test_the_concentrated_bound_of_the_discrete_gaussian_agrees():
    """Kairouz, Liu & Steinke 2021, by another way than a distance: D_a <= a K^2 / (2 mu) for every order a, with nothing to
    speak of for summing (their tau). So ε <= min over a of that and log(1 / δ) / (a - 1), and more."""
    terms = DistributedNoise.fitted(4.0, 1.0, 5000, shares=2, sites=3, sampled=200)
    found, delta = epsilon([(terms.mechanism(1.0), 30)], 1e-5), 1e-5
    rho = 30 * terms.squared_bound / (2 * terms.shares * terms.share_variance)
    orders = np.linspace(1.01, 50, 5000)
    by_rdp = (orders * rho + np.log(1 / delta) / (orders - 1) + np.log1p(-1 / orders)).min()
    assert found <= by_rdp <= 1.3 * found


def test_the_distance_counts():
    """As the noise gets coarser, more is added for it, and where it can't be told from δ nothing is promised."""
    history = {mu: [(SampledDiscreteGaussian(1.0, 6.0, 10**6, mu), 10)] for mu in (10**11, 10**8, 6 * 10**7, 10**5)}
    found = [epsilon(h, 1e-4) for h in history.values()]
    gaussian = epsilon([(Gaussian(6.0), 10)], 1e-4)
    assert gaussian < found[1] < found[2] < found[3] == math.inf and found[0] == pytest.approx(gaussian, rel=1e-4)
    assert epsilon(history[10**8], 1e-4, "rdp") > epsilon([(Gaussian(6.0), 10)], 1e-4, "rdp")
    gap = math.sqrt(10 * 10**6) / (8 * 10**8)
    assert epsilon([(Gaussian(6.0), 10)], 1e-4 - (1 + math.exp(found[1])) * gap) == pytest.approx(found[1], rel=1e-3)


def test_a_history_of_both_kinds_is_one():
    terms = DistributedNoise.fitted(3.0, 1.0, 5000, shares=2, sites=3, sampled=200)
    local = [(Gaussian(8.0), 2), (SampledGaussian(0.1, 1.5), 30)]
    both = epsilon([*local, (terms.mechanism(0.1), 30)], 1e-4)
    assert both == pytest.approx(epsilon([*local, (SampledGaussian(0.1, 3.0), 30)], 1e-4), rel=1e-4)
    assert both > epsilon(local, 1e-4)
    with pytest.raises(KitError, match="Gaussian mechanisms alone"):
        epsilon([(terms.mechanism(0.1), 30)], 1e-4, "prv")


def test_noise_is_calibrated_with_its_distance():
    def step(sigma):
        return SampledDiscreteGaussian(1.0, sigma, 10**6, 10**8)

    sigma = calibrate(2.0, 1e-4, 1.0, 5, mechanism=step)
    assert epsilon([(step(sigma), 5)], 1e-4) <= 2.0 < epsilon([(step(sigma / 1.002), 5)], 1e-4)
    assert sigma > 1.01 * calibrate(2.0, 1e-4, 1.0, 5)


def test_the_mechanism_can_be_stored():
    mechanism = TERMS.mechanism(0.25)
    assert mechanism_from_dict(mechanism.to_dict()) == mechanism and mechanism.is_private


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SampledDiscreteGaussian(0.0, 1.0, 5, 10**6), "sampling rate is 0"),
        (lambda: SampledDiscreteGaussian(0.5, -1.0, 5, 10**6), "noise multiplier is -1"),
        (lambda: SampledDiscreteGaussian(0.5, 1.0, 0, 10**6), "values is 0"),
        (lambda: SampledDiscreteGaussian(0.5, 1.0, 5, 9999), "variance is 9999"),
        (lambda: SampledDiscreteGaussian(0.5, 1.0, 5, 1e6), "variance is 1000000.0"),
        (lambda: replace(TERMS, noise_multiplier=0.0), "finite one above 0"),
        (lambda: replace(TERMS, noise_multiplier=1e9), "whole numbers too coarse for 300 parameters"),
        (lambda: replace(TERMS, shares=0), "0 shares"),
        (lambda: DistributedNoise.fitted(1e-3, 1.0, 300, shares=2, sites=3, sampled=10**4), "could leave 32 bits"),
    ],
)
def test_terms_that_cant_be_are_refused(make, sentence):
    with pytest.raises(KitError, match=sentence):
        make()


# --- what a patient can change


def test_shares_of_the_honest_make_up_for_the_multiplier():
    for shares in (2, 3, 7):
        terms = DistributedNoise.fitted(1.3, 0.5, 300, shares=shares, sites=8, sampled=100)
        mechanism = terms.mechanism(1.0)
        assert mechanism.variance == shares * variance(terms.width)
        assert 1.3 <= mechanism.noise_multiplier <= 1.3 * (1 + 1e-9)
        assert terms.mechanism(1.0, 1).noise_multiplier == pytest.approx(1.3 / math.sqrt(shares))


@pytest.mark.parametrize(("multiplier", "sites", "sampled"), [(1.0, 3, 100), (0.2, 50, 400), (10.0, 3, 1000), (0.5, 255, 50)])
def test_the_finest_terms_dont_wrap_round(multiplier, sites, sampled):
    terms = DistributedNoise.fitted(multiplier, 1.0, 300, shares=2, sites=sites, sampled=sampled)
    patients = sampled * math.sqrt(terms.squared_bound)
    assert sites * (patients + largest(terms.width)) < 2**31
    if terms.width < WIDEST:
        wider = replace(terms, width=terms.width + 2)
        assert sites * (sampled * math.sqrt(wider.squared_bound) + largest(wider.width)) > 2**31 * 0.999


def test_a_sample_is_larger_than_planned_with_a_chance_of_2_to_the_minus_100():
    for units, expected in ((800, 32), (50_000, 1000), (100, 100), (10, 5)):
        most = most_sampled(units, expected)
        assert expected <= most <= units
        assert stats.binom.logsf(most, units, expected / units) <= -100 * math.log(2)
    assert most_sampled(800, 32) < 130


@dataclass(frozen=True)
class Unchecked(DistributedNoise):
    """A mutant: rounding without the check."""

    def rounded(self, gradient, source):
        scaled = gradient * self.scale * min(1, self.clipping_norm / np.linalg.norm(gradient))
        return np.floor(scaled + source.uniform_words(len(gradient)) / 2.0**64).astype(np.int64)


def coarse(kind=DistributedNoise, values=400):
    """Terms in which K is about √values: rounding is as long as the vector."""
    width = NARROWEST
    return kind(math.sqrt(2 * variance(width) / (1.01 * values)), 1.0, values, 2, width)


def worst_gradient(terms):
    """Halves everywhere, as long as can be: rounding changes its norm most."""
    length, values = terms.scale * terms.clipping_norm, terms.values
    larger = round((length**2 - values / 4) / 2)
    scaled = np.where(np.arange(values) < larger, 1.5, 0.5)
    return scaled / terms.scale


def longest(kind, draws=300):
    terms = coarse(kind)
    source, gradient = NoiseSource.insecure(5), worst_gradient(terms)
    found = [terms.rounded(gradient, source) for _ in range(draws)]
    return max(int(r @ r) for r in found) / terms.squared_bound


def test_no_rounded_vector_is_longer_than_its_bound():
    assert 0.98 < longest(DistributedNoise) <= 1


def test_rounding_without_the_check_is_caught():
    assert longest(Unchecked) > 1


def test_where_rounding_fails_again_and_again_it_rounds_towards_zero(monkeypatch):
    terms = coarse()
    monkeypatch.setattr(module, "_TRIES", 0)
    found = terms.rounded(worst_gradient(terms), NoiseSource())
    assert set(found.tolist()) <= {0, 1} and 0 < found @ found <= terms.squared_bound


@settings(max_examples=100, deadline=None)
@given(
    size=st.floats(-6, 6), seed=st.integers(0, 1000), spikes=st.integers(0, 3), shares=st.integers(1, 5),
    kind=st.sampled_from(["float32", "float64"]), terms=st.sampled_from([TERMS, coarse(values=300)]),
)  # fmt: skip
def test_a_patient_adds_k_at_most(size, seed, spikes, shares, kind, terms):
    """Whatever the gradient: tiny, huge, of a few values or many, in either precision."""
    draw = np.random.default_rng(seed)
    gradient = draw.normal(size=300) * 10.0**size
    gradient[:spikes] *= 1e4
    found = terms.rounded(gradient.astype(kind), NoiseSource.insecure(seed))
    assert found.dtype == np.int64 and sum(int(value) ** 2 for value in found) <= terms.squared_bound
    assert abs(found).max() <= math.isqrt(terms.squared_bound)


@pytest.mark.parametrize("broken", [np.nan, np.inf, 1e200])
def test_a_gradient_that_isnt_finite_is_zero(broken):
    gradient = np.ones(300)
    gradient[7] = broken
    assert not TERMS.rounded(gradient, NoiseSource()).any()
    assert not TERMS.rounded(np.zeros(300), NoiseSource()).any()


def test_rounding_is_right_on_average():
    gradient = np.random.default_rng(0).normal(size=300) / 100  # shorter than C: the check leaves all as it is
    terms = replace(TERMS, noise_multiplier=3e3)
    source = NoiseSource.insecure(2)
    draws = np.stack([terms.rounded(gradient, source) for _ in range(400)])
    error = draws.mean(0) / terms.scale - gradient
    assert np.abs(error * terms.scale).max() < 5 * 0.5 / math.sqrt(400)
    np.testing.assert_allclose(TERMS.rounded(gradient, source) / TERMS.scale, gradient, atol=1 / TERMS.scale)


def test_a_long_gradient_is_clipped_and_keeps_its_direction():
    gradient = np.random.default_rng(0).normal(size=300)
    found = TERMS.rounded(gradient, NoiseSource()) / TERMS.scale
    np.testing.assert_allclose(found, 0.5 * gradient / np.linalg.norm(gradient), atol=1.1 / TERMS.scale)
    assert TERMS.scale * 0.5 == pytest.approx(math.sqrt(TERMS.squared_bound), rel=1e-4)


def test_neighbours_differ_by_one_vector_exactly():
    """Sums of whole numbers: one patient more changes the sum by that patient's vector, to the bit."""
    draw, sources = np.random.default_rng(4), [NoiseSource.insecure(seed) for seed in range(6)]
    rounded = [TERMS.rounded(draw.normal(size=300), source) for source in sources]
    noise = TERMS.share(NoiseSource.insecure(9))
    for order in product((0, 1), repeat=3):
        kept = [r for r, flag in zip(rounded[:3], order, strict=True) if flag]
        total = sum(kept, noise.copy())
        assert np.array_equal(sum([*kept, rounded[5]], noise.copy()) - total, rounded[5])
