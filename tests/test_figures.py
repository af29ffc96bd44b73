"""Every figure is drawn from results, whatever their size, and comes back as a Figure that nothing shows twice."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

from primia_kit import figures
from primia_kit.federation import compare, federate, pool_sites


@pytest.fixture(scope="module")
def run(sites, small_plan):
    return federate(small_plan, sites)


def drawn(figure) -> np.ndarray:
    assert isinstance(figure, Figure)
    assert pyplot.get_fignums() == []
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pixels = np.asarray(Image.open(buffer).convert("L"))
    assert (pixels < 128).sum() > 500  # there is something to see
    return pixels


def test_contact_sheet_shows_the_films(hospitals):
    figure = figures.contact_sheet(hospitals, films=2)
    drawn(figure)
    shown = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert len(figure.axes) == 18 and 12 <= len(shown) <= 18
    assert all(image.min() >= 0 and image.max() <= 1 for image in shown)


def test_who_has_what_counts(hospitals):
    figure = figures.who_has_what(hospitals)
    drawn(figure)
    written = {text.get_text().strip() for text in figure.axes[0].texts}
    counts = hospitals.counts().loc[("A", "train")]
    assert {str(counts["normal"]), f"{counts['patients']} children"} <= written


@pytest.mark.parametrize("count", [1, 3, 12])
def test_what_moves(count):
    figure = figures.what_moves(1_230_000, {f"S{i}": 10**i for i in range(count)}, 20)
    drawn(figure)
    assert any("1.2 MiB" in text.get_text() for text in figure.axes[0].texts)


def test_learning_curves(run):
    figure = figures.learning_curves({"federated": run})
    drawn(figure)
    assert [line.get_ydata()[-1] for line in figure.axes[0].lines] == [run.rounds[-1].losses[s] for s in "ABC"]


def test_gain_by_site(run, sites, small_plan):
    central = federate(small_plan, [pool_sites(sites)]).model
    comparison = compare(central, {s.name: run.model for s in sites}, run.model, sites)
    figure = figures.gain_by_site(comparison)
    drawn(figure)
    assert len(figure.axes[0].patches) == 9


@pytest.mark.parametrize("varying", [[], ["rounds"], ["weighting"], ["rounds", "weighting"]])
def test_sweep_results(varying):
    frame = pd.DataFrame(
        {
            "rounds": [5, 20],
            "weighting": ["films", "uniform"],
            "a": [0.5, 0.6],
            "a sd": [0.1, np.nan],
            "b": [1, 2],
            "b sd": [0, 0],
        }
    )
    drawn(figures.sweep_results(frame, varying, ["a", "b"]))


def test_two_shares_make_a_line():
    figure = figures.two_shares_make_a_line()
    drawn(figure)
    assert len(figure.axes[0].texts) == 3 and len(figure.axes[1].texts) == 1


def test_clear_and_masked():
    generator = np.random.default_rng(0)
    figure = figures.clear_and_masked(generator.normal(size=5000), generator.integers(0, 2**32, 5000, dtype=np.uint32), "A")
    drawn(figure)
    assert [axis.images[0].get_array().shape for axis in figure.axes[:2]] == [(64, 64), (64, 64)]
