"""Pictures of private training: gradients clipped and noised, what hospitals have spent, what is left of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from ..evaluation import Interval
from ..privacy import Ledger
from .style import BLUE, GRAY, GREEN, MARKERS, ORANGE, PALETTE, PURPLE, RED, new_figure, without_frame


def epsilon_over_rounds(ledgers: Iterable[Ledger]) -> Figure:
    """ε after each spend, a line a hospital, with its δ; budgets as dashed lines.

    Each line is a promise to other patients: they aren't to be added up.
    """
    figure = new_figure(6.5, 3.2)
    axis = figure.subplots()
    budgets: dict[float, list[str]] = {}
    for line, ledger in enumerate(ledgers):
        spends, epsilons = ledger.curve()
        account = ledger.account
        axis.plot(
            spends,
            epsilons,
            color=PALETTE[line % len(PALETTE)],
            marker=MARKERS[line % len(MARKERS)],
            ms=4,
            label=f"{account.site}: {epsilons[-1]:.2f} (δ = {account.delta:.1g})",
        )
        if account.budget is not None:
            budgets.setdefault(account.budget, []).append(account.site)
    for budget, sites in budgets.items():
        axis.axhline(budget, color=GRAY, ls="--", lw=1)
        axis.annotate(
            f"budget of {', '.join(sites)}", (0, budget), xycoords=("axes fraction", "data"), xytext=(3, -9),
            textcoords="offset points", fontsize=8, color=GRAY,
        )  # fmt: skip
    axis.set(xlabel="spends written to the ledger", ylabel="ε", ylim=(0, None))
    axis.xaxis.get_major_locator().set_params(integer=True)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return without_frame(figure)


def gradient_norms(before: Sequence[float], clipping_norm: float) -> Figure:
    """How long the patients' gradients are, a dot a patient, before clipping and after."""
    norms = np.sort(np.asarray(before, float))
    after = np.minimum(norms, clipping_norm)
    figure = new_figure(7, 2.9)
    axis = figure.subplots()
    place = np.arange(1, len(norms) + 1)
    axis.vlines(place, after, norms, color=GRAY, lw=0.8)
    axis.plot(place, norms, "o", color=BLUE, ms=3.5, label="before clipping")
    axis.plot(place, after, "_", color=RED, ms=7, mew=2, label="after")
    axis.axhline(clipping_norm, color=RED, lw=0.8, ls="--")
    clipped = int((norms > clipping_norm).sum())
    axis.set_title(f"C = {clipping_norm:g}: {clipped} of {len(norms)} patients are clipped", fontsize=10)
    axis.set(xlabel="patients, by the length of their gradient", ylabel="length (L2 norm)", ylim=(0, None))
    axis.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return without_frame(figure)


def noised_sums(plain: torch.Tensor, noised: Mapping[str, torch.Tensor], *, shown: int = 60) -> Figure:
    """A sum of gradients and what leaves the hospital, number by number, a panel a noise.

    Args:
        plain: float [n]. noised: name -> float [n].
        shown: how many numbers, those that are largest without noise.
    """
    order = plain.abs().argsort(descending=True)[:shown]
    order = order[plain[order].argsort()]
    figure = new_figure(8.4, 2.6)
    axes = figure.subplots(1, len(noised), sharey=True, squeeze=False)[0]
    for axis, (name, values) in zip(axes, noised.items()):
        place = np.arange(len(order))
        axis.plot(place, values[order].numpy(), "o", color=ORANGE, ms=3, label="with noise: what leaves")
        axis.plot(place, plain[order].numpy(), color=BLUE, lw=1.6, label="the sum")
        likeness = float(torch.nn.functional.cosine_similarity(plain, values, dim=0))
        axis.set_title(f"{name}\ncosine to the sum {likeness:.2f}", fontsize=9)
        axis.set_xticks([])
    figure.supxlabel(f"the {len(order)} largest numbers of the sum, in order", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=2, loc="outside upper center", frameon=False, fontsize=9)
    return without_frame(figure)


def epsilon_utility(
    private: Mapping[float, Interval],
    beside: Mapping[str, Interval],
    *,
    single: Mapping[float, Sequence[float]] | None = None,
    metric: str = "MCC",
) -> Figure:
    """A metric against ε, with intervals; what there is to compare with stands to the right, its value as a line across.

    Args:
        private: ε -> result, the mean of its trainings.
        beside: name -> result of what has no place on this axis (no noise; no private films).
        single: ε -> each training's own value, as small marks.
    """
    names, epsilons = list(beside), sorted(private)
    figure = new_figure(7.4, 3.5)
    axis, other = figure.subplots(1, 2, sharey=True, width_ratios=(max(3, len(epsilons)), max(1.4, 0.9 * len(names))))
    for at, value in enumerate(epsilons):
        _result(axis, at, private[value], BLUE, "o")
        axis.plot([at + 0.14] * len((single or {}).get(value, ())), (single or {}).get(value, ()), "_", color=BLUE, ms=8)
    for i, name in enumerate(names):
        colour = (GREEN, GRAY, PURPLE)[i % 3]
        _result(other, i, beside[name], colour, MARKERS[1 + i % 7])
        for panel in (axis, other):
            panel.axhline(beside[name].value, color=colour, lw=1, ls=("--", ":", "-.")[i % 3], zorder=-1)
    axis.set_xticks(range(len(epsilons)), [f"{value:g}" for value in epsilons])
    axis.set(xlabel="ε of each hospital's patients", ylabel=f"{metric}, 95% interval by patients")
    axis.set_xlim(-0.5, len(epsilons) - 0.5)
    other.set_xticks(range(len(names)), [name.replace(", ", ",\n") for name in names], fontsize=9)
    other.set_xlim(-0.5, len(names) - 0.5)
    other.tick_params(axis="y", length=0)
    return without_frame(figure)


def sum_changes(changes: Mapping[str, Sequence[float]], clipping_norm: float) -> Figure:
    """How far a clipped sum moves when one film is taken away, a dot a film and a row a kind of layer; C is what was promised."""
    figure = new_figure(7, 0.55 * len(changes) + 1.2)
    axis = figure.subplots()
    for row, lengths in enumerate(changes.values()):
        ratios = np.asarray(lengths, float) / clipping_norm
        over = ratios > 1 + 1e-6
        spread = np.linspace(-0.18, 0.18, len(ratios)) if len(ratios) > 1 else np.zeros(1)
        axis.plot(ratios[~over], row + spread[~over], "o", color=GREEN, ms=5, mec="white", mew=0.4)
        axis.plot(ratios[over], row + spread[over], "X", color=RED, ms=6.5, mec="white", mew=0.4)
    axis.axvline(1, color="black", lw=1)
    axis.annotate("C, the bound", (1, 1), (4, 2), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8.5)
    axis.set_yticks(range(len(changes)), list(changes))
    axis.tick_params(axis="y", length=0)
    axis.set(xlabel="change of the clipped sum by one film's going, in C", xlim=(0, None), ylim=(len(changes) - 0.5, -0.5))
    return without_frame(figure)


def _result(axis, at: float, interval: Interval, colour: str, marker: str) -> None:
    axis.vlines(at, interval.low, interval.high, color=colour, lw=1.6)
    axis.plot(at, interval.value, marker, color=colour, ms=7, mec="white", mew=0.5)
