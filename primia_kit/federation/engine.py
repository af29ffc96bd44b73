"""The rounds: federated training over sites in one process, by the strategy of the plan.

Centralised training is a federation of one site that holds all films; local training, one of one site
that holds its own. There is no second code path to compare apples with pears.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import KitError
from ..models import ModelSpec, TrainedModel, last_layer, weights_sha256
from ..privacy import DistributedNoise
from ..privacy.gradients import check_layers
from ..secagg import Aggregator, Identity, PlainSum, SecureSum
from ..seeds import numpy_generator
from .asking import Asking
from .budgets import PASSING, ledger_folder, open_ledgers, spent
from .checkpoint import Checkpoints
from .device import choose_device
from .distributed import check_aggregator, gradient_fields, mean_step
from .fields import VALIDATION_FIELDS, update_fields
from .local import has_dropout
from .messages import LocalTraining, RoundTask, SiteMemory, Tensors
from .plan import TrainingPlan
from .pooled import balanced_weights, mean_feature, pooled_statistics, weight_bound, weight_of_all
from .private_statistics import private_class_weights, private_mean_feature, private_pixel_statistics
from .run import Best, Round, TrainingRun
from .site import Site, personal_weights
from .snapshot import restore, server_state, site_states
from .strategies import SERVERS
from .trainable import freeze, trained_head, training_mode

_FEWEST = 3  # sites that a round draws at least: of a sum of two, each can tell the other's part


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
        start: Mapping[str, torch.Tensor] | None = None,
        checkpoints: str | Path | None = None,
        ledgers: str | Path | None = None,
        time_out: float | None = None,
        device: str = "auto",
        precision: str = "auto",
    ):
        if not isinstance(plan, TrainingPlan):
            raise KitError(f"The plan is a {type(plan).__name__}; it must be a TrainingPlan.")
        sites = tuple(sites)
        if not sites:
            raise KitError("A federation needs at least one site.")
        if len({site.name for site in sites}) < len(sites):
            raise KitError(f"Two sites have the same name: {', '.join(site.name for site in sites)}.")
        for site in sites:
            site.check(plan)
        is_number = isinstance(time_out, (int, float)) and not isinstance(time_out, bool)
        if time_out is not None and not (is_number and time_out > 0):
            raise KitError(f"time_out is {time_out!r}; it's the seconds that a site has for a round, above 0, or None.")
        if checkpoints is not None and not isinstance(checkpoints, (str, Path)):
            raise KitError(f"checkpoints is {checkpoints!r}; it's the path of a folder, or None.")
        if start is not None and weights_sha256(start) != plan.start:
            said = f"says {plan.start[:12]}…" if plan.start else "names none"
            raise KitError(f"These start weights have SHA-256 {weights_sha256(start)}, and the plan's key start {said}.")
        # In one process a hospital approves the plan by being there when the run begins; it holds each round's task to that.
        self.sites = tuple(replace(site.with_validation(plan), approved=plan.sha256) for site in sites)
        self.plan, self.time_out = plan, time_out
        for before, site in zip(sites, self.sites, strict=True):
            site.check(plan, held=len(before.train) - len(site.train))  # those that are left to train on
        self.device = choose_device(device, precision)
        if plan.private and self.device.precision == "fp16":
            raise KitError('fp16 scales the loss by what overflows, which depends on private films: use precision="float32".')
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
        self.aggregator = aggregator or self._default_aggregator()
        if plan.noise == "distributed":
            check_aggregator(plan, self.sites, self.aggregator)
        self.average: Tensors = {}  # with `ema`: the mean of the weights, not yet corrected for its start at 0
        if plan.private:
            self._open_ledgers(ledgers, state, kept)
        self._begin(state, start)
        if state:
            restore(self, state, kept, self._digests, self._checkpoints.folder)

    @property
    def finished(self) -> int:
        return len(self.rounds)

    @property
    def done(self) -> bool:
        """All rounds are made, or the validation loss has had its patience (of rounds in which it is known), or too few
        hospitals have privacy budget left."""
        since = sum(r.validation_loss is not None for r in self.rounds[self.best.round :])
        if self.finished >= self.plan.rounds or bool(self.plan.patience and since >= self.plan.patience):
            return True
        return len(self.memories) - len(self._spent()) < self._needed(self._drawn(self.finished + 1)[1])

    def __iter__(self) -> Iterator[Round]:
        if self.done and not self.finished:
            raise KitError(f"No round can be made: the privacy budgets of {', '.join(self._spent())} are spent.")
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

        An exception leaves the federation as it was before the round, which may be tried again.
        """
        memories = {name: replace(m) for name, m in self.memories.items()}  # their ledgers are files: what's spent stays spent
        before = self.weights, dict(self.server.state), self.best, self.average, memories
        try:
            done = self._round()
        except BaseException:
            self.weights, self.server.state, self.best, self.average, self.memories = before
            raise
        self.rounds.append(done)
        self._save()
        return done

    def _round(self) -> Round:
        start, task = time.perf_counter(), self.task()
        contributions, trainings, absent = self._train(task)
        total = self._sum(f"round {task.number} update", contributions)
        if self.plan.noise == "distributed":
            total = mean_step(task, total, self._noise())
        self.weights = self.server.step(self.weights, total)
        if self.plan.ema:
            self.average = {n: self.plan.ema * self.average.get(n, 0) + (1 - self.plan.ema) * w for n, w in self.weights.items()}
        for name in contributions:
            self.memories[name].settle(included=name in self.aggregator.survivors)
            if name not in self.aggregator.survivors:
                absent[name] = "dropped out of the sum"
        loss = self._validate(replace(task, weights=self.weights), absent) if self.plan.patience else None
        return Round(
            number=task.number,
            losses={name: training.loss for name, training in trainings.items() if training.loss is not None},
            steps={name: training.steps for name, training in trainings.items()},
            seconds=time.perf_counter() - start,
            update_bytes=sum(4 * part.numel() for part in next(iter(contributions.values())).values()),  # words of 32 bits
            absent=absent,
            validation_loss=loss,
            epsilons={name: training.epsilon for name, training in trainings.items() if training.epsilon is not None},
            ledger_heads={name: training.ledger_head for name, training in trainings.items() if training.ledger_head},
        )

    def models(self) -> dict[str, TrainedModel]:
        """Site -> its model: the best so far if the plan stops early, the averaged one with `ema`, else as it stands. One
        for all but FedBN."""
        early = self.plan.patience and self.best.round
        weights = self.best.weights if early else self._averaged() if self.average else self.weights
        if self.plan.strategy != "fedbn":
            return dict.fromkeys(self.memories, TrainedModel(self.spec, _copy(weights)))
        kept = {name: memory.best if early else memory.kept for name, memory in self.memories.items()}
        return {name: TrainedModel(self.spec, _copy(personal_weights(weights, layers))) for name, layers in kept.items()}

    def run(self) -> TrainingRun:
        """What is known of the run so far."""
        best = (self.plan.patience and self.best.round) or self.finished
        notes, never = list(self.notes), [name for name, memory in self.memories.items() if not memory.kept]
        if self.plan.strategy == "fedbn" and never:
            notes.append(f"Never in a round, so their BatchNorm layers are as they began: {', '.join(never)}.")
        if self.plan.private and self.done and self.finished < self.plan.rounds:
            whose = ", ".join(self._spent())
            notes.append(f"Ended after {self.finished} of {self.plan.rounds} rounds: the privacy budgets of {whose} are spent.")
        epsilons = {name: m.privacy.ledger.epsilon() for name, m in self.memories.items() if m.privacy is not None}
        return TrainingRun(self.plan, self.models(), tuple(self.rounds), best, tuple(notes), self.aggregator.transcript, epsilons)

    def _averaged(self) -> Tensors:
        """The mean over the rounds, with weights that go down by `ema` a round and add up to 1."""
        share = 1 - self.plan.ema**self.finished
        return {n: (m / share).to(self.weights[n].dtype) for n, m in self.average.items()}

    def _open_ledgers(self, folder: str | Path | None, state: Mapping[str, Any], kept: Mapping[str, Mapping[str, Any]]) -> None:
        self._passing = ledger_folder(folder, self._checkpoints)
        if self._passing:
            self.notes.append(PASSING)
            folder = self._passing.name
        for name, privacy in open_ledgers(self.plan, self.sites, folder or self._checkpoints, state, kept).items():
            self.memories[name].privacy = privacy

    def _noise(self) -> DistributedNoise:
        """The terms of distributed noise, the same at all hospitals."""
        return next(iter(self.memories.values())).privacy.distributed

    def _spent(self) -> list[str]:
        return spent(self.plan, self.sites, self.memories)

    def _default_aggregator(self) -> Aggregator:
        """A secure sum, whose hospitals remember what they opened wherever the run can be taken up again."""
        if len(self.sites) == 1:
            return PlainSum()
        fewest = self.plan.min_sites if self.plan.noise == "distributed" else None  # the noise counts on so many
        if self._checkpoints is None:
            return SecureSum(min_survivors=fewest)
        histories = {site.name: self._checkpoints.history(site.name) for site in self.sites}
        identities = {name: Identity.generate(history) for name, history in histories.items()}
        return SecureSum(identities, min_survivors=fewest, run=self._checkpoints.run)

    def _begin(self, state: Mapping[str, Any], start: Mapping[str, torch.Tensor] | None) -> None:
        """The facts about all sites that a run needs, by one sum each, or from its checkpoint; and the first weights."""
        plan, sites, aggregator = self.plan, self.sites, self.aggregator
        self.class_weights: torch.Tensor | None = state.get("class_weights")
        everyone: float | None = state.get("everyone")
        if state:
            self.spec = ModelSpec(**{**state["spec"], "classes": plan.classes})
            self.total_weight: float = state["total_weight"]
        else:
            if plan.start and start is None:
                raise KitError(f"The plan starts from weights with SHA-256 {plan.start[:12]}…: give them as start.")
            self.spec, films = self._pixel_statistics()
            self.total_weight = weight_bound(plan, sites, aggregator, films)
            if plan.class_weights == "balanced":
                self.class_weights = self._class_weights()
            if SERVERS[plan.strategy].needs_everyone:
                everyone = weight_of_all(plan, sites, aggregator, self.total_weight)
        network = freeze(self.spec.build(plan.seed) if start is None else self.spec.build_with(start), plan)
        if plan.feature_norm == "l2_centred" and not state:
            network.get_submodule(last_layer(network)).center.copy_(self._mean_feature(network.to(self.device.kind)))
            network.to("cpu")
        if plan.private and trained_head(network, plan) is None:
            check_layers(training_mode(network))
        self.weights = network.state_dict()
        self.server = SERVERS[plan.strategy](plan, network, everyone)
        # Sites that drop out units draw from torch's one generator, so they take turns.
        self._asking = Asking(self.device, side_by_side=len(sites) > 1 and not has_dropout(network))

    def _pixel_statistics(self) -> tuple[ModelSpec, int | None]:
        """The model with its pixel statistics, and the number of all films where that is summed on the way."""
        plan = self.plan
        if plan.pixel_statistics == "exact":
            return pooled_statistics(plan, self.sites, self.aggregator)
        if plan.pixel_statistics == "public":
            return plan.model_spec(plan.pixel_mean, plan.pixel_std), None
        return private_pixel_statistics(plan, self.sites, self.memories, self.aggregator), None

    def _class_weights(self) -> torch.Tensor:
        if self.plan.private:
            return private_class_weights(self.plan, self.sites, self.memories, self.aggregator)
        return balanced_weights(self.sites, self.aggregator)

    def _mean_feature(self, network: nn.Module) -> torch.Tensor:
        plan, aggregator, device = self.plan, self.aggregator, self.device
        if plan.private:
            return private_mean_feature(plan, network, self.spec, self.sites, self.memories, aggregator, device)
        return mean_feature(network, self.spec, self.sites, aggregator, device)

    def _sum(self, purpose: str, contributions: Mapping[str, Tensors]) -> Tensors:
        # A site alone adds nothing up, so there is no sum that could overflow and no range to keep.
        parts, count = next(iter(contributions.values())), len(contributions)
        if self.plan.noise == "distributed":
            fields = gradient_fields(parts, self._noise(), count)
        else:
            fields = None if count == 1 else update_fields(parts, self.total_weight, count)
        return self.aggregator.sum(purpose, contributions, fields)

    def _train(self, task: RoundTask) -> tuple[dict[str, Tensors], dict[str, LocalTraining], dict[str, str]]:
        """Ask the sites drawn; returns contributions, trainings, and why the others aren't in them."""
        order, count = self._drawn(task.number)
        drawn, waiting = order[:count], order[count:]
        least, needed = min(self.plan.min_sites, count), self._needed(count)
        answers, failed = self._ask("update", task, drawn)
        while len(answers) < needed and waiting:  # the next ones of the draw, or a site that's gone would stop the run
            more, waiting = waiting[: needed - len(answers)], waiting[needed - len(answers) :]
            some, others = self._ask("update", task, more)
            drawn, answers, failed = (*drawn, *more), answers | some, failed | others
        absent = dict.fromkeys(waiting, "not drawn") | failed
        for name in failed:
            self.memories[name].settle(included=False)
            self.aggregator.transcript.clear(f"round {task.number} update", name, f"why it gave no answer: {failed[name]}")
        answers = {site.name: answers[site.name] for site in self.sites if site.name in answers}
        contributions = {name: contribution for name, (contribution, _) in answers.items()}
        trainings = {name: training for name, (_, training) in answers.items()}
        for name in contributions:  # the engine shows these two, so they leave the site in clear
            told = "a mean training loss and a number of steps"
            if self.plan.private:
                told = "a number of steps and its privacy ledger's last entry and epsilon, which no film has a part in"
            self.aggregator.transcript.clear(f"round {task.number} update", name, told)
        answered, hidden_among = len(contributions), self.aggregator.min_survivors
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

    def _needed(self, count: int) -> int:
        """The fewest answers that a round of `count` sites can be made of."""
        return max(min(self.plan.min_sites, count), min(self.aggregator.min_survivors, len(self.sites)))

    def _drawn(self, number: int) -> tuple[tuple[str, ...], int]:
        """All sites in the order in which round `number` draws them, and how many it draws."""
        names = tuple(self.memories)
        count = max(min(_FEWEST, len(names)), round(self.plan.participation * len(names)))
        if count == len(names):
            return names, count
        order = numpy_generator(self.plan.seed, number, "participants").permutation(len(names))
        return tuple(names[i] for i in order), count

    def _validate(self, task: RoundTask, absent: dict[str, str]) -> float | None:
        """The mean loss of the new model over all sites' validation films; remembers it if it's the best.

        None if a site's is missing: means over different films can't tell which round was better.
        """
        sums, missing = self._ask("validation_sums", task, tuple(self.memories))
        purpose = f"round {task.number} validation"
        for name in missing:
            self.aggregator.transcript.clear(purpose, name, f"why it gave no answer: {missing[name]}")
        if not missing:
            total = self.aggregator.sum(purpose, sums, VALIDATION_FIELDS if len(sums) > 1 else None)
            missing = dict.fromkeys(sums.keys() - set(self.aggregator.survivors), "dropped out of the sum")
        if missing:
            for name, reason in missing.items():
                absent.setdefault(name, f"not in the validation loss: {reason}")
            return None
        if not total["films"] > 0:
            raise KitError("No site has a validation film, so nothing can tell when to stop: set patience to 0.")
        loss = float(total["loss"] / total["films"])
        if loss < self.best.loss:
            self.best = Best(task.number, loss, dict(self.weights))
            for memory in self.memories.values():
                memory.best = dict(memory.kept)
        return loss

    def _save(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.save(self.finished, server_state(self), site_states(self, self._digests))


def federate(
    plan: TrainingPlan,
    sites: Sequence[Site],
    *,
    aggregator: Aggregator | None = None,
    start: Mapping[str, torch.Tensor] | None = None,
    on_round: Callable[[Round, int], None] | None = None,
    checkpoints: str | Path | None = None,
    ledgers: str | Path | None = None,
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
        start: weights to begin with, a state dict, if the plan's key `start` is their SHA-256.
        on_round: called after each round with it and the number of rounds planned (progress).
        checkpoints: a folder that keeps the last two rounds; a run that finds some there goes on from them, and
            ends as an unbroken one would have, to the bit (see `checkpoint`); of a private plan, only in what its ledgers
            say, since its noise can't be drawn again.
        ledgers: a folder with each hospital's privacy ledger, if the plan is private; those that are there are gone on
            with. Default: in the checkpoints' folder, else for this run alone.
        time_out: seconds that a site has for a round. Who is late depends on the machine, so a run in which it
            struck (`Round.absent`) can't be repeated to the bit.
        device, precision: see `choose_device`; no part of the plan.
    """
    federation = Federation(
        plan, sites, aggregator, start=start, checkpoints=checkpoints, ledgers=ledgers, time_out=time_out, device=device,
        precision=precision,
    )  # fmt: skip
    for round in federation:
        if on_round:
            on_round(round, plan.rounds)
    return federation.run()


def _copy(weights: Mapping[str, torch.Tensor]) -> Tensors:
    return {name: value.clone() for name, value in weights.items()}
