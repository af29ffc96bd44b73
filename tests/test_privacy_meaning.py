"""What ε bounds for one child, what shuffled batches give away for certain, and the exercise on clipping."""

import numpy as np
import pytest

from primia_kit import lessons
from primia_kit.errors import KitError
from primia_kit.privacy import (
    Gaussian,
    SampledGaussian,
    epsilon,
    found_by_best_test,
    most_found,
    shuffled_epsilon_at_least,
    surest,
)

ALARMS = np.linspace(0, 1, 2001)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5])
def test_the_best_test_keeps_to_the_promise_and_comes_near_it(sigma, delta):
    room = most_found(ALARMS, epsilon([(Gaussian(sigma), 1)], delta), delta) - found_by_best_test(ALARMS, sigma)
    assert room.min() >= -1e-6
    finest = np.geomspace(1e-12, 0.5, 4000)
    close = most_found(finest, epsilon([(Gaussian(sigma), 1)], delta), delta) - found_by_best_test(finest, sigma)
    assert close.min() < 0.02 * delta + 1e-4  # it's tight: the promise can't be sharpened


def test_a_promise_of_zero_leaves_delta_alone():
    assert np.allclose(most_found(ALARMS, 0, 0.01), np.minimum(1, ALARMS + 0.01))
    assert most_found(1.0, 800.0, 1e-5) == 1 and most_found(0.0, 3.0, 1e-5) == pytest.approx(1e-5)


def test_how_sure_anybody_becomes():
    assert surest(0.5, 1) == pytest.approx(np.e / (1 + np.e)) and surest(0.3, 0) == pytest.approx(0.3)
    assert surest([0, 1], 5).tolist() == [0, 1] and (np.diff(surest(np.linspace(0, 1, 50), 2)) > 0).all()


@pytest.mark.parametrize("sigma", [0.7, 1.1, 2.5])
def test_a_single_batch_is_a_gaussian_release(sigma):
    assert shuffled_epsilon_at_least(sigma, 1, 1e-4) == pytest.approx(epsilon([(Gaussian(sigma), 1)], 1e-4), rel=2e-3)


@pytest.mark.parametrize("batches", [10, 50, 200])
def test_shuffling_hides_something_and_far_less_than_poisson_samples(batches):
    shuffled, fixed = shuffled_epsilon_at_least(1.0, batches, 1e-4), epsilon([(Gaussian(1.0), 1)], 1e-4)
    assert epsilon([(SampledGaussian(1 / batches, 1.0), batches)], 1e-4) < shuffled < fixed * 1.002


def test_the_bound_is_what_an_attacker_would_find():
    """Many passes simulated: "the largest batch is above c" is found as often as the formula says."""
    random, sigma, batches, delta = np.random.default_rng(0), 1.1, 20, 1e-2
    largest = random.normal(0, sigma, (2, 400_000, batches))
    largest[0, :, 0] += 1
    largest[1, :, 0] += 2
    near, far = np.sort(largest.max(2), axis=1)
    cuts = np.linspace(1, 5, 81)
    shares = [1 - np.searchsorted(values, cuts) / values.size for values in (near, far)]
    found = np.log((shares[1] - delta)[shares[1] > 2 * delta] / shares[0][shares[1] > 2 * delta]).max()
    assert found == pytest.approx(shuffled_epsilon_at_least(sigma, batches, delta), abs=0.1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: most_found(1.5, 1, 1e-3), "fpr must lie in"),
        (lambda: most_found(0.5, -1, 1e-3), "Epsilon is -1"),
        (lambda: surest(0.5, float("nan")), "Epsilon is nan"),
        (lambda: found_by_best_test(0.5, 0), "noise multiplier is 0"),
        (lambda: shuffled_epsilon_at_least(0, 5, 1e-3), "noise multiplier is 0"),
        (lambda: shuffled_epsilon_at_least(1, 5, 1), "Delta is 1"),
    ],
)
def test_numbers_that_cant_be(call, said):
    with pytest.raises(KitError, match=said):
        call()


def rightly(gradients, norm):
    return (gradients * np.minimum(1, norm / np.linalg.norm(gradients, axis=1))[:, None]).sum(0)


def clip_the_sum(gradients, norm):
    total = gradients.sum(0)
    return total * min(1, norm / np.linalg.norm(total))


@pytest.mark.parametrize(
    ("clipped_sum", "answer"),
    [
        (lambda gradients, norm: None, "Not tried"),
        (rightly, "Right"),
        (lambda gradients, norm: gradients * norm, "one number for each parameter"),
        (lambda gradients, norm: (gradients * (norm / np.linalg.norm(gradients, axis=1))[:, None]).sum(0), "stretched"),
        (lambda gradients, norm: gradients.sum(0), "moves your sum by"),
        (clip_the_sum, "Not yet"),
        (lambda gradients, norm: rightly(gradients, norm) / len(gradients), "isn't the sum of the clipped"),
    ],
)
def test_the_exercise_on_clipping(clipped_sum, answer):
    assert answer in lessons.check_clipped_sum(clipped_sum)
