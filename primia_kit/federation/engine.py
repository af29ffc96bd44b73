"""The rounds: federated training over sites in one process, by the strategy of the plan.

Centralised training is a federation of one site that holds all films; local training, one of one site
that holds its own. There is no second code path to compare apples with pears.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import KitError
from ..models import ModelSpec, TrainedModel
from ..secagg import Aggregator, PlainSum, SecureSum
from ..seeds import numpy_generator
from .asking import Asking
from .checkpoint import Checkpoints
from .device import choose_device
from .fields import VALIDATION_FIELDS, update_fields
from .local import has_dropout
from .messages import LocalTraining, RoundTask, SiteMemory, Tensors
from .plan import TrainingPlan
from .pooled import balanced_weights, pooled_statistics, weight_of_all
from .run import Round, TrainingRun
from .site import Site, personal_weights
from .strategies import SERVERS

_FEWEST = 3  # sites that a round draws at least: of a sum of two, each can tell the other's part


@dataclass
class Best:
    """The round with the lowest validation loss so far, and its global weights."""

    round: int = 0
    loss: float = math.inf
    weights: Tensors = field(default_factory=dict)


class Federation:
    """A run in progress: `for round in federation: ...` trains it, round by round.

    Args: see `federate`.

    spec: the model, with the pixel statistics of all sites. weights: the global state dict as it stands.
    finished: rounds done. rounds: their records. notes: see `TrainingRun`.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        sites: Sequence[Site],
        aggregator: Aggregator | None = None,
        *,
        checkpoints: str | Path | None = None,
        time_out: float | None = None,
        device: str = "auto",
        precision: str = "auto",
    ):
        if not sites:
            raise KitError("A federation needs at least one site.")
        if len({site.name for site in sites}) < len(sites):
            raise KitError(f"Two sites have the same name: {', '.join(site.name for site in sites)}.")
        for site in sites:
            site.check(plan)
        if time_out is not None and not time_out > 0:
            raise KitError(f"time_out is {time_out}; it's the seconds that a site has for a round, above 0, or None.")
        self.plan, self.sites = plan, tuple(site.with_validation(plan) for site in sites)
        for site in self.sites:
            site.check(plan)  # those that are left to train on
        self.aggregator, self.time_out = aggregator or (PlainSum() if len(sites) == 1 else SecureSum()), time_out
        self.device = choose_device(device, precision)
        self.memories = {site.name: SiteMemory() for site in self.sites}
        self.rounds: list[Round] = []
        self.best = Best()
        self.notes: list[str] = []
        self._checkpoints = self._digests = None
        state, kept = {}, {}
        if checkpoints is not None:
            self._checkpoints = Checkpoints(checkpoints, plan.sha256, tuple(self.memories))
            self._digests = {site.name: site.films_sha256() for site in self.sites}
            state, kept, self.notes = self._checkpoints.latest() or ({}, {}, [])
        self._begin(state)
        if state:
            self._restore(state, kept)

    @property
    def finished(self) -> int:
        return len(self.rounds)

    @property
    def done(self) -> bool:
        """All rounds are made, or the validation loss has had its patience."""
        stopped = self.plan.patience and self.finished - self.best.round >= self.plan.patience
        return self.finished >= self.plan.rounds or bool(stopped)

    def __iter__(self) -> Iterator[Round]:
        while not self.done:
            yield self.run_round()

    def task(self) -> RoundTask:
        """What the server sends the sites for the next round."""
        return RoundTask(self.plan, self.spec, self.finished + 1, self.weights, self.class_weights, control=self.server.control())

    def run_round(self) -> Round:
        """One round.

        1. The server draws the sites that take part (participation), and sends them the task.
        2. Every site trains the global weights on its own films and forms its contribution. A site that fails
           or takes too long is left out of this round, and asked again in the next one.
        3. The aggregator adds the contributions up, the weights among them.
        4. The server makes the strategy's step along the mean; the sites that are in the sum keep their state.
        5. If the plan stops early: the sites' validation losses of the new model are summed alike.
        """
        start, task = time.perf_counter(), self.task()
        contributions, trainings, absent = self._train(task)
        total = self._sum(f"round {task.number} update", contributions)
        self.weights = self.server.step(self.weights, total)
        survivors = getattr(self.aggregator, "survivors", contributions)  # a secure sum says who dropped out of it
        for name in contributions:
            self.memories[name].settle(included=name in survivors)
            if name not in survivors:
                absent[name] = "dropped out of the sum"
        loss = self._validate(replace(task, weights=self.weights), absent) if self.plan.patience else None
        done = Round(
            number=task.number,
            losses={name: training.loss for name, training in trainings.items()},
            steps={name: training.steps for name, training in trainings.items()},
            seconds=time.perf_counter() - start,
            update_bytes=sum(part.nbytes for part in next(iter(contributions.values())).values()),
            absent=absent,
            validation_loss=loss,
        )
        self.rounds.append(done)
        self._save()
        return done

    def models(self) -> dict[str, TrainedModel]:
        """Site -> its model: the best so far if the plan stops early, else as it stands. One for all but FedBN."""
        early = self.plan.patience and self.best.round
        weights = self.best.weights if early else self.weights
        if self.plan.strategy != "fedbn":
            return dict.fromkeys(self.memories, TrainedModel(self.spec, _copy(weights)))
        kept = {name: memory.best if early else memory.kept for name, memory in self.memories.items()}
        return {name: TrainedModel(self.spec, _copy(personal_weights(weights, layers))) for name, layers in kept.items()}

    def run(self) -> TrainingRun:
        """What is known of the run so far."""
        best = self.best.round if self.plan.patience else self.finished
        return TrainingRun(
            self.plan, self.models(), tuple(self.rounds), best, tuple(self.notes), transcript=self.aggregator.transcript
        )

    def _begin(self, state: Mapping[str, Any]) -> None:
        """The facts about all sites that a run needs, by one sum each, or from its checkpoint."""
        plan, sites, aggregator = self.plan, self.sites, self.aggregator
        self.class_weights: torch.Tensor | None = state.get("class_weights")
        everyone: float | None = state.get("everyone")
        if state:
            self.spec = ModelSpec(**{**state["spec"], "classes": plan.classes})
            self.largest_weight: float = state["largest_weight"]
        else:
            self.spec, films = pooled_statistics(plan, sites, aggregator)
            self.largest_weight = max(films, 1.0) if plan.weighting == "films" else 1.0
            if plan.class_weights == "balanced":
                self.class_weights = balanced_weights(sites, aggregator)
            if SERVERS[plan.strategy].needs_everyone:
                everyone = weight_of_all(plan, sites, aggregator, self.largest_weight)
        network = self.spec.build(plan.seed)
        self.weights = network.state_dict()
        self.server = SERVERS[plan.strategy](plan, network, everyone)
        # Sites that drop out units draw from torch's one generator, so they take turns.
        self._asking = Asking(self.device, side_by_side=len(sites) > 1 and not has_dropout(network))

    def _sum(self, purpose: str, contributions: Mapping[str, Tensors]) -> Tensors:
        # A site alone adds nothing up, so there is no sum that could overflow and no range to keep.
        parts, alone = next(iter(contributions.values())), len(contributions) == 1
        fields = None if alone else update_fields(parts, self.largest_weight, len(contributions))
        return self.aggregator.sum(purpose, contributions, fields)

    def _train(self, task: RoundTask) -> tuple[dict[str, Tensors], dict[str, LocalTraining], dict[str, str]]:
        """Ask the sites drawn; returns contributions, trainings, and why the others aren't in them."""
        drawn = self._drawn(task.number)
        absent = {site.name: "not drawn" for site in self.sites if site.name not in drawn}
        answers, failed = self._ask("update", task, drawn)
        absent |= failed
        for name in failed:
            self.memories[name].settle(included=False)
        contributions = {name: contribution for name, (contribution, _) in answers.items()}
        trainings = {name: training for name, (_, training) in answers.items()}
        for name in contributions:  # the engine shows these two, so they leave the site in clear
            told = "a mean training loss and a number of steps"
            self.aggregator.transcript.clear(f"round {task.number} update", name, told)
        answered, least = len(contributions), min(self.plan.min_sites, len(drawn))
        hidden_among = getattr(self.aggregator, "min_survivors", 1)
        if answered < max(least, hidden_among):
            reasons = "; ".join(f"{name}: {absent[name]}" for name in drawn if name in absent)
            why = f"min_sites is {least}" if answered < least else f"and a secure sum needs {hidden_among}"
            raise KitError(f"Round {task.number}: {answered} of {len(drawn)} sites answered, {why}. {reasons}")
        return contributions, trainings, absent

    def _ask(self, question: str, task: RoundTask, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
        """Answers, and reasons why there is none, of the sites asked to do `question`, a method of `Site`."""
        asked = [site for site in self.sites if site.name in names]
        questions = {site.name: partial(getattr(site, question), task, self.memories[site.name]) for site in asked}
        return self._asking(questions, self.time_out)

    def _drawn(self, number: int) -> tuple[str, ...]:
        names = tuple(self.memories)
        count = max(min(_FEWEST, len(names)), round(self.plan.participation * len(names)))
        if count == len(names):
            return names
        draw = numpy_generator(self.plan.seed, number, "participants").choice(len(names), count, replace=False)
        return tuple(names[i] for i in sorted(draw))

    def _validate(self, task: RoundTask, absent: dict[str, str]) -> float:
        """The mean loss of the new model over all sites' validation films; remembers it if it's the best."""
        sums, failed = self._ask("validation_sums", task, tuple(self.memories))
        for name, reason in failed.items():
            absent.setdefault(name, f"not in the validation loss: {reason}")
        fields = VALIDATION_FIELDS if len(sums) > 1 else None
        total = self.aggregator.sum(f"round {task.number} validation", sums, fields)
        if not total["films"] > 0:
            raise KitError("No site has a validation film, so nothing can tell when to stop: set patience to 0.")
        loss = float(total["loss"] / total["films"])
        if loss < self.best.loss:
            self.best = Best(task.number, loss, dict(self.weights))
            for memory in self.memories.values():
                memory.best = dict(memory.kept)
        return loss

    def _save(self) -> None:
        if self._checkpoints is None:
            return
        server = {
            "spec": {**asdict(self.spec), "classes": list(self.spec.classes)},
            "class_weights": self.class_weights,
            "everyone": self.server.everyone,
            "largest_weight": self.largest_weight,
            "weights": self.weights,
            "server": self.server.state,
            "best": vars(self.best),
            "rounds": [asdict(r) for r in self.rounds],
        }
        sites = {name: {"films": self._digests[name], "kept": m.kept, "best": m.best} for name, m in self.memories.items()}
        self._checkpoints.save(self.finished, server, sites)

    def _restore(self, server: Mapping[str, Any], sites: Mapping[str, Mapping[str, Any]]) -> None:
        for name, state in sites.items():
            if state["films"] != self._digests[name]:
                raise KitError(
                    f"Site {name}'s films aren't those that the checkpoints in {self._checkpoints.folder} were trained on: "
                    "a run can't go on with other films. Choose another folder to start anew."
                )
            self.memories[name] = SiteMemory(kept=state["kept"], best=state["best"])
        self.weights, self.server.state = server["weights"], server["server"]
        self.best = Best(**server["best"])
        self.rounds = [Round(**record) for record in server["rounds"]]


def federate(
    plan: TrainingPlan,
    sites: Sequence[Site],
    *,
    aggregator: Aggregator | None = None,
    on_round: Callable[[Round, int], None] | None = None,
    checkpoints: str | Path | None = None,
    time_out: float | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> TrainingRun:
    """Train `plan` over `sites` to its end.

    Args:
        plan: checked against every site.
        sites: at least one, with different names.
        aggregator: how sums are formed; default `SecureSum()`, where the server sees sums alone, and three sites
            must be in each. A single site has nobody to hide among: its default is the plain sum.
        on_round: called after each round with it and the number of rounds planned (progress).
        checkpoints: a folder that keeps the last two rounds; a run that finds some there goes on from them, and
            ends as an unbroken one would have, to the bit (see `checkpoint`).
        time_out: seconds that a site has for a round. Who is late depends on the machine, so a run in which it
            struck (`Round.absent`) can't be repeated to the bit.
        device, precision: see `choose_device`; no part of the plan.
    """
    federation = Federation(
        plan, sites, aggregator, checkpoints=checkpoints, time_out=time_out, device=device, precision=precision
    )
    for round in federation:
        if on_round:
            on_round(round, plan.rounds)
    return federation.run()


def _copy(weights: Mapping[str, torch.Tensor]) -> Tensors:
    return {name: value.clone() for name, value in weights.items()}
