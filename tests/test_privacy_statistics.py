"""Private sums are of patients, bounded whatever a patient's films show, right but for their noise, and noised enough."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primia_kit.data import FilmSet
from primia_kit.errors import KitError
from primia_kit.privacy import Gaussian, NoiseSource
from primia_kit.privacy import statistics as private
from primia_kit.privacy.statistics import (
    CLASS_BOUND,
    PIXEL_BOUND,
    pixel_mean_and_std,
    plausible_counts,
    private_class_counts,
    private_feature_sum,
    private_pixel_sums,
)

CLASSES = ("normal", "bacterial", "viral")
FAINT = Gaussian(1e-4)


def film_set(pixels, labels, patients):
    """Films of 2 x 2 pixels each of one gray."""
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    return FilmSet(images, torch.tensor(labels, dtype=torch.int64), tuple(patients), CLASSES, "pad")


def as_row(sums):
    return torch.stack([sums[name] for name in ("patients", "sum", "sum_of_squares")])


def test_a_patient_counts_once_however_many_films():
    films = film_set([0.2, 0.4, 0.6, 0.9], [1, 1, 2, 0], ["p", "p", "p", "q"])
    sums = private_pixel_sums(films, FAINT, NoiseSource())
    mean = ((0.2 + 0.4 + 0.6) / 3 + 0.9) / 2
    mean_square = ((0.2**2 + 0.4**2 + 0.6**2) / 3 + 0.9**2) / 2
    assert float(sums["patients"]) == pytest.approx(2, abs=2e-3)
    assert pixel_mean_and_std(sums) == pytest.approx((mean, math.sqrt(mean_square - mean**2)), abs=2e-3)
    assert private_class_counts(films, FAINT, NoiseSource()).tolist() == pytest.approx([1, 2 / 3, 1 / 3], abs=2e-3)


def test_sums_over_sites_are_the_pooled_statistics():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(60, 1, 8, 8, generator=generator)
    labels = torch.arange(60) % 3
    names = tuple(f"p{i}" for i in range(60))
    parts = [FilmSet(images[a:b], labels[a:b], names[a:b], CLASSES, "pad") for a, b in ((0, 10), (10, 40), (40, 60))]
    sums = [private_pixel_sums(part, FAINT, NoiseSource()) for part in parts]
    total = {name: sum(s[name] for s in sums) for name in sums[0]}
    pooled = (float(images.mean()), float(images.std(correction=0)))
    assert pixel_mean_and_std(total) == pytest.approx(pooled, abs=1e-3)


@settings(max_examples=100, deadline=None)
@given(
    grays=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6),
    labels=st.lists(st.integers(0, 2), min_size=6, max_size=6),
)
def test_no_patient_moves_a_sum_by_more_than_the_bound(grays, labels):
    """The same noise for both neighbours leaves the patient's own row, whose norm is the sensitivity."""
    without = film_set([0.3, 0.8], [0, 1], ["a", "b"])
    films = film_set([0.3, 0.8, *grays], [0, 1, *labels[: len(grays)]], ["a", "b", *["c"] * len(grays)])
    for release, bound in ((private_pixel_sums, PIXEL_BOUND), (private_class_counts, CLASS_BOUND)):
        sums = [release(some, Gaussian(1.0), NoiseSource.insecure(1)) for some in (films, without)]
        rows = [as_row(each) if isinstance(each, dict) else each for each in sums]
        assert float((rows[0] - rows[1]).norm()) <= bound + 1e-6


def test_the_bounds_are_reached():
    """A smaller bound would promise too much: a black patient moves all three numbers as far as can be."""
    rows = private._by_patient(torch.tensor([[0.0, 0.0]], dtype=torch.float64) - 0.5, ("p",))
    assert math.sqrt(1 + float(rows.square().sum())) == pytest.approx(PIXEL_BOUND)


@pytest.mark.parametrize("sigma", [0.5, 4.0])
def test_noise_has_the_size_that_was_paid_for(sigma):
    films, source = film_set([0.5], [0], ["p"]), NoiseSource.insecure(7)
    pixels = torch.stack([as_row(private_pixel_sums(films, Gaussian(sigma), source)) for _ in range(1000)])
    counts = torch.stack([private_class_counts(films, Gaussian(sigma), source) for _ in range(1000)])
    for draws, bound in ((pixels, PIXEL_BOUND), (counts, CLASS_BOUND)):
        assert torch.allclose(draws.std(0) / (sigma * bound), torch.ones(3, dtype=torch.float64), atol=0.1)
        correlations = torch.corrcoef(draws.T) - torch.eye(3)
        assert correlations.abs().max() < 0.13


def test_a_site_without_films_gives_noise():
    empty = FilmSet(torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64), (), CLASSES, "pad")
    assert 0 < float(as_row(private_pixel_sums(empty, Gaussian(1.0), NoiseSource())).norm()) < 30
    assert private_class_counts(empty, Gaussian(1.0), NoiseSource()).shape == (3,)


@pytest.mark.parametrize("gray", [-0.1, 1.5, math.nan])
def test_pixels_without_a_bound_are_refused(gray):
    with pytest.raises(KitError, match="Pixels lie out of"):
        private_pixel_sums(film_set([0.5, gray], [0, 0], ["a", "b"]), Gaussian(1.0), NoiseSource())


def test_a_release_without_noise_is_refused():
    for release in (private_pixel_sums, private_class_counts):
        with pytest.raises(KitError, match="need noise"):
            release(film_set([0.5], [0], ["p"]), Gaussian(0.0), NoiseSource())


@pytest.mark.parametrize("numbers", [(0.3, 0.1, 0.1), (-5.0, 1.0, 1.0), (10.0, 9.0, 1.0), (10.0, 1.0, -4.9)])
def test_drowned_statistics_are_told(numbers):
    sums = dict(zip(("patients", "sum", "sum_of_squares"), torch.tensor(numbers), strict=True))
    with pytest.raises(KitError, match="drowned"):
        pixel_mean_and_std(sums)


def test_counts_for_weights_are_at_least_one():
    assert plausible_counts(torch.tensor([-3.0, 0.2, 40.0])).tolist() == [1, 1, 40]


def test_a_patient_moves_the_feature_sum_by_one_at_most(monkeypatch):
    """However many films, and whatever isn't a number among them; features that are too long are cut off."""
    monkeypatch.setattr(NoiseSource, "noised", lambda self, values, std: values)
    features = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    patients = ("a", "b", "b", "b", "c", "d")
    features[4], features[5] = torch.tensor([float("nan"), 0, 1, 0]), torch.tensor([9.0, 0, 0, 0])
    found = private_feature_sum(features, patients, Gaussian(1.0), NoiseSource())
    kept = features[1:4].double().mean(0), torch.tensor([0.0, 0, 1, 0]), torch.tensor([1.0, 0, 0, 0])
    torch.testing.assert_close(found, features[0].double() + sum(kept))
    without = private_feature_sum(features[[0, 4, 5]], ("a", "c", "d"), Gaussian(1.0), NoiseSource())
    assert float((found - without).norm()) <= 1
