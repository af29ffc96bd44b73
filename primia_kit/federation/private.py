"""Differentially private training at a hospital: DP-SGD (Abadi et al. 2016, arXiv 1607.00133) by patients.

    N  patients of the site, public     q  sampling rate, min(1, batch_size / N)     B = q N  expected patients a step
    C  clipping norm                    z  noise multiplier

Two data sets are neighbours if one has a patient more, with all films. Where a plan's unit is the "film", every film
counts as a patient of its own, and all promises are about single films.

What is secret and what isn't: which patients a step samples and the noise come from the operating system
(`NoiseSource`), since whoever could repeat them could take the noise away. First weights and augmentation come from the
plan's seed, which the server knows. That is fine, because DP-SGD's bound holds for any fixed function from a patient to
a gradient; but it has to be a function of that patient alone. So a patient's copies are drawn by (seed, round, step,
site, patient), never in the order of the batch, where one patient more would change the copies of those behind it. For
the same reason dropout is refused: its masks are drawn for the batch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..data import FilmSet
from ..errors import KitError
from ..privacy import DistributedNoise, Ledger, Mechanism, NoiseSource, SampledGaussian, calibrate, epsilon
from ..privacy.accounting import History
from ..privacy.clipping import AdaptiveClipping
from ..privacy.gradients import ClippedSum, FilmGradients, Gradients, HeadGradients, clipped_sum, patient_gradients
from ..seeds import torch_generator
from .device import CPU, Device
from .local import make_optimizer, model_input, random_shift
from .messages import LocalTraining, RoundTask, SiteMemory
from .plan import TrainingPlan
from .strategies import LocalRule
from .trainable import trainable, trained_head, training_mode


class Units:
    """Whom one unit of privacy stands for: each patient's films, or each film.

    names: of the units, in the order of the films; they decide augmentation and don't leave the site.
    owners: the unit of each film, int64 [n].
    present: bool [units], False for those of whom there is no film. They count in N, which is public and mustn't tell
        who is there, and add nothing to any sum: to an audit, a canary that isn't in.
    """

    def __init__(self, films: FilmSet, privacy: str, absent: Sequence[str] = ()):
        if privacy == "film":  # by content: another film's going mustn't rename it
            keys = [hashlib.sha256(film.contiguous().numpy()).hexdigest() for film in films.images]
            self.names, self.owners = keys, torch.arange(len(films))
        else:
            self.names = list(dict.fromkeys(films.patients))
            number = {patient: i for i, patient in enumerate(self.names)}
            self.owners = torch.tensor([number[patient] for patient in films.patients])
        self.names, self.owners = [*absent, *self.names], self.owners + len(absent)
        self.present = torch.arange(len(self.names)) >= len(absent)
        order = self.owners.argsort(stable=True)
        self.films = order.split(self.owners.bincount(minlength=len(self.names)).tolist())  # unit -> its films

    def __len__(self) -> int:
        return len(self.names)


def count_units(films: FilmSet, privacy: str) -> int:
    """N, which is taken to be public."""
    return len(films) if privacy == "film" else len(set(films.patients))


@dataclass
class SitePrivacy:
    """What a site keeps for private training, for as long as the run lasts.

    noise_multiplier: z, settled at the run's start, the same in all its steps.
    source: of samples and noise.
    distributed: the terms of distributed noise, or None.
    """

    ledger: Ledger
    noise_multiplier: float
    source: NoiseSource = field(default_factory=NoiseSource)
    distributed: DistributedNoise | None = None

    def mechanism(self, plan: TrainingPlan, units: int) -> Mechanism:
        """One step."""
        rate = plan.sampling_rate(units)
        return self.distributed.mechanism(rate) if self.distributed else SampledGaussian(rate, self.noise_multiplier)

    def affords(self, plan: TrainingPlan, units: int) -> bool:
        """Whether another round stays within the plan's target and the ledger's budget."""
        account = self.ledger.account
        limit = min(plan.target_epsilon or math.inf, account.budget or math.inf)
        spends = [*self.ledger.history, (self.mechanism(plan, units), plan.private_steps(units))]
        return limit == math.inf or epsilon(spends, account.delta) <= limit


def open_privacy(
    site: str, films: FilmSet, plan: TrainingPlan, path: Path, *, expected_head: str | None = None,
    noise_multiplier: float | None = None, statistics: History = (),
    step: Callable[[float, float], Mechanism] | None = None,
) -> SitePrivacy:  # fmt: skip
    """A site's ledger, begun or gone on with, and its noise for this run.

    z is settled once: a plan's `noise_multiplier`, or the least with which all steps of the run, if the site takes part
    in every round, and all that its ledger holds already stay within `target_epsilon`. So the target is for the ledger,
    not for the run: a ledger that two runs share makes the second one noisier, and a round that has to be made again
    after a crash leaves the last one without budget.

    Args:
        path: of the ledger.
        expected_head: an entry that the ledger must hold, from the server's checkpoint.
        noise_multiplier: z as it was settled; None at a run's start.
        statistics: what the run will spend before its first round.
        step: (sampling rate, z) -> a step's mechanism; default a `SampledGaussian`.

    Raises: KitError for a ledger that isn't this site's, was set back, or leaves nothing of the target.
    """
    units = count_units(films, plan.privacy)
    if expected_head is not None or path.exists():
        ledger = Ledger.open(path, expected_head, site=site, delta=plan.delta, unit=plan.privacy)
        if ledger.account.patients != units:
            raise KitError(
                f"The ledger {path} is for {ledger.account.patients} {plan.privacy}s, and site {site} has {units}: its rates "
                "don't hold for others. Train on the same ones, or keep a ledger for each set."
            )
    else:
        budget = plan.target_epsilon or None
        ledger = Ledger.create(path, site=site, delta=plan.delta, budget=budget, patients=units, unit=plan.privacy)
    z = noise_multiplier or plan.noise_multiplier
    if not z:
        before, rate = [*ledger.history, *statistics], plan.sampling_rate(units)
        mechanism = None if step is None else partial(step, rate)
        z = calibrate(plan.target_epsilon, plan.delta, rate, plan.rounds * plan.private_steps(units), before, mechanism=mechanism)
    return SitePrivacy(ledger, z)


def train_privately(
    network: nn.Module,
    films: FilmSet,
    task: RoundTask,
    *,
    site: str,
    rule: LocalRule,
    memory: SiteMemory,
    device: Device = CPU,
    features: torch.Tensor | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> LocalTraining:
    """The private counterpart of `train_locally`: train `network` in place for one round.

    1. Write all steps of the round into the ledger, at noise multiplier z. No gradient is formed before that is on the
       disk.
    2. Each step samples every patient with chance q, independently (Poisson). Nobody at all is a step like any other.
    3. S <- sum of the sampled patients' gradients, each the mean over the patient's films and copies, clipped to C.
    4. g <- (S + normal noise of deviation z C) / B: the *expected* number, since the number drawn is private.
    5. The strategy's rule adjusts g (FedProx's pull, SCAFFOLD's correction); one optimizer step.
    6. With adaptive clipping, C follows a noised count, which step 4's noise pays for (see `AdaptiveClipping`).

    Args: as for `train_locally`; `memory` has the site's ledger, and keeps C from round to round.

    Returns: the steps, and the ledger's head and epsilon: all of them functions of public numbers. No loss.
    Raises: KitError if the ledger's budget doesn't allow the round, or a layer would make films meet.
    """
    plan, number, privacy = task.plan, task.number, memory.privacy
    training_mode(network)
    units = site_units(films, plan, memory)
    steps, expected = plan.private_steps(len(units)), plan.sampling_rate(len(units)) * len(units)
    step = gradient_step(network, films, units, task, site, device, features)
    parameters, adaptive = trainable(network), None
    if plan.clipping == "adaptive":
        adaptive = AdaptiveClipping(plan.clipping_quantile, privacy.noise_multiplier, expected)
    multiplier = adaptive.gradient_multiplier if adaptive else privacy.noise_multiplier
    clipping_norm = memory.clipping_norm or plan.clipping_norm

    # Under the ledger's lock: another run may have spent since.
    privacy.ledger.spend(
        privacy.mechanism(plan, len(units)), steps, purpose=f"round {number}", run=plan.sha256, limit=plan.target_epsilon or None
    )
    optimizer = make_optimizer(network, plan)
    for index in range(steps):
        sampled = torch.from_numpy(privacy.source.bernoulli(len(units), plan.sampling_rate(len(units)))) & units.present
        clipped = step(sampled, index, clipping_norm)
        noised = noised_sum(clipped.sums, multiplier * clipping_norm, privacy.source)
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate_in(number, index / steps)
        for name, parameter in parameters.items():
            parameter.grad = (noised[name] / expected).to(parameter)
        rule.adjust_gradients()
        optimizer.step()
        if adaptive:
            noise = float(privacy.source.noised(torch.zeros(1, dtype=torch.float64), adaptive.count_noise))
            clipping_norm = adaptive.next_norm(clipping_norm, clipped.norms, noise)
        if on_step:
            on_step(index + 1, steps)
    optimizer.zero_grad()
    memory.clipping_norm = clipping_norm if adaptive else None
    return LocalTraining(steps=steps, loss=None, ledger_head=privacy.ledger.head, epsilon=privacy.ledger.epsilon())


def noised_sum(sums: dict[str, torch.Tensor], std: float, source: NoiseSource) -> dict[str, torch.Tensor]:
    """Each value of S with normal noise of this deviation, float32 on the CPU: one draw over all parameters."""
    flat = torch.cat([value.detach().cpu().reshape(-1) for value in sums.values()])
    parts = source.noised(flat, std).split([value.numel() for value in sums.values()])
    return {name: part.view(value.shape) for (name, value), part in zip(sums.items(), parts, strict=True)}


def gradient_step(
    network: nn.Module, films: FilmSet, units: Units, task: RoundTask, site: str, device: Device, features: torch.Tensor | None
) -> _FilmStep | _HeadStep:
    """How a step's gradients are formed (arguments: see `train_privately`)."""
    weights = None if task.class_weights is None else task.class_weights.to(device.kind)
    if features is None:
        return _FilmStep(network, films, units, task, site, device, weights)
    return _HeadStep(network, features, films, units, task.plan, device, weights)


class _FilmStep:
    """S for one step of a network that is trained beyond its last layer."""

    def __init__(self, network, films: FilmSet, units: Units, task: RoundTask, site: str, device: Device, class_weights):
        self.gradients = FilmGradients(network, class_weights)
        self.films, self.units, self.task, self.site, self.device = films, units, task, site, device

    def __call__(self, sampled: torch.Tensor, step: int, clipping_norm: float) -> ClippedSum:
        with self.device.autocast():
            return clipped_sum(self.gradients, self._patients(sampled, step), clipping_norm, self.task.plan.virtual_batch)

    def by_patient(self, sampled: torch.Tensor, step: int) -> Iterator[Gradients]:
        """Of the sampled patients, not clipped: [patients, *shape] of some at a time."""
        with self.device.autocast():
            yield from patient_gradients(self.gradients, self._patients(sampled, step), self.task.plan.virtual_batch)

    def _patients(self, sampled: torch.Tensor, step: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        plan = self.task.plan
        for unit in sampled.nonzero().squeeze(1).tolist():
            chosen = self.units.films[unit].repeat(plan.augmentation_multiplicity)
            images = self.films.images[chosen]
            if plan.augmentation == "shift":
                draw = torch_generator(plan.seed, self.task.number, step, self.site, self.units.names[unit], "augment")
                images = random_shift(images, plan.size // 16, draw)
            images, labels = images.to(self.device.kind), self.films.labels[chosen].to(self.device.kind)
            yield model_input(images, self.task.spec), labels


class _HeadStep:
    """The same where the last layer alone is trained, on features that never change."""

    def __init__(self, network, features, films: FilmSet, units: Units, plan: TrainingPlan, device: Device, class_weights):
        self.layer, self.names, self.device = trained_head(network, plan), list(trainable(network)), device
        self.chunk = plan.virtual_batch
        self.gradients = HeadGradients(features, films.labels.to(device.kind), units.owners.to(device.kind), class_weights)

    def __call__(self, sampled: torch.Tensor, step: int, clipping_norm: float) -> ClippedSum:
        found = self.gradients(self.layer, sampled.to(self.device.kind), clipping_norm)
        return ClippedSum({name: found.sums[name.rpartition(".")[2]] for name in self.names}, found.norms)

    def by_patient(self, sampled: torch.Tensor, step: int) -> Iterator[Gradients]:
        for found in self.gradients.by_patient(self.layer, sampled.to(self.device.kind), self.chunk):
            yield {name: found[name.rpartition(".")[2]] for name in self.names}


def site_units(films: FilmSet, plan: TrainingPlan, memory: SiteMemory) -> Units:
    """The site's units, worked out once."""
    if memory.units is None:
        memory.units = Units(films, plan.privacy)
    return memory.units
