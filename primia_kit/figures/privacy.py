"""Pictures of differential privacy: what hospitals have spent."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.figure import Figure

from ..privacy import Ledger
from .style import GRAY, MARKERS, PALETTE, new_figure, without_frame


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
