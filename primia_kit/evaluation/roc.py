"""ROC curves, one class against the rest."""

from __future__ import annotations

import numpy as np

from ..errors import KitError, nearest
from .metrics import ratio
from .predictions import Predictions


def roc_curve(predictions: Predictions, of: str, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """False alarms and hits as the threshold falls.

    Args:
        of: the class that is looked for.
        weights: float64 [resamples, n]; without, one resample in which each film counts once.

    Returns: false and true positive rates, float64 [resamples, thresholds + 1] from 0 to 1, both rising; a threshold
        for each probability that occurs. NaN where a rate isn't defined.

    Raises: KitError for an unknown class.
    """
    if of not in predictions.classes:
        raise KitError(f"There is no class {of!r}{nearest(of, predictions.classes)}; there are {', '.join(predictions.classes)}.")
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
    nowhere = np.full(len(false_alarms), np.nan)
    return np.stack([nowhere if np.isnan(fpr[-1]) else np.interp(false_alarms, fpr, tpr) for fpr, tpr in rates])
