"""The rounds: federated averaging (McMahan et al. 2017) over sites in one process.

Centralised training is a federation of one site that holds all films; local training, one of one site
that holds its own. There is no second code path to compare apples with pears.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ..errors import KitError
from ..models import ModelSpec, TrainedModel
from ..secagg import Aggregator, PlainSum, SecureSum, Transcript
from .fields import PIXEL_FIELDS, update_fields
from .plan import TrainingPlan
from .site import Site


@dataclass(frozen=True)
class Round:
    """What a finished round was like.

    number: from 1. losses: site -> mean training loss. steps: site -> optimizer steps.
    seconds: wall time. update_bytes: what each site sent to be summed.
    """

    number: int
    losses: dict[str, float]
    steps: dict[str, int]
    seconds: float
    update_bytes: int


@dataclass(frozen=True)
class TrainingRun:
    """A finished run: the plan, the model after the last round, the rounds, and what the server saw."""

    plan: TrainingPlan
    model: TrainedModel
    rounds: tuple[Round, ...]
    transcript: Transcript = field(default_factory=Transcript, repr=False)

    @property
    def seconds(self) -> float:
        return sum(r.seconds for r in self.rounds)


class Federation:
    """A run in progress: `for round in federation: ...` trains it, round by round.

    Args:
        plan: checked against every site.
        sites: at least one, with different names.
        aggregator: how sums are formed; default `SecureSum()`, where the server sees sums alone. A single
            site has nobody to hide among: its default is the plain sum.

    Raises: KitError if the sites don't fit the plan, or if there are two of them and no aggregator was chosen.
    """

    def __init__(self, plan: TrainingPlan, sites: Sequence[Site], aggregator: Aggregator | None = None):
        if not sites:
            raise KitError("A federation needs at least one site.")
        if len({site.name for site in sites}) < len(sites):
            raise KitError(f"Two sites have the same name: {', '.join(site.name for site in sites)}.")
        for site in sites:
            site.check(plan)
        self.plan, self.sites = plan, tuple(sites)
        self.aggregator = aggregator or (PlainSum() if len(sites) == 1 else SecureSum())
        self.spec = self._pooled_statistics()
        self.weights = self.spec.build(plan.seed).state_dict()
        self.finished = 0

    def __iter__(self) -> Iterator[Round]:
        while self.finished < self.plan.rounds:
            yield self.run_round()

    def run_round(self) -> Round:
        """One round.

        1. Every site trains the global weights on its own films and forms w * update, with its weight w.
        2. The aggregator adds them up.
        3. global += sum(w * update) / sum(w); BatchNorm's running statistics alike.
        """
        start, number = time.perf_counter(), self.finished + 1
        updates, trainings = {}, {}
        for site in self.sites:
            updates[site.name], trainings[site.name] = site.update(self.plan, self.spec, self.weights, number)
            # The engine shows these two, so they leave the site in clear.
            self.aggregator.transcript.clear(f"round {number} update", site.name, "a mean training loss and a number of steps")
        # A site alone adds nothing up, so there is no sum that could overflow and no range to keep.
        names = next(iter(updates.values()))
        fields = update_fields(names, self.largest_weight, len(updates)) if len(updates) > 1 else None
        total = self.aggregator.sum(f"round {number} update", updates, fields)
        weight = total.pop("weight")
        # Whole-number buffers (BatchNorm's batch counters) are no part of the model's function: they stay.
        self.weights = {name: old + total[name] / weight if name in total else old for name, old in self.weights.items()}
        self.finished = number
        return Round(
            number=number,
            losses={name: training.loss for name, training in trainings.items()},
            steps={name: training.steps for name, training in trainings.items()},
            seconds=time.perf_counter() - start,
            update_bytes=sum(part.nbytes for part in updates[self.sites[0].name].values()),
        )

    def model(self) -> TrainedModel:
        """The global model as it stands."""
        return TrainedModel(self.spec, {name: value.clone() for name, value in self.weights.items()})

    def _pooled_statistics(self) -> ModelSpec:
        """Mean and standard deviation over the pixels of all sites, from sums: the exact pooled values.

        (The mean of the sites' standard deviations is not the standard deviation of their union.)
        """
        sums = {site.name: site.pixel_sums() for site in self.sites}
        total = self.aggregator.sum("pixel statistics", sums, PIXEL_FIELDS)
        films = round(float(total["pixels"])) / self.plan.size**2
        self.largest_weight = max(films, 1.0) if self.plan.weighting == "films" else 1.0
        mean = float(total["sum"] / total["pixels"])
        variance = float(total["sum_of_squares"] / total["pixels"]) - mean**2
        if variance < 1e-7:  # float32 squares of equal pixels differ by less
            raise KitError("All pixels of all training films are equal: there is nothing to learn from them.")
        return self.plan.model_spec(mean, math.sqrt(variance))


def federate(
    plan: TrainingPlan,
    sites: Sequence[Site],
    *,
    aggregator: Aggregator | None = None,
    on_round: Callable[[Round, int], None] | None = None,
) -> TrainingRun:
    """Train `plan` over `sites` to its end.

    Args:
        on_round: called after each round with it and the number of rounds planned (progress).
    """
    federation = Federation(plan, sites, aggregator)
    rounds = []
    for round in federation:
        rounds.append(round)
        if on_round:
            on_round(round, plan.rounds)
    return TrainingRun(plan, federation.model(), tuple(rounds), federation.aggregator.transcript)
