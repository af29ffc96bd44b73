"""A clipping norm that follows a quantile of the patients' gradient norms (Andrew et al. 2021, arXiv 1905.03871)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

RATE = 0.2  # the paper's eta_C, for a geometric update


@dataclass(frozen=True)
class AdaptiveClipping:
    """The paper's Algorithm 1, with B the expected number of patients in a step and z the noise multiplier charged.

    1. b_p <- 1 if |g_p| <= C, else 0.
    2. b <- (sum_p (b_p - 1/2) + noise of deviation sigma_b) / B + 1/2; the shift halves a patient's effect.
    3. C <- C exp(-0.2 (b - quantile)).

    A step releases the noised gradients, at deviation z_g C, and the noised count. A patient changes the first by at
    most C and the second by at most 1/2, so both together are one Gaussian mechanism of noise multiplier z with
    z^-2 = z_g^-2 + (2 sigma_b)^-2 (the paper's Theorem 1). sigma_b is B / 20, as in the paper, or 2 z if that is more,
    so that z_g is at most 3.3% above z.
    """

    quantile: float
    noise_multiplier: float
    expected: float

    @property
    def count_noise(self) -> float:
        """sigma_b."""
        return max(self.expected / 20, 2 * self.noise_multiplier)

    @property
    def gradient_multiplier(self) -> float:
        """z_g."""
        if not self.noise_multiplier:
            return 0.0
        return (self.noise_multiplier**-2 - (2 * self.count_noise) ** -2) ** -0.5

    def next_norm(self, clipping_norm: float, norms: torch.Tensor, noise: float) -> float:
        """C for the next step.

        Args:
            norms: |g_p| of the sampled patients before clipping, [patients]; one that isn't finite is above C.
            noise: drawn at deviation `count_noise`.
        """
        shifted = float((norms <= clipping_norm).double().sum()) - len(norms) / 2
        share = (shifted + noise) / self.expected + 0.5
        return clipping_norm * math.exp(-RATE * (share - self.quantile))
