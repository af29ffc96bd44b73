"""The training plan: everything that decides a run, in one frozen record with one hash.

Who approves a plan by its hash approves this one and no other.
"""

from __future__ import annotations

import hashlib
import json
import math
import types
import typing
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from ..data import CASE_STUDY
from ..errors import KitError, nearest
from ..models import CLASSIFIERS, SMALLEST_FILM, ModelSpec


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """A federated training run.

    classes: the labels, in the order of the model's outputs.
    architecture, norm, pool: the model, see `primia_kit.models`.
    size: side of the square films in pixels.
    geometry: "pad" keeps a film's aspect and fills up with black, "stretch" doesn't keep it.
    rounds: how often the sites' updates are combined.
    local_epochs: passes over its own films that a site makes in a round.
    batch_size: films a step; a site's batches are of equal size, give or take one film.
    optimizer: "sgd" (Nesterov momentum) or "adam"; a new one each round, as in FedAvg.
    learning_rate, momentum, weight_decay: the optimizer's; Adam ignores the momentum.
    schedule: how the learning rate goes down over the rounds; "cosine" to nearly 0, "constant" not at all.
    augmentation: "shift" moves every film by up to 1/16 of its side, "none" leaves it.
    weighting: "films" weights a site by its number of training films, "uniform" doesn't.
    seed: every draw derives from it by (seed, round, site). Not secret, nothing secret derives from it.
    """

    classes: tuple[str, ...] = CASE_STUDY
    architecture: Literal[tuple(CLASSIFIERS)] = "resnet9"
    norm: Literal["batch", "group", "none"] = "batch"
    pool: Literal["max", "avg"] = "max"
    size: int = 64
    geometry: Literal["pad", "stretch"] = "pad"
    rounds: int = 20
    local_epochs: int = 1
    batch_size: int = 16
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.1
    schedule: Literal["cosine", "constant"] = "cosine"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    augmentation: Literal["none", "shift"] = "shift"
    weighting: Literal["films", "uniform"] = "films"
    seed: int = 0

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in fields(self):
            value = _checked(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise KitError(f"classes is {list(self.classes)}; a plan needs at least two different labels.")
        smallest = SMALLEST_FILM[self.architecture]
        for name, low in (("size", smallest), ("rounds", 1), ("local_epochs", 1), ("batch_size", 2), ("seed", 0)):
            if getattr(self, name) < low:
                why = f" for {self.architecture}" if name == "size" else ""
                raise KitError(f"{name} is {getattr(self, name)}; the least{why} is {low}.")
        if self.learning_rate <= 0:
            raise KitError(f"learning_rate is {self.learning_rate}; it must be above 0.")
        if not 0 <= self.momentum < 1:
            raise KitError(f"momentum is {self.momentum}; it must lie in [0, 1).")
        if self.weight_decay < 0:
            raise KitError(f"weight_decay is {self.weight_decay}; it can't be negative.")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingPlan:
        """Make a plan from plain values; what isn't named has its default.

        Raises: KitError that names an unknown key and the nearest right one, or an ill-typed value.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise KitError(f"A training plan has no key {key!r}{nearest(str(key), known)}. Its keys are {', '.join(known)}.")
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> TrainingPlan:
        """Read what `to_json` wrote (or a person did)."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise KitError(f"The plan is not JSON: {error}.") from error
        if not isinstance(values, dict):
            raise KitError('The plan\'s JSON must be an object: {"rounds": 10, …}.')
        return cls.from_dict(values)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces; equal plans give equal text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)

    def __str__(self) -> str:
        lines = [f"{field.name:<15}{getattr(self, field.name)}" for field in fields(self)]
        return "\n".join([*lines, f"{'SHA-256':<15}{self.sha256}"])

    @property
    def sha256(self) -> str:
        """64 hex digits, the hash of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def learning_rate_in(self, round: int) -> float:
        """The learning rate of a round (from 1): a function of the plan, so that no sync can lose it."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * (round - 1) / self.rounds)) / 2

    def model_spec(self, pixel_mean: float, pixel_std: float) -> ModelSpec:
        """The model that this plan trains, for films with these statistics."""
        return ModelSpec(
            architecture=self.architecture, classes=self.classes, norm=self.norm, pool=self.pool,
            size=self.size, geometry=self.geometry, pixel_mean=pixel_mean, pixel_std=pixel_std,
        )  # fmt: skip


def _checked(name: str, value: Any, hint: Any) -> Any:
    """The value in its declared type, or a sentence. An int passes for a float; a bool passes for nothing."""
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices or not isinstance(value, str):
            raise KitError(f"{name} is {value!r}{nearest(str(value), choices)}; it must be one of {', '.join(choices)}.")
        return value
    if isinstance(hint, types.GenericAlias):  # tuple[str, ...]
        if isinstance(value, str) or not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
            raise KitError(f"{name} is {value!r}; it must be a list of names.")
        return tuple(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)
    article = {"int": "a whole number", "float": "a finite number"}[hint.__name__]
    raise KitError(f"{name} is {value!r}; it must be {article}.")
