"""Whether a model that says 80% is right in 80 of 100 films.

Confidence is the probability of the answer (Guo et al. 2017). Bins hold equal numbers of films ("mass", Nixon
et al. 2019) or span equal ranges of confidence ("width"); their edges are those of all films, in every
resample. Equal mass is the default: no bin then rests on two films.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import KitError, nearest
from .metrics import ratio
from .predictions import Predictions

BINS = 10
BINNINGS = ("mass", "width")


def brier(predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    """Brier score, [0, 2]: the mean over films of sum_k (p_k - 1[label = k])^2; 0 is best (Brier 1950)."""
    distance = predictions.probabilities - np.eye(len(predictions.classes))[predictions.labels]
    return ratio(weights @ (distance**2).sum(1), weights.sum(1))


def expected_calibration_error(
    predictions: Predictions, weights: np.ndarray, *, bins: int = BINS, binning: str = "mass"
) -> np.ndarray:
    """Expected calibration error, [0, 1]: mean over films of |share right - mean confidence| in the film's bin.

    Chance adds to it, the more the fewer films there are: a perfectly calibrated model comes to about 0.16 with
    50 films, 0.06 with 300. Compare models on the same films only. Its interval is corrected for that in part: of
    calibrated models' lower bounds every other one is still above 0, so that proves nothing by itself.
    """
    member = _membership(predictions, bins, binning)
    surplus = (predictions.answers == predictions.labels) - predictions.probabilities.max(1, initial=0)
    return ratio(np.abs(weights @ (member * surplus[:, None])).sum(1), weights.sum(1))


@dataclass(frozen=True)
class ReliabilityCurve:
    """What a reliability diagram shows, a value a bin, from low confidence to high; empty bins are left out.

    confidence, accuracy: float64 [bins] in [0, 1]: mean confidence, and share right. films: int64 [bins].
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    films: np.ndarray


def reliability_curve(predictions: Predictions, *, bins: int = BINS, binning: str = "mass") -> ReliabilityCurve:
    """Share right against confidence."""
    member = _membership(predictions, bins, binning)
    films = member.sum(0)
    return ReliabilityCurve(
        confidence=ratio(predictions.probabilities.max(1, initial=0) @ member, films),
        accuracy=ratio((predictions.answers == predictions.labels) @ member, films),
        films=films.astype(np.int64),
    )


def accuracy_by_bin(predictions: Predictions, weights: np.ndarray, *, bins: int = BINS, binning: str = "mass") -> np.ndarray:
    """float64 [resamples, bins]: the reliability curve's share right, for each resample; NaN where a bin is empty."""
    member = _membership(predictions, bins, binning)
    return ratio(weights @ (member * (predictions.answers == predictions.labels)[:, None]), weights @ member)


def _membership(predictions: Predictions, bins: int, binning: str) -> np.ndarray:
    """float64 [n, occupied bins]: 1 where a film is in a bin."""
    if binning not in BINNINGS:
        raise KitError(f"binning is {binning!r}{nearest(str(binning), BINNINGS)}; it must be one of {', '.join(BINNINGS)}.")
    if bins < 1:
        raise KitError(f"bins is {bins}; calibration needs at least one bin.")
    confidence = predictions.probabilities.max(1, initial=0)
    edges = np.linspace(0, 1, bins + 1)
    if binning == "mass" and len(confidence):
        edges = np.quantile(confidence, edges, method="higher")  # films of equal confidence share a bin
    place = np.searchsorted(edges[1:-1], confidence, side="right")
    occupied = np.unique(place)
    return (place[:, None] == occupied).astype(np.float64)
