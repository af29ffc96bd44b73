"""Pictures of a sweep over parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from pandas.api.types import is_numeric_dtype

from .style import BLUE, MARKERS, PALETTE, new_figure, without_frame

_COLUMNS = 4  # panels in a row: a page's width


def sweep_results(frame, varying: Sequence[str], metrics: Sequence[str]) -> Figure:
    """Mean and standard deviation over seeds of each metric, against the first parameter that varies.

    Args:
        frame: a pandas table with a column for each of `varying` (none: the metrics stand side by side),
            and for each metric `METRIC` and `METRIC sd`.
    """
    if not varying:
        figure = new_figure(max(4.0, 1.3 * len(metrics)), 3.4)
        axis = figure.subplots()
        row = frame.iloc[0]
        spread = [0 if np.isnan(row[f"{m} sd"]) else row[f"{m} sd"] for m in metrics]
        axis.errorbar(range(len(metrics)), [row[m] for m in metrics], spread, fmt="o", color=BLUE, capsize=4)
        axis.set_xticks(range(len(metrics)), metrics, rotation=20, ha="right")
        axis.set(xlim=(-0.5, len(metrics) - 0.5), ylabel="mean ± sd over seeds")
        return without_frame(figure)
    x, others = varying[0], list(varying[1:])
    columns = min(len(metrics), _COLUMNS)
    rows = -(-len(metrics) // columns)
    figure = new_figure(max(4.0, 3.6 * columns), 3.4 * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    axes = panels.flat[: len(metrics)]
    for spare in panels.flat[len(metrics) :]:
        spare.set_axis_off()
    numeric = is_numeric_dtype(frame[x])
    ticks = sorted(frame[x].unique()) if numeric else list(dict.fromkeys(frame[x]))
    groups = list(frame.groupby(others, sort=False)) if others else [((), frame)]
    for axis, metric in zip(axes, metrics, strict=True):
        for i, (point, part) in enumerate(groups):
            label = ", ".join(f"{n} {v}" for n, v in zip(others, point if isinstance(point, tuple) else (point,), strict=True))
            at = part[x] if numeric else [ticks.index(v) + 0.06 * (i - (len(groups) - 1) / 2) for v in part[x]]
            style = "-" if numeric else ""
            axis.errorbar(
                at, part[metric], part[f"{metric} sd"].fillna(0), fmt=MARKERS[i % len(MARKERS)] + style,
                color=PALETTE[i % len(PALETTE)], capsize=3, label=label or None,
            )  # fmt: skip
        axis.set(xlabel=x, title=metric)
        if not numeric:
            axis.set_xticks(range(len(ticks)), [str(t) for t in ticks])
            axis.set_xlim(-0.5, len(ticks) - 0.5)
    if others:
        key = axes[0].get_legend_handles_labels()
        panels[0, -1].legend(*key, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return without_frame(figure)
