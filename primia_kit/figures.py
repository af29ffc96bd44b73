"""Every picture of the kit: functions from results to a matplotlib `Figure`.

Colours are Okabe & Ito's, which colour-blind readers can tell apart; no figure tells by colour alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from pandas.api.types import is_numeric_dtype

from .data import Manifest, read_film, resize
from .federation import Comparison, TrainingRun

BLUE, ORANGE, GREEN, RED, PURPLE, GRAY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#767676"
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, "#56B4E9", "#F0E442", GRAY)
ARMS = {"alone": (GRAY, ".."), "federated": (BLUE, ""), "pooled (central)": (ORANGE, "//")}
_MARKERS = "osD^vPX*"
_HATCHES = ("", "///", "...", "\\\\\\", "xxx", "+++", "ooo", "---", "***", "|||", "OO")
_SPLIT_NAMES = {"train": "training", "validation": "validation", "test": "test"}


def contact_sheet(manifest: Manifest, *, films: int = 3, size: int = 128) -> Figure:
    """Films of every label (columns) at every site (rows), as a viewer would show them.

    Args:
        films: how many of each label, the first of different patients.
        size: side of a thumbnail in pixels.
    """
    sites, classes = manifest.sites, manifest.classes
    figure = _figure(1.15 * films * len(classes), 1.25 * len(sites) + 0.4)
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
    figure = _figure(6.5, height * len(sites) + 1.2)
    axis = figure.subplots()
    left = np.zeros(len(sites))
    for c, label in enumerate(classes):
        width = np.array([counts[site, label] for site in sites])
        colour, hatch = PALETTE[c % len(PALETTE)], _HATCHES[c % len(_HATCHES)]
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
    names = [_shortened(f"Hospital {site}" if len(site) <= 3 else site) for site in sites]
    axis.set_yticks(range(len(sites)), names, fontsize=size)
    axis.set(xlabel=f"{_SPLIT_NAMES[split]} films", xlim=(0, max(longest, 1) * 1.25), ylim=(len(sites) - 0.5, -0.5))
    axis.legend(ncols=min(len(classes), 5), loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return _clean(figure)


def what_moves(update_bytes: int, film_bytes: Mapping[str, int], rounds: int) -> Figure:
    """Films stay, updates move: who holds what, and how much crosses the line.

    Args:
        update_bytes: one site's update. film_bytes: site -> size of its films. rounds: of the plan.
    """
    sites = list(film_bytes)
    shown = sites if len(sites) <= 4 else [*sites[:3], f"… {len(sites)} hospitals"]
    figure = _figure(8, 0.9 * len(shown) + 0.8)
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


def learning_curves(runs: Mapping[str, TrainingRun]) -> Figure:
    """Training loss round by round; one line a site and run."""
    figure = _figure(6.5, 3.2)
    axis = figure.subplots()
    line = 0
    for name, run in runs.items():
        for site in run.rounds[0].losses:
            label = name if len(run.rounds[0].losses) == 1 else f"{name}, {site}"
            losses = [r.losses[site] for r in run.rounds]
            axis.plot(
                [r.number for r in run.rounds],
                losses,
                color=PALETTE[line % len(PALETTE)],
                marker=_MARKERS[line % len(_MARKERS)],
                ms=4,
                label=label,
            )
            line += 1
    axis.set(xlabel="round", ylabel="training loss (nats)", ylim=(0, None))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return _clean(figure)


def gain_by_site(comparison: Comparison, metric: str = "mcc") -> Figure:
    """For each hospital's own test films: trained alone, federated, pooled."""
    table = comparison.by_site(metric)
    figure = _figure(6.5, 3.2)
    axis = figure.subplots()
    width = 0.8 / len(ARMS)
    for i, (arm, (colour, hatch)) in enumerate(ARMS.items()):
        at = np.arange(len(table)) + (i - 1) * width
        bars = axis.bar(at, table[arm], width * 0.92, color=colour, hatch=hatch, edgecolor="white", label=arm)
        axis.bar_label(bars, [f"{v:.2f}" if np.isfinite(v) else "none" for v in table[arm]], fontsize=8, padding=1)
    axis.set_xticks(range(len(table)), [f"Hospital {s}" for s in table.index])
    axis.axhline(0, color="black", lw=0.8)
    axis.set(ylabel=f"{metric.upper() if metric in ('mcc', 'auc') else metric.replace('_', ' ')} on its own test films")
    axis.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return _clean(figure)


def sweep_results(frame, varying: Sequence[str], metrics: Sequence[str]) -> Figure:
    """Mean and standard deviation over seeds of each metric, against the first parameter that varies.

    Args:
        frame: a pandas table with a column for each of `varying` (none: the metrics stand side by side),
            and for each metric `METRIC` and `METRIC sd`.
    """
    if not varying:
        figure = _figure(max(4.0, 1.3 * len(metrics)), 3.4)
        axis = figure.subplots()
        row = frame.iloc[0]
        spread = [0 if np.isnan(row[f"{m} sd"]) else row[f"{m} sd"] for m in metrics]
        axis.errorbar(range(len(metrics)), [row[m] for m in metrics], spread, fmt="o", color=BLUE, capsize=4)
        axis.set_xticks(range(len(metrics)), metrics, rotation=20, ha="right")
        axis.set(xlim=(-0.5, len(metrics) - 0.5), ylabel="mean ± sd over seeds")
        return _clean(figure)
    x, others = varying[0], list(varying[1:])
    figure = _figure(max(4.0, 3.6 * len(metrics)), 3.4)
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    numeric = is_numeric_dtype(frame[x])
    ticks = sorted(frame[x].unique()) if numeric else list(dict.fromkeys(frame[x]))
    groups = list(frame.groupby(others, sort=False)) if others else [((), frame)]
    for axis, metric in zip(axes, metrics, strict=True):
        for i, (point, part) in enumerate(groups):
            label = ", ".join(f"{n} {v}" for n, v in zip(others, point if isinstance(point, tuple) else (point,), strict=True))
            at = part[x] if numeric else [ticks.index(v) + 0.06 * (i - (len(groups) - 1) / 2) for v in part[x]]
            style = "-" if numeric else ""
            axis.errorbar(
                at, part[metric], part[f"{metric} sd"].fillna(0), fmt=_MARKERS[i % len(_MARKERS)] + style,
                color=PALETTE[i % len(PALETTE)], capsize=3, label=label or None,
            )  # fmt: skip
        axis.set(xlabel=x, title=metric)
        if not numeric:
            axis.set_xticks(range(len(ticks)), [str(t) for t in ticks])
            axis.set_xlim(-0.5, len(ticks) - 0.5)
    if others:
        axes[-1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return _clean(figure)


def _figure(width: float, height: float) -> Figure:
    """A figure in inches that the notebook shows once: pyplot, which would show it again, forgets it."""
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(width, height), layout="constrained", dpi=110)
    pyplot.close(figure)
    return figure


def _clean(figure: Figure) -> Figure:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _shortened(name: str, letters: int = 32) -> str:
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


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


def overview(manifest: Manifest, size: int = 128) -> Figure:
    """The kit in one picture: each hospital's films on its own side of a wall, updates crossing it."""
    sites, classes = manifest.sites, manifest.classes
    figure = _figure(9, 1.35 * len(sites))
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


def two_shares_make_a_line(secret: float = 5.0, slope: float = 1.5) -> Figure:
    """Shamir's secret sharing with a threshold of two, drawn with real numbers: the secret is where the line meets x = 0."""
    figure = _figure(8, 2.9)
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
    return _clean(figure)


def clear_and_masked(clear: np.ndarray, masked: np.ndarray, site: str) -> Figure:
    """One site's update as it is, and as the server gets it.

    Args:
        clear: the update's values, float [n]. masked: the same elements in the masked vector, uint32 [n].
    """
    side = min(64, int(np.sqrt(len(clear))))
    figure = _figure(8, 4.6)
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
    return _clean(figure)


def main(folder: str) -> None:
    """Draw the README's picture into a folder."""
    from .data import synthetic_hospitals

    overview(synthetic_hospitals(patients=10)).savefig(f"{folder}/overview.png")


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
