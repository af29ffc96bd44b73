"""Noise has the right distribution, lies on a grid that hides what it was added to, and is never drawn twice."""

import math
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
import torch
from Crypto.Cipher import AES
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from primia_kit.errors import KitError
from primia_kit.privacy import NoiseSource, randomness


def grid_of(std):
    return Fraction(2) ** (math.floor(math.log2(std)) - randomness.GRID_BITS)


@pytest.mark.parametrize("std", [1.0, 0.003, 7.3])
def test_noise_is_normal(std):
    noise = NoiseSource.insecure(1).noised(torch.zeros(200_000, dtype=torch.float64), std).numpy() / std
    assert stats.kstest(noise, "norm").pvalue > 0.01
    assert abs(noise.mean()) < 4 / math.sqrt(len(noise))
    assert abs(noise.var() - 1) < 4 * math.sqrt(2 / len(noise))
    assert abs(stats.skew(noise)) < 4 * math.sqrt(6 / len(noise))
    assert abs(stats.kurtosis(noise)) < 4 * math.sqrt(24 / len(noise))
    for tail in (3.0, 3.5):
        expected = 2 * stats.norm.sf(tail) * len(noise)
        assert abs((np.abs(noise) > tail).sum() - expected) < 4 * math.sqrt(expected)


def test_neighbouring_values_of_noise_are_independent():
    noise = NoiseSource.insecure(2).gaussian(200_000, 1.0).double().numpy()
    for lag in (1, 2, 3, randomness._CHUNK):
        assert abs((noise[:-lag] * noise[lag:]).mean()) < 4 / math.sqrt(len(noise) - lag)
        squares = (noise[:-lag] ** 2 - 1) * (noise[lag:] ** 2 - 1)
        assert abs(squares.mean()) < 4 * 2 / math.sqrt(len(noise) - lag)


@settings(max_examples=40, deadline=None)
@given(
    std=st.floats(1e-6, 1e6),
    values=st.lists(st.floats(-1e5, 1e5, allow_subnormal=False), min_size=1, max_size=20),
    seed=st.integers(0, 100),
)
def test_the_sum_of_value_and_noise_is_exact_on_the_grid(std, values, seed):
    """So its last bits say nothing of the value: k + z for a whole k of the value and a whole z that doesn't depend on it."""
    values = torch.tensor(values, dtype=torch.float64) * std
    noised = NoiseSource.insecure(seed).noised(values, std)
    alone = NoiseSource.insecure(seed).noised(torch.zeros_like(values), std)
    grid = grid_of(std)
    for value, sum_, noise in zip(values.tolist(), noised.tolist(), alone.tolist(), strict=True):
        steps, whole = Fraction(sum_) / grid, Fraction(noise) / grid
        assert steps.denominator == whole.denominator == 1
        assert abs(steps - whole - Fraction(value) / grid) <= Fraction(1, 2)


def test_last_bits_of_a_float32_sum_dont_tell_the_value():
    """Mironov 2012: 1 + noise as floats has no bits below 2^-24 where it's near 0, and 0 + noise has: they tell which it was."""

    def share_with_fine_bits(x):
        near = x[x.abs() < 0.1].double()
        return float(((near * 2.0**24) % 1 != 0).double().mean())

    generator = torch.Generator().manual_seed(0)
    assert share_with_fine_bits(0 + torch.randn(10**6, generator=generator) * 0.5) > 0.5
    assert share_with_fine_bits(1 + torch.randn(10**6, generator=generator) * 0.5) == 0
    source = NoiseSource.insecure(3)
    zero, one = (share_with_fine_bits(source.noised(torch.full((10**6,), value), 0.5)) for value in (0.0, 1.0))
    assert zero > 0.5 and abs(zero - one) < 0.02


def test_values_keep_shape_and_type_and_arent_changed():
    values = torch.arange(12, dtype=torch.float64).reshape(3, 4)
    noised = NoiseSource().noised(values, 2.0**-10)
    assert noised.shape == (3, 4) and noised.dtype == torch.float64
    assert torch.equal(values, torch.arange(12, dtype=torch.float64).reshape(3, 4))
    assert (noised - values).abs().max() < 0.02
    assert NoiseSource().gaussian((2, 3), 1.0).dtype == torch.float32
    assert NoiseSource().noised(torch.zeros(0), 1.0).shape == (0,)
    assert NoiseSource().noised(torch.tensor(3.0), 1.0).shape == ()


def test_words_are_aes_in_counter_mode():
    """Against another implementation of AES-256-CTR, from a block in the middle."""
    key = bytes(range(32))
    expected = AES.new(key, AES.MODE_CTR, nonce=b"", initial_value=7).encrypt(bytes(8 * 100_000))
    assert randomness._fill(np.empty(100_000, np.uint64), key, 7).astype("<u8").tobytes() == expected


def test_chunks_use_other_words(monkeypatch):
    """The noise of a long vector is that of one stream, used once: no chunk repeats another."""
    long = NoiseSource.insecure(5).gaussian(5 * 64 + 3, 1.0)
    monkeypatch.setattr(randomness, "_CHUNK", 64)
    pieces = NoiseSource.insecure(5).gaussian(5 * 64 + 3, 1.0)
    assert len(set(pieces.tolist())) > 0.99 * len(pieces)
    assert len(set(long.tolist())) > 0.99 * len(long)


def test_no_two_calls_and_no_two_sources_draw_the_same():
    source = NoiseSource()
    draws = [tuple(s.uniform_words(4)) for s in (source, source, NoiseSource(), pickle.loads(pickle.dumps(source)))]
    assert len(set(draws)) == 4
    with ThreadPoolExecutor(8) as threads:
        draws = list(threads.map(lambda _: tuple(source.uniform_words(2)), range(1000)))
    assert len(set(draws)) == 1000


def test_a_forked_process_doesnt_repeat_its_parents_noise():
    source = NoiseSource()
    source.uniform_words(3)
    out, into = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(into, source.uniform_words(8).tobytes() + source.uniform_words(8).tobytes())
        finally:
            os._exit(0)
    os.close(into)
    mine = source.uniform_words(8).tobytes() + source.uniform_words(8).tobytes()
    with os.fdopen(out, "rb") as pipe:
        theirs = pipe.read()
    assert os.waitpid(child, 0)[1] == 0 and len(theirs) == 128
    assert len({mine[:64], mine[64:], theirs[:64], theirs[64:]}) == 4


def test_an_insecure_source_repeats_and_a_secure_one_takes_no_seed():
    assert torch.equal(NoiseSource.insecure(1).gaussian(9, 1.0), NoiseSource.insecure(1).gaussian(9, 1.0))
    assert not torch.equal(NoiseSource.insecure(1).gaussian(9, 1.0), NoiseSource.insecure(2).gaussian(9, 1.0))
    with pytest.raises(TypeError):
        NoiseSource(1)


@pytest.mark.parametrize("q", [0.001, 0.3, 0.97])
def test_a_poisson_sample_has_its_rate(q):
    sample = NoiseSource.insecure(4).bernoulli(100_000, q)
    assert sample.dtype == bool
    assert stats.binomtest(int(sample.sum()), 100_000, q).pvalue > 0.01


def test_sampling_rates_at_the_ends(monkeypatch):
    assert NoiseSource().bernoulli(1000, 1.0).all() and not NoiseSource().bernoulli(1000, 0.0).any()
    source = NoiseSource()
    words = np.array([0, 2**64 - 1, 2**63 - 1, 2**63], np.uint64)
    monkeypatch.setattr(source, "uniform_words", lambda n: words)
    assert source.bernoulli(4, 0.5).tolist() == [True, False, True, False]
    assert source.bernoulli(4, 1 - 2.0**-53).tolist() == [True, False, True, True]
    assert source.bernoulli(4, 2.0**-64).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("values", "std", "sentence"),
    [
        ([0.0], 0.0, "standard deviation is 0"),
        ([0.0], -1.0, "standard deviation is -1"),
        ([0.0], math.nan, "standard deviation is nan"),
        ([math.nan], 1.0, "too little to be added"),
        ([math.inf], 1.0, "too little to be added"),
        ([1e7], 1.0, "^Noise of standard deviation 1 is too little"),
        ([1], 1.0, "torch.int64"),
    ],
)
def test_noise_that_cant_be_added_is_refused(values, std, sentence):
    with pytest.raises(KitError, match=sentence):
        NoiseSource().noised(torch.tensor(values), std)


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_rates_that_arent_probabilities_are_refused(q):
    with pytest.raises(KitError, match="sampling rate is a probability"):
        NoiseSource().bernoulli(3, q)
