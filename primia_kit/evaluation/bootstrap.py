"""What a number might have been with other patients: intervals, and differences of two models.

The unit that is drawn is the patient, with all its films (Field & Welsh 2007): films of one child resemble
each other, and an interval that takes them as independent is too narrow. One draw serves all models and
metrics, so differences are paired. Numbers of films in a class aren't held fixed: which children come is part
of the chance.

    on = "all"    all films together; patients are drawn from all sites
    on = SITE     the films of one site; patients are drawn within each site
    on = "own"    the mean over the sites; patients are drawn within each site, which keeps its number of them

A statistic has one model or several, of different training seeds: the mean over the models is taken in each
resample. The interval is that of these models' mean on other patients. It doesn't cover the chance in training:
other seeds would give other models.

Intervals are the percentiles of the resamples (Efron & Tibshirani 1993, ch. 13), except for the expected
calibration error, which each resample overstates again: there they are reflected at the value (the "basic"
interval), without which the interval of a calibrated model lies wholly above the truth. All intervals are too
narrow for few patients near the end of a metric's range: with 250 patients 95% intervals cover 94 to 96%, those
of an AUC of 0.995 92%; with 30 patients 94% and 75% (benchmarks/interval_coverage.py). A model that made no error
gets an interval of no width, though n patients without an error still allow an error rate of 3 / n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import KitError, nearest
from ..seeds import numpy_generator
from .predictions import Predictions, check_same_films
from .scores import HEADLINE, metric_named

ALL, OWN = "all", "own"
RESAMPLES = 2000
REFLECTED = ("ece",)
_CHUNK = 2**20  # film weights worked on at a time: 8 MB

Models = Predictions | Sequence[Predictions]  # one, or one a training seed


@dataclass(frozen=True)
class Interval:
    """A metric with its 95% interval; NaN where it isn't defined.

    resamples: how many were drawn. undefined: how many of them lacked a class that the metric needs; they
    are left out of the interval.
    """

    value: float
    low: float
    high: float
    resamples: int
    undefined: int

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "not defined"
        return f"{self.value:.2f} " + ("[no interval]" if math.isnan(self.low) else f"[{self.low:.2f}, {self.high:.2f}]")

    @property
    def note(self) -> str:
        """A sentence on what the interval leaves out; empty if nothing."""
        if math.isnan(self.value):
            return "Not defined on these films: too few classes occur."
        if math.isnan(self.low):
            return "No interval: there is only one patient, or no resample in which the value is defined."
        left_out = f"{self.undefined:,} of {self.resamples:,} resamples are left out: they lack a class that the metric needs."
        return left_out if self.undefined else ""


@dataclass(frozen=True)
class Difference(Interval):
    """One model's metric less another's on the same films.

    p: two-sided, twice the smaller share of resamples on one side of zero (those at zero count on both); at least
        2 / (resamples + 1).
    """

    p: float

    def __str__(self) -> str:
        bounds = "[no interval]" if math.isnan(self.low) else f"[{self.low:+.2f}, {self.high:+.2f}], p = {self.p:.2g}"
        return "not defined" if math.isnan(self.value) else f"{self.value:+.2f} {bounds}"


class PatientBootstrap:
    """Resamples of the patients behind some films; the same ones for every model, metric and call.

    Args:
        films: any model's predictions for these films.
        resamples: how many. seed: the same seed draws the same patients.
    """

    def __init__(self, films: Predictions, *, resamples: int = RESAMPLES, seed: int = 0):
        if resamples < 1:
            raise KitError(f"resamples is {resamples}; an interval needs many, e.g. {RESAMPLES}.")
        self.films, self.resamples, self.seed = films, resamples, seed
        _, self._patient = np.unique(np.stack([films.sites, films.patients]), axis=1, return_inverse=True)
        self._counts: dict[bool, np.ndarray] = {}

    def counts(self, on: str = ALL) -> np.ndarray:
        """uint16 [resamples, n]: how often each film counts in each resample."""
        within = on != ALL
        if within not in self._counts:
            random = numpy_generator(self.seed, "patient bootstrap", "within sites" if within else "all sites")
            patients = int(self._patient.max(initial=-1)) + 1
            drawn = np.zeros((self.resamples, patients), np.uint16)
            for stratum in self._strata() if within else [np.arange(patients)]:
                draws = random.integers(len(stratum), size=(self.resamples, len(stratum)))
                rows = np.arange(self.resamples)[:, None] * len(stratum)
                counted = np.bincount((draws + rows).ravel(), minlength=self.resamples * len(stratum))
                drawn[:, stratum] = counted.reshape(self.resamples, -1)
            self._counts[within] = drawn[:, self._patient]
        return self._counts[within]

    def replicate(self, statistic: Callable[[np.ndarray], np.ndarray], on: str = ALL) -> np.ndarray:
        """statistic(weights float64 [b, n]) -> [b, ...], for all resamples: [resamples, ...]."""
        counts = self.counts(on)
        step = max(1, _CHUNK // max(1, len(self.films)))
        chunks = (counts[i : i + step].astype(np.float64) for i in range(0, self.resamples, step))
        return np.concatenate([statistic(chunk) for chunk in chunks])

    def value(self, models: Models, metric: str = "mcc", on: str = ALL) -> float:
        """The metric on the films as they are (arguments and errors: see `distribution`)."""
        return float(self._statistic(models, metric, on)(np.ones((1, len(self.films))))[0])

    def distribution(self, models: Models, metric: str = "mcc", on: str = ALL) -> tuple[float, np.ndarray]:
        """The metric (see `metric_named`) on the films as they are, and float64 [resamples] on the resamples.

        Raises: KitError for predictions for other films, an unknown metric, or a site without films.
        """
        value = self.value(models, metric, on)
        if math.isnan(value) or not self._varies(metric, on):
            return value, np.full(self.resamples, np.nan)
        return value, self.replicate(self._statistic(models, metric, on), on)

    def interval(self, models: Models, metric: str = "mcc", on: str = ALL) -> Interval:
        """A metric (see `metric_named`) with its 95% interval."""
        return summarise(*self.distribution(models, metric, on), metric)

    def difference(self, models: Models, others: Models, metric: str = "mcc", on: str = ALL) -> Difference:
        """models' metric less others', paired: both answer the same resamples."""
        return difference_of(self.distribution(models, metric, on), self.distribution(others, metric, on), metric)

    def _strata(self) -> list[np.ndarray]:
        """The patients of each site."""
        return [np.unique(self._patient[self.films.sites == site]) for site in self.films.site_names]

    def _statistic(self, models: Models, metric: str, on: str) -> Callable[[np.ndarray], np.ndarray]:
        """weights float64 [b, n] -> [b], the mean over the models and, unless on all films together, over sites."""
        models = (models,) if isinstance(models, Predictions) else tuple(models)
        for model in models:
            check_same_films(self.films, model)
        measure = metric_named(metric, self.films.classes)
        if on == ALL:
            return lambda weights: np.mean([measure(model, weights) for model in models], axis=0)
        masks = [self.films.sites == site for site in self._sites(metric, on)]
        parts = [(model[mask], mask) for model in models for mask in masks]
        if not parts:
            return lambda weights: np.full(len(weights), np.nan)
        return lambda weights: np.mean([measure(part, weights[:, mask]) for part, mask in parts], axis=0)

    def _sites(self, metric: str, on: str) -> list[str]:
        """The sites over which a mean is taken: those where the metric is defined, which labels alone decide."""
        names = self.films.site_names
        if on in names:
            return [on]
        if on != OWN:
            known = (ALL, OWN, *names)
            raise KitError(f"There are no films of {on!r}{nearest(on, known)}; choose one of {', '.join(known)}.")
        return [site for site in names if not math.isnan(self.value(self.films, metric, site))]

    def _varies(self, metric: str, on: str) -> bool:
        """Whether every draw has two patients at least to choose from."""
        masks = [slice(None)] if on == ALL else [self.films.sites == site for site in self._sites(metric, on)]
        return all(len(np.unique(self._patient[mask])) > 1 for mask in masks)


def intervals(
    models: Models, metrics: Iterable[str] = HEADLINE, *, on: str = ALL, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Metrics with their 95% intervals, by patients.

    Args:
        models: predictions of one model, or of several seeds' models for the same films.
        metrics: names, see `metric_named`. on: "all", "own" or a site (see this module's head).
    """
    bootstrap = PatientBootstrap(_first(models), resamples=resamples, seed=seed)
    return {metric: bootstrap.interval(models, metric, on) for metric in metrics}


def difference(
    models: Models, others: Models, metric: str = "mcc", *, on: str = ALL, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """models' metric less others' on the same films, with its 95% interval from the paired bootstrap by patients."""
    return PatientBootstrap(_first(models), resamples=resamples, seed=seed).difference(models, others, metric, on)


def summarise(value: float, replicates: np.ndarray, metric: str) -> Interval:
    """The interval of a metric's distribution."""
    low, high = _bounds(value, replicates, metric)
    if metric in REFLECTED:
        low, high = max(0.0, low), min(1.0, high)  # keeps NaN
    return Interval(value, low, high, len(replicates), int(np.isnan(replicates).sum()))


def difference_of(first: tuple[float, np.ndarray], second: tuple[float, np.ndarray], metric: str) -> Difference:
    """The difference of two distributions over the same resamples."""
    value, replicates = first[0] - second[0], first[1] - second[1]
    low, high = _bounds(value, replicates, metric)
    if metric in REFLECTED:
        replicates = 2 * value - replicates
    undefined = int(np.isnan(replicates).sum())
    beyond = min(int((replicates <= 0).sum()), int((replicates >= 0).sum()))
    p = min(1.0, 2 * (1 + beyond) / (1 + len(replicates) - undefined)) if undefined < len(replicates) else math.nan
    return Difference(value, low, high, len(replicates), undefined, p)


def _bounds(value: float, replicates: np.ndarray, metric: str) -> tuple[float, float]:
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, [0.025, 0.975]).tolist()
    return (2 * value - high, 2 * value - low) if metric in REFLECTED else (low, high)


def mcnemar(first: Predictions, second: Predictions) -> float:
    """Exact two-sided p-value that two models are right equally often, by patients.

    With one film a patient this is McNemar's exact test (1947). With several, it is its like for clusters: under
    the hypothesis the models may change places at each patient, so a patient's difference in right answers is
    as likely -d as +d, and p is the probability of a sum of these at least as far from 0 as the one seen.

    Raises: KitError if the films differ.
    """
    check_same_films(first, second)
    surplus = (first.answers == first.labels).astype(int) - (second.answers == second.labels)
    _, patient = np.unique(np.stack([first.sites, first.patients]), axis=1, return_inverse=True)
    d = np.bincount(patient, surplus).astype(int)
    chances = np.ones(1)  # of the sums from -len//2 to len//2
    for size in np.abs(d[d != 0]):
        grown = np.zeros(len(chances) + 2 * size)
        grown[: len(chances)] += chances / 2
        grown[-len(chances) :] += chances / 2
        chances = grown
    sums = np.arange(len(chances)) - len(chances) // 2
    return min(1.0, float(chances[np.abs(sums) >= abs(d.sum())].sum()))


def _first(models: Models) -> Predictions:
    return models if isinstance(models, Predictions) else models[0]
