"""Pictures of a search over hyper-parameters."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from ..federation import LogUniform, SearchResult
from .style import BLUE, GRAY, ORANGE, RED, new_figure, without_frame

_COLUMNS = 4


def search_scores(result: SearchResult) -> Figure:
    """The score of each trial in its order, with the best so far; then against each key that was searched.

    Filled circles are complete trials, crosses pruned ones (their score when they ended), triangles at the foot failed ones;
    the star is the best.
    """
    panels = 1 + len(result.space)
    columns = min(panels, _COLUMNS)
    rows = math.ceil(panels / columns)
    figure = new_figure(3.2 * columns, 2.8 * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    _trials(axes[0], result, [trial.number for trial in result.trials])
    complete = [-math.inf if trial.state != "complete" else trial.score for trial in result.trials]
    best = np.maximum.accumulate(complete)
    found = np.isfinite(best)
    axes[0].step(np.arange(len(best))[found], best[found], where="post", color=GRAY, lw=1, zorder=1, label="best so far")
    axes[0].set(xlabel="trial")
    axes[0].xaxis.get_major_locator().set_params(integer=True)
    for axis, (key, values) in zip(axes[1:], result.space.items(), strict=False):
        tried = [trial.values[key] for trial in result.trials]
        choices = list(getattr(values, "values", ()))
        _trials(axis, result, [choices.index(value) for value in tried] if choices else tried)
        if choices:
            axis.set_xticks(range(len(choices)), [str(choice) for choice in choices], rotation=20)
            axis.set_xlim(-0.5, len(choices) - 0.5)
        elif isinstance(values, LogUniform):
            axis.set_xscale("log")
        axis.set(xlabel=key)
    for axis in axes[::columns]:
        axis.set(ylabel=f"validation {result.metric}")
    for axis in axes[panels:]:
        axis.set_axis_off()
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside upper center", ncols=5)
    return without_frame(figure)


def _trials(axis, result: SearchResult, at: list[float]) -> None:
    scores = [trial.score for trial in result.trials if trial.score is not None]
    foot = min(scores) - 0.08 * (max(scores) - min(scores) or 1)
    for state, marker, color in (("complete", "o", BLUE), ("pruned", "x", ORANGE), ("failed", "^", RED)):
        some = [trial.number for trial in result.trials if trial.state == state]
        heights = [foot if result.trials[n].score is None else result.trials[n].score for n in some]
        if some:
            axis.scatter([at[n] for n in some], heights, marker=marker, color=color, s=28, zorder=2, label=state)
    best = result.best
    axis.scatter([at[best.number]], [best.score], marker="*", color=BLUE, s=150, zorder=3, label="best")
