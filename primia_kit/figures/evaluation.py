"""Pictures of how good models are, with 95% intervals by patients.

Functions that take `models` want name -> predictions of one model, or of one a seed: a comparison's `arms`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from ..evaluation import ALL, OWN, PatientBootstrap, Predictions, accuracy_by_bin, confusion, hits_at, join, reliability_curve
from ..evaluation.bootstrap import Models
from ..federation import Comparison
from .style import BLUE, GRAY, GREEN, HATCHES, MARKERS, ORANGE, PURPLE, RED, new_figure, shortened, without_frame

_KNOWN = {"local": (GRAY, "s"), "federated": (BLUE, "o"), "central": (ORANGE, "D")}  # arm -> colour, marker
_KNOWN |= {"alone": _KNOWN["local"], "pooled (central)": _KNOWN["central"]}
_OTHERS = (BLUE, GREEN, PURPLE, RED, "#56B4E9", "#8A5E00")
LOWER_IS_BETTER = ("brier", "ece")
_LINES = ("-", "--", "-.", ":")
_HATCH = {"alone": "..", "federated": "", "pooled (central)": "//"}


def gain_by_site(comparison: Comparison, metric: str = "mcc") -> Figure:
    """For each hospital's own test films: trained alone, federated, pooled (or whatever arms were compared)."""
    table = comparison.by_site(metric).drop(columns="gain by joining", errors="ignore")
    figure = new_figure(max(6.5, 0.35 * table.size), 3.2)
    axis = figure.subplots()
    width = 0.8 / table.shape[1]
    for i, (arm, (colour, _)) in enumerate(_looks(table.columns).items()):
        at = np.arange(len(table)) + (i - (table.shape[1] - 1) / 2) * width
        hatch = _HATCH.get(arm, HATCHES[i % len(HATCHES)])
        bars = axis.bar(at, table[arm], width * 0.92, color=colour, hatch=hatch, edgecolor="white", label=arm)
        axis.bar_label(bars, [f"{v:.2f}" if np.isfinite(v) else "none" for v in table[arm]], fontsize=8, padding=1)
    axis.set_xticks(range(len(table)), [_hospital(site, 18) for site in table.index])
    axis.axhline(0, color="black", lw=0.8)
    axis.set(ylabel=f"{_spelt(metric)} on its own test films")
    axis.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return without_frame(figure)


def site_by_strategy(comparison: Comparison, metric: str = "mcc") -> Figure:
    """Each arm on each hospital's test films, on their mean and on all films together: dots with intervals.

    Legible for up to a dozen hospitals and six arms. Where a metric or its interval isn't defined, dot or bar is missing.
    """
    arms = list(comparison.arms)
    rows = [(_hospital(site, 22), site) for site in comparison.sites] + [("mean of hospitals", OWN), ("all films", ALL)]
    step = 0.8 / len(arms)
    figure = new_figure(6.5, (0.14 + 0.1 * len(arms)) * len(rows) + 1.0)
    axis = figure.subplots()
    for i, (arm, (colour, marker)) in enumerate(_looks(arms).items()):
        found = [comparison.interval(arm, metric, on) for _, on in rows]
        at = np.arange(len(rows)) + (i - (len(arms) - 1) / 2) * step
        axis.hlines(at, [f.low for f in found], [f.high for f in found], color=colour, lw=1.6)
        axis.plot([f.value for f in found], at, marker, color=colour, ms=5.5, mec="white", mew=0.4, label=arm)
    for row in range(0, len(rows), 2):
        axis.axhspan(row - 0.5, row + 0.5, color="#F3F3F3", lw=0, zorder=-2)
    axis.axhline(len(comparison.sites) - 0.5, color="black", lw=0.8)
    axis.set_yticks(range(len(rows)), [name for name, _ in rows])
    axis.tick_params(axis="y", length=0)
    axis.set(xlabel=f"{_spelt(metric)}, 95% interval by patients", ylim=(len(rows) - 0.5, -0.5))
    axis.grid(axis="x", color="#DDDDDD", lw=0.6, zorder=-1)
    axis.legend(ncols=min(4, len(arms)), loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return without_frame(figure)


def paired_differences(
    comparison: Comparison, baseline: str = "central", metric: str = "mcc", *, by_site: bool = False
) -> Figure:
    """A forest plot: how much better each other arm is than the baseline on the same patients, with its interval.

    Args:
        by_site: a row for each hospital's test films too, above the arm's all films.
    """
    places = [(_hospital(site, 22), site) for site in comparison.sites] if by_site else []
    rows, looks = [], _looks(list(comparison.arms))
    for arm in comparison.arms:
        if arm != baseline:
            rows += [(arm, where, comparison.difference(arm, baseline, metric, on)) for where, on in places]
            rows += [(arm, "all films", comparison.difference(arm, baseline, metric, ALL))]
    figure = new_figure(7.2, 0.28 * len(rows) + 1.0)
    axis = figure.subplots()
    for row, (arm, where, found) in enumerate(rows):
        colour, marker = looks[arm]
        axis.hlines(row, found.low, found.high, color=colour, lw=2.4 if where == "all films" else 1.4)
        axis.plot(found.value, row, marker, color=colour, ms=7 if where == "all films" else 5, mec="white", mew=0.5)
        axis.annotate(str(found), (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=8.5)
        if where == "all films" and row + 1 < len(rows) and by_site:
            axis.axhline(row + 0.5, color="#BBBBBB", lw=0.8)
    axis.axvline(0, color="black", lw=0.8)
    names = [shortened(f"{arm}, {where}" if by_site else arm, 34) for arm, where, _ in rows]
    axis.set_yticks(range(len(rows)), names)
    axis.tick_params(axis="y", length=0)
    axis.set(xlabel=f"{_spelt(metric)} less that of {baseline}, 95% interval", ylim=(len(rows) - 0.5, -0.5))
    axis.grid(axis="x", color="#DDDDDD", lw=0.6, zorder=-1)
    below, above = ("better", "worse") if metric in LOWER_IS_BETTER else ("worse", "better")
    for text, side, shift in ((f"◂ {below} ", "right", -2), (f" {above} ▸", "left", 2)):
        at = {"xycoords": ("data", "axes fraction"), "xytext": (shift, 3), "textcoords": "offset points"}
        axis.annotate(text, (0, 1), ha=side, va="bottom", fontsize=9, **at)
    return without_frame(figure)


def roc_curves(models: Mapping[str, Models], *, resamples: int = 500, bands: bool | None = None) -> Figure:
    """Hits against false alarms, a panel a class (one against the rest), a line a model.

    Several seeds' models are averaged at equal false alarms. Bands are 95%, point by point, by patients; by
    default they're drawn for up to three models, beyond which they hide each other.
    """
    bands = len(models) <= 3 if bands is None else bands
    films = _seeds(next(iter(models.values())))[0]
    bootstrap = PatientBootstrap(films, resamples=resamples)
    grid = np.linspace(0, 1, 201)
    figure = new_figure(3.0 * len(films.classes) + 0.3, 3.6)
    axes = figure.subplots(1, len(films.classes), sharey=True, squeeze=False)[0]
    for axis, of in zip(axes, films.classes):
        for i, (name, (colour, _)) in enumerate(_looks(list(models)).items()):
            seeds = _seeds(models[name])

            def mean_hits(weights, seeds=seeds, of=of):
                return np.mean([hits_at(p, of, grid, weights) for p in seeds], axis=0)

            hits = mean_hits(np.ones((1, len(films))))[0]
            area = bootstrap.value(seeds, f"auc.{of}")
            axis.plot(grid, hits, _LINES[i % len(_LINES)], color=colour, lw=1.6, label=f"{name} {_number(area)}")
            if bands and np.isfinite(hits).all():
                drawn = bootstrap.replicate(mean_hits)
                low, high = np.quantile(drawn[np.isfinite(drawn[:, 0])], [0.025, 0.975], axis=0)
                axis.fill_between(grid, low, high, color=colour, alpha=0.13, lw=0)
        axis.plot([0, 1], [0, 1], color="black", lw=0.6)
        axis.set(title=of, xlabel="false alarms (1 - specificity)", xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
        axis.legend(title="AUC", title_fontsize=8, fontsize=8, loc="lower right", frameon=False, alignment="right")
    axes[0].set_ylabel("hits (sensitivity)")
    return without_frame(figure)


def confusion_matrices(models: Mapping[str, Models]) -> Figure:
    """What films of each class are called, a panel a model: share of the row, and films (means over the seeds)."""
    columns = min(3, len(models))
    rows = math.ceil(len(models) / columns)
    classes = _seeds(next(iter(models.values())))[0].classes
    figure = new_figure((0.85 * len(classes) + 0.5) * columns + 0.6, (0.75 * len(classes) + 0.9) * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axis, (name, arm) in zip(axes, models.items()):
        counts = np.mean([confusion(p)[0] for p in _seeds(arm)], axis=0)
        total = counts.sum(1, keepdims=True)
        share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
        axis.imshow(share, cmap="Greys", vmin=0, vmax=1.15)  # never so dark that a black frame is lost
        for (row, column), part in np.ndenumerate(share):
            films = f"{counts[row, column]:.0f}" if counts[row, column] % 1 == 0 else f"{counts[row, column]:.1f}"
            text = f"{part:.0%}\n{films}" if total[row, 0] else "none"
            weight = "bold" if row == column else "normal"
            colour = "white" if part > 0.55 else "black"
            axis.text(column, row, text, ha="center", va="center", fontsize=9, color=colour, weight=weight)
        axis.set_title(name, fontsize=10)
        axis.set_xticks(range(len(classes)), [shortened(c, 14) for c in classes], rotation=30, ha="right")
        axis.set_yticks(range(len(classes)), [shortened(c, 14) for c in classes])
        axis.tick_params(length=0)
    for axis in axes[len(models) :]:
        axis.set_visible(False)
    figure.supylabel("truth", fontsize=10)
    figure.supxlabel("answer", fontsize=10)
    return figure


def reliability_diagram(models: Mapping[str, Models], *, bins: int = 10, binning: str = "mass", resamples: int = 1000) -> Figure:
    """Share right against confidence, with intervals, and below it how many films have each confidence; a column a model.

    On the line, 80% sure is right in 80 of 100 films; below it the model is too sure of itself. Answers of several
    seeds' models count together (a patient is drawn with all of them). The expected calibration error above each
    panel is that of ten bins of equal mass, whatever is drawn.
    """
    columns = min(3, len(models))
    rows = math.ceil(len(models) / columns)
    figure = new_figure(2.6 * columns + 0.7, 3.9 * rows)
    grid = figure.subplots(2 * rows, columns, sharex=True, squeeze=False, height_ratios=(3, 1) * rows)
    panels = [(grid[2 * row, column], grid[2 * row + 1, column]) for row in range(rows) for column in range(columns)]
    for (above, below), (name, (colour, marker)) in zip(panels, _looks(list(models)).items()):
        seeds = _seeds(models[name])
        films = join(seeds)
        curve = reliability_curve(films, bins=bins, binning=binning)
        bootstrap = PatientBootstrap(films, resamples=resamples)
        drawn = bootstrap.replicate(lambda w, p=films: accuracy_by_bin(p, w, bins=bins, binning=binning))
        low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
        above.plot([0, 1], [0, 1], color="black", lw=0.6)
        above.vlines(curve.confidence, low, high, color=colour, lw=1.4)
        above.plot(curve.confidence, curve.accuracy, marker, color=colour, ms=5.5, mec="white", mew=0.4, clip_on=False)
        error = PatientBootstrap(seeds[0], resamples=resamples).interval(seeds, "ece")
        confidence = films.probabilities.max(1)
        if below is not panels[0][1]:
            below.sharey(panels[0][1])
        below.hist(confidence, bins=np.linspace(0, 1, 21), weights=np.full(len(films), 1 / len(seeds)), color=colour)
        above.set_title(f"{name}\nECE {error}", fontsize=10)
        above.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share right")
        below.set(xlabel="confidence", ylabel="films")
        above.label_outer()
    for above, below in panels[len(models) :]:
        above.set_visible(False)
        below.set_visible(False)
    return without_frame(figure)


def _seeds(models: Models) -> tuple[Predictions, ...]:
    return (models,) if isinstance(models, Predictions) else tuple(models)


def _looks(arms) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each arm: the usual ones have theirs, the others what is left."""
    taken = [_KNOWN[arm] for arm in arms if arm in _KNOWN]
    colours = [c for c in _OTHERS if c not in {colour for colour, _ in taken}]
    markers = [m for m in MARKERS if m not in {marker for _, marker in taken}]
    looks = {}
    for arm in arms:
        n = sum(other not in _KNOWN for other in looks)
        looks[arm] = _KNOWN.get(arm) or (colours[n % len(colours)], markers[n % len(markers)])
    return looks


def _hospital(site: str, letters: int) -> str:
    return f"Hospital {site}" if len(site) <= 3 else shortened(site, letters)


def _spelt(metric: str) -> str:
    """A metric's name as one would write it: MCC, AUC of viral, balanced accuracy."""
    kind, _, of = metric.partition(".")
    kind = {"mcc": "MCC", "auc": "AUC", "ece": "ECE", "brier": "Brier score"}.get(kind, kind.replace("_", " "))
    return f"{kind} of {of}" if of else kind


def _number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "not defined"
