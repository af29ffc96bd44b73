"""Every figure is drawn from results, whatever their size, and comes back as a Figure that nothing shows twice."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

from primia_kit import figures
from primia_kit.attacks import link_films
from primia_kit.data import dicom_steps, load_films
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


def test_film_steps_shows_each_step_with_its_own_range(hospitals):
    path = hospitals.path_of(hospitals.films[0])
    steps = dicom_steps(path)
    figure = figures.film_steps(steps, 32)
    drawn(figure)
    shown = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert len(shown) == 5 and np.array_equal(shown[0], steps.stored) and shown[-1].shape == (32, 32)
    ticks = [[label.get_text() for label in axis.get_xticklabels()] for axis in figure.axes if not axis.images]
    assert ticks[0] == [str(steps.stored.min()), str(steps.stored.max())] and ticks[-1] == ["0", "1"]


def test_side_by_side_of_any_number():
    for count in (1, 5, 7):
        figure = figures.side_by_side({f"picture {i}": np.eye(16) for i in range(count)})
        drawn(figure)
        assert sum(bool(axis.images) for axis in figure.axes) == count


def test_exposures_has_a_line_a_site(hospitals):
    figure = figures.exposures(hospitals, films=2)
    drawn(figure)
    assert [line.get_label() for line in figure.axes[0].lines] == ["Hospital A", "Hospital B", "Hospital C"]
    assert all(0.99 < line.get_ydata().sum() <= 1.001 for axis in figure.axes for line in axis.lines)  # shares of pixels


def test_linked_films_says_which_are_right(hospitals):
    films = load_films(hospitals.select(site="A"), size=32, geometry="pad")
    linkage = link_films(films)
    figure = figures.linked_films(films, linkage)
    drawn(figure)
    words = [axis.get_xlabel() for axis in figure.axes if axis.get_xlabel()]
    right = sum(best == own for _, best, own in linkage.pairs)
    assert words.count("right") == min(right, 5) and "wrong" in words


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
