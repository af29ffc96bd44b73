"""Pixel statistics, class counts and mean features of a hospital with noise, a patient's share in them bounded.

Each patient is one row of numbers whose L2 norm can't exceed a bound whatever their films show; the sum of the rows gets
Gaussian noise of noise_multiplier x bound, which is a `Gaussian` mechanism for patients added or removed. Write its spend to
the ledger first. The noised sums go through the aggregator like any others: sums over sites are sums over all patients.

Patients count alike here, however many films they have: these are means over patients of means over their films.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ..data import FilmSet
from ..errors import KitError
from .mechanisms import Gaussian
from .randomness import NoiseSource

# A patient's pixels: 1, mean - 1/2, mean square - 1/2. Pixels lie in [0, 1], so the latter two lie in [-1/2, 1/2].
PIXEL_BOUND = math.sqrt(1.5)
# A patient's films by class, as shares that add up to 1: at most 1 in L2 norm.
CLASS_BOUND = 1.0
# A mean of features of length 1 is no longer.
FEATURE_BOUND = 1.0


def private_pixel_sums(films: FilmSet, mechanism: Gaussian, noise: NoiseSource) -> dict[str, torch.Tensor]:
    """A hospital's share of the pixel mean and standard deviation, with noise.

    1. Each patient p: m_p, s_p = mean over their films of the mean pixel and of the mean squared pixel, in [0, 1].
    2. Sum over patients of (1, m_p - 1/2, s_p - 1/2): centred, so that one patient moves it by at most √1.5, not √3.
    3. Add Gaussian noise of standard deviation √1.5 x noise_multiplier to each.

    Args:
        films: pixels in [0, 1].
        mechanism: what was spent on it.
        noise: where the noise comes from.

    Returns: float64 scalars "patients", "sum", "sum_of_squares", centred as in 2.
    Raises: KitError for pixels out of [0, 1], or a mechanism without noise.
    """
    pixels = films.images
    if len(films) and not (float(pixels.min()) >= 0 and float(pixels.max()) <= 1):  # NaN fails, too
        raise KitError("Pixels lie out of [0, 1], so a patient's share in the sums has no bound: normalise films afterwards.")
    film_means = pixels.flatten(1).double().mean(1)
    film_squares = torch.stack([film.double().square().mean() for film in pixels]) if len(films) else film_means
    rows = _by_patient(torch.stack([film_means, film_squares], 1) - 0.5, films.patients)
    total = _noised_sum(torch.cat([torch.ones(len(rows), 1, dtype=torch.float64), rows], 1), PIXEL_BOUND, mechanism, noise)
    return dict(zip(("patients", "sum", "sum_of_squares"), total, strict=True))


def pixel_mean_and_std(sums: Mapping[str, torch.Tensor]) -> tuple[float, float]:
    """Of all patients' pixels, from `private_pixel_sums` added up over sites.

    Raises: KitError if the noise left no plausible number of patients, mean or variance.
    """
    patients, total, squares = (float(sums[name]) for name in ("patients", "sum", "sum_of_squares"))
    if patients >= 1:
        mean, mean_square = total / patients + 0.5, squares / patients + 0.5
        if 0 < mean < 1 and mean_square - mean**2 > 0:
            return mean, math.sqrt(mean_square - mean**2)
    raise KitError(
        "The noise has drowned the pixel statistics: spend more on them (a lower noise multiplier), or set the plan's mean and "
        "standard deviation to public ones."
    )


def private_class_counts(films: FilmSet, mechanism: Gaussian, noise: NoiseSource) -> torch.Tensor:
    """How many patients a hospital has of each class, with noise. A patient with films of several counts by their shares.

    Args: as for `private_pixel_sums`.

    Returns: float64 [classes]; noise may make a count negative (see `plausible_counts`).
    """
    shares = torch.nn.functional.one_hot(films.labels, len(films.classes)).double()
    return _noised_sum(_by_patient(shares, films.patients), CLASS_BOUND, mechanism, noise)


def plausible_counts(counts: torch.Tensor) -> torch.Tensor:
    """Counts of at least 1, for class weights: post-processing, which costs nothing."""
    return counts.clamp(min=1.0)


def private_feature_sum(
    features: torch.Tensor, patients: tuple[str, ...], mechanism: Gaussian, noise: NoiseSource
) -> torch.Tensor:
    """A hospital's share of the mean feature, with noise: the sum over patients of the mean of their films' features.

    Args:
        features: [films, k], each of length 1 at most; what isn't a finite number counts as 0.
        patients: of each film.
        mechanism, noise: as for `private_pixel_sums`.

    Returns: float64 [k]. The number of patients, which it's divided by, is public.
    """
    rows = torch.nan_to_num(features.double().cpu(), 0, 0, 0)
    return _noised_sum(_by_patient(rows, patients), FEATURE_BOUND, mechanism, noise)


def _by_patient(rows: torch.Tensor, patients: tuple[str, ...]) -> torch.Tensor:
    """The mean of each patient's rows: [films, k] -> [patients, k]."""
    order = {patient: i for i, patient in enumerate(dict.fromkeys(patients))}
    index = torch.tensor([order[patient] for patient in patients], dtype=torch.int64)
    sums = torch.zeros(len(order), rows.shape[1], dtype=rows.dtype).index_add_(0, index, rows)
    return sums / torch.bincount(index, minlength=len(order)).unsqueeze(1)


def _noised_sum(rows: torch.Tensor, bound: float, mechanism: Gaussian, noise: NoiseSource) -> torch.Tensor:
    if not mechanism.is_private:
        raise KitError("Statistics of patients need noise: a multiplier above 0.")
    norms = rows.norm(dim=1, keepdim=True)
    clipped = rows * (bound / norms.clamp(min=bound))  # within the bound but for rounding
    return noise.noised(clipped.sum(0), bound * mechanism.noise_multiplier)
