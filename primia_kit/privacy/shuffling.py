"""What shuffled batches certainly give away: a lower bound on their ε, beside what Poisson samples of the same size have.

    T  batches in a pass     σ  noise multiplier     C  clipping norm

Nearly all training shuffles its films and cuts them into T batches, and much of it is accounted as if each batch were a
Poisson sample of rate 1 / T. It isn't: a child is in exactly one batch, and there for certain. Chua et al. 2024 (ICML, arXiv
2403.17673) compare the two; this is their lower bound, by the event "some batch's sum is large".

1. All children's gradients but one's are -1 (C = 1, one dimension), the one child's is +1, or 0 if it doesn't take part. The
   batch that it is in comes out 2 above the others in one world, and 1 in the other.
2. Less what is known, an attacker sees T numbers: N(0, σ²), but for one at a random place, N(2, σ²) or N(1, σ²).
3. E_c: the largest is above c. P_a[E_c] = 1 - Φ((c - a) / σ) Φ(c / σ)^(T-1) for a = 2 and a = 1.
4. (ε, δ) promises P_2[E_c] <= e^ε P_1[E_c] + δ, so ε >= log((P_2[E_c] - δ) / P_1[E_c]), for every c.
"""

from __future__ import annotations

import numpy as np

from ..errors import KitError
from .accounting import check_count, check_delta


def shuffled_epsilon_at_least(noise_multiplier: float, batches: int, delta: float) -> float:
    """An ε below which one pass over shuffled batches can't be at this δ; where two data sets are neighbours if a child's
    gradient is replaced by zero (batches keep their size).

    Args:
        noise_multiplier: σ, above 0.
        batches: T in the pass, at least 1.
        delta: above 0, below 1.

    Returns: the lower bound, 0 or above. The true ε isn't known exactly; it is at most that of batches which aren't
    shuffled at all, a `Gaussian` of this noise multiplier.
    Raises: KitError for numbers that can't be.
    """
    check_delta(delta)
    check_count(batches)
    if not noise_multiplier > 0:
        raise KitError(f"The noise multiplier is {noise_multiplier:g}; it must be above 0.")
    thresholds = np.linspace(-2, 3 + 40 * noise_multiplier, 200_001)
    near, far = (_some_above(thresholds, shift, noise_multiplier, batches) for shift in (1.0, 2.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = np.log((far - delta) / near)
    return max(0.0, float(bounds[far > delta].max(initial=0.0)))


def _some_above(thresholds: np.ndarray, shift: float, sigma: float, batches: int) -> np.ndarray:
    """P_shift[E_c] for each threshold c, exact also where it's tiny."""
    from scipy.special import log_ndtr

    return -np.expm1(log_ndtr((thresholds - shift) / sigma) + (batches - 1) * log_ndtr(thresholds / sigma))
