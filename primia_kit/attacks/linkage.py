"""Linkage: which films are the same child's? Taking the names out of the headers doesn't hide it.

The attack is the plainest there is, correlation of pixels; trained networks re-identify real adults on
chest X-rays almost surely (Packhäuser et al., Scientific Reports 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..data import FilmSet
from ..errors import KitError


@dataclass(frozen=True)
class Linkage:
    """How often a film led to an earlier film of the same patient.

    patients: in the gallery, one film each. probes: second films looked up in it.
    first, among_five: share of probes whose patient came first, or among the first five.
    chance: what `first` would be by guessing.
    pairs: for each probe, indices of (the probe, the gallery film that came first, the patient's own).
    """

    patients: int
    probes: int
    first: float
    among_five: float
    chance: float
    pairs: tuple[tuple[int, int, int], ...]


def link_films(films: FilmSet) -> Linkage:
    """Look up each patient's second film among the first films of all.

    1. The gallery holds the first film of every patient, the probes the second of those who have one.
    2. Films are scaled to mean 0 and length 1; similarity is their scalar product.
    3. A probe's rank is the number of gallery films that are more similar than its patient's own.

    Raises: KitError if no patient has two films.
    """
    of_patient: dict[str, list[int]] = {}
    for index, patient in enumerate(films.patients):
        of_patient.setdefault(patient, []).append(index)
    gallery = [indices[0] for indices in of_patient.values()]
    probes = [(indices[1], own) for own, indices in enumerate(of_patient.values()) if len(indices) > 1]
    if not probes:
        raise KitError("No patient has two films: there is nothing to link.")
    pixels = films.images.flatten(1)
    pixels = pixels - pixels.mean(1, keepdim=True)
    pixels = pixels / pixels.norm(dim=1, keepdim=True).clamp_min(1e-12)
    similarity = pixels[[probe for probe, _ in probes]] @ pixels[gallery].T  # [probes, gallery]
    own = torch.tensor([column for _, column in probes])
    rank = (similarity > similarity.gather(1, own[:, None])).sum(1)
    best = similarity.argmax(1)
    return Linkage(
        patients=len(gallery),
        probes=len(probes),
        first=float((rank == 0).double().mean()),
        among_five=float((rank < 5).double().mean()),
        chance=1 / len(gallery),
        pairs=tuple((probe, gallery[b], gallery[o]) for (probe, o), b in zip(probes, best.tolist(), strict=True)),
    )
