"""Metrics against values worked out by hand and against scikit-learn; undefined where they are undefined."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from primia_kit.errors import KitError
from primia_kit.evaluation import (
    METRICS,
    Predictions,
    confusion,
    expected_calibration_error,
    hits_at,
    join,
    metric_named,
    reliability_curve,
    roc_curve,
    score,
)

CLASSES = ("normal", "bacterial", "viral")


def sure(answers, classes=3):
    return np.eye(classes)[answers]


def predictions(labels, probabilities, patients=None, sites=None):
    n, k = np.shape(probabilities)
    return Predictions(labels, probabilities, range(n) if patients is None else patients, sites or ["A"] * n, CLASSES[:k])


def draw(n, seed=0, ties=False):
    """n films of three classes whose answers are better than chance; `ties` rounds probabilities."""
    random = np.random.default_rng(seed)
    labels = np.append(np.arange(3), random.integers(3, size=n - 3))
    values = random.normal(size=(n, 3)) + 1.2 * np.eye(3)[labels]
    probabilities = np.exp(values) / np.exp(values).sum(1, keepdims=True)
    if ties:
        probabilities = np.round(probabilities * 5 + 0.5) + 1
        probabilities /= probabilities.sum(1, keepdims=True)
    return predictions(labels, probabilities)


def value(name, given):
    return metric_named(name, given.classes)(given, np.ones((1, len(given))))[0]


def test_a_confusion_worked_out_by_hand():
    # truth 0 0 0 0 1 1 / answers 0 0 0 1 1 0: TP 1, TN 3, FP 1, FN 1 for class 1
    scores = score([0, 0, 0, 0, 1, 1], sure([0, 0, 0, 1, 1, 0], 2))
    assert scores.films == 6
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.balanced_accuracy == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert scores.mcc == pytest.approx((1 * 3 - 1 * 1) / math.sqrt(2 * 2 * 4 * 4))
    same = predictions([0, 0, 0, 0, 1, 1], sure([0, 0, 0, 1, 1, 0], 2))
    assert confusion(same)[0].tolist() == [[3, 1], [1, 1]]
    assert value("sensitivity.bacterial", same) == value("specificity.normal", same) == 1 / 2
    assert value("specificity.bacterial", same) == value("sensitivity.normal", same) == 3 / 4


def test_mcc_of_three_classes_by_gorodkins_formula():
    truth, answers = [0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 1, 2, 0, 2]
    t, p = sure(truth), sure(answers)
    covariance = [np.sum((a - a.mean(0)) * (b - b.mean(0))) for a, b in ((t, p), (t, t), (p, p))]
    assert score(truth, p).mcc == pytest.approx(covariance[0] / math.sqrt(covariance[1] * covariance[2]))


def test_auc_is_the_share_of_pairs_in_order():
    p = np.array([0.9, 0.4, 0.6, 0.1])
    # class 1 against class 0: pairs (0.9, 0.6), (0.9, 0.1), (0.4, 0.6), (0.4, 0.1): three of four in order
    assert score([1, 1, 0, 0], np.stack([1 - p, p], 1)).auc == pytest.approx(0.75)


def test_brier_score_worked_out_by_hand():
    # (0.2^2 + 0.2^2), (0.7^2 + 0.7^2)
    assert value("brier", predictions([0, 1], [[0.8, 0.2], [0.7, 0.3]])) == pytest.approx((0.08 + 0.98) / 2)


def test_calibration_worked_out_by_hand():
    # Confidence 0.6 twice, one right; 0.9 twice, both right: |0.5 - 0.6| and |1 - 0.9|, half of the films each.
    four = predictions([0, 1, 0, 0], [[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.9, 0.1]])
    once = np.ones((1, 4))
    for binning in ("mass", "width"):
        assert expected_calibration_error(four, once, bins=2 if binning == "mass" else 10, binning=binning) == pytest.approx(0.1)
    assert expected_calibration_error(four, once, bins=1) == pytest.approx(0)  # 3 of 4 right, mean confidence 0.75
    curve = reliability_curve(four, bins=10, binning="width")
    assert curve.confidence == pytest.approx([0.6, 0.9]) and curve.accuracy == pytest.approx([0.5, 1])
    assert curve.films.tolist() == [2, 2]


def test_bins_of_equal_mass_hold_equally_many_films():
    films = draw(200)
    assert reliability_curve(films, bins=8).films.tolist() == [25] * 8
    assert reliability_curve(films, bins=8, binning="width").films.sum() == 200


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [8, 60])
def test_metrics_agree_with_scikit_learn_also_under_weights(n, ties):
    films = draw(n, seed=n, ties=ties)
    random = np.random.default_rng(1)
    weights = np.stack([np.ones(n), *random.integers(1, 4, size=(3, n)), random.random(n) + 0.1])
    truth, answers, p = films.labels, films.answers, films.probabilities
    for row in weights:
        w = {"sample_weight": row}
        ours = {name: METRICS[name](films, row[None])[0] for name in METRICS}
        assert ours["accuracy"] == pytest.approx(sk.accuracy_score(truth, answers, **w))
        assert ours["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, answers, **w))
        assert ours["mcc"] == pytest.approx(sk.matthews_corrcoef(truth, answers, **w))
        areas = [sk.roc_auc_score(truth == c, p[:, c], **w) for c in range(3)]
        assert ours["auc"] == pytest.approx(np.mean(areas))
        assert ours["brier"] == pytest.approx(sum(np.average((p[:, c] - (truth == c)) ** 2, weights=row) for c in range(3)))
        for c, of in enumerate(CLASSES):
            named = {kind: metric_named(f"{kind}.{of}", CLASSES)(films, row[None])[0] for kind in ("auc", "sensitivity")}
            assert named["auc"] == pytest.approx(areas[c])
            assert named["sensitivity"] == pytest.approx(sk.recall_score(truth == c, answers == c, **w))


@pytest.mark.parametrize("ties", [False, True])
def test_roc_curves_agree_with_scikit_learn(ties):
    films = draw(50, ties=ties)
    for c, of in enumerate(CLASSES):
        fpr, tpr, _ = sk.roc_curve(films.labels == c, films.probabilities[:, c], drop_intermediate=False)
        ours = roc_curve(films, of)
        assert ours[0][0] == pytest.approx(fpr) and ours[1][0] == pytest.approx(tpr)
        assert np.trapezoid(ours[1][0], ours[0][0]) == pytest.approx(value(f"auc.{of}", films))
        assert hits_at(films, of, np.array([0.0, 1.0]))[0, 1] == 1


@settings(deadline=None)
@given(st.integers(3, 25), st.integers(0, 100))
def test_weights_are_copies_of_films(n, seed):
    """A film of weight three counts as three films: what the bootstrap rests on."""
    films = draw(n, seed, ties=True)
    copies = np.random.default_rng(seed).integers(1, 4, size=n)
    for name in set(METRICS) - {"ece"}:  # whose bins are those of the films without copies
        repeated = films[np.repeat(np.arange(n), copies)]
        assert METRICS[name](films, copies[None].astype(float))[0] == pytest.approx(value(name, repeated), nan_ok=True)
    width = {"binning": "width"}
    again = expected_calibration_error(repeated, np.ones((1, len(repeated))), **width)
    assert expected_calibration_error(films, copies[None].astype(float), **width) == pytest.approx(again)


def test_a_class_that_doesnt_occur_counts_for_nothing():
    scores = score([0, 0, 1, 1], sure([0, 2, 1, 1]))
    assert scores.balanced_accuracy == pytest.approx(0.75)
    assert scores.auc == pytest.approx((0.75 + 1) / 2)


def test_undefined_scores_are_nan():
    one_class = score([1, 1, 1], sure([1, 1, 0]))
    assert one_class.accuracy == pytest.approx(2 / 3)
    assert all(math.isnan(v) for v in (one_class.balanced_accuracy, one_class.mcc, one_class.auc))
    empty = score(np.zeros(0, int), np.zeros((0, 3)))
    assert empty.films == 0 and math.isnan(empty.accuracy)
    nothing = predictions([], np.zeros((0, 3)))
    assert all(math.isnan(value(name, nothing)) for name in METRICS)
    assert np.isnan(roc_curve(nothing, "viral")[1]).all() and len(reliability_curve(nothing).films) == 0


def test_an_answer_that_is_always_the_same_has_no_correlation():
    assert score([0, 1, 2, 2], sure([1, 1, 1, 1])).mcc == 0


@given(st.lists(st.integers(0, 2), min_size=2, max_size=30).filter(lambda x: len(set(x)) > 1), st.permutations([0, 1, 2]))
def test_a_perfect_answer_scores_one_whatever_the_classes_are_called(truth, names):
    renamed = [names[c] for c in truth]
    scores = score(renamed, sure(renamed))
    assert scores.accuracy == scores.balanced_accuracy == scores.auc == 1
    assert scores.mcc == pytest.approx(1)


def test_parts_of_predictions():
    both = predictions([0, 1, 2], sure([0, 1, 2]), ["p", "p", "q"], ["A", "B", "A"])
    assert both.site_names == ("A", "B") and both.at("A").patients.tolist() == ["p", "q"] and len(both.at("C")) == 0
    again = join([both.at("A"), both.at("B")])
    assert again.labels.tolist() == [0, 2, 1] and again.sites.tolist() == ["A", "A", "B"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"labels": [0, 3]}, "Labels run from 0 to 3; 3 classes are 0 to 2"),
        ({"probabilities": sure([0, 1], 2)}, r"Probabilities are \[2, 2\]; 2 films of 3 classes need \[2, 3\]"),
        ({"probabilities": 2 * sure([0, 1])}, "film 0 are no distribution"),
        ({"probabilities": np.array([[1, 0, 0], [np.nan, 1, 0]])}, "film 1 are no distribution"),
        ({"probabilities": np.array([[1, 0, 0], [-1, 1, 1]])}, "film 1 are no distribution"),
        ({"patients": ["p"]}, "there are 1 and 2"),
    ],
)
def test_predictions_that_dont_fit_are_a_sentence(changes, sentence):
    sound = {"labels": [0, 1], "probabilities": sure([0, 1]), "patients": ["p", "q"], "sites": ["A", "A"], "classes": CLASSES}
    Predictions(**sound)
    with pytest.raises(KitError, match=sentence):
        Predictions(**{**sound, **changes})


def test_unknown_names_are_a_sentence():
    films = draw(10)
    with pytest.raises(KitError, match=r"no metric 'mmc' .did you mean 'mcc'"):
        metric_named("mmc", CLASSES)
    with pytest.raises(KitError, match=r"no metric 'sensitivity\.virus' .did you mean 'sensitivity\.viral'"):
        metric_named("sensitivity.virus", CLASSES)
    with pytest.raises(KitError, match="no class 'virus'"):
        roc_curve(films, "virus")
    with pytest.raises(KitError, match=r"binning is 'widht' .did you mean 'width'"):
        reliability_curve(films, binning="widht")
    with pytest.raises(KitError, match="bins is 0"):
        reliability_curve(films, bins=0)
    with pytest.raises(KitError, match="different classes"):
        join([films, predictions([0], [[1.0, 0.0]])])
