"""ROC curves, one class against the rest."""

from __future__ import annotations

import numpy as np

from .metrics import ratio
from .predictions import Predictions


def roc_curve(predictions: Predictions, of: str, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """False alarms and hits as the threshold falls.

    Args:
        of: the class that is looked for.
        weights: float64 [resamples, n]; without, one resample in which each film counts once.

    Returns: false and true positive rates, float64 [resamples, thresholds + 1] from 0 to 1, both rising; a threshold
        for each probability that occurs. NaN where a rate isn't defined.
    """
    c = predictions.classes.index(of)
    weights = np.ones((1, len(predictions))) if weights is None else weights
    order = np.argsort(-predictions.probabilities[:, c], kind="stable")
    falling, positive = predictions.probabilities[order, c], (predictions.labels == c)[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1) if len(falling) else []

    def rate(films: np.ndarray) -> np.ndarray:
        reached = np.cumsum(weights[:, order] * films, axis=1)[:, last_of_ties]
        return ratio(np.pad(reached, ((0, 0), (1, 0))), weights[:, order] @ films[:, None])

    return rate(~positive), rate(positive)


def hits_at(predictions: Predictions, of: str, false_alarms: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """float64 [resamples, points]: the true positive rate at given false positive rates, between thresholds linear."""
    rates = zip(*roc_curve(predictions, of, weights))
    return np.stack(
        [np.interp(false_alarms, fpr, tpr) if fpr[-1] == 1 else np.full(len(false_alarms), np.nan) for fpr, tpr in rates]
    )
