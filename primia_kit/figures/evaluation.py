"""Pictures of how good models are."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ..federation import Comparison
from .style import BLUE, GRAY, ORANGE, new_figure, without_frame

ARMS = {"alone": (GRAY, ".."), "federated": (BLUE, ""), "pooled (central)": (ORANGE, "//")}


def gain_by_site(comparison: Comparison, metric: str = "mcc") -> Figure:
    """For each hospital's own test films: trained alone, federated, pooled."""
    table = comparison.by_site(metric)
    figure = new_figure(6.5, 3.2)
    axis = figure.subplots()
    width = 0.8 / len(ARMS)
    for i, (arm, (colour, hatch)) in enumerate(ARMS.items()):
        at = np.arange(len(table)) + (i - 1) * width
        bars = axis.bar(at, table[arm], width * 0.92, color=colour, hatch=hatch, edgecolor="white", label=arm)
        axis.bar_label(bars, [f"{v:.2f}" if np.isfinite(v) else "none" for v in table[arm]], fontsize=8, padding=1)
    axis.set_xticks(range(len(table)), [f"Hospital {s}" for s in table.index])
    axis.axhline(0, color="black", lw=0.8)
    axis.set(ylabel=f"{metric.upper() if metric in ('mcc', 'auc') else metric.replace('_', ' ')} on its own test films")
    axis.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return without_frame(figure)
