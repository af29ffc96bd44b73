"""Rounds in which no hospital adds the whole noise: `plan.noise` is "distributed".

A round is one step of SGD on all hospitals' patients (FedSGD). `primia_kit.privacy.distributed` has the mechanism and why it's
private; this is its place in the federation.

    1. Hospital h samples its patients, each with chance q_h = B / N_h, B being `batch_size`: its expected number.
    2. It sends the whole numbers  sum_p r_p + Z_h  to the secure sum, and 1 for its weight.
    3. Over the n' hospitals in the sum:  g = sum / (s B n').
    4. All make the same step: the plan's SGD along g, momentum and weight decay included, and the strategy's step along that.

`min_sites` is the m of the mechanism, `colluders` its c: the secure sum gives up a round with fewer than m hospitals, and m - c
shares of noise make up for the noise multiplier that ledgers are charged. A hospital that leaves before its vector came
takes its patients and its noise away, and m are left, or nobody learns a sum. One that leaves later is in the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ..data import FilmSet
from ..errors import KitError
from ..privacy import DistributedNoise, Mechanism, SampledGaussian
from ..privacy.distributed import most_sampled
from ..secagg import Aggregator, Field, SecureSum
from .device import CPU, Device
from .local import make_optimizer
from .messages import LocalTraining, RoundTask, SiteMemory, Tensors
from .plan import TrainingPlan
from .private import SitePrivacy, count_units, gradient_step, site_units
from .trainable import freeze, trainable, training_mode

if TYPE_CHECKING:
    from .site import Site


@dataclass(frozen=True)
class NoiseTerms:
    """What the terms follow from, besides the noise multiplier: public numbers, the same at all hospitals.

    values: trained parameters. sites: hospitals of the run. sampled: the most patients that any of them samples.
    """

    plan: TrainingPlan
    values: int
    sites: int
    sampled: int

    def at(self, noise_multiplier: float) -> DistributedNoise:
        plan = self.plan
        return DistributedNoise.fitted(
            noise_multiplier, plan.clipping_norm, self.values,
            shares=plan.min_sites - plan.colluders, sites=self.sites, sampled=self.sampled,
        )  # fmt: skip

    def mechanism(self, sampling_rate: float, noise_multiplier: float) -> Mechanism:
        """One step; without noise, where there are no terms for so little of it."""
        try:
            return self.at(noise_multiplier).mechanism(sampling_rate)
        except KitError:
            return SampledGaussian(sampling_rate, 0.0)


def noise_terms(plan: TrainingPlan, sites: Sequence[Site]) -> NoiseTerms:
    network = freeze(plan.model_spec(plan.pixel_mean, plan.pixel_std).build(plan.seed), plan)
    values = sum(parameter.numel() for parameter in trainable(network).values())
    sampled = max(most_sampled(count_units(site.train, plan.privacy), plan.batch_size) for site in sites)
    return NoiseTerms(plan, values, len(sites), sampled)


def settle_noise(terms: NoiseTerms, privacies: Iterable[SitePrivacy]) -> None:
    """One noise for all hospitals: the most that any of them needs for its own patients."""
    privacies = list(privacies)
    z = max(privacy.noise_multiplier for privacy in privacies)
    agreed = terms.at(z)
    for privacy in privacies:
        privacy.noise_multiplier, privacy.distributed = z, agreed


def check_aggregator(plan: TrainingPlan, sites: Sequence[Site], aggregator: Aggregator) -> None:
    """Refuse sums in which a hospital's share of the noise could stand alone, or with fewer others than it counts on."""
    if len(sites) < plan.min_sites:
        raise KitError(
            f'noise is "distributed" over at least {plan.min_sites} hospitals (min_sites), and there are {len(sites)}: use '
            'noise="local", or more hospitals.'
        )
    if not isinstance(aggregator, SecureSum):
        raise KitError(
            f'noise is "distributed", and {type(aggregator).__name__} shows the server each hospital\'s sum with its share of '
            "the noise alone: use SecureSum."
        )
    if aggregator.min_survivors < plan.min_sites:
        raise KitError(
            f"The secure sum's min_survivors is {aggregator.min_survivors}, and the plan counts on the noise of min_sites "
            f"{plan.min_sites} hospitals: make it SecureSum(min_survivors={plan.min_sites})."
        )


def noised_gradient_sum(
    network: nn.Module,
    films: FilmSet,
    task: RoundTask,
    *,
    site: str,
    memory: SiteMemory,
    device: Device = CPU,
    features: torch.Tensor | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[Tensors, LocalTraining]:
    """A hospital's part in a round's sum, which isn't private by itself: it has a share of the noise.

    1. Write the step into the ledger, at the whole noise. No gradient is formed before that is on the disk.
    2. Sample every patient with chance q, independently (Poisson).
    3. r_p <- each one's gradient, clipped, scaled and rounded (`DistributedNoise.rounded`).
    4. sum_p r_p + Z, in whole numbers.

    Args: as for `train_privately`; `memory` has the ledger and the terms of the noise.

    Returns: "weight" 1, and under each trained parameter's name whole numbers, as float64 tensors of its shape; and what
    `train_privately` tells.
    Raises: KitError if the ledger's budget doesn't allow the round, or a layer would make films meet.
    """
    plan, privacy, terms = task.plan, memory.privacy, memory.privacy.distributed
    training_mode(network)
    units = site_units(films, plan, memory)
    step = gradient_step(network, films, units, task, site, device, features)
    privacy.ledger.spend(
        privacy.mechanism(plan, len(units)), purpose=f"round {task.number}", run=plan.sha256, limit=plan.target_epsilon or None
    )
    sampled = torch.from_numpy(privacy.source.bernoulli(len(units), plan.sampling_rate(len(units)))) & units.present
    parameters, total = trainable(network), terms.share(privacy.source)
    for gradients in step.by_patient(sampled, 0):
        rows = torch.cat([gradients[name].detach().flatten(1) for name in parameters], 1).cpu().numpy()
        for row in rows:
            total += terms.rounded(row, privacy.source)
    if on_step:
        on_step(1, 1)
    parts = np.split(total.astype(np.float64), np.cumsum([value.numel() for value in parameters.values()])[:-1])
    contribution = {"weight": torch.tensor(1.0, dtype=torch.float64)} | {
        name: torch.from_numpy(part).view(value.shape) for (name, value), part in zip(parameters.items(), parts, strict=True)
    }
    return contribution, LocalTraining(steps=1, loss=None, ledger_head=privacy.ledger.head, epsilon=privacy.ledger.epsilon())


def gradient_fields(names: Iterable[str], terms: DistributedNoise, sites: int) -> dict[str, Field]:
    """Whole numbers in the whole ring. `DistributedNoise.fitted` sees to it that none leaves its field, but for a chance of
    2^-100 a step: a field's error would tell of a sum without the whole noise."""
    numbers = Field(float(terms.room(sites)), 1.0)
    return {name: Field(float(sites), 1.0, words=2) if name == "weight" else numbers for name in names}


def mean_step(task: RoundTask, total: Tensors, terms: DistributedNoise) -> Tensors:
    """The round's sum as if each hospital had made the step along the mean gradient: n' under "weight", n' x change under the
    parameters' names, which is what every strategy takes."""
    plan, hospitals = task.plan, float(total["weight"])
    names = [name for name in total if name != "weight"]
    weights = nn.ParameterList(task.weights[name].clone() for name in names)
    optimizer = make_optimizer(weights, plan)
    for group in optimizer.param_groups:
        group["lr"] = plan.learning_rate_in(task.number)
    for weight, name in zip(weights, names, strict=True):
        weight.grad = (total[name] / (terms.scale * plan.batch_size * hospitals)).to(weight)
    optimizer.step()
    changes = {name: weight.detach() - task.weights[name] for name, weight in zip(names, weights, strict=True)}
    return {"weight": total["weight"], **{name: hospitals * change for name, change in changes.items()}}
