"""Pictures of what attacks recover. Of synthetic films alone: a reconstruction of a real film is that child's picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from ..attacks import Trial
from .style import BLUE, GRAY, GREEN, MARKERS, PALETTE, RED, new_figure, without_frame

_LINES = ("-", "--", "-.", ":")


def reconstructions(trials: Sequence[Trial], *, film: int = 0) -> Figure:
    """A film (top row) and what an attack made of it (bottom row), trial by trial, with PSNR, SSIM and whether it was matched.

    Args:
        trials: of `run_attacks`, of any attack.
        film: which of each trial's films.
    """
    figure = new_figure(1.45 * max(len(trials), 2), 3.6)
    axes = figure.subplots(2, len(trials), squeeze=False)
    for column, trial in enumerate(trials):
        found = trial.similarity
        _film(axes[0, column], trial.originals[film], trial.defence)
        if found.images[film] < 0:
            _film(axes[1, column], None)
            axes[1, column].text(0.5, 0.5, "nothing", ha="center", va="center", color=GRAY, transform=axes[1, column].transAxes)
            continue
        _film(axes[1, column], trial.images[found.images[film]])
        word, colour = ("matched", RED) if found.matched[film] else ("not matched", GREEN)
        label = f"{found.psnr[film]:.0f} dB, SSIM {found.ssim[film]:.2f}\n{word}"
        axes[1, column].set_xlabel(label, fontsize=8, color=colour)
    axes[0, 0].set_ylabel("film", fontsize=9)
    axes[1, 0].set_ylabel("what the server saw", fontsize=9)
    return figure


def inversion_losses(trials: Sequence[Trial]) -> Figure:
    """The objective of gradient inversion, step by step: near 0 the films found explain the gradient."""
    figure = new_figure(6.5, 3)
    axis = figure.subplots()
    for i, trial in enumerate(trial for trial in trials if trial.losses):
        every = max(1, len(trial.losses) // 8)
        style = {"color": PALETTE[i % len(PALETTE)], "ls": _LINES[i % len(_LINES)], "marker": MARKERS[i % len(MARKERS)]}
        axis.plot(range(1, len(trial.losses) + 1), trial.losses, label=trial.defence, markevery=every, ms=4, lw=1.2, **style)
    axis.set(xlabel="step of the attack", ylabel="distance + variation", yscale="log")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return without_frame(figure)


def imprint_bins(values: torch.Tensor, edges: torch.Tensor, exact: Sequence[bool], sites: Sequence[str]) -> Figure:
    """Films on the scale of brightness that the imprint sorts by, a row a hospital: alone in a bin, and so recovered, or not.

    Args:
        values: brightness of each film, [n]. edges: of the bins, [bins]. exact: whether each film was recovered exactly.
        sites: the hospital of each film.
    """
    names = sorted(set(sites))
    figure = new_figure(8, 0.45 * len(names) + 1.4)
    axis = figure.subplots()
    for edge in edges.tolist():
        axis.axvline(edge, color=GRAY, lw=0.3, alpha=0.5)
    kinds = ((True, "o", RED, "recovered exactly"), (False, "x", BLUE, "shares a bin, or lies outside"))
    for wanted, marker, colour, label in kinds:
        rows = [(v, names.index(s)) for v, e, s in zip(values.tolist(), exact, sites, strict=True) if bool(e) is wanted]
        axis.plot(
            [v for v, _ in rows], [row for _, row in rows], marker, color=colour, ms=5, ls="", label=f"{label}: {len(rows)}"
        )
    axis.set_yticks(range(len(names)), [f"Hospital {name}" for name in names])
    reach = max(float(values.max() - values.min()) / 20, 1e-3)
    axis.set(
        xlabel="brightness of a film; lines: edges of the bins",
        ylim=(len(names) - 0.5, -0.5),
        xlim=(float(values.min()) - reach, float(values.max()) + reach),
    )
    axis.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    return without_frame(figure)


def _film(axis, film: torch.Tensor | None, title: str = "") -> None:
    if film is not None:
        axis.imshow(film[0].numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)
    axis.spines[:].set_visible(False)
