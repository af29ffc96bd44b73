"""How good a classifier is, in figures that a class imbalance can't flatter.

Every metric is a function of the films' weights: (predictions, weights float64 [resamples, n]) -> float64
[resamples], or [resamples, classes] for a metric of each class. All weights one is the plain metric; a
bootstrap resample is how often each film was drawn. So thousands of resamples are a matrix product, nothing
is sorted twice, and the number and its interval come from the same lines.

Undefined is NaN: a metric of a class that has no film, and a mean over classes one of which is undefined.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .predictions import Predictions

Metric = Callable[[Predictions, np.ndarray], np.ndarray]


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, and NaN where the whole is nothing."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def confusion(predictions: Predictions, weights: np.ndarray | None = None) -> np.ndarray:
    """float64 [resamples, classes, classes]: weight of the films of each true class (rows) with each answer (columns).

    Without weights: one resample, in which each film counts once.
    """
    k = len(predictions.classes)
    weights = np.ones((1, len(predictions))) if weights is None else weights
    cells = np.eye(k * k)[predictions.labels * k + predictions.answers]
    return (weights @ cells).reshape(-1, k, k)


def accuracy(predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    """Share of right answers, [0, 1]."""
    return ratio(weights @ (predictions.answers == predictions.labels), weights.sum(1))


def sensitivity(predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    """For each class: the share of its films that are called so (recall), [0, 1]."""
    table = confusion(predictions, weights)
    return ratio(np.diagonal(table, axis1=1, axis2=2), table.sum(2))


def specificity(predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    """For each class: the share of the other films that aren't called so, [0, 1]."""
    table = confusion(predictions, weights)
    others = table.sum((1, 2))[:, None] - table.sum(2)
    false_alarms = table.sum(1) - np.diagonal(table, axis1=1, axis2=2)
    return ratio(others - false_alarms, others)


def balanced_accuracy(predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    """Mean sensitivity over the classes that occur in `predictions`, [0, 1]; two at least must occur."""
    return _mean_over_classes(predictions, sensitivity(predictions, weights))


def mcc(predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    """Matthews correlation for several classes, [-1, 1]; 0 is chance, and an answer that is always the same.

    Gorodkin 2004: (c s - sum_k t_k p_k) / sqrt((s^2 - sum_k t_k^2) (s^2 - sum_k p_k^2)), with s films, c right
    answers, t_k films of class k and p_k answers k. Undefined where only one class occurs.
    """
    table = confusion(predictions, weights)
    s, c = table.sum((1, 2)), np.trace(table, axis1=1, axis2=2)
    t, p = table.sum(2), table.sum(1)
    truth, answers = s**2 - (t**2).sum(1), s**2 - (p**2).sum(1)
    value = ratio(c * s - (t * p).sum(1), np.sqrt(truth * answers))
    return np.where((truth > 0) & (answers == 0), 0.0, value)


def auc_by_class(predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    """For each class: area under its ROC curve against the rest, [0, 1].

    The share of pairs (film of the class, other film) in which the first has the higher probability; a tie is
    half a pair. The films are put in order once; each resample needs a running sum.
    """
    return np.stack([_auc(predictions, c, weights) for c in range(len(predictions.classes))], axis=1)


def auc(predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    """Mean area under the ROC curve, one class against the rest, over the classes that occur; two at least must."""
    return _mean_over_classes(predictions, auc_by_class(predictions, weights))


def _auc(predictions: Predictions, c: int, weights: np.ndarray) -> np.ndarray:
    positive = predictions.labels == c
    high, low = predictions.probabilities[positive, c], predictions.probabilities[~positive, c]
    order = np.argsort(low, kind="stable")
    others = np.zeros((len(weights), len(low) + 1))
    np.cumsum(weights[:, ~positive][:, order], axis=1, out=others[:, 1:])  # weight of the i lowest of the others
    below, not_above = (np.searchsorted(low[order], high, side=side) for side in ("left", "right"))
    pairs = (weights[:, positive] * (others[:, below] + others[:, not_above]) / 2).sum(1)
    return ratio(pairs, weights[:, positive].sum(1) * others[:, -1])


def _mean_over_classes(predictions: Predictions, values: np.ndarray) -> np.ndarray:
    occurring = np.unique(predictions.labels)  # of all films, so that a resample without a class is undefined
    return values[:, occurring].mean(1) if len(occurring) > 1 else np.full(len(values), np.nan)
