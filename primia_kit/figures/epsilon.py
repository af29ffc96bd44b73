"""Pictures of what ε means: two worlds, the attacker's limits, and batches that aren't what the accountant was told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ..privacy import Gaussian, SampledGaussian, epsilon, found_by_best_test, most_found, shuffled_epsilon_at_least, surest
from .style import BLUE, GRAY, GREEN, ORANGE, PALETTE, RED, new_figure, without_frame

_LINES = ("-", "--", "-.", ":")


def two_worlds(noise_multipliers: Sequence[float], delta: float, *, count: int = 17) -> Figure:
    """Which numbers a noised count can come out as, a panel a noise: in the world without the child, and with it.

    Where the hills overlap, nobody can tell the worlds apart by the number.

    Args:
        noise_multipliers: σ, each above 0; the child adds 1 to the count.
        delta: at which the title's ε is.
        count: of the others.
    """
    figure = new_figure(2.9 * len(noise_multipliers), 2.7)
    axes = figure.subplots(1, len(noise_multipliers), squeeze=False)[0]
    for axis, sigma in zip(axes, noise_multipliers):
        x = np.linspace(count - 3.2 * sigma, count + 1 + 3.2 * sigma, 400)
        hills = [np.exp(-0.5 * ((x - centre) / sigma) ** 2) for centre in (count, count + 1)]
        axis.fill_between(x, np.minimum(*hills), color=GRAY, alpha=0.3, lw=0)
        axis.plot(x, hills[0], color=BLUE, lw=1.8, label="without the child")
        axis.plot(x, hills[1], "--", color=RED, lw=1.8, label="with the child")
        axis.set(title=f"noise σ = {sigma:g}: ε = {epsilon([(Gaussian(sigma), 1)], delta):.2g}", yticks=[], ylim=(0, 1.1))
        axis.set_xlabel("the number released")
        axis.title.set_fontsize(10)
        axis.spines["left"].set_visible(False)
    axes[0].set_ylabel("how likely")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=2, loc="outside upper center", frameon=False, fontsize=9)
    return without_frame(figure)


def attackers_limits(epsilons: Sequence[float], delta: float, *, noise_multiplier: float | None = None) -> Figure:
    """What ε leaves to any attacker. Left: children found against false alarms, at most. Right: how sure he can become.

    Args:
        epsilons: a line each on the left.
        delta: of all of them.
        noise_multiplier: of one Gaussian release, whose best attack is drawn as well; None: none.
    """
    figure = new_figure(8.6, 3.5)
    left, right = figure.subplots(1, 2)
    share = np.linspace(0, 1, 401)
    for i, value in enumerate(epsilons):
        colour, line = PALETTE[i % len(PALETTE)], _LINES[i % len(_LINES)]
        left.plot(share, most_found(share, value, delta), line, color=colour, lw=1.7, label=f"at most, ε = {value:.2g}")
    if noise_multiplier is not None:
        own = epsilon([(Gaussian(noise_multiplier), 1)], delta)
        label = f"best attack on one\nrelease, σ = {noise_multiplier:g} (ε = {own:.2g})"
        left.plot(share, found_by_best_test(share, noise_multiplier), color="black", lw=2.2, label=label)
    left.plot([0, 1], [0, 1], color=GRAY, lw=0.8)
    left.annotate("guessing", (0.62, 0.62), (5, -9), textcoords="offset points", fontsize=8, color=GRAY)
    left.set(xlabel="false alarms, in the world without the child", ylabel="found, in the world with the child")
    left.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.02, 0.0))
    axis = np.linspace(0, 8, 200)
    for i, prior in enumerate((0.5, 0.1, 0.01)):
        colour, line = PALETTE[i], _LINES[i]
        right.plot(axis, [surest(prior, e) for e in axis], line, color=colour, lw=1.7, label=f"{prior:.0%} sure before")
    right.set(xlabel="ε", ylabel="sure after, at most", ylim=(0, 1.02), xlim=(0, 8))
    right.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    right.grid(color="#DDDDDD", lw=0.6)
    right.legend(frameon=False, fontsize=8, loc="lower right")
    return without_frame(figure)


def shuffled_batches(noise_multipliers: Sequence[float], batches: int, delta: float) -> Figure:
    """ε of one pass against its noise: what Poisson samples have, and between which bounds shuffled batches lie."""
    sigmas = np.asarray(noise_multipliers, float)
    claimed = [epsilon([(SampledGaussian(1 / batches, s), batches)], delta) for s in sigmas]
    least = [shuffled_epsilon_at_least(s, batches, delta) for s in sigmas]
    most = [epsilon([(Gaussian(s), 1)], delta) for s in sigmas]
    figure = new_figure(6.5, 3.3)
    axis = figure.subplots()
    axis.fill_between(sigmas, least, most, color=RED, alpha=0.3, lw=0)
    axis.plot(sigmas, most, "s-", color=ORANGE, lw=1.4, ms=4, label="batches in a fixed order")
    axis.plot(sigmas, least, "v--", color=RED, lw=1.4, ms=5, label="shuffled batches: at least")
    axis.plot(sigmas, claimed, "o-", color=GREEN, lw=1.4, ms=4, label="Poisson samples")
    axis.set(xlabel="noise multiplier σ", ylabel=f"ε of one pass (δ = {delta:g})", ylim=(0, None))
    axis.grid(color="#DDDDDD", lw=0.6)
    axis.legend(frameon=False, fontsize=9)
    return without_frame(figure)
