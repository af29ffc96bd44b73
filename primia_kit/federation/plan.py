"""The training plan: everything that decides a run, in one frozen record with one hash.

Who approves a plan by its hash approves this one and no other.
"""

from __future__ import annotations

import hashlib
import json
import math
import typing
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from ..data import CASE_STUDY
from ..errors import KitError, nearest
from ..models import CLASSIFIERS, SMALLEST_FILM, ModelSpec
from .plan_values import checked
from .private_plan import PRIVATE_KEYS, check_privacy

BODY = "body"  # in `frozen`: everything but the last linear layer


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """A federated training run.

    classes: the labels, in the order of the model's outputs.
    architecture, norm, pool: the model, see `primia_kit.models`.
    size: side of the square films in pixels.
    geometry: "pad" keeps a film's aspect and fills up with black, "stretch" doesn't keep it.
    rounds: how often the sites' updates are combined.
    local_epochs: passes over its own films that a site makes in a round.
    sync_every: batches that every site makes in a round; 0: `local_epochs` decides. A site that comes to the
        end of its films goes on into its next pass, so small sites pass over theirs more often (`passes`).
    batch_size: films a step; a site's batches are of equal size, give or take one film.
    optimizer: "sgd" (Nesterov momentum) or "adam"; a new one each round, as in FedAvg.
    learning_rate, momentum, weight_decay: the optimizer's; Adam ignores the momentum.
    schedule: how the learning rate goes down, step by step from the first round to the last: "cosine" to 0,
        "step" to a tenth at 1/2 and a hundredth at 3/4 of the way, "constant" not at all.
    warmup: share of the run, [0, 1), in which the learning rate climbs from a tenth, before the schedule.
    augmentation: "shift" moves every film by up to 1/16 of its side, "none" leaves it.
    mixup: MixUp's alpha (Zhang et al. 2018), films of a batch blended by a share from Beta(alpha, alpha); 0: off.
    class_weights: "balanced" weights a label's films in the loss by films / (labels * films with this label),
        counted over all sites; "none" doesn't.
    strategy: how updates are made and combined, see `primia_kit.federation.strategies`.
    proximal_mu: FedProx's pull towards the global model.
    scaffold_option: how SCAFFOLD renews a site's control variate: "I", a gradient over all its films at the
        global model; "II", the mean of the gradients that it steps along.
    server_learning_rate, server_beta1, server_beta2, server_tau: FedAdam's and FedYogi's eta, beta_1, beta_2, tau.
    weighting: "films" weights a site by its number of training films, "patients" by that of its patients, "uniform"
        doesn't.
    participation: share of the sites that a round draws, (0, 1]; never fewer than three, if there are three,
        since a secure sum of two sites tells each the other's update.
    min_sites: a round with fewer answers (of those drawn) stops the run. An average of one is that site's model.
    patience: stop after so many rounds without a lower pooled validation loss, and keep the model of the best
        round; 0: all rounds, the last model.
    validation_share: share of its training patients that a site without validation films sets aside, (0, 0.5].
    frozen: layers that aren't trained, by name or the first parts of it ("layer1", "layer2.0"); "body" is everything
        but the last linear layer. BatchNorm layers that are frozen use the statistics that they came with.
    start: SHA-256 of the weights that training starts from (`models.weights_sha256`); "": random ones, by `seed`.
    feature_norm: "l2" scales what enters the last linear layer to length 1, film by film; "l2_centred" takes the mean of
        that over all sites' films off it and scales it again (see `models.CentredLinear`), for a last layer that is trained
        alone; "none" leaves it.
    ema: decay, [0, 1), of the mean of the global weights over the rounds (Polyak averaging, corrected for its start),
        which is then the model that the run ends with; 0: the last weights.
    pixel_statistics: where the model's pixel mean and standard deviation come from: "exact", over all sites' training
        films; "public", the constants `pixel_mean` and `pixel_std`; "private", over all sites with noise, charged.
    privacy: differential privacy at each site, by DP-SGD (Abadi et al. 2016): "patient" hides whether a patient,
        with all films, took part; "film" hides a single film only; "none". See `primia_kit.federation.private`.
        `batch_size` is then the expected number of patients (films) a step.
    target_epsilon, noise_multiplier: exactly one of them, the other is 0: the epsilon that a site's ledger may come
        to, from which the noise is worked out; or the noise's standard deviation over `clipping_norm`.
    delta: of (epsilon, delta); at most 1 / (10 x patients) at every site.
    clipping_norm: C, the largest L2 norm of a patient's gradient over all trainable parameters.
    clipping: "fixed", or "adaptive": C starts as `clipping_norm` and follows the `clipping_quantile` of the norms
        (Andrew et al. 2021), whose noised count is part of what is charged.
    virtual_batch: films (and copies of them) whose gradients are in memory at a time; changes no result.
    augmentation_multiplicity: augmented copies of each film, whose gradients are averaged (De et al. 2022).
    noise: "local", each hospital adds the whole noise to its own gradients; "distributed", each adds a share of it to one
        clipped sum a round, and the secure sum has the whole. See `primia_kit.federation.distributed`.
    colluders: hospitals of the `min_sites` that a sum has at least whose shares of distributed noise don't count, since
        they may tell others what they added, or add nothing. With 0, epsilon doesn't hold against the other hospitals.
    statistics_noise: noise multiplier of each sum that is charged before training: pixel statistics, class counts, mean
        features; 0: there are none.
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
    sync_every: int = 0
    batch_size: int = 16
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.1
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    augmentation: Literal["none", "shift"] = "shift"
    mixup: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    strategy: Literal["fedavg", "fedprox", "scaffold", "fedadam", "fedyogi", "fedbn"] = "fedavg"
    proximal_mu: float = 0.01
    scaffold_option: Literal["I", "II"] = "II"
    server_learning_rate: float = 0.01
    server_beta1: float = 0.9
    server_beta2: float = 0.99
    server_tau: float = 1e-3
    weighting: Literal["films", "patients", "uniform"] = "films"
    participation: float = 1.0
    min_sites: int = 2
    patience: int = 0
    validation_share: float = 0.2
    frozen: tuple[str, ...] = ()
    start: str = ""
    feature_norm: Literal["none", "l2", "l2_centred"] = "none"
    ema: float = 0.0
    pixel_statistics: Literal["exact", "public", "private"] = "exact"
    pixel_mean: float = 0.5
    pixel_std: float = 0.25
    privacy: Literal["none", "patient", "film"] = "none"
    target_epsilon: float = 0.0
    noise_multiplier: float = 0.0
    delta: float = 1e-5
    clipping_norm: float = 1.0
    clipping: Literal["fixed", "adaptive"] = "fixed"
    clipping_quantile: float = 0.5
    virtual_batch: int = 64
    augmentation_multiplicity: int = 1
    noise: Literal["local", "distributed"] = "local"
    colluders: int = 1
    statistics_noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in fields(self):
            value = checked(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise KitError(f"classes is {list(self.classes)}; a plan needs at least two different labels.")
        smallest = SMALLEST_FILM[self.architecture]
        if self.size < smallest:
            raise KitError(f"size is {self.size}; the least for {self.architecture} is {smallest}.")
        for name, low in _LEAST.items():
            if getattr(self, name) < low:
                raise KitError(f"{name} is {getattr(self, name)}; the least is {low}.")
        for name, (holds, sentence) in _RANGES.items():
            if not holds(getattr(self, name)):
                raise KitError(f"{name} is {getattr(self, name)}; it {sentence}.")
        if self.strategy == "fedbn" and self.norm != "batch":
            raise KitError(f'strategy "fedbn" keeps BatchNorm layers at the sites, and norm is {self.norm!r}: use norm="batch".')
        if self.strategy == "scaffold" and self.optimizer != "sgd":
            raise KitError(f'strategy "scaffold" corrects SGD, and optimizer is {self.optimizer!r}: use optimizer="sgd".')
        if self.start and (len(self.start) != 64 or set(self.start) - set("0123456789abcdef")):
            raise KitError(
                f"start is {self.start!r}; it's the SHA-256 of weights, 64 hexadecimal digits (weights_sha256), or empty."
            )
        if self.ema and (self.patience or self.strategy == "fedbn"):
            other = "patience" if self.patience else 'strategy "fedbn"'
            raise KitError(
                f"ema is {self.ema}, and {other} chooses other weights than averaged ones: set one of them to 0 or none."
            )
        if self.feature_norm == "l2_centred" and (BODY not in self.frozen or self.augmentation != "none" or self.mixup):
            raise KitError(
                'feature_norm "l2_centred" needs features that never change, to take their mean once: set '
                f'frozen=("{BODY}",), augmentation="none" and mixup=0.'
            )
        check_privacy(self)

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
        """A line a key and the hash; keys that have no effect beside the others' values are left out."""
        shown = [field.name for field in fields(self) if _MATTERS.get(field.name, lambda plan: True)(self)]
        width = max(map(len, shown)) + 2
        return "\n".join([*(f"{name:<{width}}{getattr(self, name)}" for name in shown), f"{'SHA-256':<{width}}{self.sha256}"])

    @property
    def sha256(self) -> str:
        """64 hex digits, the hash of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def learning_rate_in(self, round: int, share: float = 0.0) -> float:
        """The learning rate in a round (from 1), after this share of its steps, [0, 1).

        A function of the plan and the place, kept nowhere, so that no sync can lose it.
        """
        way = (round - 1 + share) / self.rounds
        if way < self.warmup:
            return self.learning_rate * (0.1 + 0.9 * way / self.warmup)
        way = (way - self.warmup) / (1 - self.warmup)
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * way)) / 2
        if self.schedule == "step":
            return self.learning_rate * (1.0 if way < 0.5 else 0.1 if way < 0.75 else 0.01)
        return self.learning_rate

    def batches_in_a_pass(self, films: int) -> int:
        """Batches that `films` films are cut into: ceil(films / batch_size); fewer where one would hold a single film."""
        return max(1, min(-(-films // self.batch_size), films // 2))

    def passes(self, films: int) -> float:
        """How often a site with `films` training films goes over them, if it takes part in every round."""
        each = self.sync_every / self.batches_in_a_pass(films) if self.sync_every else self.local_epochs
        return self.rounds * each

    def pooled(self, sites: int) -> TrainingPlan:
        """The plan for one site that holds the films of `sites` sites: as many steps a round as they make together.

        With `sync_every` its passes over the films are then the sites' passes, averaged by films; without, the
        plan is the same.
        """
        return replace(self, sync_every=self.sync_every * sites)

    def model_spec(self, pixel_mean: float, pixel_std: float) -> ModelSpec:
        """The model that this plan trains, for films with these statistics."""
        return ModelSpec(
            architecture=self.architecture, classes=self.classes, norm=self.norm, pool=self.pool,
            size=self.size, geometry=self.geometry, pixel_mean=pixel_mean, pixel_std=pixel_std,
            feature_norm=self.feature_norm,
        )  # fmt: skip

    @property
    def private(self) -> bool:
        return self.privacy != "none"

    def sampling_rate(self, units: int) -> float:
        """q, the chance of each of a site's patients (films, if these are the unit) to be in a step: (0, 1]."""
        return min(1.0, self.batch_size / units)

    def private_steps(self, units: int) -> int:
        """Steps that a site makes in a round of a private run: of public numbers only."""
        return self.sync_every or self.local_epochs * -(-units // self.batch_size)


_LEAST = {
    "rounds": 1, "local_epochs": 1, "sync_every": 0, "batch_size": 2, "min_sites": 1, "patience": 0, "seed": 0,
    "virtual_batch": 1, "augmentation_multiplicity": 1, "colluders": 0,
}  # fmt: skip
_RANGES = {  # key -> (what must hold, as a sentence)
    **dict.fromkeys(
        ("learning_rate", "server_learning_rate", "server_tau", "pixel_std", "clipping_norm"),
        (lambda v: v > 0, "must be above 0"),
    ),
    **dict.fromkeys(("momentum", "warmup", "server_beta1", "server_beta2", "ema"), (lambda v: 0 <= v < 1, "must lie in [0, 1)")),
    **dict.fromkeys(
        ("weight_decay", "mixup", "proximal_mu", "target_epsilon", "noise_multiplier", "statistics_noise"),
        (lambda v: v >= 0, "can't be negative"),
    ),
    **dict.fromkeys(("delta", "clipping_quantile"), (lambda v: 0 < v < 1, "must lie in (0, 1)")),
    "participation": (lambda v: 0 < v <= 1, "must lie in (0, 1]"),
    "validation_share": (lambda v: 0 < v <= 0.5, "must lie in (0, 0.5]"),
}
_MATTERS = {  # key -> whether it has an effect in this plan
    "local_epochs": lambda plan: not plan.sync_every,
    "momentum": lambda plan: plan.optimizer == "sgd",
    "proximal_mu": lambda plan: plan.strategy == "fedprox",
    "scaffold_option": lambda plan: plan.strategy == "scaffold",
    "validation_share": lambda plan: plan.patience > 0,
    **dict.fromkeys(("pixel_mean", "pixel_std"), lambda plan: plan.pixel_statistics == "public"),
    **dict.fromkeys(PRIVATE_KEYS, lambda plan: plan.privacy != "none"),
    "colluders": lambda plan: plan.noise == "distributed",
    "clipping_quantile": lambda plan: plan.privacy != "none" and plan.clipping == "adaptive",
    "target_epsilon": lambda plan: plan.privacy != "none" and plan.target_epsilon > 0,
    "noise_multiplier": lambda plan: plan.privacy != "none" and plan.noise_multiplier > 0,
    **{
        f"server_{name}": lambda plan: plan.strategy in ("fedadam", "fedyogi")
        for name in ("learning_rate", "beta1", "beta2", "tau")
    },
}
