"""Alone, pooled or federated: what each hospital gets from each way to train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import nn

from ..data import pool_films
from ..errors import KitError, nearest
from ..evaluation import ALL, HEADLINE, OWN, Difference, Interval, PatientBootstrap, Predictions, Scores, join, scores
from ..evaluation.bootstrap import RESAMPLES, difference_of, summarise
from ..models import TrainedModel
from .local import predict
from .site import Site

EVERYWHERE = ALL  # the test films of all sites together
SHOWN = {"central": "pooled (central)", "local": "alone"}

Personal = Mapping[str, TrainedModel]  # site -> its own model
Arm = TrainedModel | Personal | Sequence[TrainedModel] | Sequence[Personal]  # a sequence: one a training seed


def pool_sites(sites: Sequence[Site], name: str = "central") -> Site:
    """One site that holds everybody's films: what privacy rules forbid, and what federation is measured by.

    Raises: KitError if some sites have validation films of their own and some haven't: the pooled run would set aside
    other patients than the federated one.
    """
    validation = [site.validation for site in sites if site.validation is not None and len(site.validation)]
    if validation and len(validation) < len(sites):
        lacking = next(site.name for site in sites if site.validation is None or not len(site.validation))
        raise KitError(
            f"Site {lacking} has no validation film, others have: pool [site.with_validation(plan) for site in sites], "
            "so that all runs leave out the same patients."
        )
    train, test = pool_films([site.train for site in sites]), pool_films([site.test for site in sites])
    return Site(name, train, test, pool_films(validation) if validation else None)


def predict_sites(model: TrainedModel | Personal, sites: Sequence[Site]) -> Predictions:
    """Answers to the test films of all sites, one site after another.

    Args:
        model: one for all, or a personal model a site, each of which answers its own site's films.

    Raises: KitError if no site has a test film, a site has no model, or its films aren't in the form that the
    model was trained on.
    """
    if not any(len(site.test) for site in sites):
        raise KitError("No site has a test film: give the manifest a test split.")
    if isinstance(model, Mapping):
        if missing := [site.name for site in sites if site.name not in model]:
            raise KitError(f"Site {missing[0]} has no model; there are models for {', '.join(model) or 'no site'}.")
        return join([_predict(model[site.name], model[site.name].network(), site) for site in sites])
    network = model.network()
    return join([_predict(model, network, site) for site in sites])


def evaluate(model: TrainedModel | Personal, sites: Sequence[Site]) -> dict[str, Scores]:
    """Scores on each site's test films, and on all of them together under "all" (see `predict_sites`)."""
    predictions = predict_sites(model, sites)
    return {site.name: scores(predictions.at(site.name)) for site in sites} | {EVERYWHERE: scores(predictions)}


@dataclass(frozen=True, eq=False)
class Comparison:
    """Ways to train ("arms"), tested on the same films.

    arms: name -> predictions for all test films, one a training seed. "local" is each site's own model.
    sites: names, also of those without a test film.
    alone: training site -> its model's predictions for everybody's films; may be empty.
    resamples, seed: of the patient bootstrap behind every interval (see `evaluation.bootstrap`).
    """

    arms: dict[str, tuple[Predictions, ...]]
    sites: tuple[str, ...]
    alone: dict[str, Predictions] = field(default_factory=dict)
    resamples: int = RESAMPLES
    seed: int = 0
    _known: dict = field(default_factory=dict, init=False, repr=False)  # distributions that were asked for

    def models(self, arm: str) -> tuple[Predictions, ...]:
        """An arm's predictions, one a seed; "SITE alone" is a site's own model on everybody's films.

        Raises: KitError for an unknown arm.
        """
        known = self.arms | {f"{site} alone": (predictions,) for site, predictions in self.alone.items()}
        if arm not in known:
            raise KitError(f"There is no arm {arm!r}{nearest(arm, known)}; compared were {', '.join(known)}.")
        return known[arm]

    def value(self, arm: str, metric: str = "mcc", on: str = ALL) -> float:
        """An arm's metric (see `evaluation.metric_named`), mean over its seeds.

        Args:
            on: "all" test films together, those of one site, or "own", the mean over the sites where it is defined.
        """
        models = self.models(arm)
        return float("nan") if self._empty(on) else self._bootstrap.value(models, metric, on)

    def interval(self, arm: str, metric: str = "mcc", on: str = ALL) -> Interval:
        """The same with its 95% interval, by patients."""
        return summarise(*self._distribution(arm, metric, on), metric)

    def difference(self, arm: str, than: str, metric: str = "mcc", on: str = ALL) -> Difference:
        """How much better an arm is than another, paired on the same patients."""
        return difference_of(self._distribution(arm, metric, on), self._distribution(than, metric, on), metric)

    def scores(self, arm: str) -> dict[str, Scores]:
        """Test site or "all" -> the headline metrics, means over the seeds."""
        films = {site: len(self._films.at(site)) for site in self.sites} | {ALL: len(self._films)}
        return {on: Scores(n, *(self.value(arm, metric, on) for metric in HEADLINE)) for on, n in films.items()}

    @property
    def central(self) -> dict[str, Scores]:
        return self.scores("central")

    @property
    def federated(self) -> dict[str, Scores]:
        return self.scores("federated")

    @property
    def local(self) -> dict[str, dict[str, Scores]]:
        """Training site -> (test site or "all" -> scores of its model there)."""
        return {site: self.scores(f"{site} alone") for site in self.alone}

    def own(self) -> dict[str, Scores]:
        """Each site's own model on its own test films."""
        scores = self.scores("local")
        return {site: scores[site] for site in self.sites}

    def results(self, intervals: bool = True, metrics: Sequence[str] = HEADLINE) -> dict[str, float | int]:
        """Flat keys for a result file, by metric (names: see `evaluation.metric_named`).

        ARM.mcc: on the test films of all sites together, ARM.SITE.mcc on those of one, ARM.own.mcc the mean of
        these over the sites. But local.mcc is the mean over the sites of their own models, to be compared with
        ARM.own.mcc; local.everywhere.mcc: mean over the sites of their own model on the test films of all.

        With intervals, also ARM.mcc.low, ARM.mcc.high and so on (95%), and, where there is a central arm,
        ARM_minus_central.mcc with its bounds: paired, and for local the difference of the means over the sites.
        A metric with a dot keeps it: ARM.sensitivity.viral, ARM.sensitivity.viral.low.
        """
        flat: dict[str, float | int] = {"test_films": len(self._films)}
        for metric in metrics:
            for arm in self.arms:
                flat |= {name: self.value(arm, metric, on) for name, on in _keys(arm, metric).items()}
            if self.alone:
                everywhere = [self.value(f"{site} alone", metric) for site in self.alone]
                flat[f"local.everywhere.{metric}"] = float(np.mean(everywhere))
            for site in self.sites:
                flat |= {f"{arm}.{site}.{metric}": self.value(arm, metric, site) for arm in self.arms}
        for metric in metrics if intervals else ():
            for arm in self.arms:
                for name, on in _keys(arm, metric).items():
                    flat |= _bounds(name, self.interval(arm, metric, on))
                if arm != "central" and "central" in self.arms:
                    name, on = f"{arm}_minus_central.{metric}", OWN if arm == "local" else ALL
                    difference = self.difference(arm, "central", metric, on)
                    flat |= {name: difference.value} | _bounds(name, difference)
        return flat

    def table(self, intervals: bool = False, metrics: Sequence[str] = HEADLINE):
        """A pandas table: who trained -> metrics on all test films.

        Args:
            intervals: adds texts like "0.67 [0.58, 0.75]" under "mcc [95%]", and numbers under "mcc.low" and "mcc.high".
            metrics: names, see `evaluation.metric_named`.
        """
        import pandas as pd

        trained = [arm for arm in self.arms if arm != "local" or not self.alone] + [f"{site} alone" for site in self.alone]
        rows = {}
        for arm in trained:
            numbers = {metric: self.value(arm, metric) for metric in metrics}
            texts = {}
            for metric in metrics if intervals else ():
                interval = self.interval(arm, metric)
                texts[f"{metric} [95%]"] = str(interval)
                numbers |= _bounds(metric, interval)
            rows[SHOWN.get(arm, arm)] = {"films": len(self._films)} | texts | numbers
        return pd.DataFrame.from_dict(rows, orient="index")

    def by_site(self, metrics: str | Sequence[str] = "mcc", intervals: bool = False):
        """A pandas table: test site -> a column an arm, and what the federated model gains over the site's own.

        Args:
            metrics: a name, see `evaluation.metric_named`; or several, and the table has a row a metric and site.
            intervals: the cells are texts like "0.67 [0.58, 0.75]".
        """
        import pandas as pd

        if not isinstance(metrics, str):
            return pd.concat({metric: self.by_site(metric, intervals) for metric in metrics}, names=["metric"])
        metric = metrics
        order = sorted(self.arms, key=lambda arm: {"local": 0, "central": 2}.get(arm, 1))
        table = pd.DataFrame(index=pd.Index(self.sites, name="hospital"))
        for arm in order:
            cells = [self.interval(arm, metric, s) if intervals else self.value(arm, metric, s) for s in self.sites]
            table[SHOWN.get(arm, arm)] = [str(cell) for cell in cells] if intervals else cells
        if {"local", "federated"} <= self.arms.keys():
            if intervals:
                gain = [str(self.difference("federated", "local", metric, site)) for site in self.sites]
            else:
                gain = table["federated"] - table["alone"]
            table["gain by joining"] = gain
        return table

    @property
    def _films(self) -> Predictions:
        return next(iter(self.arms.values()))[0]

    @cached_property
    def _bootstrap(self) -> PatientBootstrap:
        return PatientBootstrap(self._films, resamples=self.resamples, seed=self.seed)

    def _empty(self, on: str) -> bool:
        return on in self.sites and on not in self._films.site_names

    def _distribution(self, arm: str, metric: str, on: str) -> tuple[float, np.ndarray]:
        asked = (arm, metric, on)
        if asked not in self._known:
            models = self.models(arm)
            nothing = float("nan"), np.full(self.resamples, np.nan)
            self._known[asked] = nothing if self._empty(on) else self._bootstrap.distribution(models, metric, on)
        return self._known[asked]


def compare(
    central: TrainedModel, local: Mapping[str, TrainedModel], federated: TrainedModel, sites: Sequence[Site]
) -> Comparison:
    """Test the pooled model, each site's own and the federated one on the sites' test films.

    Raises: KitError if a site has no model of its own, or its films don't fit a model (see `predict_sites`).
    """
    if missing := [site.name for site in sites if site.name not in local]:
        raise KitError(f"Site {missing[0]} has no model of its own; there are models for {', '.join(local) or 'no site'}.")
    alone = {name: predict_sites(model, sites) for name, model in local.items()}
    arms = {
        "central": (predict_sites(central, sites),),
        "local": (join([alone[site.name].at(site.name) for site in sites]),),
        "federated": (predict_sites(federated, sites),),
    }
    return Comparison(arms, tuple(site.name for site in sites), alone)


def compare_arms(arms: Mapping[str, Arm], sites: Sequence[Site], *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Test any number of ways to train on the sites' test films.

    Args:
        arms: name -> a model; or {site: model}, personal models, each tested on its own site's films (FedBN, "local");
            or a list of either, one a training seed, over which every metric is a mean.
        resamples, seed: of the patient bootstrap.

    Raises: KitError for a name that results would confuse, an empty list, and as `predict_sites`.
    """
    if not arms:
        raise KitError('Nothing to compare: give arms, e.g. {"fedavg": model, "fedbn": {"A": model_a, "B": model_b}}.')
    tested = {}
    for name, arm in arms.items():
        if not name or "." in name or name.endswith(" alone"):
            raise KitError(f'An arm can\'t be called {name!r}: no dot, and not "... alone".')
        by_seed = (arm,) if isinstance(arm, (TrainedModel, Mapping)) else tuple(arm)
        if not by_seed:
            raise KitError(f"Arm {name} has no model.")
        tested[name] = tuple(predict_sites(model, sites) for model in by_seed)
    return Comparison(tested, tuple(site.name for site in sites), resamples=resamples, seed=seed)


def _predict(model: TrainedModel, network: nn.Module, site: Site) -> Predictions:
    spec, films = model.spec, site.test
    for what in ("classes", "size", "geometry"):
        trained, given = getattr(spec, what), getattr(films, what)
        if trained != given:
            raise KitError(f"The model was trained with {what} {trained!r}; site {site.name}'s test films have {given!r}.")
    probabilities = predict(network, films, spec)
    if not torch.isfinite(probabilities).all():
        raise KitError("The model answers with values that aren't numbers: its training diverged. Lower learning_rate.")
    return Predictions(films.labels.numpy(), probabilities.numpy(), films.patients, [site.name] * len(films), films.classes)


def _keys(arm: str, metric: str) -> dict[str, str]:
    """An arm's keys in a result file over all sites, and on which films."""
    if arm == "local":
        return {f"local.{metric}": OWN}
    return {f"{arm}.{metric}": ALL, f"{arm}.own.{metric}": OWN}


def _bounds(name: str, interval: Interval) -> dict[str, float]:
    return {f"{name}.low": interval.low, f"{name}.high": interval.high}
