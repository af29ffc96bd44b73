"""What an ε means for one child: how well anybody can tell two worlds apart, one with the child's films and one without.

    P[E | one world] <= e^ε P[E | the other] + δ     for whatever event E an attacker looks for, and either order of the worlds

An attacker who answers "with" raises a false alarm with chance FPR in the world without, and finds the child with chance TPR
in the world with it. The inequality, for "with" and for "without", is a bound on TPR (Wasserman & Zhou 2010; Kairouz, Oh &
Viswanath 2015, arXiv 1311.0776). It holds for every attacker, with any knowledge and any computer, before and after.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import KitError
from .accounting import check_delta


def most_found(fpr: np.ndarray | float, epsilon: float, delta: float) -> np.ndarray:
    """The largest TPR that (ε, δ) leaves to an attacker: min(1, e^ε FPR + δ, 1 - e^-ε (1 - δ - FPR)).

    Args:
        fpr: false alarms, each in [0, 1].
        epsilon: at least 0.
        delta: above 0, below 1.

    Returns: float64, of the shape of `fpr`.
    Raises: KitError for numbers that can't be.
    """
    check_delta(delta)
    fpr = _shares(fpr, "fpr")
    upper = math.exp(min(_epsilon(epsilon), 700.0))
    return np.minimum(1.0, np.minimum(upper * fpr + delta, 1 - (1 - delta - fpr) / upper))


def found_by_best_test(fpr: np.ndarray | float, noise_multiplier: float) -> np.ndarray:
    """TPR of the best test there is against one Gaussian release, Φ(Φ^-1(FPR) + 1 / σ) (Dong, Roth & Su 2022, arXiv
    1905.02383). It lies below `most_found` for each (ε, δ) that the release has.

    Args:
        noise_multiplier: σ over the most that one child changes, above 0.
    """
    from scipy.special import ndtr, ndtri

    if not noise_multiplier > 0:
        raise KitError(f"The noise multiplier is {noise_multiplier:g}; a release that is tested here has noise, so it's above 0.")
    return ndtr(ndtri(_shares(fpr, "fpr")) + 1 / noise_multiplier)


def surest(prior: np.ndarray | float, epsilon: float) -> np.ndarray:
    """How sure anybody can become that a child took part: p e^ε / (p e^ε + 1 - p), from p before.

    That's Bayes' rule with the largest ratio of chances, e^ε. With δ > 0 it holds for (nearly all) releases: a ratio
    beyond e^ε is what δ leaves room for.

    Args:
        prior: p, how sure before, each in [0, 1].
        epsilon: at least 0.
    """
    prior = _shares(prior, "prior")
    return prior / (prior + (1 - prior) * math.exp(-_epsilon(epsilon)))


def _shares(values: np.ndarray | float, name: str) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise KitError(f"{name} must lie in [0, 1].")
    return values


def _epsilon(epsilon: float) -> float:
    if not epsilon >= 0:
        raise KitError(f"Epsilon is {epsilon:g}; it's 0 or above.")
    return epsilon
