"""Search a plan's hyper-parameters over the federation: many plans are trained, and the sites' validation films choose.

What leaves the sites for it, besides what each training sends: confusion matrices, summed over the sites (see
`validation`). Test films have no part in it. Under differential privacy see `search_privacy`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import KitError
from ..secagg import Aggregator
from .engine import Federation
from .plan import TrainingPlan
from .proposals import PRUNERS, SAMPLERS, check_choice, propose, study_of
from .run import Round, TrainingRun
from .search_privacy import spending_keys
from .search_record import COMPLETE, FAILED, PRUNED, SearchRecord, Trial, best_of
from .search_ways import Charged, way_to
from .site import Site
from .space import Space, Values, check_space, space_to_plain
from .validation import check_metric, metric_of

if TYPE_CHECKING:
    import pandas as pd
    from optuna import Study


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    base, space, metric: what was searched. trials: in order.
    cost: a sentence on what was looked at, and what it cost the patients.
    epsilons: site -> ε of its ledger after the search; empty where nothing is charged.
    sites: as they were trained on, without those held out.
    """

    base: TrainingPlan
    space: Space
    metric: str
    trials: tuple[Trial, ...]
    cost: str
    epsilons: Mapping[str, float]
    sites: tuple[Site, ...] = field(repr=False)
    _folder: Path = field(repr=False)
    _options: Mapping[str, Any] = field(repr=False)
    _aggregator: Callable[[], Aggregator | None] = field(repr=False)

    @property
    def best(self) -> Trial:
        """The complete trial with the highest score; of equal ones the first.

        Raises: KitError if there is none.
        """
        if (best := best_of(list(self.trials))) is None:
            raise KitError(f"No trial was finished. The first ended so: {self.trials[0].reason or 'it was pruned.'}")
        return best

    @property
    def plan(self) -> TrainingPlan:
        """The best trial's."""
        return replace(self.base, **self.best.values)

    def run(self) -> TrainingRun:
        """The best trial's training, from its checkpoint: nothing is trained or spent anew.

        Raises: KitError if the checkpoint is gone.
        """
        checkpoints = SearchRecord(self._folder).checkpoints(self.best.number)
        run = Federation(self.plan, self.sites, self._aggregator(), checkpoints=checkpoints, **self._options)
        if not run.done:
            raise KitError(f"The best trial's checkpoint isn't in {checkpoints} any more: train its plan anew.")
        return run.run()

    def table(self) -> pd.DataFrame:
        """A row a trial, the best first: trial, state, score, a column a key, rounds, seconds, plan (its SHA-256's first
        twelve digits), reason (why it failed)."""
        import pandas as pd

        order = {COMPLETE: 0, PRUNED: 1, FAILED: 2}
        ordered = sorted(self.trials, key=lambda t: (order[t.state], -math.inf if t.score is None else -t.score, t.number))
        columns = {"trial": [t.number for t in ordered], "state": [t.state for t in ordered]}
        columns |= {self.metric: [math.nan if t.score is None else t.score for t in ordered]}
        columns |= {key: [t.values[key] for t in ordered] for key in self.space}
        columns |= {"rounds": [t.rounds for t in ordered], "seconds": [t.seconds for t in ordered]}
        return pd.DataFrame(columns | {"plan": [t.sha256[:12] for t in ordered], "reason": [t.reason for t in ordered]})

    @cached_property
    def study(self) -> Study:
        """The trials as an Optuna study, for its pictures and importances."""
        return study_of(self.space, self.trials)


def search(
    plan: TrainingPlan,
    sites: Sequence[Site],
    space: Mapping[str, Values | Sequence[Any]],
    *,
    trials: int,
    folder: str | Path,
    metric: str = "mcc",
    sampler: str | None = None,
    pruning: str = "none",
    public: Sequence[Site] | None = None,
    charge: str | None = None,
    score_noise: float = 0.0,
    budget: float | None = None,
    ledgers: str | Path | None = None,
    start: Mapping[str, torch.Tensor] | None = None,
    time_out: float | None = None,
    device: str = "auto",
    precision: str = "auto",
    on_trial: Callable[[Trial, int, Trial | None], None] | None = None,
    on_round: Callable[[Round, int], None] | None = None,
) -> SearchResult:
    """Try `trials` plans of a space, and find the best by a metric on the validation films of all sites together.

    1. Each site holds out its validation films, or else some of its patients (`validation_share`): the same in all trials.
    2. A trial draws values for the keys of the space; with the plan's other keys they are a plan, with its checks and hash.
       A combination that is no plan, and a training that fails by a sentence, is a failed trial.
    3. The plan is trained over the sites. The sites' confusion matrices are summed, and give the score; with pruning, after
       each round.

    Args:
        plan: gives every key that isn't searched.
        sites: at least one.
        space: see `check_space`.
        trials: how many in all, finished ones among them.
        folder: of the search, see `search_record`. A search that was stopped goes on there, a cut trial from its checkpoint,
            and ends as an unbroken one would have (with noise, in distribution).
        metric: "mcc", "accuracy", "balanced_accuracy", "sensitivity.CLASS" or "specificity.CLASS".
        sampler: "tpe" or "random"; default "tpe", but "random" where a charged trial's cost depends on the values.
        pruning: "median" ends a trial whose best score so far is below the median of what earlier trials had after the same
            round (not among the first four, nor in the first third of the rounds); "none".
        public: sites of films whose patients are public and at none of `sites`: they alone are trained on and scored. With
            `charge`, they are what trials are scored on.
        charge: "composition": train a private plan on private films in every trial; ledgers add up.
        score_noise: with `charge` and without `public`, the noise multiplier of each trial's counts at each site.
        budget: with `charge`, the ε that no site's ledger may pass by the whole search; checked before anything is spent.
        ledgers: with `charge`, the folder of the hospitals' ledgers; default one in `folder`.
        start, time_out, device, precision: see `federate`.
        on_trial: called after each trial with it, the number of trials wanted, and the best so far.
        on_round: called after each round with it and the number of rounds planned.

    Raises: KitError for a space, a metric or a folder that don't fit, and for a private plan whose films would be looked at
        without a charge.
    """
    return _Search(
        plan, space, trials, Path(folder), metric, sampler, pruning, budget,
        way_to(
            plan, sites, public=public, charge=charge, score_noise=score_noise, budget=budget, ledgers=ledgers,
            folder=SearchRecord(folder).ledgers,
        ),
        {"start": start, "time_out": time_out, "device": device, "precision": precision},
    ).run(on_trial, on_round)  # fmt: skip


class _Search:
    """A checked search."""

    def __init__(self, plan, space, trials, folder, metric, sampler, pruning, budget, way, options):
        if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
            raise KitError(f"trials is {trials!r}; it's a whole number of at least 1.")
        check_metric(metric, plan.classes)
        check_choice("pruning", pruning, PRUNERS)
        self.plan, self.space, self.trials, self.metric = plan, check_space(plan, space), trials, metric
        self.folder, self.pruning, self.budget, self.way, self.options = folder, pruning, budget, way, options | way.options
        charged = isinstance(way, Charged)
        if charged and pruning != "none":
            raise KitError(
                f"pruning is \"{pruning}\": what a charged trial spends mustn't depend on what it finds, or the ledgers' sum "
                'doesn\'t hold. Set pruning="none".'
            )
        spending = spending_keys(self.space) if charged else []
        if sampler is not None:
            check_choice("sampler", sampler, SAMPLERS)
        if sampler == "tpe" and spending:
            raise KitError(
                f'sampler is "tpe", and {", ".join(spending)} may change what a trial spends: chosen by earlier scores, the '
                "ledgers' sum doesn't hold. Use sampler=\"random\", or take it out of the space."
            )
        self.sampler = sampler or ("random" if spending else "tpe")

    @property
    def terms(self) -> dict[str, Any]:
        """What the search is: trials of two can be compared only if all of it is the same."""
        plan = asdict(self.plan) | {"classes": list(self.plan.classes), "frozen": list(self.plan.frozen)}
        return {
            "plan": plan, "space": space_to_plain(self.space), "metric": self.metric, "sampler": self.sampler,
            "pruning": self.pruning, "way": self.way.whose, "score_noise": getattr(self.way, "score_noise", 0.0),
            "sites": [site.name for site in self.way.sites], "judges": [site.name for site in self.way.judges],
        }  # fmt: skip

    def run(self, on_trial, on_round) -> SearchResult:
        digests = {site.name: site.films_sha256() for site in (*self.way.judges, *self.way.sites)}
        with SearchRecord.open(self.folder, self.terms, digests, self.way.whose) as record:
            if self.budget is not None:
                self.way.check_budget(self._plans_to_come(record), self.budget)
            while len(finished := record.finished()) < self.trials:
                record.finish(trial := self._trial(record, finished, on_round))
                best = best_of([*finished, trial])
                record.forget_models(best and best.number)
                if on_trial:
                    on_trial(trial, self.trials, best)
        result = SearchResult(
            self.plan, self.space, self.metric, tuple(finished), self.way.cost(len(finished)), self.way.epsilons(),
            self.way.sites, self.folder, self.options, self.way.aggregator,
        )  # fmt: skip
        result.best  # noqa: B018 - raises if there is none
        return result

    def _plans_to_come(self, record: SearchRecord) -> list[TrainingPlan]:
        """As far as their cost goes: those that are drawn at random are known ahead, the others all cost the same."""
        finished, plans = record.finished(), []
        while len(finished) < self.trials:
            values = record.begun(len(finished)) or propose(self.plan, self.space, finished, sampler="random").params
            finished.append(Trial(len(finished), values, FAILED))
            try:
                plans.append(replace(self.plan, **values))
            except KitError:  # no plan costs nothing; but of "tpe" others may come
                plans += [] if self.sampler == "random" else [self.plan]
        return plans

    def _trial(self, record: SearchRecord, finished: Sequence[Trial], on_round) -> Trial:
        number, clock = len(finished), time.perf_counter()
        begun = record.begun(number)
        proposed = propose(self.plan, self.space, finished, sampler=self.sampler, pruning=self.pruning, values=begun)
        trial = Trial(number, proposed.params, FAILED)
        if begun is None:
            record.begin(number, proposed.params)
        try:
            plan = replace(self.plan, **proposed.params)
            trial = replace(trial, sha256=plan.sha256)
            return replace(trial, **self._train(record, plan, proposed, number, on_round))
        except KitError as error:
            return replace(trial, reason=str(error), seconds=time.perf_counter() - clock)

    def _train(self, record: SearchRecord, plan: TrainingPlan, proposed, number: int, on_round) -> dict[str, Any]:
        """A trial's state, score, rounds, seconds and scores."""
        federation = Federation(
            plan, self.way.sites, self.way.aggregator(), checkpoints=record.checkpoints(number), **self.options
        )
        scores, told = record.scores(number), 0

        def is_pruned() -> bool:
            nonlocal told
            rounds = federation.finished
            if self.pruning == "none" or not rounds or federation.done:
                return False
            if rounds not in scores:
                scores[rounds] = self._score(federation, f"round {rounds} search score")
                record.note_scores(number, scores)
            for past in range(told + 1, rounds + 1):
                proposed.report(scores[past], past)
            told = rounds
            return proposed.should_prune()

        pruned = is_pruned()  # a trial may have been cut between a round and what follows it
        rounds = iter(federation)
        while not pruned and (done := next(rounds, None)) is not None:
            if on_round:
                on_round(done, plan.rounds)
            pruned = is_pruned()
        score = scores[federation.finished] if pruned else self._score(federation, "search score")
        seconds = sum(r.seconds for r in federation.rounds)
        state = PRUNED if pruned else COMPLETE
        return {"state": state, "score": score, "rounds": federation.finished, "seconds": seconds, "scores": scores}

    def _score(self, federation: Federation, purpose: str) -> float:
        score = metric_of(self.way.answers(federation, purpose), self.metric, self.plan.classes)
        if math.isnan(score):
            raise KitError(f"{self.metric} isn't defined on the validation films: too few classes occur among them.")
        return score
