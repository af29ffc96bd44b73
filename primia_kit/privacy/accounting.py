"""ε from a history of releases, and the noise that a wanted ε needs.

Three accountants, for the same neighbours (a unit added or removed): "pld" composes privacy loss distributions (Koskela et
al. 2020; Doroshenko et al. 2022, dp-accounting's upper bound) and is the tightest and the kit's own; "prv" (Gopi et al.
2021, Opacus) does much the same by other code, and serves as a check; "rdp" (Mironov 2017, dp-accounting) is some 10% above.

A release of which only the distance from an accounted one is known (`Mechanism.squared_gap`) is composed as that one. Let
the whole history be within g of what was accounted, in total variation, for any patients. Then

    Pr[S] <= Pr'[S] + g <= e^ε Pr'_neighbour[S] + δ' + g <= e^ε (Pr_neighbour[S] + g) + δ' + g,

so an ε that the accountant gives at δ' = δ - (1 + e^ε) g holds at δ. So histories of all kinds have one accountant.

A history with a release that has no privacy loss distribution (`Mechanism.by_rdp_alone`) is composed by RDP as a whole, by
"pld" too: divergences of all releases add up, and the conversion to (ε, δ) is paid for once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

from ..errors import KitError
from .mechanisms import Gaussian, Mechanism, SampledGaussian

ACCOUNTANTS = ("pld", "prv", "rdp")
History = Sequence[tuple[Mechanism, int]]  # what was released, and how often
_ORDERS = (*range(2, 64), 80, 128, 256, 512, 1024)  # whole ones alone: at others the sum may fail to converge
_HOPELESS = 512.0  # an ε that promises nothing: not worth PLD's tighter bound, which is inf where e^ε overflows, near 700


def epsilon(history: History, delta: float, accountant: str = "pld") -> float:
    """The ε of everything in a history together, at one δ: an upper bound ("prv": about 0.01 above).

    Args:
        history: mechanisms, and how often each was applied; their order doesn't count.
        delta: above 0, below 1.
        accountant: "pld", "prv" or "rdp".

    Returns: ε; 0 for an empty history, infinity if anything in it has no noise.
    Raises: KitError for a δ, a count or an accountant that can't be, and for "prv" of anything but Gaussians.
    """
    check_delta(delta)
    if accountant not in ACCOUNTANTS:
        raise KitError(f"The accountant is {accountant!r}; it must be one of {', '.join(ACCOUNTANTS)}.")
    counts: Counter[Mechanism] = Counter()
    for mechanism, count in history:
        counts[mechanism] += check_count(count)
    if not counts:
        return 0.0
    if not all(mechanism.is_private for mechanism in counts):
        return math.inf
    return _epsilon(frozenset(counts.items()), delta, accountant)


def calibrate(
    target_epsilon: float, delta: float, sampling_rate: float, steps: int, before: History = (), *,
    mechanism: Callable[[float], Mechanism] | None = None,
) -> float:  # fmt: skip
    """The least noise multiplier with which `steps` steps of DP-SGD stay within an ε.

    1. Find lo, hi with ε(lo) > target ≥ ε(hi), starting from 1 and doubling or halving.
    2. Take the next σ where a straight line through log ε over log σ meets the target, but well inside of [lo, hi].
    3. Stop at hi ≤ 1.001 lo: hi is at most 0.1% above the least, and its own ε was found to be within the target.

    Args:
        target_epsilon: above 0.
        delta: above 0, below 1.
        sampling_rate: of units, above 0 and at most 1.
        steps: at least 1.
        before: what was spent already; it counts towards the target.
        mechanism: a step of noise multiplier σ; default a `SampledGaussian`.

    Returns: the noise multiplier σ.
    Raises: KitError for numbers that can't be, and if `before` alone leaves nothing of the target.
    """
    if not 0 < target_epsilon < math.inf:
        raise KitError(f"The wanted epsilon is {target_epsilon:g}; it's a finite number above 0.")
    check_count(steps)
    if (spent := epsilon(before, delta)) >= target_epsilon:
        raise KitError(f"No noise is enough: epsilon {spent:.4g} was spent before, of a target of {target_epsilon:g}.")

    def excess(log_sigma: float) -> float:
        sigma = math.exp(log_sigma)
        step = mechanism(sigma) if mechanism else SampledGaussian(sampling_rate, sigma)
        found = epsilon([*before, (step, steps)], delta)
        return math.log(min(max(found, 1e-12), 1e12) / target_epsilon)

    lo = hi = 0.0
    at_lo = at_hi = excess(0.0)
    while at_hi > 0:
        lo, at_lo, hi = hi, at_hi, hi + math.log(2)
        if hi > math.log(1e6):
            raise KitError(f"Noise of a million times the clipping norm isn't enough for epsilon {target_epsilon:g}: raise it.")
        at_hi = excess(hi)
    while at_lo <= 0:
        hi, at_hi, lo = lo, at_lo, lo - math.log(2)
        at_lo = excess(lo)
    while hi - lo > math.log(1.001):
        margin = max(0.05 * (hi - lo), 0.4 * math.log(1.001))
        middle = min(max(lo + (hi - lo) * at_lo / (at_lo - at_hi), lo + margin), hi - margin)
        if (at_middle := excess(middle)) > 0:
            lo, at_lo = middle, at_middle
        else:
            hi, at_hi = middle, at_middle
    return math.exp(hi)


def check_delta(delta: float) -> float:
    if not 0 < delta < 1:
        raise KitError(f"Delta is {delta:g}; it's a probability above 0 and below 1, e.g. 1e-5.")
    return delta


def check_count(count: int) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise KitError(f"A mechanism was applied {count!r} times; that's a whole number of at least 1.")
    return count


@lru_cache(maxsize=4096)
def _epsilon(counts: frozenset[tuple[Mechanism, int]], delta: float, accountant: str) -> float:
    ordered = sorted(counts, key=repr)  # composition rounds, so that the order would show in the last digits
    gap = math.sqrt(sum(mechanism.squared_gap * count for mechanism, count in ordered))
    epsilon_at = {"pld": _pld, "prv": _prv, "rdp": _rdp}[accountant](ordered, delta)
    return _widened(epsilon_at, delta, gap) if gap else epsilon_at(delta)


def _widened(epsilon_at: Callable[[float], float], delta: float, gap: float) -> float:
    """An ε that holds at δ, near the least: of releases within `gap` of those of which `epsilon_at` tells it."""
    found = 0.0
    for _ in range(100):
        room = delta - (1 + math.exp(min(found, 700.0))) * gap
        if room <= 0:
            return math.inf
        if (needed := epsilon_at(room)) <= found:
            return found
        found = needed * (1 + 2.0**-20)
    return math.inf


def _pld(counts: Sequence[tuple[Mechanism, int]], delta: float) -> Callable[[float], float]:
    from dp_accounting.pld import PLDAccountant

    by_rdp = _rdp(counts, delta)
    bound = by_rdp(delta)
    if bound == 0 or bound > _HOPELESS or any(mechanism.by_rdp_alone for mechanism, _ in counts):
        return by_rdp
    # PLD tells privacy losses in intervals, which makes ε too large by about steps x interval^2. This fraction of ε is right
    # to three digits, and takes 0.1 to 1 s; where losses are spread far wider than ε, no finer than a part of their spread.
    steps = sum(count for _, count in counts)
    fine = bound * 2.0**-13 / max(1.0, math.sqrt(steps / 10_000))
    spread = max(8 / mechanism.noise_multiplier + 0.5 / mechanism.noise_multiplier**2 for mechanism, _ in counts)
    interval = 2.0 ** math.floor(math.log2(max(fine, spread * 2.0**-17)))
    accountant = PLDAccountant(value_discretization_interval=interval)
    for mechanism, count in counts:
        accountant.compose(mechanism.event(), count)
    return lambda at: float(accountant.get_epsilon(at))


def _rdp(counts: Sequence[tuple[Mechanism, int]], delta: float) -> Callable[[float], float]:
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(_ORDERS)
    for mechanism, count in counts:
        accountant.compose(mechanism.event(), count)
    return lambda at: float(accountant.get_epsilon(at))


def _prv(counts: Sequence[tuple[Mechanism, int]], delta: float) -> Callable[[float], float]:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    for mechanism, count in counts:
        if not isinstance(mechanism, (Gaussian, SampledGaussian)):
            raise KitError(f"Opacus's PRV accountant knows Gaussian mechanisms alone, not {mechanism}: use 'pld' or 'rdp'.")
        accountant.history.append((mechanism.noise_multiplier, getattr(mechanism, "sampling_rate", 1.0), count))
    return lambda at: float(accountant.get_epsilon(at))
