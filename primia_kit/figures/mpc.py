"""Pictures of computing on shares: fixed-point numbers, truncation, comparison, and an encrypted inference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ..mpc import Ring
from .pixels import side_by_side
from .style import BLUE, GRAY, GREEN, MARKERS, ORANGE, PALETTE, new_figure, shortened, without_frame

if TYPE_CHECKING:
    from ..inference.parties.events import LayerEvent


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


def ring_pictures(shares: Mapping[str, np.ndarray], bits: int, clear: Mapping[str, np.ndarray] | None = None) -> Figure:
    """Words of a ring as gray values, each picture over the whole ring; after them others, each over its own range.

    Args:
        shares: name -> uint64 [H, W]; only the lowest `bits` bits count.
        clear: name -> numbers [H, W].
    """
    ring, pictures = Ring(bits), {}
    for name, words in shares.items():
        # Half a turn on: zero is gray, so that a value (small beside the ring) is told from noise.
        pictures[name] = ring.signed(words) / 2.0**bits + 0.5
    for name, values in (clear or {}).items():
        reach = np.ptp(values)
        pictures[name] = (values - np.min(values)) / reach if reach else np.zeros_like(values, float)
    return side_by_side(pictures, columns=len(pictures))


def layer_costs(events: Iterable[LayerEvent]) -> Figure:
    """Seconds and bytes of each operation of one inference, as one party measured them; free ones are left out."""
    events = list(events)
    least = 0.005 * sum(e.seconds for e in events)
    events = [e for e in events if e.seconds > least or e.sent or e.received]
    figure = new_figure(9.5, max(3.2, 0.17 * len(events)))
    seconds, traffic = figure.subplots(1, 2, sharey=True)
    rows = np.arange(len(events))
    seconds.barh(rows, [1000 * e.seconds for e in events], color=BLUE)
    seconds.set(xlabel="milliseconds", yticks=rows, ylim=(len(events) - 0.4, -0.6))
    seconds.set_yticklabels([f"{shortened(e.name, 28)} ({e.kind})" for e in events], fontsize=7)
    sent, received = (np.array([getattr(e, way) for e in events]) / 1e3 for way in ("sent", "received"))
    traffic.barh(rows, sent, color=ORANGE, label="sent")
    traffic.barh(rows, received, left=sent, color=GREEN, hatch="///", edgecolor="white", label="received")
    traffic.set(xlabel="kB")
    traffic.legend(fontsize=8, loc="lower right")
    for axis in (seconds, traffic):
        axis.grid(axis="x", alpha=0.4)
    return without_frame(figure)


def opened_values(opened: np.ndarray, bits: int) -> Figure:
    """How evenly masked values of `bits` bits are spread, and each of their bits."""
    figure = new_figure(9, 2.6)
    spread, each = figure.subplots(1, 2)
    spread.hist(opened / 2.0**bits, bins=64, range=(0, 1), color=BLUE)
    spread.set(xlabel=f"opened value / 2^{bits}", ylabel="values", title=f"{len(opened):,} opened values")
    ones = [float(((opened >> np.uint32(bit)) & np.uint32(1)).mean()) for bit in range(bits)]
    each.plot(range(bits), ones, "o", color=ORANGE, ms=4)
    each.axhline(0.5, color=GRAY, lw=1)
    each.set(xlabel="bit", ylabel="share of ones", ylim=(0.4, 0.6), title="each bit is a coin")
    return without_frame(figure)


def agreement(clear: np.ndarray, encrypted: np.ndarray, classes: Sequence[str]) -> Figure:
    """Logits in clear and under encryption, and by how much they differ: float [n, classes] each."""
    figure = new_figure(9, 3)
    both, apart = figure.subplots(1, 2)
    for i, name in enumerate(classes):
        style = {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)], "ls": "", "ms": 5, "alpha": 0.7}
        both.plot(clear[:, i], encrypted[:, i], label=name, **style)
        apart.plot(clear[:, i], encrypted[:, i] - clear[:, i], **style)
    both.axline((0, 0), slope=1, color=GRAY, lw=1, zorder=0)
    both.set(xlabel="logit in clear", ylabel="logit under encryption")
    both.legend(fontsize=8)
    apart.axhline(0, color=GRAY, lw=1, zorder=0)
    apart.set(xlabel="logit in clear", ylabel="difference")
    return without_frame(figure)
