"""What a checkpoint holds of a run, and how a run goes on from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KitError
from .messages import SiteMemory
from .run import Best, Round

if TYPE_CHECKING:
    from .engine import Federation


def server_state(run: Federation) -> dict[str, Any]:
    """What the server writes down after a round."""
    return {
        "spec": {**asdict(run.spec), "classes": list(run.spec.classes)},
        "class_weights": run.class_weights,
        "everyone": run.server.everyone,
        "total_weight": run.total_weight,
        "weights": run.weights,
        "server": run.server.state,
        "best": vars(run.best),
        "average": run.average,
        "rounds": [asdict(r) for r in run.rounds],
    }


def site_states(run: Federation, digests: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Site -> what it writes down after a round.

    Args:
        digests: site -> that of its films.
    """
    return {
        name: {
            "films": digests[name], "kept": m.kept, "best": m.best, "loss_scale": m.loss_scale,
            "noise_multiplier": m.privacy and m.privacy.noise_multiplier, "clipping_norm": m.clipping_norm,
        }
        for name, m in run.memories.items()
    }  # fmt: skip


def restore(
    run: Federation, server: Mapping[str, Any], sites: Mapping[str, Mapping[str, Any]], digests: Mapping[str, str], folder: Path
) -> None:
    """Take a run that has just begun to where its checkpoint, in `folder`, was written.

    Raises: KitError if a site has other films now.
    """
    for name, state in sites.items():
        if state["films"] != digests[name]:
            raise KitError(
                f"Site {name}'s films aren't those that the checkpoints in {folder} were trained on: "
                "a run can't go on with other films. Choose another folder to start anew."
            )
        run.memories[name] = SiteMemory(
            kept=state["kept"], best=state["best"], loss_scale=state["loss_scale"],
            privacy=run.memories[name].privacy, clipping_norm=state["clipping_norm"],
        )  # fmt: skip
    run.weights, run.server.state = server["weights"], server["server"]
    run.best, run.average = Best(**server["best"]), server["average"]
    run.rounds = [Round(**record) for record in server["rounds"]]
