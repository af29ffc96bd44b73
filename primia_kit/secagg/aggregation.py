"""The one door through which numbers leave a hospital for the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from ..errors import KitError

Contribution = Mapping[str, torch.Tensor]  # named parts of one site's vector


class Aggregator(Protocol):
    """Sums what the sites contribute; an implementation says what the server sees besides the sum.

    A site's weight is one of the named parts, so that whoever is missing from the sum is missing from the
    weights as well, and the mean over those who stayed needs no correction.
    """

    def sum(self, purpose: str, contributions: Mapping[str, Contribution]) -> dict[str, torch.Tensor]:
        """Add up the contributions of all sites, part by part.

        Args:
            purpose: what is summed, once a run, e.g. "round 3 update" (the context of a round's keys).
            contributions: site -> named floating-point tensors; same names and shapes at every site.

        Returns: name -> sum over the sites, in the dtype of the contributions.
        Raises: KitError that names site and part if a value isn't finite or the parts don't agree.
        """
        ...


class PlainSum:
    """No protection: the server receives every site's contribution in clear and adds them up.

    An update gives away much about the films that it was made from, so this is for lessons and for
    comparison, and for sites that trust the server with their data.
    """

    def sum(self, purpose: str, contributions: Mapping[str, Contribution]) -> dict[str, torch.Tensor]:
        check_contributions(purpose, contributions)
        total: dict[str, torch.Tensor] = {}
        for contribution in contributions.values():
            for name, part in contribution.items():
                total[name] = total[name].add_(part) if name in total else part.clone()
        return total


def check_contributions(purpose: str, contributions: Mapping[str, Contribution]) -> None:
    """Refuse contributions that can't be added, or that would spoil the sum for everybody."""
    if not contributions:
        raise KitError(f"{purpose}: no site contributed.")
    first_site, first = next(iter(contributions.items()))
    for site, contribution in contributions.items():
        if contribution.keys() != first.keys():
            odd = sorted(contribution.keys() ^ first.keys())[0]
            raise KitError(
                f"{purpose}: sites {first_site} and {site} don't contribute the same parts ({odd!r} is at one of them only)."
            )
        for name, part in contribution.items():
            if part.shape != first[name].shape:
                shapes = f"{tuple(part.shape)} at site {site}, {tuple(first[name].shape)} at {first_site}"
                raise KitError(f"{purpose}: {name!r} has shape {shapes}.")
            if not torch.isfinite(part).all():
                raise KitError(f"{purpose}: {name!r} of site {site} isn't finite: its training diverged (lower learning_rate).")
