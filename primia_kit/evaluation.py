"""How good a classifier is, in figures that a class imbalance can't flatter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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


METRICS = ("accuracy", "balanced_accuracy", "mcc", "auc")


def score(labels: np.ndarray, probabilities: np.ndarray) -> Scores:
    """Compare predictions with the truth.

    Args:
        labels: int [n], the true class of each film.
        probabilities: float [n, classes]; the largest is the answer.

    Accuracy is defined for any film, the rest only where at least two classes occur.
    """
    from sklearn.metrics import matthews_corrcoef, recall_score, roc_auc_score

    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    answers = probabilities.argmax(1) if len(labels) else labels
    occurring = np.unique(labels)
    accuracy = float((answers == labels).mean()) if len(labels) else float("nan")
    if len(occurring) < 2:
        return Scores(len(labels), accuracy, *[float("nan")] * 3)
    balanced = float(recall_score(labels, answers, labels=occurring, average="macro"))
    auc = np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in occurring])
    return Scores(len(labels), accuracy, balanced, float(matthews_corrcoef(labels, answers)), float(auc))
