"""Pictures of membership inference and of audits."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from ..attacks import AuditResult, MembershipResult
from .style import BLUE, GRAY, HATCHES, MARKERS, PALETTE, RED, new_figure, shortened, without_frame

_LINES = ("-", "--", "-.", ":")


def membership_roc(results: Mapping[str, MembershipResult], *, bands: bool | None = None) -> Figure:
    """Members found against outsiders taken for members, both axes logarithmic: what counts is the left end, where an attacker
    is hardly ever wrong. A line a result, with its AUC.

    Args:
        bands: 95% intervals, point by point, by patients; by default for up to three results, beyond which they hide each other.
    """
    bands = len(results) <= 3 if bands is None else bands
    figure = new_figure(7.2, 4.2)
    axis = figure.subplots()
    floor = min((1 / max(result.members, result.outsiders) for result in results.values()), default=1e-3)
    for i, (name, result) in enumerate(results.items()):
        fpr, tpr, low, high = result.roc()
        colour, label = PALETTE[i % len(PALETTE)], f"{shortened(name)}, AUC {result.auc}"
        axis.plot(fpr, np.maximum(tpr, floor), _LINES[i % len(_LINES)], color=colour, lw=1.7, label=label)
        points = [k for k in (0.001, 0.01, 0.1) if k >= fpr[0]]
        at = np.maximum(np.interp(points, fpr, tpr), floor)
        axis.plot(points, at, MARKERS[i % len(MARKERS)], color=colour, ms=5)
        if bands:
            axis.fill_between(fpr, np.maximum(low, floor), np.maximum(high, floor), color=colour, alpha=0.15, lw=0)
    axis.plot([floor, 1], [floor, 1], color="black", lw=0.8)
    axis.annotate("guessing", (0.3, 0.3), (4, -12), textcoords="offset points", fontsize=8)
    axis.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1.1))
    axis.set(xlabel="outsiders' films taken for members'", ylabel="members' films found")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    axis.grid(color="#DDDDDD", lw=0.6)
    axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return without_frame(figure)


def audit_beside_ledger(results: Mapping[str, AuditResult]) -> Figure:
    """A row an audit: the epsilons that it refutes, the one that the ledger claims, and what so many guesses could have refuted
    at most. A claim that lies in the refuted part is false."""
    figure = new_figure(7.6, 0.6 * len(results) + 1.3)
    axis = figure.subplots()
    reach = 1.15 * max((max(r.most, r.claimed if math.isfinite(r.claimed) else 0) for r in results.values()), default=1)
    for row, result in enumerate(results.values()):
        colour = RED if result.refuted else GRAY
        hatch = HATCHES[1] if result.refuted else HATCHES[0]
        names = ("refuted by the audit", "most it could prove", "claimed by the ledger") if not row else (None,) * 3
        axis.barh(row, result.bound, 0.5, color=colour, alpha=0.45, hatch=hatch, edgecolor="white", label=names[0])
        axis.plot([result.most] * 2, [row - 0.3, row + 0.3], ":", color="black", lw=1.2, label=names[1])
        axis.plot(min(result.claimed, reach), row, "D", color=BLUE, ms=8, mec="white", label=names[2])
        verdict = "claim refuted" if result.refuted else "no contradiction"
        told = f"{result.right} of {result.guesses} right: {verdict}"
        axis.annotate(told, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8.5)
    axis.set_yticks(range(len(results)), [shortened(name) for name in results])
    axis.tick_params(axis="y", length=0)
    axis.set(xlabel="epsilon", xlim=(0, reach), ylim=(len(results) - 0.4, -0.6))
    axis.legend(ncols=3, fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1))
    return without_frame(figure)
