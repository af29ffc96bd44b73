"""Every figure is drawn from results, whatever their size, and comes back as a Figure that nothing shows twice."""

import io
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from primia_kit import figures
from primia_kit.attacks import AuditResult, MembershipGame, Trial, compare_films, link_films, split_patients
from primia_kit.data import dicom_steps, load_films
from primia_kit.evaluation import Predictions
from primia_kit.federation import Comparison, compare, federate, pool_sites
from primia_kit.figures.evaluation import _looks
from primia_kit.inference.parties.events import LayerEvent
from primia_kit.mpc import Ring
from primia_kit.privacy import Gaussian, Ledger


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


SIX_ARMS = {"central": 1.8, "local": 0.9, "fedavg": 1.3, "fedprox": 1.4, "fedbn": 1.6, "scaffold": 1.5}
STUDIES = [(3, {"central": 1.8, "local": 0.9, "federated": 1.4}, 1), (12, SIX_ARMS, 2)]


@pytest.fixture(scope="module", params=STUDIES, ids=["3 sites", "12 sites, 6 arms, 2 seeds"])
def comparison(request):
    """Made-up answers to 240 films of 120 patients."""
    count, skills, seeds = request.param
    random = np.random.default_rng(0)
    patients, labels = np.arange(240) // 2, random.integers(3, size=240)
    sites = np.array([f"Hospital number {i} of the town" if i == 1 else f"S{i}" for i in range(count)])
    arms = {}
    for arm, skill in skills.items():
        logits = [random.normal(size=(240, 3)) + skill * np.eye(3)[labels] for _ in range(seeds)]
        shares = [np.exp(v) / np.exp(v).sum(1, keepdims=True) for v in logits]
        arms[arm] = tuple(
            Predictions(labels, p, patients, sites[patients % count], ("normal", "bacterial", "viral")) for p in shares
        )
    return Comparison(arms, tuple(sites.tolist()), resamples=200)


def no_two_texts_overlap(figure) -> bool:
    """Tick labels, titles and notes of a drawn figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for axis in figure.axes:
        texts = [*axis.get_xticklabels(), *axis.get_yticklabels(), *axis.texts, axis.title]
        boxes = [t.get_window_extent(renderer).shrunk(0.95, 0.8) for t in texts if t.get_text() and t.get_visible()]
        rotated = any(t.get_rotation() for t in texts)
        if not rotated and any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i]):
            return False
    return True


def test_site_by_strategy_shows_values_with_intervals(comparison):
    figure = figures.site_by_strategy(comparison)
    drawn(figure)
    (axis,) = figure.axes
    dots = {line.get_label(): line for line in axis.lines if line.get_label() in comparison.arms}
    assert list(dots) == list(comparison.arms)
    places = [*comparison.sites, "own", "all"]
    for (arm, line), bars in zip(dots.items(), [c for c in axis.collections if hasattr(c, "get_segments")]):
        assert line.get_xdata() == pytest.approx([comparison.value(arm, "mcc", on) for on in places])
        bounds = [comparison.interval(arm, "mcc", on) for on in places]
        assert [segment[:, 0].tolist() for segment in bars.get_segments()] == [[b.low, b.high] for b in bounds]
    heights = sorted(float(y) for line in dots.values() for y in line.get_ydata())
    assert np.diff(heights).min() > 0.1  # no dot on another
    assert no_two_texts_overlap(figure)


@pytest.mark.parametrize("by_site", [False, True])
def test_paired_differences_are_written_out(comparison, by_site):
    figure = figures.paired_differences(comparison, by_site=by_site)
    drawn(figure)
    written = [text.get_text() for text in figure.axes[0].texts]
    others = [arm for arm in comparison.arms if arm != "central"]
    assert len(written) == 2 + len(others) * (1 + by_site * len(comparison.sites))
    assert all(str(comparison.difference(arm, "central")) in written for arm in others)
    assert no_two_texts_overlap(figure)


def test_lower_is_better_for_errors(comparison):
    for metric, words in (("brier", ["◂ better", "worse ▸"]), ("auc", ["◂ worse", "better ▸"])):
        figure = figures.paired_differences(comparison, metric=metric)
        assert [text.get_text().strip() for text in figure.axes[0].texts[-2:]] == words


def test_roc_curves_have_a_panel_a_class(comparison):
    figure = figures.roc_curves(comparison.arms, resamples=50)
    drawn(figure)
    assert [axis.get_title() for axis in figure.axes] == ["normal", "bacterial", "viral"]
    for axis in figure.axes:
        for line, arm in zip(axis.lines, comparison.arms):
            fpr, tpr = line.get_data()
            area = comparison.value(arm, f"auc.{axis.get_title()}")
            assert np.trapezoid(tpr, fpr) == pytest.approx(area, abs=0.01) and f"{arm} {area:.2f}" == line.get_label()
        bands = [band.get_paths()[0].vertices[:, 1] for band in axis.collections]
        assert len(bands) == (len(comparison.arms) if len(comparison.arms) <= 3 else 0)
        assert all(band.min() >= 0 and band.max() <= 1 for band in bands)


def test_confusion_matrices_count_films(comparison):
    figure = figures.confusion_matrices(comparison.arms)
    drawn(figure)
    panels = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in panels] == list(comparison.arms)
    for axis in panels:
        cells = [text.get_text().split("\n") for text in axis.texts]
        assert sum(float(films) for _, films in cells) == pytest.approx(240, abs=0.5)
        assert all(98 <= sum(int(share[:-1]) for share, _ in cells[i : i + 3]) <= 102 for i in (0, 3, 6))


def test_reliability_diagrams_count_films(comparison):
    figure = figures.reliability_diagram(comparison.arms, resamples=50)
    drawn(figure)
    above = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title().split("\n")[0] for axis in above] == list(comparison.arms)
    assert f"ECE {comparison.value('central', 'ece'):.2f} [" in above[0].get_title()
    counts = [sum(bar.get_height() for bar in axis.patches) for axis in figure.axes if axis.patches]
    assert counts == pytest.approx([240] * len(comparison.arms))


def test_every_arm_has_its_own_look():
    looks = _looks(list(SIX_ARMS))
    assert len(set(looks.values())) == 6 and len({marker for _, marker in looks.values()}) == 6


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
    many = figures.sweep_results(frame, varying, ["a", "b"] * 3)
    drawn(many)
    if varying:
        assert many.get_figwidth() == 4 * 3.6 and [axis.axison for axis in many.axes] == [True] * 6 + [False] * 2


def test_two_shares_make_a_line():
    figure = figures.two_shares_make_a_line()
    drawn(figure)
    assert len(figure.axes[0].texts) == 3 and len(figure.axes[1].texts) == 1


def test_clear_and_masked():
    generator = np.random.default_rng(0)
    figure = figures.clear_and_masked(generator.normal(size=5000), generator.integers(0, 2**32, 5000, dtype=np.uint32), "A")
    drawn(figure)
    assert [axis.images[0].get_array().shape for axis in figure.axes[:2]] == [(64, 64), (64, 64)]


def test_fixed_point_wraps_at_the_ends_of_its_range():
    figure = figures.fixed_point_wrap(Ring(12), 8)
    drawn(figure)
    x, read = figure.axes[0].lines[1].get_data()
    inside = np.abs(x) < 7.9
    np.testing.assert_allclose(read[inside], x[inside], atol=2**-9)
    beyond = (x > 8.1) & np.isfinite(read)
    np.testing.assert_allclose(read[beyond], (x[beyond] + 8) % 16 - 8, atol=2**-9)


def test_truncation_errors_tell_shares_in_percent():
    figure = figures.truncation_errors(np.repeat([0.0, 4.0], [3, 1]))
    drawn(figure)
    assert {text.get_text() for text in figure.axes[0].texts} >= {"75.0%", "25.0%"}


def test_relu_of_shares_counts_what_was_opened():
    x = np.linspace(-1, 1, 1000)
    figure = figures.relu_of_shares(x, np.maximum(x, 0), np.arange(1000, dtype=np.uint32) << 12, (x > 0.5).astype(np.uint8))
    drawn(figure)
    assert [bar.get_height() for bar in figure.axes[2].patches] == pytest.approx([1, 0, 0.5, 0.5])


def test_ring_pictures_draw_small_values_gray_and_noise_all_over():
    noise, zeros = np.random.default_rng(0).integers(0, 2**38, (16, 16), np.uint64), np.zeros((16, 16), np.uint64)
    figure = figures.ring_pictures({"noise": noise, "zeros": zeros}, 38, {"film": np.eye(16) * 5 - 2, "flat": np.ones((4, 4))})
    drawn(figure)
    shown = [axis.images[0].get_array() for axis in figure.axes]
    assert shown[0].std() > 0.25 and (shown[1] == 0.5).all() and (shown[2] == np.eye(16)).all() and (shown[3] == 0).all()


def test_layer_costs_and_opened_values_and_agreement():
    event = partial(LayerEvent, count=2, kind="relu", shape=(1, 1, 1), exchanges=1, view=None)
    figure = figures.layer_costs(
        [
            event(1, name="a", seconds=0.25, sent=1000, received=3000),
            event(2, name="b", seconds=0.5, sent=0, received=0),
            event(2, name="free", seconds=0.0001, sent=0, received=0),
        ]
    )
    drawn(figure)
    assert [bar.get_width() for bar in figure.axes[0].patches] == [250, 500]  # a free one would have no bar
    assert [bar.get_width() for bar in figure.axes[1].patches] == [1, 0, 3, 0]
    figure = figures.opened_values(np.arange(16, dtype=np.uint32), 4)
    drawn(figure)
    assert figure.axes[1].lines[0].get_ydata().tolist() == [0.5] * 4
    figure = figures.agreement(np.eye(3), np.eye(3) + 0.25, ("a", "b", "c"))
    drawn(figure)
    assert all((line.get_ydata() == 0.25).all() for line in figure.axes[1].lines[:3])


def test_membership_rocs_on_log_axes():
    random = np.random.default_rng(0)
    halves = split_patients(tuple(map(str, range(400))), references=4, population=0.2)
    confidences = 1 / (1 + np.exp(-random.normal(size=(5, 400)) - halves.members))
    game = MembershipGame(confidences, halves.members, halves.population, tuple(map(str, range(400))))
    results = {attack: game.attack(attack, resamples=50) for attack in ("loss", "rmia", "lira")}
    figure = figures.membership_roc(results)
    drawn(figure)
    (axis,) = figure.axes
    assert axis.get_xscale() == axis.get_yscale() == "log" and len(axis.collections) == 3
    shown = [text.get_text() for text in axis.get_legend().get_texts()]
    assert shown[1] == f"rmia, AUC {results['rmia'].auc}"
    drawn(figures.membership_roc(dict.fromkeys("abcde", results["loss"])))


def test_an_audit_stands_beside_the_ledger():
    honest, broken = (AuditResult(500, 100, right, 1e-5, claimed) for right, claimed in ((66, 2.0), (100, float("inf"))))
    figure = figures.audit_beside_ledger({"honest": honest, "no noise": broken})
    drawn(figure)
    (axis,) = figure.axes
    assert [bar.get_width() for bar in axis.patches] == [honest.bound, broken.bound]
    assert "66 of 100 right: no contradiction" in [text.get_text() for text in axis.texts]


def test_epsilon_over_rounds_draws_each_hospital_and_its_budget(tmp_path):
    ledgers = []
    for site, budget in (("A", 8.0), ("B", 8.0), ("C", None)):
        ledger = Ledger.create(tmp_path / site, site=site, delta=1e-4, budget=budget, patients=500)
        for number in range(len(ledgers)):
            ledger.spend(Gaussian(2.0), purpose=f"round {number + 1}")
        ledgers.append(ledger)
    figure = figures.epsilon_over_rounds(ledgers)
    drawn(figure)
    lines = [line for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    assert [len(line.get_xdata()) for line in lines] == [1, 2, 3]
    assert lines[2].get_ydata()[-1] == ledgers[2].epsilon()
    assert [text.get_text() for text in figure.axes[0].texts] == ["budget of A, B"]
    drawn(figures.epsilon_over_rounds([]))


def a_trial(defence, images, originals, losses=()):
    return Trial("inversion", defence, 0, originals, images, compare_films(images, originals, originals), losses)


def test_reconstructions_stand_below_their_films():
    films = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    trials = [a_trial("nothing", films.flip(0), films), a_trial("noise", films[1:], films)]
    figure = figures.reconstructions(trials)
    top, bottom = figure.axes[:2], figure.axes[2:]
    assert [axis.get_title() for axis in top] == ["nothing", "noise"]
    assert np.array_equal(top[0].images[0].get_array(), bottom[0].images[0].get_array())  # found, though it came last
    assert "100 dB" in bottom[0].get_xlabel() and "\nmatched" in bottom[0].get_xlabel()
    assert not bottom[1].images and bottom[1].texts[0].get_text() == "nothing"


def test_inversion_losses_have_a_line_a_trial_that_optimised():
    films = torch.rand(1, 1, 16, 16)
    trials = [a_trial("nothing", films, films, (1.0, 0.1)), a_trial("imprint", films, films)]
    (axis,) = figures.inversion_losses(trials).axes
    assert [line.get_label() for line in axis.lines] == ["nothing"] and axis.get_yscale() == "log"


def test_imprint_bins_tell_recovered_films_from_others():
    values, edges = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.0, 0.15])
    (axis,) = figures.imprint_bins(values, edges, [True, False, False], ["B", "A", "B"]).axes
    found, missed = axis.lines[len(edges) :]
    assert (found.get_xdata(), found.get_ydata()) == (pytest.approx([0.1]), [1])
    assert list(missed.get_ydata()) == [0, 1] and found.get_marker() != missed.get_marker()
    assert found.get_label().endswith(": 1") and missed.get_label().endswith(": 2")
