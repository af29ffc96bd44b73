"""Pictures of what stays at a hospital and what moves."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from ..data import Manifest, read_film, resize
from .style import BLUE, GRAY, ORANGE, new_figure


def overview(manifest: Manifest, size: int = 128) -> Figure:
    """The kit in one picture: each hospital's films on its own side of a wall, updates crossing it."""
    sites, classes = manifest.sites, manifest.classes
    figure = new_figure(9, 1.35 * len(sites))
    films, flow = figure.subfigures(1, 2, width_ratios=(len(classes), 3.4))
    axes = films.subplots(len(sites), len(classes), squeeze=False)
    for row, site in enumerate(sites):
        axes[row, 0].set_ylabel(f"Hospital {site}", fontsize=10)
        for column, label in enumerate(classes):
            axis = axes[row, column]
            axis.set(xticks=[], yticks=[], title=label if row == 0 else "")
            axis.spines[:].set_visible(False)
            chosen = next(f for f in manifest.select(site=site) if f.label == label)
            axis.imshow(resize(read_film(manifest.path_of(chosen)), size, "pad"), cmap="gray", vmin=0, vmax=1)
    axis = flow.subplots()
    axis.set(xlim=(0, 10), ylim=(-0.3, len(sites) + 0.3))
    axis.axis("off")
    middle = len(sites) / 2
    axis.plot([0.6, 0.6], [0, len(sites)], color=GRAY, lw=2, ls=(0, (4, 2)))
    axis.text(0.6, len(sites) + 0.1, "films stay", ha="center", color=GRAY, fontsize=9)
    _box(axis, 6.2, middle - 0.5, 3.6, 1.0, "Server\nadds up updates", ORANGE)
    for row in range(len(sites)):
        y = len(sites) - row - 0.5
        _there_and_back(axis, (0.2, y), (6.1, middle + (y - middle) * 0.25))
    axis.text(8, middle + 0.85, "updates in", ha="center", color=BLUE, fontsize=9)
    axis.text(8, middle - 0.95, "one model out", ha="center", color="#8A5E00", fontsize=9)
    return figure


def what_moves(update_bytes: int, film_bytes: Mapping[str, int], rounds: int) -> Figure:
    """Films stay, updates move: who holds what, and how much crosses the line.

    Args:
        update_bytes: one site's update. film_bytes: site -> size of its films. rounds: of the plan.
    """
    sites = list(film_bytes)
    shown = sites if len(sites) <= 4 else [*sites[:3], f"… {len(sites)} hospitals"]
    figure = new_figure(8, 0.9 * len(shown) + 0.8)
    axis = figure.subplots()
    axis.set(xlim=(0, 10), ylim=(-0.6, len(shown) + 0.6))
    axis.axis("off")
    middle = len(shown) / 2
    _box(axis, 7.3, middle - 0.6, 2.6, 1.2, "Server\nadds up the updates,\nkeeps the global model", ORANGE)
    for row, site in enumerate(shown):
        y = len(shown) - row - 0.5
        text = f"Hospital {site}\n{_size(film_bytes[site])} of films stay here" if site in film_bytes else site
        _box(axis, 0.1, y - 0.36, 2.9, 0.72, text, BLUE)
        _there_and_back(axis, (3.1, y), (7.2, middle + (y - middle) * 0.25))
    axis.text(5.15, len(shown) + 0.3, f"each round, to the server: one update, {_size(update_bytes)}", ha="center", color=BLUE)
    axis.text(5.15, -0.5, f"and back: the new global model, {_size(update_bytes)}; {rounds} rounds", ha="center", color="#8A5E00")
    return figure


def _box(axis, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    axis.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.02,rounding_size=0.12", fc=colour + "22", ec=colour, lw=1.5)
    )
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)


def _there_and_back(axis, left: tuple[float, float], right: tuple[float, float]) -> None:
    """An update's arrow to the right, and the model's below it to the left."""
    for lift, colour, style in ((0.1, BLUE, "-|>"), (-0.1, ORANGE, "<|-")):
        ends = [(x, y + lift) for x, y in (left, right)]
        axis.add_patch(FancyArrowPatch(*ends, arrowstyle=style, mutation_scale=12, color=colour, lw=1.4))


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError
