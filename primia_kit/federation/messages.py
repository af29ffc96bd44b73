"""What passes between the server and a site in a round, and what a site keeps to itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ..models import ModelSpec
from .plan import TrainingPlan

if TYPE_CHECKING:
    from .private import SitePrivacy, Units

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class RoundTask:
    """What the server sends every site at the start of a round; the same to all.

    plan: what the site has approved. spec: the model, with the pixel statistics of all sites.
    number: the round, from 1. weights: the global state dict.
    class_weights: float32 [classes], the weight of each label in the loss; None: all 1.
    control: SCAFFOLD's server control variate c, parameter -> tensor.
    """

    plan: TrainingPlan
    spec: ModelSpec
    number: int
    weights: Mapping[str, torch.Tensor]
    class_weights: torch.Tensor | None = None
    control: Mapping[str, torch.Tensor] | None = None


@dataclass(frozen=True)
class LocalTraining:
    """What a site tells in clear of its training.

    steps: optimizer steps made.
    loss: mean loss over the films seen, in nats; None under differential privacy, which nothing exact leaves.
    ledger_head, epsilon: under differential privacy, the last entry of the site's ledger and what it comes to.
    """

    steps: int
    loss: float | None
    ledger_head: str = ""
    epsilon: float | None = None


@dataclass
class SiteMemory:
    """What a site keeps from round to round and sends to nobody.

    kept: SCAFFOLD's c_i, under "control." and the parameter's name, or FedBN's layers, under their own names;
        empty for the other strategies.
    offered: what it will keep if the round's sum holds its contribution. Otherwise it drops it: the server's
        state and the site's must tell of the same rounds.
    best: `kept` as it was at the best round (early stopping).
    loss_scale: fp16's, which takes some steps to find; None before the first.
    privacy: the site's ledger and its noise; None in a run that isn't private.
    clipping_norm: where adaptive clipping has come to; None before the first round.
    features, units: what enters the last layer, where no other is trained, and whom a unit of privacy stands for;
        worked out once.

    In one process the engine holds these for the sites; in a real federation each site does, and the server's
    next message says whether the last contribution was in the sum, and which round was the best.
    """

    kept: Tensors = field(default_factory=dict)
    offered: Tensors = field(default_factory=dict)
    best: Tensors = field(default_factory=dict)
    loss_scale: float | None = None
    privacy: SitePrivacy | None = None
    clipping_norm: float | None = None
    features: torch.Tensor | None = None
    units: Units | None = None

    def settle(self, included: bool) -> None:
        """The server says whether the round's sum holds what the site sent."""
        if included and self.offered:
            self.kept = self.offered
        self.offered = {}
