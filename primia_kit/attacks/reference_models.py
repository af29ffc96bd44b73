"""The models of a membership game, trained by the kit's own federation on halves of the patients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..data import FilmSet
from ..errors import KitError
from ..federation import Site, TrainingPlan, federate, predict
from ..models import TrainedModel
from ..seeds import derive_seed, numpy_generator
from .membership import MembershipGame

_CLOSEST = 1e-15  # to 0 and 1 that a confidence is taken to come


@dataclass(frozen=True, eq=False)
class Halves:
    """Who is in whose training set.

    members: bool [targets + references, films]. population: bool [films]. targets: how many rows are attacked.
    """

    members: np.ndarray
    population: np.ndarray
    targets: int


def split_patients(
    patients: tuple[str, ...], *, targets: int = 1, references: int = 4, population: float = 0.1, seed: int = 0
) -> Halves:
    """Draw the patients of every model's training set.

    1. A share `population` of the patients is set aside: no model is trained on them.
    2. Each target gets half of the others, drawn for itself.
    3. References come in pairs: one gets half of the others, its twin the rest. So every film has exactly
       references / 2 models that never saw it, whether the target did or not; with halves drawn one by one the number
       would differ from film to film.

    Args:
        references: an even number; LiRA needs 4 at least, RMIA 2.

    Raises: KitError for an odd number of references, a share out of range, or fewer than four patients to split.
    """
    if targets < 1 or references < 0 or references % 2:
        raise KitError(f"{targets} targets and {references} references: a game has a target at least, and references in pairs.")
    if not 0 <= population < 1:
        raise KitError(f"population is {population}; it's the share of the patients that no model is trained on, in [0, 1).")
    names, patient = np.unique(patients, return_inverse=True)
    random = numpy_generator(seed, "membership")
    order = random.permutation(len(names))
    strangers, others = np.split(order, [round(population * len(names))])
    if len(others) < 4:
        raise KitError(f"{len(others)} patients are left to be split in halves; a game needs four at least.")
    rows = np.zeros((targets + references, len(names)), bool)
    for row in [*range(targets), *range(targets, targets + references, 2)]:
        first, second = np.split(random.permutation(others), [len(others) // 2])
        rows[row, first] = True
        if row >= targets:
            rows[row + 1, second] = True
    return Halves(rows[:, patient], np.isin(patient, strangers), targets)


def train_game(
    plan: TrainingPlan,
    films: FilmSet,
    *,
    targets: int = 1,
    references: int = 4,
    population: float = 0.1,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> tuple[MembershipGame, list[TrainedModel]]:
    """Train targets and references by `plan`, each on its own half of the patients, and ask them about all films.

    Each model is a federation of one hospital that holds that half, with a seed of its own; so what the plan says of
    privacy holds for it, too. The attacker knows the recipe, and its references' films are drawn from the same patients
    as the target's: the usual, strong assumptions.

    Args:
        films: training films, with their patients. targets, references, population, seed: see `split_patients`.
        progress: called as (models trained, models in all, what).
        options: for `federate`.

    Returns: the game, and the targets' models.
    """
    halves = split_patients(films.patients, targets=targets, references=references, population=population, seed=seed)
    confidences, attacked = [], []
    for index, members in enumerate(halves.members):
        if progress:
            progress(index, len(halves.members), "models trained")
        half = films_at(films, members)
        own = replace(plan, seed=derive_seed(plan.seed, "membership", seed, index))
        model = federate(own, [Site("A", half, films_at(films, np.zeros(len(films), bool)))], **options).model
        attacked += [model] if index < targets else []
        confidences.append(confidence(model, films))
    if progress:
        progress(len(halves.members), len(halves.members), "models trained")
    return MembershipGame(np.stack(confidences), halves.members, halves.population, films.patients, targets), attacked


def confidence(model: TrainedModel, films: FilmSet) -> np.ndarray:
    """The model's probability of each film's true label: float64 [n] in (0, 1).

    Of float32 probabilities, 1 - p is the sum of the other classes', which is exact where p rounds to 1.
    """
    probabilities = predict(model.network(), films, model.spec).double()
    own = torch.nn.functional.one_hot(films.labels, len(films.classes)).bool()
    right, wrong = probabilities[own], probabilities.masked_fill(own, 0).sum(1)
    return (right / (right + wrong)).clamp(_CLOSEST, 1 - _CLOSEST).numpy()


def films_at(films: FilmSet, mask: np.ndarray) -> FilmSet:
    """The films where `mask`, bool [n], is true."""
    chosen = torch.from_numpy(mask)
    patients = tuple(patient for patient, here in zip(films.patients, mask, strict=True) if here)
    return replace(films, images=films.images[chosen], labels=films.labels[chosen], patients=patients)
