"""Real numbers as words modulo 2^32: as precise as told, never overflowing, never clipped."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from primia_kit.errors import KitError
from primia_kit.secagg import Field, Layout, PlainSum, SecureSum
from primia_kit.secagg.fields import MOST_SITES
from primia_kit.secagg.vectors import _BLOCK


def encoded_sum(contributions, fields):
    """The sum over sites as the server would form it, without masks."""
    first = next(iter(contributions.values()))
    layout = Layout.of("x", first, fields, len(contributions))
    total = np.zeros(layout.words, np.uint32)
    for site, contribution in contributions.items():
        words = np.empty(layout.words, np.uint32)
        layout.encode("x", site, contribution, words)
        total += words
    return layout.decode(total)


@given(
    bound=st.floats(1e-20, 1e20),
    sites=st.integers(1, MOST_SITES),
    words=st.sampled_from([1, 2]),
    share=st.lists(st.floats(-1, 1), min_size=1, max_size=5),
)
def test_the_sum_at_the_bound_never_overflows(bound, sites, words, share):
    """All sites at the bound at once, with the finest resolution that the field allows."""
    field = Field(bound, words=words).fitted("w", sites)
    part = torch.tensor([bound, -bound, *(bound * s for s in share)], dtype=torch.float64)
    total = encoded_sum({f"S{i}": {"w": part} for i in range(sites)}, {"w": Field(bound, words=words)})["w"]
    assert (total - sites * part).abs().max() <= sites * field.resolution / 2 + sites * bound * 2**-50


@given(bound=st.floats(1e-9, 1e20), sites=st.integers(1, MOST_SITES), words=st.sampled_from([1, 2]))
def test_the_resolution_chosen_is_the_finest(bound, sites, words):
    field = Field(bound, words=words).fitted("w", sites)
    assert Field(bound, field.resolution, words).fitted("w", sites) == field
    with pytest.raises(KitError, match="'w' could overflow"):
        Field(bound, field.resolution / 2, words).fitted("w", sites)


@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=4),
    sites=st.integers(1, 6),
    exponent=st.integers(-20, 20),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    words=st.sampled_from([1, 2]),
    seed=st.integers(0, 1000),
)
def test_encoded_sums_equal_plain_sums(shapes, sites, exponent, dtype, words, seed):
    generator = torch.Generator().manual_seed(seed)
    fields = {f"p{i}": Field(2.0**exponent, words=words) for i in range(len(shapes))}

    def part(shape):
        return (torch.rand(shape, generator=generator, dtype=dtype) * 2 - 1) * 2.0**exponent

    contributions = {f"S{k}": {f"p{i}": part(shape) for i, shape in enumerate(shapes)} for k in range(sites)}
    plain = PlainSum().sum("x", contributions, fields)
    for name, total in encoded_sum(contributions, fields).items():
        resolution = fields[name].fitted(name, sites).resolution
        assert total.dtype == dtype and total.shape == plain[name].shape
        rounding = sites * 2.0**exponent * (2e-7 if dtype == torch.float32 else 1e-15)
        assert (total - plain[name]).abs().max().item() <= sites * resolution / 2 + rounding if total.numel() else True


def test_long_vectors_are_encoded_in_blocks():
    """Longer than what one thread takes, of a length that no block divides, strided as channels_last leaves it."""
    length = 40 * _BLOCK + 3
    part = torch.linspace(-1, 1, 3 * length).view(3, length).t()
    total = encoded_sum({"A": {"w": part}, "B": {"w": -part / 2}, "C": {"w": part}}, {"w": Field(1.0)})["w"]
    torch.testing.assert_close(total, 1.5 * part, atol=3e-9, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_through(dtype):
    part = torch.tensor([0.5, -0.25], dtype=dtype)
    total = encoded_sum({"A": {"w": part}, "B": {"w": part}}, {"w": Field(1.0)})["w"]
    assert total.dtype == dtype and total.tolist() == [1.0, -0.5]


@pytest.mark.parametrize("aggregator", [PlainSum, SecureSum])
@pytest.mark.parametrize(
    ("parts", "fields", "sentence"),
    [
        ({"w": [0.0, 2.5]}, {"w": Field(2.0)}, r"round 7: 'w' of site C reaches 2.5, out of its field's range of ±2"),
        ({"w": [-2.5, 0.0]}, {"w": Field(2.0)}, "'w' of site C reaches 2.5"),
        ({"w": [math.nextafter(2.0, 3), 0.0]}, {"w": Field(2.0, words=2)}, "'w' of site C"),
        ({"w": [math.nan, 0.0]}, {"w": Field(2.0)}, "'w' of site C isn't finite"),
        ({"w": [0.0, -math.inf]}, {"w": Field(2.0)}, "'w' of site C isn't finite"),
        ({"w": [0.0, 0.0]}, {"v": Field(2.0)}, "no field says how large 'w'"),
        ({"w": [0.0, 0.0]}, {"w": Field(2.0, 2.0**-30)}, "Field 'w' could overflow: 3 sites x bound 2"),
        ({"w": [0.0, 0.0, 0.0]}, {"w": Field(2.0)}, r"'w' has shape \(3,\) at site C, \(2,\) at A"),
        ({"v": [0.0, 0.0]}, {"w": Field(2.0), "v": Field(2.0)}, "don't contribute the same parts"),
    ],
)
def test_plain_and_secure_refuse_the_same(aggregator, parts, fields, sentence):
    good = {"w": torch.tensor([1.0, -1.0], dtype=torch.float64)}
    bad = {name: torch.tensor(values, dtype=torch.float64) for name, values in parts.items()}
    with pytest.raises(KitError, match=sentence):
        aggregator().sum("round 7", {"A": good, "B": good, "C": bad}, fields)


def test_whole_numbers_are_no_contribution():
    with pytest.raises(KitError, match=r"'w' of site A is torch.int64"):
        PlainSum().sum("x", {"A": {"w": torch.tensor([1])}})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((0.0,), "bound is 0.0"),
        ((math.inf,), "bound is inf"),
        ((math.nan,), "bound is nan"),
        ((1.0, 0.1), "power of two"),
        ((1.0, 0.0), "power of two"),
        ((1.0, -0.5), "power of two"),
        ((1.0, 2.0**-101), "power of two"),
        ((1.0, None, 3), "3 words"),
    ],
)
def test_a_field_that_cant_be_is_a_sentence(arguments, sentence):
    with pytest.raises(KitError, match=sentence):
        Field(*arguments)


def test_as_many_sites_as_a_byte_numbers():
    with pytest.raises(KitError, match="256 sites"):
        Field(1.0).fitted("w", 256)
