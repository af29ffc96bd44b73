"""What a hospital checks before it computes: is this the plan that was approved, and the plan's own model?"""

from __future__ import annotations

import math

from ..errors import KitError
from ..models import ModelSpec
from .messages import RoundTask


def check_task(task: RoundTask, approved: str) -> None:
    """Refuse a round that the hospital's approval doesn't cover.

    1. The plan's SHA-256 is the approved one.
    2. The model is a `ModelSpec` and no class derived from it, and the one that the plan names. (Of its fields only the
       pixel statistics come from elsewhere.) So the network is built by the hospital's own code.
    3. The round is one of the plan's.
    4. The weights have this network's names and shapes, and no others.

    What this can't see is the weights' *values*: a server may choose them so that the approved model's own layers give
    films away (Boenisch et al. 2023, "When the curious abandon honesty"). Noise bounds that, a hash doesn't.

    Args:
        approved: 64 hex digits, `TrainingPlan.sha256` of the plan that was reviewed.

    Raises: KitError that says what differs.
    """
    if task.plan.sha256 != approved:
        raise KitError(
            f"The plan's hash is {task.plan.sha256[:12]}…, the approved one is {approved[:12]}…: nothing was computed."
        )
    if not 1 <= task.number <= task.plan.rounds:
        raise KitError(f"The server asks for round {task.number} of the plan's {task.plan.rounds}: nothing was computed.")
    mean, std = getattr(task.spec, "pixel_mean", math.nan), getattr(task.spec, "pixel_std", math.nan)
    if type(task.spec) is not ModelSpec or task.spec != task.plan.model_spec(mean, std):
        raise KitError(
            f"The server's model ({type(task.spec).__name__}) isn't the approved plan's {task.plan.architecture}: "
            "nothing was computed."
        )
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise KitError(f"The server sent pixel statistics of {mean:g} and {std:g}: nothing was computed.")
    task.spec.check(task.weights)
