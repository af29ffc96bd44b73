"""Pictures of secure aggregation: secret shares, and what masking leaves to see."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from .style import BLUE, GRAY, ORANGE, new_figure, without_frame


def two_shares_make_a_line(secret: float = 5.0, slope: float = 1.5) -> Figure:
    """Shamir's secret sharing with a threshold of two, drawn with real numbers: the secret is where the line meets x = 0."""
    figure = new_figure(8, 2.9)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, shares, title in zip(axes, ((1, 2, 3), (2,)), ("two shares or more: one line", "one share: any line"), strict=True):
        for other in np.linspace(-3, 3, 7) if len(shares) == 1 else (slope,):
            through = secret + slope * shares[0] - other * shares[0]  # where a line through the first share meets x = 0
            axis.axline((0, through), slope=other, color=GRAY if len(shares) == 1 else BLUE, lw=1)
            if len(shares) == 1:
                axis.plot(0, through, "D", color=ORANGE, ms=6, mfc="white", label="secrets that fit" if other == 3 else None)
        if len(shares) > 1:
            axis.plot(0, secret, "D", color=ORANGE, ms=8, label="the secret")
        axis.plot(shares, [secret + slope * x for x in shares], "o", color=BLUE, ms=8, label="shares")
        for x in shares:
            axis.annotate(
                f"hospital {'ABC'[x - 1]}",
                (x, secret + slope * x),
                (8, -16),
                textcoords="offset points",
                fontsize=9,
                backgroundcolor="white",
            )
        axis.set(title=title, xlim=(-0.4, 4), ylim=(0, 19), xticks=[0, 1, 2, 3], yticks=[])
        axis.legend(fontsize=8, loc="upper right" if len(shares) == 1 else "upper left", framealpha=1, edgecolor="none")
    return without_frame(figure)


def clear_and_masked(clear: np.ndarray, masked: np.ndarray, site: str) -> Figure:
    """One site's update as it is, and as the server gets it.

    Args:
        clear: the update's values, float [n]. masked: the same elements in the masked vector, uint32 [n].
    """
    side = min(64, int(np.sqrt(len(clear))))
    figure = new_figure(8, 4.6)
    axes = figure.subplots(2, 2, height_ratios=(1.5, 1))
    reach = np.abs(clear).max()
    titles = (f"hospital {site}'s update", "what the server received")
    for axis, values, title, limits in zip(axes[0], (clear, masked), titles, ((-reach, reach), (0, 2**32)), strict=True):
        axis.imshow(values[: side**2].reshape(side, side), cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
        axis.set(xticks=[], yticks=[], title=title, xlabel=f"its first {side**2:,} values")
    axes[1, 0].hist(clear, bins=80, color=BLUE)
    axes[1, 0].set(xlabel="change of a parameter x films", ylabel="values", yscale="log")
    axes[1, 1].hist(masked / 2**32, bins=80, range=(0, 1), color=ORANGE)
    axes[1, 1].set(xlabel="masked value / 2³²", yscale="log")
    axes[1, 1].sharey(axes[1, 0])
    return without_frame(figure)
