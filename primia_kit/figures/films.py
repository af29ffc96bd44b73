"""Pictures of films, and of who holds how many."""

from __future__ import annotations

from collections import Counter

import numpy as np
from matplotlib.figure import Figure

from ..data import Manifest, read_film, resize
from .style import GRAY, HATCHES, PALETTE, new_figure, shortened, without_frame

_SPLIT_NAMES = {"train": "training", "validation": "validation", "test": "test"}


def contact_sheet(manifest: Manifest, *, films: int = 3, size: int = 128) -> Figure:
    """Films of every label (columns) at every site (rows), as a viewer would show them.

    Args:
        films: how many of each label, the first of different patients.
        size: side of a thumbnail in pixels.
    """
    sites, classes = manifest.sites, manifest.classes
    figure = new_figure(1.15 * films * len(classes), 1.25 * len(sites) + 0.4)
    axes = figure.subplots(len(sites), films * len(classes), squeeze=False)
    for row, site in enumerate(sites):
        for c, label in enumerate(classes):
            by_patient = {film.patient: film for film in reversed(manifest.select(site=site).films) if film.label == label}
            chosen = sorted(by_patient.values(), key=lambda film: film.path)[:films]
            for i in range(films):
                axis = axes[row, c * films + i]
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
                if i < len(chosen):
                    axis.imshow(resize(read_film(manifest.path_of(chosen[i])), size, "pad"), cmap="gray", vmin=0, vmax=1)
                elif i == 0:
                    axis.text(0.5, 0.5, "none", ha="center", va="center", color=GRAY)
                if row == 0 and i == films // 2:
                    axis.set_title(label)
        axes[row, 0].set_ylabel(f"Hospital {site}", fontsize=10)
    return figure


def who_has_what(manifest: Manifest, split: str = "train") -> Figure:
    """Films of every label at every site, with the number of patients: legible for up to 50 sites.

    A bar a site: the length is the number of films, the parts are labels. Counts are written into the parts
    that have room for them; labels differ by hatching as well as by colour.

    Args:
        split: "train", "validation" or "test".
    """
    sites, classes = manifest.sites, manifest.classes
    part = manifest.select(split=split)
    counts = Counter((film.site, film.label) for film in part)
    patients = Counter(site for site, _ in {(film.site, film.patient) for film in part})
    height = 0.42 if len(sites) <= 12 else 0.22  # inches a site
    size = 10 if len(sites) <= 12 else 7.5
    longest = max(sum(counts[site, label] for label in classes) for site in sites)
    figure = new_figure(6.5, height * len(sites) + 1.2)
    axis = figure.subplots()
    left = np.zeros(len(sites))
    for c, label in enumerate(classes):
        width = np.array([counts[site, label] for site in sites])
        colour, hatch = PALETTE[c % len(PALETTE)], HATCHES[c % len(HATCHES)]
        bars = axis.barh(range(len(sites)), width, left=left, color=colour, hatch=hatch, edgecolor="white", lw=0.4, label=label)
        for bar, n in zip(bars, width.tolist(), strict=True):
            # A digit is about 1/70 as wide as the longest bar.
            if n and n / max(longest, 1) > (0.01 + 0.014 * len(str(n))) * size / 7.5:
                x, y = bar.get_x() + n / 2, bar.get_y() + bar.get_height() / 2
                box = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.85}
                axis.text(x, y, str(n), ha="center", va="center", fontsize=size, bbox=box)
        left += width
    for row, site in enumerate(sites):
        children = "child" if patients[site] == 1 else "children"
        axis.text(left[row], row, f"  {patients[site]} {children}", va="center", fontsize=size)
    names = [shortened(f"Hospital {site}" if len(site) <= 3 else site) for site in sites]
    axis.set_yticks(range(len(sites)), names, fontsize=size)
    axis.set(xlabel=f"{_SPLIT_NAMES[split]} films", xlim=(0, max(longest, 1) * 1.25), ylim=(len(sites) - 0.5, -0.5))
    axis.legend(ncols=min(len(classes), 5), loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return without_frame(figure)
