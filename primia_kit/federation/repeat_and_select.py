"""One hospital alone tries a random number of private plans and shows the best: Papernot & Steinke 2022 (arXiv 2110.03620).

The theorem covers the best training, its score and its plan, and nothing else: not the other trainings, not how many there
were. So it's for a hospital that trains by itself. In a federation the server and the other hospitals see the model of every
round of every trial, which no choice afterwards takes back; there, trials compose (`search`, charge="composition").
"""

from __future__ import annotations

import math
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import KitError
from ..models import weights_sha256
from ..privacy import Ledger, NoiseSource, RepeatAndSelect
from .budgets import ledger_path
from .engine import federate
from .plan import TrainingPlan
from .private import count_units
from .private_statistics import statistics_spends
from .proposals import random_values
from .run import TrainingRun
from .search_privacy import check_charged, check_held_out, check_separate, spending_keys
from .search_ways import all_for_validation
from .site import Site
from .space import Space, Values, check_space
from .validation import answer_counts, answer_shares, check_metric, metric_of

_TRIES = 1000  # combinations that are drawn to find one that is a plan


@dataclass(frozen=True)
class Selected:
    """All that may be shown.

    plan: the best one. run: its training; its epsilons are the hospital's ledger's. score: the best.
    epsilon: of the hospital's ledger, with the whole search.
    """

    plan: TrainingPlan
    run: TrainingRun
    score: float
    epsilon: float


def repeat_and_select(
    plan: TrainingPlan,
    site: Site,
    space: Mapping[str, Values | Sequence[Any]],
    *,
    mean_trials: int,
    ledgers: str | Path,
    metric: str = "mcc",
    score_noise: float = 0.0,
    public: Sequence[Site] | None = None,
    start: Mapping[str, torch.Tensor] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Selected:
    """Train a random number of plans of a space at one hospital, and give out the one with the best score.

    1. The hospital's ledger is charged with the whole search, before anything is looked at.
    2. K is drawn: after each trial the search ends with chance 1 / mean_trials (a geometric number), by the operating
       system's generator.
    3. Each trial draws a plan from the space, uniformly and apart from all others, trains it with noise, and scores it: on
       held-out patients with noise, or on public films.
    4. The best by score (of equal scores, by a hash of the weights) is given out, and all else is forgotten.

    There's no folder, no progress and no pruning, since they'd tell of other trials, or of K; nor must anybody learn how
    long it took. A search that is stopped has spent what it was charged, and another one is charged again.

    Args:
        plan: private, with a noise_multiplier; `search`'s rules for charged plans hold.
        site: the hospital. mean_trials: the mean of K, at least 1; K has no upper end.
        space: of keys that change nothing of what a trial spends (batch_size, rounds and others do).
        ledgers: the folder with the hospital's ledger.
        metric, score_noise, public, start, device, precision: as for `search`.

    Raises: KitError for what the theorem doesn't cover, and if the ledger's budget doesn't allow the search.
    """
    check_metric(metric, plan.classes)
    checked = check_space(plan, space)
    if not isinstance(site, Site):
        raise KitError(
            "repeat_and_select is for one hospital alone: among several, the server sees every trial's models, not only the "
            'best. Use search(charge="composition"), or public films.'
        )
    if public is None:
        site = site.held_out(plan)
        check_held_out([site])
    else:
        check_separate(public, [site])
    check_charged(plan, [site], score_noise, scored_on_public=public is not None)
    if spending := spending_keys(checked):
        raise KitError(f"{', '.join(spending)} may change what a trial spends, and the theorem is about trials that are alike.")
    if statistics_spends(plan):
        raise KitError("The plan's pixel statistics or class weights are charged apart from its steps, which isn't covered here.")
    mechanism = _mechanism(plan, site, mean_trials, score_noise)
    judges = None if public is None else [all_for_validation(one) for one in public]
    ledger = _ledger(plan, site, Path(ledgers))
    ledger.spend(mechanism, purpose="repeat and select", run=plan.sha256)

    best: _Trial | None = None
    while True:
        with tempfile.TemporaryDirectory(prefix="primia-trial-") as passing:  # a trial's own ledger: the search is charged
            options = {"ledgers": passing, "start": start, "device": device, "precision": precision}
            trial = _trial(_draw(plan, checked), site, judges, metric, score_noise, options)
        best = trial if best is None or trial.order > best.order else best
        if secrets.randbelow(mean_trials) == 0:
            break
    if best.run is None:
        raise KitError(f"Even the best trial failed: {best.reason}")
    epsilon = ledger.epsilon()
    rounds = tuple(replace(r, epsilons={}, ledger_heads={}, seconds=0.0) for r in best.run.rounds)
    run = replace(best.run, rounds=rounds, notes=(), epsilons={site.name: epsilon})
    return Selected(best.plan, run, best.order[0], epsilon)


@dataclass(frozen=True)
class _Trial:
    """order: score, and the weights' hash. run: None if it failed, for this reason; that is a result like any other."""

    order: tuple[float, str]
    plan: TrainingPlan
    run: TrainingRun | None
    reason: str


def _trial(plan: TrainingPlan, site: Site, judges, metric: str, score_noise: float, options: Mapping[str, Any]) -> _Trial:
    try:
        run = federate(plan, [site], **options)
        score = _score(plan, run, site, judges, metric, score_noise)
    except KitError as error:  # it diverged, so the best is another, or none
        return _Trial((-math.inf, ""), plan, None, str(error))
    return _Trial((score, weights_sha256(run.model.weights)), plan, run, "")


def _mechanism(plan: TrainingPlan, site: Site, mean_trials: int, score_noise: float) -> RepeatAndSelect:
    units = count_units(site.train, plan.privacy)
    steps = plan.rounds * plan.private_steps(units)
    return RepeatAndSelect(mean_trials, plan.sampling_rate(units), plan.noise_multiplier, steps, float(score_noise))


def _ledger(plan: TrainingPlan, site: Site, folder: Path) -> Ledger:
    path, units = ledger_path(folder, site.name), count_units(site.train, plan.privacy)
    if not path.exists():
        return Ledger.create(path, site=site.name, delta=plan.delta, budget=None, patients=units, unit=plan.privacy)
    ledger = Ledger.open(path, site=site.name, delta=plan.delta, unit=plan.privacy)
    if ledger.account.patients != units:
        raise KitError(
            f"The ledger {path} is for {ledger.account.patients} {plan.privacy}s, and site {site.name} trains on {units}."
        )
    return ledger


def _draw(plan: TrainingPlan, space: Space) -> TrainingPlan:
    """A plan of the space, uniformly among those that are one."""
    for _ in range(_TRIES):
        try:
            return replace(plan, **random_values(space, secrets.randbits(32)))
        except KitError:
            continue
    raise KitError("Hardly any combination of the space is a plan: make it smaller.")


def _score(
    plan: TrainingPlan, run: TrainingRun, site: Site, judges: Sequence[Site] | None, metric: str, score_noise: float
) -> float:
    """The metric; lower than any other where it isn't defined."""
    if judges is not None:
        counts = sum(answer_counts(run.model, judge.validation) for judge in judges)
    else:
        shares = answer_shares(run.model, site.validation, plan.privacy)
        counts = NoiseSource().noised(shares, score_noise)  # which the search is charged for
    score = metric_of(counts, metric, plan.classes)
    return -math.inf if math.isnan(score) else score
