"""Noise that no hospital adds alone: shares of it go into the secure sum, and only the sum carries the whole.

    C  clipping norm    d  values released       m  hospitals that are in the sum, at least
    z  noise multiplier K  the bound of a unit's vector of whole numbers, in L2 norm       c  hospitals that may collude
    s  scale            h = m - c, the shares counted on

This is the distributed discrete Gaussian mechanism of Kairouz, Liu & Steinke 2021 (arXiv 2102.06387), without
its random rotation, which only helps where a sum has a few bits. One step:

    1. Each hospital samples its patients and forms each one's gradient g_p.
    2. v_p = s g_p min(1, C / |g_p|).
    3. r_p = v_p with each value rounded up or down at random, so that its mean is v_p's; drawn again until |r_p|^2 <= K^2,
       which is checked in whole numbers.
    4. The hospital sends sum_p r_p + Z to the secure sum, with Z a discrete Gaussian on each value (`discrete_gaussian`).
    5. The sum modulo 2^32, read with its sign, / s is sum_p of all hospitals' clipped gradients, with noise.

A patient changes the sum by r_p, of norm K at most: nothing is added in floating point. (That g_p is a function of p alone
is up to who forms it.) K and s belong together by step 3 (Theorem 1 there, at β = e^-1/2):
K^2 = (s C)^2 + d / 4 + s C + √d / 2, so that a try succeeds with a chance of 0.39 at least (about 0.9 for a gradient that was
clipped, 1 for much shorter ones).

How it's accounted. Let N be the sum of h shares' noise, of variance μ, and G = round(normal noise of variance μ).

    a. P(N = k) = φ(k) (1 ± 2^-100) with φ the normal density (`discrete_gaussian`), and P(G = k) is the mean of φ over
       [k - 1/2, k + 1/2], which is φ(k) times something between e^(-1 / (8 μ)) and e^(k^2 / (24 μ^2)). So the logarithm of
       their ratio is (3 + k^2 / μ) / (24 μ) at most, on either side.
    b. Hence their squared Hellinger distance is at most E[b^2 e^b] / 8 <= 0.0055 / μ^2, for b = (3 + x^2) / (24 μ) with x
       standard normal.
    c. It adds up over independent values, and over steps that depend on what came before. So all that n values tell, over
       all steps, is within total variation √(2 n 0.0055) / μ < √n / (8 μ) of what it would be with G for N.
    d. With G, the sum is round(sum_p r_p + normal noise): a Gaussian mechanism of sensitivity K, then rounded. Poisson
       samples amplify it as they do DP-SGD's. `SampledDiscreteGaussian` is this with c's distance.

Usual terms put that distance at 10^-9 or less. It's multiplied by 1 + e^ε (see `accounting`), so where ε comes to 10 or
more, which promises little anyway, it may count as infinite. More shares than h, or the modulus, are post-processing.
Rounding (step 3) is of each patient alone, so all this holds for whatever it draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from ..errors import KitError
from .discrete_gaussian import NARROWEST, WIDEST, discrete_gaussian, largest, variance
from .mechanisms import SampledDiscreteGaussian
from .randomness import NoiseSource

RING = 2**32
_TRIES = 64  # of rounding, each with a chance of 0.39 at least
_RARE = 100 * math.log(2)  # a sample that is larger than planned for has a chance of 2^-100


@dataclass(frozen=True)
class DistributedNoise:
    """What all hospitals of a run agree on; public.

    noise_multiplier: z, of the sum of `shares` shares: the least that's charged.
    clipping_norm: C.
    values: d.
    shares: h, at least 1.
    width: of each share, see `discrete_gaussian`.

    Raises: KitError if rounding would be coarser than the patients' vectors are long.
    """

    noise_multiplier: float
    clipping_norm: float
    values: int
    shares: int
    width: int

    def __post_init__(self) -> None:
        if not 0 < self.noise_multiplier < math.inf:
            raise KitError(f"The noise multiplier is {self.noise_multiplier:g}; shares of noise need a finite one above 0.")
        if self.shares < 1 or self.values < 1:
            raise KitError(f"There are {self.shares} shares of noise on {self.values} values; there must be 1 of each.")
        if self.squared_bound < self.values:
            raise KitError(
                f"A noise multiplier of {self.noise_multiplier:g} leaves whole numbers too coarse for {self.values:,} "
                "parameters: lower it, or freeze more layers."
            )

    @classmethod
    def fitted(
        cls, noise_multiplier: float, clipping_norm: float, values: int, *, shares: int, sites: int, sampled: int
    ) -> DistributedNoise:
        """The finest for which the sum of `sites` hospitals can't wrap round, if none of them samples more than `sampled`.

        Raises: KitError if the coarsest could, or is too coarse.
        """
        for width in range(WIDEST, NARROWEST - 1, -2):
            terms = cls(noise_multiplier, clipping_norm, values, shares, width)
            if terms.largest(sampled) <= terms.room(sites):
                return terms
        raise KitError(
            f"A noise multiplier of {noise_multiplier:g} is too little for {sites} hospitals that sample up to {sampled} units "
            "each: their sum could leave 32 bits. Raise it, or sample fewer (batch_size)."
        )

    @property
    def share_variance(self) -> int:
        """Of one hospital's noise on each value, in squared steps."""
        return variance(self.width)

    @cached_property
    def squared_bound(self) -> int:
        """K^2: z = √(shares · share_variance / K^2), but for its rounding down."""
        return int(self.shares * self.share_variance / Fraction(self.noise_multiplier) ** 2)

    @cached_property
    def scale(self) -> float:
        """s, steps for a unit of the gradient."""
        root = math.sqrt(self.values)
        return (math.sqrt(0.25 + self.squared_bound - self.values / 4 - root / 2) - 0.5) / self.clipping_norm

    def mechanism(self, sampling_rate: float, shares: int | None = None) -> SampledDiscreteGaussian:
        """One step, for a hospital with this rate.

        shares: how many are counted on, if others than planned for: 1 if all other hospitals collude, m if none does.
        """
        total = (self.shares if shares is None else shares) * self.share_variance
        return SampledDiscreteGaussian(sampling_rate, math.sqrt(total / self.squared_bound), self.values, total)

    def room(self, sites: int) -> int:
        """The largest magnitude that each of `sites` hospitals may send."""
        return (RING // 2 - 1) // sites

    def largest(self, sampled: int) -> int:
        """The largest magnitude that a hospital with as many sampled units can send."""
        return sampled * math.isqrt(self.squared_bound) + largest(self.width)

    def rounded(self, gradient: np.ndarray, source: NoiseSource) -> np.ndarray:
        """A unit's part in the sum (steps 2 and 3): int64 [d] of L2 norm K at most; zeros for a gradient that isn't finite.

        Args:
            gradient: float [d], not clipped yet.
        """
        gradient = gradient.astype(np.float64)  # a copy, worked on in place: fresh pages cost more than sums
        with np.errstate(over="ignore"):
            norm = math.sqrt(float(gradient @ gradient))
        if not math.isfinite(norm):
            return np.zeros(len(gradient), np.int64)
        fraction = gradient
        fraction *= self.scale * min(1.0, self.clipping_norm / max(norm, 1e-300))
        floor = np.floor(fraction)
        fraction -= floor
        whole = floor.astype(np.int64)
        fraction *= 2.0**53
        up = fraction.astype(np.int64).view(np.uint64)
        for _ in range(_TRIES):
            words = source.uniform_words(len(whole))
            words >>= np.uint64(11)
            found = whole + (words < up)
            if int(found @ found) <= self.squared_bound:
                return found
        return whole + ((whole < 0) & (up > 0))  # towards zero: not longer than what is rounded

    def share(self, source: NoiseSource) -> np.ndarray:
        """One hospital's noise (step 4): int64 [d]."""
        return discrete_gaussian(source, self.values, self.width)


def most_sampled(units: int, expected: float) -> int:
    """How many of a hospital's units a Poisson sample has at most, but for a chance of 2^-100 (Bernstein's inequality)."""
    return min(units, math.ceil(expected + math.sqrt(2 * expected * _RARE) + _RARE / 3))
