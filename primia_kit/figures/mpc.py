"""Pictures of computing on shares: the clock of fixed-point numbers, truncation, comparison."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ..mpc import Ring
from .style import BLUE, GRAY, ORANGE, new_figure, without_frame


def fixed_point_wrap(ring: Ring, fraction_bits: int) -> Figure:
    """What a number becomes when it's written in a ring's fixed point and read again."""
    half = 2.0 ** (ring.bits - 1 - fraction_bits)
    x = np.linspace(-2.5 * half, 2.5 * half, 2001)
    words = ring.reduce(np.rint(x * 2**fraction_bits).astype(np.int64).view(np.uint64))
    read = ring.decode(words, fraction_bits)
    read[np.flatnonzero(np.abs(np.diff(read)) > half)] = np.nan  # no line where it jumps
    figure = new_figure(8, 3)
    axis = figure.subplots()
    axis.axvspan(-half, half, color=BLUE, alpha=0.12, label=f"the clock's range, ±{half:g}")
    axis.plot(x, x, "--", color=GRAY, lw=1, label="the number itself")
    axis.plot(x, read, color=ORANGE, lw=2, label="what the clock reads")
    axis.set(xlabel="a number", ylabel="read back", title=f"{ring.bits} bits, {fraction_bits} of them after the point")
    axis.legend(fontsize=8, loc="upper left")
    return without_frame(figure)


def truncation_errors(errors: np.ndarray) -> Figure:
    """How far truncated shares are off, in the units of the numbers.

    Args:
        errors: float [n].
    """
    figure = new_figure(8, 2.8)
    axis = figure.subplots()
    bound = max(1.0, float(np.abs(errors).max()) * 1.1)
    counts, _, bars = axis.hist(errors, bins=np.linspace(-bound, bound, 62), color=BLUE, log=True)
    axis.bar_label(bars, labels=[f"{count / len(errors):.1%}" if count else "" for count in counts], fontsize=9)
    axis.set(xlabel="error", ylabel="numbers", ylim=(0.5, 8 * len(errors)))
    return without_frame(figure)


def relu_of_shares(x: np.ndarray, y: np.ndarray, opened: np.ndarray, bit: np.ndarray) -> Figure:
    """A ReLU on shares: its result, and what was opened on the way.

    Args:
        x, y: float [n], the numbers and the result. opened: uint32 [n] of 22 bits. bit: uint8 [n], 0 or 1.
    """
    figure = new_figure(9.5, 2.9)
    result, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 1.4, 1))
    result.plot(x, y, color=BLUE, lw=2)
    result.set(xlabel="x", title="ReLU, opened")
    low, high = x < np.median(x), x >= np.median(x)
    for chosen, colour, style, name in ((low, BLUE, "-", "negative x"), (high, ORANGE, "--", "positive x")):
        middle.hist(opened[chosen] / 2**22, bins=32, range=(0, 1), histtype="step", color=colour, ls=style, lw=1.5, label=name)
    middle.set(xlabel="opened c / 2²²", ylabel="numbers", title="what both saw: c", ylim=(0, None))
    middle.legend(fontsize=8, loc="lower center")
    shares = [[np.mean(bit[chosen] == value) for value in (0, 1)] for chosen in (low, high)]
    for offset, share, colour, hatch, name in ((-0.2, shares[0], BLUE, "", "x < 0"), (0.2, shares[1], ORANGE, "///", "x > 0")):
        right.bar(np.arange(2) + offset, share, 0.4, color=colour, hatch=hatch, edgecolor="white", label=name)
    right.set(xticks=[0, 1], xlabel="opened bit", title="and the masked sign", ylim=(0, 0.75))
    right.legend(fontsize=8, ncols=2)
    return without_frame(figure)
