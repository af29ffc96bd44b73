"""What all pictures share: colours, markers, hatches, and a figure that the notebook shows once.

Colours are Okabe & Ito's, which colour-blind readers can tell apart; no figure tells by colour alone.
"""

from __future__ import annotations

from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, PURPLE, GRAY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#767676"
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, "#56B4E9", "#F0E442", GRAY)
MARKERS = "osD^vPX*"
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "+++", "ooo", "---", "***", "|||", "OO")


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches that the notebook shows once: pyplot, which would show it again, forgets it."""
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(width, height), layout="constrained", dpi=110)
    pyplot.close(figure)
    return figure


def without_frame(figure: Figure) -> Figure:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def shortened(name: str, letters: int = 32) -> str:
    return name if len(name) <= letters else f"{name[: letters - 1]}…"
