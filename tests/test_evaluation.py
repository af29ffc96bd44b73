"""Scores against values worked out by hand, and undefined where they are undefined."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia_kit.evaluation import score


def sure(answers, classes=3):
    return np.eye(classes)[answers]


def test_a_confusion_worked_out_by_hand():
    # truth 0 0 0 0 1 1 / answers 0 0 0 1 1 0: TP 1, TN 3, FP 1, FN 1 for class 1
    scores = score([0, 0, 0, 0, 1, 1], sure([0, 0, 0, 1, 1, 0], 2))
    assert scores.films == 6
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.balanced_accuracy == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert scores.mcc == pytest.approx((1 * 3 - 1 * 1) / math.sqrt(2 * 2 * 4 * 4))


def test_mcc_of_three_classes_by_gorodkins_formula():
    truth, answers = [0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 1, 2, 0, 2]
    t, p = sure(truth), sure(answers)
    covariance = [np.sum((a - a.mean(0)) * (b - b.mean(0))) for a, b in ((t, p), (t, t), (p, p))]
    assert score(truth, p).mcc == pytest.approx(covariance[0] / math.sqrt(covariance[1] * covariance[2]))


def test_auc_is_the_share_of_pairs_in_order():
    p = np.array([0.9, 0.4, 0.6, 0.1])
    # class 1 against class 0: pairs (0.9, 0.6), (0.9, 0.1), (0.4, 0.6), (0.4, 0.1): three of four in order
    assert score([1, 1, 0, 0], np.stack([1 - p, p], 1)).auc == pytest.approx(0.75)


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


@given(st.lists(st.integers(0, 2), min_size=2, max_size=30).filter(lambda x: len(set(x)) > 1), st.permutations([0, 1, 2]))
def test_a_perfect_answer_scores_one_whatever_the_classes_are_called(truth, names):
    renamed = [names[c] for c in truth]
    scores = score(renamed, sure(renamed))
    assert scores.accuracy == scores.balanced_accuracy == scores.auc == 1
    assert scores.mcc == pytest.approx(1)
