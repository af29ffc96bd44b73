"""Facts about the films of all sites together, formed from sums before the first round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import KitError
from ..models import ModelSpec
from ..secagg import Aggregator, Contribution, Field
from .device import Device
from .fields import COUNT_FIELDS, FEATURE_FIELDS, PIXEL_FIELDS, update_fields
from .local import model_input
from .plan import TrainingPlan
from .site import Site
from .trainable import body_outputs


def pooled_statistics(plan: TrainingPlan, sites: Sequence[Site], aggregator: Aggregator) -> tuple[ModelSpec, int]:
    """The plan's model, with mean and standard deviation over the pixels of all sites: the exact pooled values.

    (The mean of the sites' standard deviations is not the standard deviation of their union.)

    Returns: the model, and the number of all training films.
    Raises: KitError if all pixels are equal, or a site is missing from the sum.
    """
    total = sum_over_all("pixel statistics", {site.name: site.pixel_sums() for site in sites}, PIXEL_FIELDS, aggregator)
    mean = float(total["sum"] / total["pixels"])
    variance = float(total["sum_of_squares"] / total["pixels"]) - mean**2
    if variance < 1e-7:  # float32 squares of equal pixels differ by less
        raise KitError("All pixels of all training films are equal: there is nothing to learn from them.")
    return plan.model_spec(mean, math.sqrt(variance)), round(float(total["pixels"]) / plan.size**2)


def mean_feature(
    network: nn.Module, spec: ModelSpec, sites: Sequence[Site], aggregator: Aggregator, device: Device
) -> torch.Tensor:
    """The mean over all sites' films of what the layers but the last give, at length 1: float64 [features]."""
    contributions = {}
    for site in sites:
        features = F.normalize(body_outputs(network, site.train, spec, model_input, device), dim=1).double().cpu()
        contributions[site.name] = {"features": features.sum(0), "films": torch.tensor(len(features), dtype=torch.float64)}
    total = sum_over_all("mean features", contributions, FEATURE_FIELDS, aggregator)
    return total["features"] / total["films"]


def balanced_weights(sites: Sequence[Site], aggregator: Aggregator) -> torch.Tensor:
    """Each label's weight in the loss: films / (labels that occur * films with this label), over all sites.

    Returns: float [classes]; 0 for a label that nobody has.
    """
    contributions = {site.name: site.class_counts() for site in sites}
    counts = sum_over_all("class counts", contributions, COUNT_FIELDS, aggregator)["films"]
    occurring = counts > 0
    weights = counts.sum() / (occurring.sum() * counts.clamp(min=1))
    return torch.where(occurring, weights, 0).to(torch.get_default_dtype())


def weight_bound(plan: TrainingPlan, sites: Sequence[Site], aggregator: Aggregator, films: int | None) -> float:
    """W, the sum of all sites' weights, at least 1: the bound of what any of them sends.

    Args:
        films: the number of all training films, where another sum has told it.
    """
    if plan.weighting == "uniform":
        return float(len(sites))
    if plan.weighting == "films" and films is not None:
        return max(films, 1.0)
    weights = {site.name: {"films": torch.tensor(site.weight(plan), dtype=torch.float64)} for site in sites}
    return max(float(sum_over_all("weights", weights, COUNT_FIELDS, aggregator)["films"]), 1.0)


def weight_of_all(plan: TrainingPlan, sites: Sequence[Site], aggregator: Aggregator, largest: float) -> float:
    """The sum of all sites' weights, none above `largest`, whether a round draws them or not."""
    weights = {site.name: {"weight": torch.tensor(site.weight(plan), dtype=torch.float64)} for site in sites}
    fields = update_fields(["weight"], largest, len(sites))
    return float(sum_over_all("weights of all sites", weights, fields, aggregator)["weight"])


def sum_over_all(
    purpose: str, contributions: Mapping[str, Contribution], fields: Mapping[str, Field], aggregator: Aggregator
) -> dict[str, torch.Tensor]:
    """A sum that is wrong, and spoils the whole run, if anybody is missing."""
    total = aggregator.sum(purpose, contributions, fields)
    if missing := sorted(contributions.keys() - set(aggregator.survivors)):
        raise KitError(
            f"{purpose}: {', '.join(missing)} dropped out, and the run needs this sum over all sites before its first round. "
            "Start again when all are there."
        )
    return total
