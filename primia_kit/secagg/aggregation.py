"""The one door through which numbers leave a hospital for the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from ..errors import KitError
from .fields import Field, check_part, fit
from .transcript import Transcript

Contribution = Mapping[str, torch.Tensor]  # named parts of one site's vector


class Aggregator(Protocol):
    """Sums what the sites contribute; its transcript says what the server sees besides the sum.

    A site's weight is one of the named parts, so that whoever is missing from the sum is missing from the
    weights as well, and the mean over those who stayed needs no correction.

    survivors: the sites that are in the last sum. min_survivors: how many must be in each.
    """

    transcript: Transcript
    survivors: tuple[str, ...]
    min_survivors: int

    def sum(
        self, purpose: str, contributions: Mapping[str, Contribution], fields: Mapping[str, Field] | None = None
    ) -> dict[str, torch.Tensor]:
        """Add up the contributions of all sites, part by part.

        Args:
            purpose: what is summed, once a run, e.g. "round 3 update" (the context of a round's keys).
            contributions: site -> named floating-point tensors; same names and shapes at every site.
            fields: name -> the range of its values, see `Field`; None where nothing is checked.

        Returns: name -> sum over the sites, in the dtype of the contributions.
        Raises: KitError that names site and part if a value isn't finite or isn't in its field's range, if
            the parts don't agree, or if the sum of a field could overflow.
        """
        ...


class PlainSum:
    """No protection: the server receives every site's contribution in clear and adds them up.

    An update gives away much about the films that it was made from, so this is for lessons and for
    comparison, and for sites that trust the server with their data. With `fields` it refuses what
    `SecureSum` refuses.
    """

    min_survivors = 1

    def __init__(self) -> None:
        self.transcript, self.survivors = Transcript(), ()

    def sum(
        self, purpose: str, contributions: Mapping[str, Contribution], fields: Mapping[str, Field] | None = None
    ) -> dict[str, torch.Tensor]:
        check_contributions(purpose, contributions, fields)
        total: dict[str, torch.Tensor] = {}
        for site, contribution in contributions.items():
            size = sum(part.nbytes for part in contribution.values())
            self.transcript.clear(purpose, site, "its whole contribution", size)
            for name, part in contribution.items():
                total[name] = total[name].add_(part) if name in total else part.clone()
        self.survivors = tuple(contributions)
        return total


def check_contributions(
    purpose: str, contributions: Mapping[str, Contribution], fields: Mapping[str, Field] | None = None
) -> None:
    """Refuse contributions that can't be added, or that would spoil the sum for everybody."""
    if not contributions:
        raise KitError(f"{purpose}: no site contributed.")
    first_site, first = next(iter(contributions.items()))
    if fields is not None:
        fit(purpose, first, fields, len(contributions))
    for site, contribution in contributions.items():
        check_same_parts(purpose, site, contribution, first_site, first)
        for name, part in contribution.items():
            check_part(purpose, site, name, part, None if fields is None else fields[name])


def check_same_parts(purpose: str, site: str, contribution: Contribution, first_site: str, first: Contribution) -> None:
    """Names and shapes must be those of the first site. (`first` may hold anything that has shapes.)"""
    if contribution.keys() != first.keys():
        odd = sorted(contribution.keys() ^ first.keys())[0]
        raise KitError(
            f"{purpose}: sites {first_site} and {site} don't contribute the same parts ({odd!r} is at one of them only)."
        )
    for name, part in contribution.items():
        if part.shape != first[name].shape:
            shapes = f"{tuple(part.shape)} at site {site}, {tuple(first[name].shape)} at {first_site}"
            raise KitError(f"{purpose}: {name!r} has shape {shapes}.")
