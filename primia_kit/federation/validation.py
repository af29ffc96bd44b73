"""How good a model is on all sites' validation films, from a sum of confusion matrices.

A confusion matrix is a sum over films, so it goes through the aggregator: the server learns the pooled one, and no site's,
and no film's. Whatever is a function of it can be had: MCC, accuracy, balanced accuracy, sensitivity, specificity. An AUC,
a Brier score or a calibration error can't: it takes every film's probabilities in clear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..data import FilmSet
from ..errors import KitError
from ..evaluation import Predictions, metric_named
from ..models import TrainedModel
from ..secagg import Aggregator, Field
from .fields import COUNT_FIELDS
from .local import predict
from .pooled import sum_over_all
from .private import Units
from .site import Site

OF_COUNTS = ("mcc", "accuracy", "balanced_accuracy", "sensitivity", "specificity")  # the latter two of a class
NOISED_FIELDS = {"films": Field(2.0**32, 2.0**-16, words=2)}


def check_metric(metric: str, classes: tuple[str, ...]) -> None:
    """Refuse a metric that confusion matrices don't tell.

    Raises: KitError for such a one, and for an unknown name.
    """
    metric_named(metric, classes)
    if metric.partition(".")[0] not in OF_COUNTS:
        raise KitError(
            f"The metric {metric!r} takes every validation film's probabilities, which would have to leave the sites in clear: "
            f"use one of {', '.join(OF_COUNTS[:3])}, sensitivity.CLASS or specificity.CLASS, which a sum of counts tells."
        )


def answer_counts(model: TrainedModel, films: FilmSet) -> torch.Tensor:
    """The model's confusion matrix on these films: float64 [classes, classes], true class down, answer across."""
    return _counts(model, films, torch.ones(len(films), dtype=torch.float64))


def answer_shares(model: TrainedModel, films: FilmSet, unit: str) -> torch.Tensor:
    """The same with each patient (film, if that's the unit) counting 1 in all, however many films they have.

    So one patient more or less changes it by at most 1 in L2 norm: all that they add is at least 0 and adds up to 1.
    """
    units = Units(films, unit)
    each = 1 / units.owners.bincount(minlength=len(units)).double()
    return _counts(model, films, each[units.owners])


def pooled_answers(
    purpose: str, models: Mapping[str, TrainedModel], sites: Sequence[Site], aggregator: Aggregator
) -> torch.Tensor:
    """The confusion matrix on the validation films of all sites: float64 [classes, classes].

    Args:
        models: site -> the model that answers its films.

    Raises: KitError if a site dropped out of the sum, or no site has a validation film.
    """
    counts = {site.name: {"films": answer_counts(models[site.name], site.validation)} for site in sites}
    total = sum_over_all(purpose, counts, COUNT_FIELDS if len(sites) > 1 else None, aggregator)["films"]
    if not total.sum() > 0:
        raise KitError("No site has a validation film, so nothing tells which trial is better.")
    return total


def metric_of(counts: torch.Tensor, metric: str, classes: tuple[str, ...]) -> float:
    """A metric of a confusion matrix; NaN where it isn't defined.

    Args:
        counts: float64 [classes, classes]. Noise may have made some negative: they count as 0.
    """
    counts = counts.clamp(min=0).numpy()
    labels, answers = (axis.ravel() for axis in np.indices(counts.shape))
    occurring = counts.sum(1)[labels] > 0
    if not occurring.any():
        return float("nan")
    labels, answers, weights = labels[occurring], answers[occurring], counts.ravel()[occurring]
    films = Predictions(labels, np.eye(len(classes))[answers], labels, [""] * len(labels), classes)
    return float(metric_named(metric, classes)(films, weights[None])[0])


def _counts(model: TrainedModel, films: FilmSet, weights: torch.Tensor) -> torch.Tensor:
    k = len(films.classes)
    answers = predict(model.network(), films, model.spec).argmax(1)
    return torch.zeros(k * k, dtype=torch.float64).index_add_(0, films.labels * k + answers, weights).view(k, k)
