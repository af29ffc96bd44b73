"""How stored values become what a viewer and a model see, how sites expose, and what pixels give away."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from ..attacks import Linkage
from ..data import DicomSteps, FilmSet, Manifest, dicom_steps, resize
from .style import GRAY, GREEN, PALETTE, RED, new_figure, shortened, without_frame

_LINES = ("-", "--", "-.", ":")


def film_steps(steps: DicomSteps, size: int = 64, geometry: str = "pad") -> Figure:
    """One film on its way to the model: a picture of every step, and how its values are spread.

    Pictures of the first two steps are drawn from their darkest to their brightest value, the others from 0 to 1.

    Args:
        steps: of `data.dicom_steps`.
        size, geometry: of the square that the model gets, see `data.resize`.
    """
    square = resize(steps.shown, size, geometry)
    panels = {
        "as stored": steps.stored,
        "after Modality LUT\nor rescale": steps.modality,
        "after window\nor VOI LUT": steps.voi,
        "after polarity:\nas a viewer shows it": steps.shown,
        f"resized to {size} × {size}:\nwhat the model gets": square,
    }
    figure = new_figure(2.1 * len(panels), 3.7)
    axes = figure.subplots(2, len(panels), height_ratios=(3, 1))
    for column, (title, values) in enumerate(panels.items()):
        bounds = (0, 1) if column > 1 else (values.min(), values.max())
        _picture(axes[0, column], values, title, bounds)
        axis = axes[1, column]
        axis.hist(values.ravel(), bins=64, range=bounds if bounds[0] < bounds[1] else None, color=GRAY)
        axis.set(yticks=[], xticks=bounds, xticklabels=[f"{bound:g}" for bound in bounds])
        axis.spines[["left", "right", "top"]].set_visible(False)
    axes[1, 0].set_ylabel("pixels", fontsize=9)
    return figure


def side_by_side(pictures: Mapping[str, np.ndarray], columns: int = 5) -> Figure:
    """Pictures in [0, 1], 1 is white, under their names.

    Args:
        pictures: name -> float [rows, columns]; each is drawn at its own aspect.
        columns: pictures in a row.
    """
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = new_figure(2.1 * columns, 2.5 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (title, picture) in zip(axes, pictures.items(), strict=False):
        _picture(axis, picture, title, (0, 1))
    for axis in axes[len(pictures) :]:
        axis.axis("off")
    return figure


def exposures(manifest: Manifest, *, films: int = 12) -> Figure:
    """How differently sites expose: how the values of their DICOM films are spread, stored and as shown.

    Each line is one site: the mean, over its first `films` films, of the share of pixels with a value.
    """
    figure = new_figure(9, 2.9)
    stored, shown = figure.subplots(1, 2)
    highest = 0
    for i, site in enumerate(manifest.sites):
        steps = [dicom_steps(manifest.path_of(film)) for film in manifest.select(site=site).films[:films]]
        highest = max(highest, *(int(step.stored.max()) for step in steps))
        style = {
            "color": PALETTE[i % len(PALETTE)],
            "ls": _LINES[i % len(_LINES)],
            "label": shortened(f"Hospital {site}" if len(site) <= 3 else site),
        }
        _spread(stored, [step.stored for step in steps], (0, max(int(step.stored.max()) for step in steps)), **style)
        _spread(shown, [step.shown for step in steps], (0, 1), **style)
    stored.set(xlabel="stored value", ylabel="share of pixels", yticks=[], xlim=(0, highest))
    shown.set(xlabel="as shown: 0 is black, 1 is white", yticks=[], xlim=(0, 1))
    stored.legend(frameon=False, fontsize=9)
    return without_frame(figure)


def linked_films(films: FilmSet, linkage: Linkage, *, examples: int = 5) -> Figure:
    """Films that the attack took for the same child's: found on the left, missed on the right.

    Top row: a film without a name. Below it: the film with a name that is most like it.
    """
    found = [pair for pair in linkage.pairs if pair[1] == pair[2]][:examples]
    missed = [pair for pair in linkage.pairs if pair[1] != pair[2]][: max(1, examples - len(found))]
    columns = len(found) + len(missed)
    figure = new_figure(1.35 * max(columns, 2), 3.1)
    axes = figure.subplots(2, columns, squeeze=False)
    for column, (probe, best, own) in enumerate(found + missed):
        colour, word = (GREEN, "right") if best == own else (RED, "wrong")
        _picture(axes[0, column], films.images[probe, 0], "", (0, 1))
        _picture(axes[1, column], films.images[best, 0], "", (0, 1))
        axes[1, column].set_xlabel(word, color=colour, fontsize=10)
    axes[0, 0].set_ylabel("unnamed", fontsize=9)
    axes[1, 0].set_ylabel("most like it", fontsize=9)
    return figure


def _picture(axis, values, title: str, bounds: tuple[float, float]) -> None:
    axis.imshow(values, cmap="gray", vmin=bounds[0], vmax=bounds[1])
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)
    axis.spines[:].set_visible(False)


def _spread(axis, pictures: list[np.ndarray], bounds: tuple[float, float], **style) -> None:
    shares = [np.histogram(p, 80, bounds)[0] / p.size for p in pictures]
    edges = np.linspace(*bounds, 81)
    axis.plot((edges[1:] + edges[:-1]) / 2, np.mean(shares, 0), **style)
