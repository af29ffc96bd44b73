"""Facts about the films of all sites that a private plan asks for: noised at each site, charged, and then summed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from ..data import FilmSet
from ..models import ModelSpec
from ..privacy import Gaussian, NoiseSource
from ..privacy.statistics import (
    pixel_mean_and_std,
    plausible_counts,
    private_class_counts,
    private_feature_sum,
    private_pixel_sums,
)
from ..secagg import Aggregator, Field
from .device import Device
from .local import model_input
from .messages import SiteMemory, Tensors
from .plan import TrainingPlan
from .pooled import sum_over_all
from .private import Units, count_units
from .private_plan import statistics
from .site import Site
from .trainable import body_outputs

_FIELD = Field(2.0**32, 2.0**-16, words=2)  # sums over patients of numbers up to 1


def statistics_spends(plan: TrainingPlan) -> list[tuple[Gaussian, int]]:
    """What a site spends before the first round."""
    count = len(statistics(plan))
    return [(Gaussian(plan.statistics_noise), count)] if plan.private and count else []


def private_pixel_statistics(
    plan: TrainingPlan, sites: Sequence[Site], memories: Mapping[str, SiteMemory], aggregator: Aggregator
) -> ModelSpec:
    """The plan's model, with noised mean and standard deviation of the pixels, as means over patients of all sites.

    Raises: KitError if the noise drowned them.
    """
    sums = _noised_sums("pixel statistics", private_pixel_sums, plan, sites, memories, aggregator)
    return plan.model_spec(*pixel_mean_and_std(sums))


def private_class_weights(
    plan: TrainingPlan, sites: Sequence[Site], memories: Mapping[str, SiteMemory], aggregator: Aggregator
) -> torch.Tensor:
    """Each label's weight in the loss, patients / (labels * patients with this label), from noised counts: float [classes]."""

    def counts(films: FilmSet, mechanism: Gaussian, noise: NoiseSource) -> Tensors:
        return {"patients": private_class_counts(films, mechanism, noise)}

    found = plausible_counts(_noised_sums("class counts", counts, plan, sites, memories, aggregator)["patients"])
    return (found.sum() / (len(found) * found)).to(torch.get_default_dtype())


def private_mean_feature(
    plan: TrainingPlan, network: nn.Module, spec: ModelSpec, sites: Sequence[Site], memories: Mapping[str, SiteMemory],
    aggregator: Aggregator, device: Device,
) -> torch.Tensor:  # fmt: skip
    """The mean over patients of all sites of what the layers but the last give, at length 1: noised, float64 [features]."""

    def sums(films: FilmSet, mechanism: Gaussian, noise: NoiseSource) -> Tensors:
        features = F.normalize(body_outputs(network, films, spec, model_input, device), dim=1)
        return {"features": private_feature_sum(features, films.patients, mechanism, noise)}

    total = _noised_sums("mean features", sums, plan, sites, memories, aggregator)["features"]
    mean = total / sum(count_units(site.train, plan.privacy) for site in sites)
    return mean / mean.norm().clamp(min=1)  # no mean is longer; what noise adds beyond that is cut off


def _noised_sums(
    purpose: str, sums_of: Callable[[FilmSet, Gaussian, NoiseSource], Tensors], plan: TrainingPlan, sites: Sequence[Site],
    memories: Mapping[str, SiteMemory], aggregator: Aggregator,
) -> Tensors:  # fmt: skip
    """The sum over all sites of what each works out of its films and adds noise to, once it's written in its ledger."""
    contributions, mechanism = {}, Gaussian(plan.statistics_noise)
    for site in sites:
        privacy, units = memories[site.name].privacy, Units(site.train, plan.privacy)
        films = replace(site.train, patients=tuple(units.names[owner] for owner in units.owners.tolist()))
        privacy.ledger.spend(mechanism, purpose=purpose, run=plan.sha256, limit=plan.target_epsilon or None)
        contributions[site.name] = sums_of(films, mechanism, privacy.source)
    fields = dict.fromkeys(next(iter(contributions.values())), _FIELD) if len(sites) > 1 else None
    return sum_over_all(purpose, contributions, fields, aggregator)
