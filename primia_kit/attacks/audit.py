"""Auditing differential privacy in one training run (Steinke, Nasr & Jagielski 2023, arXiv 2305.08846).

A ledger's epsilon is an upper bound, and holds if the code does what it says. An audit is a lower bound, found by trying:

1. m canaries are made up, patients who would leave the plainest trace. Each takes part by a fair coin, S_i in {0, 1}.
2. The training runs, once.
3. The auditor gives each canary a score, the higher the likelier in; calls the k+ highest in, the k- lowest out, and
   says nothing of the others. k+ and k- are settled before the scores are seen.
4. W of the r = k+ + k- guesses are right. If the training is (epsilon, delta)-private, W is hardly ever larger than so
   many right answers by randomised response, each right with chance q = e^epsilon / (1 + e^epsilon):

       P[W >= v] <= f(v) + 2 m delta max_{1 <= i <= m} (f(v - i) - f(v)) / i,    f(v) = P[Binomial(r, q) >= v]

   (the paper's theorem for r guesses; delta = 0 is its pure form). The epsilons for which this is below 5% are refuted,
   and the largest of them is the lower bound: it lies above the true epsilon in at most 5% of audits.

A few guesses prove little, however right: above epsilon = 2 it takes 24, above 6 it takes 1,211. And a bound below the
ledger's epsilon is no proof of the ledger: a stronger audit might find more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import KitError

CONFIDENCE = 0.95
_FINEST = 1e-4  # to which the bound is found, downwards


@dataclass(frozen=True)
class AuditResult:
    """What an audit proves.

    canaries: m. guesses: r. right: W. delta: of the bound. confidence: that the bound holds.
    claimed: the ledger's epsilon at this delta; inf for a run without noise.
    """

    canaries: int
    guesses: int
    right: int
    delta: float
    claimed: float
    confidence: float = CONFIDENCE

    @property
    def bound(self) -> float:
        """The lower bound on epsilon."""
        return epsilon_lower_bound(self.right, self.guesses, self.canaries, self.delta, self.confidence)

    @property
    def most(self) -> float:
        """The bound that right guesses alone would have given: what such an audit can prove at most."""
        return epsilon_lower_bound(self.guesses, self.guesses, self.canaries, self.delta, self.confidence)

    @property
    def refuted(self) -> bool:
        """Whether the ledger's epsilon is too low, at this confidence."""
        return self.bound > self.claimed


def judge(
    scores: np.ndarray, included: np.ndarray, delta: float, claimed: float, *, guesses: tuple[int, int] | None = None
) -> AuditResult:
    """Guess from scores, and count.

    Args:
        scores: float [m], the higher the likelier in. included: bool [m], the coins.
        guesses: (k+, k-), settled without a look at either; default: a tenth of the canaries each, which is near the best
            for Gaussian scores at an epsilon of 1 to 2.

    Raises: KitError for more guesses than canaries, or scores that aren't numbers.
    """
    m = len(scores)
    high, low = guesses or (max(1, m // 10), max(1, m // 10))
    if len(included) != m or not np.isfinite(scores).all():
        raise KitError(
            f"An audit needs a score for each of its {len(included)} canaries, and {np.isfinite(scores).sum()} are numbers."
        )
    if min(high, low) < 0 or not 0 < high + low <= m:
        raise KitError(f"{high} + {low} guesses of {m} canaries: an audit makes at least one, and one a canary at most.")
    order = np.argsort(scores, kind="stable")
    right = int(included[order[m - high :]].sum() + (~included[order[:low]]).sum())
    return AuditResult(m, high + low, right, delta, claimed)


def epsilon_lower_bound(
    right: int, guesses: int, canaries: int | None = None, delta: float = 0.0, confidence: float = CONFIDENCE
) -> float:
    """The largest epsilon, to 1e-4, that `right` of `guesses` right guesses refute; 0 if they refute none.

    Args: see `chance_of_as_many`.
    """
    if not 0 < confidence < 1:
        raise KitError(f"confidence is {confidence}; it lies between 0 and 1, e.g. {CONFIDENCE}.")

    def refuted(epsilon: float) -> bool:
        return chance_of_as_many(right, guesses, epsilon, canaries, delta) < 1 - confidence

    low, high = 0.0, 1.0
    if not refuted(low):
        return 0.0
    while refuted(high):
        low, high = high, 2 * high
    while high - low > _FINEST:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def chance_of_as_many(right: int, guesses: int, epsilon: float, canaries: int | None = None, delta: float = 0.0) -> float:
    """A bound on the chance that `right` or more guesses are right if the training is (epsilon, delta)-private.

    Args:
        right: v. guesses: r. canaries: m, guessed at or not; default r. delta: 0 for the pure form.

    Raises: KitError for numbers that fit no audit.
    """
    from scipy.stats import binom

    canaries = guesses if canaries is None else canaries
    if not 0 <= right <= guesses <= canaries or guesses < 1 or epsilon < 0 or not 0 <= delta <= 1:
        told = f"{right} right of {guesses} guesses at {canaries} canaries, epsilon {epsilon:g}, delta {delta:g}"
        raise KitError(f"No audit has such numbers: {told}.")
    q = 1 / (1 + math.exp(-epsilon))
    as_many = float(binom.sf(right - 1, guesses, q))
    if not delta or not right:
        return min(1.0, as_many)
    nearly = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, q))  # f(v - i) - f(v) for i = 1 to v
    return min(1.0, as_many + 2 * canaries * delta * float((nearly / np.arange(1, right + 1)).max()))
