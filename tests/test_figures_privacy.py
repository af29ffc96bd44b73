"""Pictures of what ε means and of private training show the numbers that they were given."""

import numpy as np
import pytest
import torch

from primia_kit import figures
from primia_kit.evaluation import Interval
from primia_kit.privacy import Gaussian, epsilon, found_by_best_test, most_found

from .test_figures import drawn


def test_two_worlds_lie_one_apart_and_name_their_epsilon():
    figure = figures.two_worlds([0.5, 6.0], 1e-3, count=17)
    drawn(figure)
    for axis, sigma in zip(figure.axes, (0.5, 6.0), strict=True):
        assert axis.get_title() == f"noise σ = {sigma:g}: ε = {epsilon([(Gaussian(sigma), 1)], 1e-3):.2g}"
        tops = [line.get_xdata()[line.get_ydata().argmax()] for line in axis.lines]
        assert tops == pytest.approx([17, 18], abs=0.05 * sigma)


def test_attackers_limits_are_those_of_the_promise():
    figure = figures.attackers_limits([1.0, 3.0], 1e-3, noise_multiplier=1.5)
    drawn(figure)
    left, right = figure.axes
    share = left.lines[0].get_xdata()
    assert (left.lines[0].get_ydata() == most_found(share, 1.0, 1e-3)).all()
    assert (left.lines[2].get_ydata() == found_by_best_test(share, 1.5)).all()
    assert [line.get_ydata()[0] for line in right.lines] == [0.5, 0.1, 0.01]
    assert len(figures.attackers_limits([1.0], 1e-3).axes[0].lines) == 2


def test_shuffled_batches_lie_above_what_poisson_samples_have():
    figure = figures.shuffled_batches([0.8, 1.1], 20, 1e-4)
    drawn(figure)
    fixed, least, claimed = (line.get_ydata() for line in figure.axes[0].lines)
    assert (claimed < least).all() and (least <= fixed).all()


def test_gradient_norms_are_cut_at_the_clipping_norm():
    figure = figures.gradient_norms(torch.tensor([3.0, 0.5, 1.0, 2.0]), 1.0)
    drawn(figure)
    (axis,) = figure.axes
    before, after = axis.lines[:2]
    assert before.get_ydata().tolist() == [0.5, 1, 2, 3] and after.get_ydata().tolist() == [0.5, 1, 1, 1]
    assert "2 of 4 patients" in axis.get_title()


def test_noised_sums_show_the_same_numbers_with_and_without():
    plain = torch.arange(-50.0, 50)
    figure = figures.noised_sums(plain, {"little": plain + 1, "much": -plain}, shown=10)
    drawn(figure)
    for axis, change in zip(figure.axes, (lambda v: v + 1, lambda v: -v), strict=True):
        dots, line = (line.get_ydata() for line in axis.lines)
        assert (np.diff(line) > 0).all() and min(abs(line)) == 45 and (dots == change(line)).all()
    assert "-1.00" in figure.axes[1].get_title()


def test_epsilon_utility_has_a_place_for_each_epsilon_and_a_line_for_what_it_is_compared_with():
    private = {10.0: Interval(0.5, 0.4, 0.6, 100, 0), 0.3: Interval(0.1, -0.1, 0.2, 100, 0)}
    beside = {"no noise": Interval(0.6, 0.5, 0.7, 100, 0), "public, alone": Interval(0.3, 0.2, 0.4, 100, 0)}
    figure = figures.epsilon_utility(private, beside, single={0.3: [0.05, 0.15]})
    drawn(figure)
    axis, other = figure.axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0.3", "10"]
    assert [line.get_ydata()[0] for line in axis.lines if line.get_marker() == "o"] == [0.1, 0.5]
    assert [0.05, 0.15] in [list(line.get_ydata()) for line in axis.lines]
    assert {line.get_ydata()[0] for line in axis.lines if line.get_linestyle() != "None"} == {0.6, 0.3}
    assert [label.get_text() for label in other.get_xticklabels()] == ["no noise", "public,\nalone"]
    drawn(figures.epsilon_utility(private, beside))


def test_sum_changes_mark_what_passes_the_bound():
    figure = figures.sum_changes({"BatchNorm": [0.9, 2.4], "GroupNorm": [2.0, 1.0]}, 2.0)
    drawn(figure)
    (axis,) = figure.axes
    over = [value for line in axis.lines if line.get_marker() == "X" for value in line.get_xdata()]
    assert over == [1.2]
