"""What is known of a run: its rounds, and the models that it ends with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import KitError
from ..models import TrainedModel
from ..secagg import Transcript
from .messages import Tensors
from .plan import TrainingPlan


@dataclass
class Best:
    """The round with the lowest validation loss so far, and its global weights."""

    round: int = 0
    loss: float = math.inf
    weights: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """What a finished round was like.

    number: from 1. losses: site -> mean training loss. steps: site -> optimizer steps.
    seconds: wall time. update_bytes: what each site sent to be summed.
    absent: site -> why it isn't in the round's sum; a sentence, or "not drawn" where the plan draws sites; or, of a
        site that is in it, why it isn't in the validation loss.
    validation_loss: mean over the validation films of all sites, in nats; None where the plan doesn't stop early, or
        where a site's answer is missing.
    epsilons: site -> what its ledger came to after the round, under differential privacy; losses are empty then.
    ledger_heads: site -> the last entry of its ledger, by which an older copy would be known.
    """

    number: int
    losses: dict[str, float]
    steps: dict[str, int]
    seconds: float
    update_bytes: int
    absent: dict[str, str] = field(default_factory=dict)
    validation_loss: float | None = None
    epsilons: dict[str, float] = field(default_factory=dict)
    ledger_heads: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingRun:
    """A finished run.

    models: site -> the model that it ends with; the same one everywhere, but for FedBN.
    rounds: all of them, those before a resumption, too.
    best_round: the round whose model it is: the last, or the best where the plan stops early.
    notes: a sentence each on what a reader should know (a damaged checkpoint that was passed over).
    transcript: what the server saw, since the run began or was taken up again.
    epsilons: site -> epsilon of its ledger, for its own patients at the plan's delta; empty without differential
        privacy. Hospitals have different patients, so they don't add up: the largest is the run's.
    """

    plan: TrainingPlan
    models: Mapping[str, TrainedModel]
    rounds: tuple[Round, ...]
    best_round: int
    notes: tuple[str, ...] = ()
    transcript: Transcript = field(default_factory=Transcript, repr=False)
    epsilons: Mapping[str, float] = field(default_factory=dict)

    @property
    def largest_epsilon(self) -> float | None:
        """The epsilon that holds for every patient of every hospital; None without differential privacy."""
        return max(self.epsilons.values(), default=None)

    @property
    def model(self) -> TrainedModel:
        """The one model that all sites share.

        Raises: KitError if each site has its own (FedBN at several sites).
        """
        if self.plan.strategy == "fedbn" and len(self.models) > 1:
            some = next(iter(self.models))
            raise KitError(
                f"FedBN leaves every site a model of its own: take run.models[{some!r}] and so on, each for its site's films."
            )
        return next(iter(self.models.values()))

    @property
    def seconds(self) -> float:
        return sum(r.seconds for r in self.rounds)
