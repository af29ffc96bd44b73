"""The metrics by name, and the headline ones together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import KitError, nearest
from .calibration import brier, expected_calibration_error
from .metrics import Metric, accuracy, auc, auc_by_class, balanced_accuracy, mcc, sensitivity, specificity
from .predictions import Predictions

HEADLINE = ("accuracy", "balanced_accuracy", "mcc", "auc")
METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "mcc": mcc,
    "auc": auc,
    "brier": brier,
    "ece": expected_calibration_error,
}
BY_CLASS: dict[str, Metric] = {"sensitivity": sensitivity, "specificity": specificity, "auc": auc_by_class}


def metric_named(name: str, classes: tuple[str, ...]) -> Metric:
    """The metric of a name: one of METRICS, or "sensitivity.CLASS", "specificity.CLASS", "auc.CLASS".

    Raises: KitError for a name that is neither.
    """
    if name in METRICS:
        return METRICS[name]
    kind, _, of = name.partition(".")
    if kind in BY_CLASS and of in classes:
        column = classes.index(of)
        return lambda predictions, weights: BY_CLASS[kind](predictions, weights)[:, column]
    known = [*METRICS, *(f"{kind}.{of}" for kind in BY_CLASS for of in classes)]
    raise KitError(f"There is no metric {name!r}{nearest(name, known)}; there are {', '.join(known)}.")


@dataclass(frozen=True)
class Scores:
    """A classifier on one set of films; every figure but `films` is NaN where it isn't defined.

    films: how many.
    accuracy: share of right answers, [0, 1].
    balanced_accuracy: mean recall over the classes that occur, [0, 1].
    mcc: Matthews correlation for several classes (Gorodkin 2004), [-1, 1]; 0 is chance.
    auc: area under the ROC curve, one against the rest, mean over the classes that occur, [0, 1].
    """

    films: int
    accuracy: float
    balanced_accuracy: float
    mcc: float
    auc: float


def scores(predictions: Predictions) -> Scores:
    """The headline metrics; accuracy is defined for any film, the rest only where at least two classes occur."""
    once = np.ones((1, len(predictions)))
    return Scores(len(predictions), *(float(METRICS[name](predictions, once)[0]) for name in HEADLINE))


def score(labels: np.ndarray, probabilities: np.ndarray) -> Scores:
    """The headline metrics of bare arrays: labels int [n], probabilities float [n, classes]."""
    n, k = np.shape(probabilities)
    return scores(Predictions(labels, probabilities, np.arange(n), [""] * n, tuple(map(str, range(k)))))
