"""Facts about the films of all sites that a private plan asks for: noised at each site, charged, and then summed.

Each is a sum over patients of a vector of bounded length, so one patient changes it by that length at most. A patient
with several films gives their mean, so that these are means over patients where `pooled` has means over films.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from ..data import FilmSet
from ..models import ModelSpec
from ..privacy import Gaussian
from ..secagg import Aggregator, Field
from .messages import SiteMemory
from .plan import TrainingPlan
from .pooled import sum_over_all
from .private import Units
from .site import Site

PIXELS, COUNTS = "pixel statistics", "class counts"
_FIELDS = {"units": Field(2.0**32, 1.0, words=2), "sum": Field(2.0**32, 2.0**-16, words=2)}
_LEAST_STD = 0.05  # noise must not make the pixels' deviation nothing


def statistics_spends(plan: TrainingPlan) -> list[tuple[Gaussian, int]]:
    """What a site spends before the first round."""
    return [(Gaussian(plan.statistics_noise), len(_asked(plan)))] if _asked(plan) else []


def private_pixel_statistics(
    plan: TrainingPlan, sites: Sequence[Site], memories: Mapping[str, SiteMemory], aggregator: Aggregator
) -> ModelSpec:
    """The plan's model, with mean and standard deviation of the pixels of all sites' patients.

    1. A film has the pixels' mean m and mean square s, both in [0, 1]; a patient v_p, the mean of (m - 1/2, s - 1/2).
    2. Each site sends sum_p v_p + noise; |v_p| is at most sqrt(1/2). The number of patients is public.
    """

    def vectors(films: FilmSet) -> torch.Tensor:
        pixels = films.images.double().flatten(1)
        return torch.stack([pixels.mean(1), pixels.square().mean(1)], 1) - 0.5

    mean, square = (_noised_sums(PIXELS, vectors, math.sqrt(0.5), plan, sites, memories, aggregator) + 0.5).tolist()
    return plan.model_spec(min(max(mean, 0.0), 1.0), max(math.sqrt(max(square - mean**2, 0.0)), _LEAST_STD))


def private_class_weights(
    plan: TrainingPlan, sites: Sequence[Site], memories: Mapping[str, SiteMemory], aggregator: Aggregator
) -> torch.Tensor:
    """Each label's weight in the loss, 1 / (labels * share of the patients with this label): float [classes].

    1. A patient's vector is the mean over its films of the label as a unit vector; its length is at most 1.
    2. Each site sends the sum over its patients + noise. A share is taken to be a hundredth at least.
    """

    def vectors(films: FilmSet) -> torch.Tensor:
        return torch.nn.functional.one_hot(films.labels, len(plan.classes)).double()

    shares = _noised_sums(COUNTS, vectors, 1.0, plan, sites, memories, aggregator).clamp(min=0.01)
    return (1 / (len(plan.classes) * shares)).to(torch.get_default_dtype())


def _asked(plan: TrainingPlan) -> list[str]:
    asked = {PIXELS: plan.pixel_statistics == "private", COUNTS: plan.class_weights == "balanced"}
    return [name for name, is_asked in asked.items() if plan.private and is_asked]


def _noised_sums(
    purpose: str, vectors, bound: float, plan: TrainingPlan, sites: Sequence[Site], memories: Mapping[str, SiteMemory],
    aggregator: Aggregator,
) -> torch.Tensor:  # fmt: skip
    """The mean over all sites' patients of the mean of their films' vectors, from the sum of the sites' noised sums."""
    contributions = {}
    for site in sites:
        privacy, units = memories[site.name].privacy, Units(site.train, plan.privacy)
        privacy.ledger.spend(Gaussian(plan.statistics_noise), purpose=purpose, run=plan.sha256)
        each = vectors(site.train)
        means = torch.zeros(len(units), each.shape[1], dtype=torch.float64).index_add_(0, units.owners, each)
        total = (means / units.owners.bincount().view(-1, 1)).sum(0)
        noised = privacy.source.noised(total, bound * plan.statistics_noise)
        contributions[site.name] = {"units": torch.tensor(float(len(units)), dtype=torch.float64), "sum": noised}
    found = sum_over_all(purpose, contributions, _FIELDS if len(sites) > 1 else None, aggregator)
    return found["sum"] / found["units"]
