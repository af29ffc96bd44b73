"""What a model answered to films whose truth is known: all that evaluation needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import KitError


@dataclass(frozen=True, eq=False)
class Predictions:
    """One model's answers to n films.

    labels: int64 [n], the true class of each film.
    probabilities: float64 [n, classes] in [0, 1], each row sums to one; the largest is the answer.
    patients: str [n]. Films with the same patient and site belong to one child.
    sites: str [n], the hospital that each film comes from.
    classes: what the columns stand for.

    Raises: KitError if lengths differ, a label is no class, or a row isn't a distribution.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    patients: np.ndarray
    sites: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, kind in (("labels", np.int64), ("probabilities", np.float64), ("patients", str), ("sites", str)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=kind))
        n, k = len(self.labels), len(self.classes)
        if self.probabilities.shape != (n, k):
            raise KitError(f"Probabilities are {list(self.probabilities.shape)}; {n} films of {k} classes need [{n}, {k}].")
        if len(self.patients) != n or len(self.sites) != n:
            raise KitError(f"{n} films need as many patients and sites; there are {len(self.patients)} and {len(self.sites)}.")
        if n and not 0 <= self.labels.min() <= self.labels.max() < k:
            raise KitError(f"Labels run from {self.labels.min()} to {self.labels.max()}; {k} classes are 0 to {k - 1}.")
        off = ~(np.abs(self.probabilities.sum(1) - 1) < 1e-3) | (self.probabilities < 0).any(1)  # also where it is NaN
        if off.any():
            raise KitError(f"Probabilities of film {off.argmax()} are no distribution: {self.probabilities[off.argmax()]}.")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def answers(self) -> np.ndarray:
        """int64 [n], the most probable class of each film."""
        return self.probabilities.argmax(1)

    @property
    def site_names(self) -> tuple[str, ...]:
        """The sites that have a film here, in order of appearance."""
        return tuple(dict.fromkeys(self.sites.tolist()))

    def at(self, site: str) -> Predictions:
        """The films of one site; none if it has none here."""
        return self[self.sites == site]

    def __getitem__(self, films) -> Predictions:
        """Some of the films: a mask, a slice or indices."""
        parts = (self.labels, self.probabilities, self.patients, self.sites)
        return Predictions(*(part[films] for part in parts), self.classes)


def join(parts: Sequence[Predictions]) -> Predictions:
    """The films of several parts, one after another. Raises: KitError if their classes differ."""
    if len({part.classes for part in parts}) != 1:
        raise KitError("Predictions for different classes can't be joined.")
    fields = ("labels", "probabilities", "patients", "sites")
    return Predictions(*(np.concatenate([getattr(part, f) for part in parts]) for f in fields), parts[0].classes)


def check_same_films(first: Predictions, second: Predictions) -> None:
    """Raises: KitError unless both answer the same films in the same order, as far as can be seen."""
    for name in ("classes", "labels", "patients", "sites"):
        if not np.array_equal(getattr(first, name), getattr(second, name)):
            raise KitError(f"Two models are compared on the same films only; their {name} differ.")
