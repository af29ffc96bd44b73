"""Pictures of training: the loss, round by round."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.figure import Figure

from ..errors import KitError
from ..federation import TrainingRun
from .style import MARKERS, PALETTE, new_figure, without_frame


def learning_curves(runs: Mapping[str, TrainingRun]) -> Figure:
    """Training loss round by round; one line a site and run.

    Raises: KitError if no run tells a loss: under differential privacy no site does.
    """
    if not any(r.losses for run in runs.values() for r in run.rounds):
        raise KitError("These runs tell no training loss: private ones send none. Draw their epsilon_over_rounds instead.")
    figure = new_figure(6.5, 3.2)
    axis = figure.subplots()
    line = 0
    for name, run in runs.items():
        sites = sorted({site for r in run.rounds for site in r.losses})
        for site in sites:
            label = name if len(sites) == 1 else f"{name}, {site}"
            losses = [r.losses.get(site, math.nan) for r in run.rounds]  # a gap where it wasn't in the round
            axis.plot(
                [r.number for r in run.rounds],
                losses,
                color=PALETTE[line % len(PALETTE)],
                marker=MARKERS[line % len(MARKERS)],
                ms=4,
                label=label,
            )
            line += 1
    axis.set(xlabel="round", ylabel="training loss (nats)", ylim=(0, None))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return without_frame(figure)
