"""What can be released about a hospital's patients, as an accountant sees it.

Every mechanism is for neighbours that differ by one unit (a patient, unless the ledger says otherwise) that is there or
isn't, "add or remove one"; its noise multiplier is the noise's standard deviation divided by the most that one unit
changes the released sum in L2 norm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

from ..errors import KitError, nearest

if TYPE_CHECKING:
    from dp_accounting import DpEvent

_KINDS: dict[str, type[Mechanism]] = {}


class Mechanism:
    """One release. A subclass is a frozen dataclass of numbers with a `kind` of its own, which ledgers store."""

    kind: ClassVar[str]
    by_rdp_alone: ClassVar[bool] = False  # whether no privacy loss distribution of it is known
    noise_multiplier: float

    def __init_subclass__(cls) -> None:
        _KINDS[cls.kind] = cls

    @property
    def is_private(self) -> bool:
        """False if the release has no noise, so that its ε is infinite."""
        return self.noise_multiplier > 0

    @property
    def squared_gap(self) -> float:
        """Of a release that isn't quite what `event` says: the square of how far it is from it, in total variation.

        It's so made that the squares of all releases of a history add up to that of the whole (they bound Hellinger
        distances, whose squares do).
        """
        return 0.0

    def event(self) -> DpEvent:
        """For dp-accounting's accountants."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, str | float]:
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Gaussian(Mechanism):
    """A sum over all units, with Gaussian noise (Dwork & Roth 2014, Appendix A).

    noise_multiplier: at least 0; 0 is a release without noise.
    """

    kind: ClassVar[str] = "gaussian"
    noise_multiplier: float

    def __post_init__(self) -> None:
        _check_noise(self.noise_multiplier)

    def event(self) -> DpEvent:
        from dp_accounting import GaussianDpEvent

        return GaussianDpEvent(self.noise_multiplier)


@dataclass(frozen=True)
class SampledGaussian(Mechanism):
    """A step of DP-SGD: a sum over a Poisson sample of the units, with Gaussian noise (Abadi et al. 2016).

    sampling_rate: the chance of each unit to be in the sample, above 0 and at most 1.
    noise_multiplier: σ / C, at least 0, where C is the norm to which each unit's gradient is clipped.
    """

    kind: ClassVar[str] = "sampled_gaussian"
    sampling_rate: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise KitError(f"The sampling rate is {self.sampling_rate:g}; it's a probability above 0 and at most 1.")
        _check_noise(self.noise_multiplier)

    def event(self) -> DpEvent:
        from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent

        gaussian = GaussianDpEvent(self.noise_multiplier)
        return gaussian if self.sampling_rate == 1 else PoissonSampledDpEvent(self.sampling_rate, gaussian)


@dataclass(frozen=True)
class SampledDiscreteGaussian(Mechanism):
    """A sum over a Poisson sample of units, each a vector of whole numbers, with discrete Gaussian noise, none of it rounded.

    It's accounted as a `SampledGaussian` of the same noise multiplier, rounded to whole numbers, from which it differs by
    total variation √values / (8 variance) at most; `privacy.distributed` has the proof.

    sampling_rate: the chance of each unit to be in the sample, above 0 and at most 1.
    noise_multiplier: the noise's standard deviation / the largest L2 norm of a unit's vector, above 0.
    values: how many whole numbers are released, at least 1.
    variance: of the noise on each, at least 10,000.
    """

    kind: ClassVar[str] = "sampled_discrete_gaussian"
    sampling_rate: float
    noise_multiplier: float
    values: int
    variance: int

    def __post_init__(self) -> None:
        SampledGaussian(self.sampling_rate, self.noise_multiplier)
        for name, number, least in (("values", self.values, 1), ("variance", self.variance, 10_000)):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise KitError(f"The discrete Gaussian's {name} is {number!r}; it's a whole number of at least {least:,}.")

    @property
    def squared_gap(self) -> float:
        return self.values / (64.0 * self.variance**2)

    def event(self) -> DpEvent:
        return SampledGaussian(self.sampling_rate, self.noise_multiplier).event()


@dataclass(frozen=True)
class RepeatAndSelect(Mechanism):
    """A random number of whole DP-SGD trainings, each with a score, of which only the best is ever shown to anybody.

    The number K is geometric, P[K = k] = (1 - 1/mean)^(k-1) / mean, and secret like the other trainings; these are
    independent and alike (Papernot & Steinke 2022, arXiv 2110.03620, Theorem 2 with eta = 1). Each spends `steps` steps and
    a noised score. The theorem is one of Rényi divergences, so nothing tighter is known: what is composed with it is
    accounted by RDP as well.

    mean: of K, at least 1. sampling_rate, noise_multiplier: of a step, see `SampledGaussian`. steps: of a training.
    score_noise: noise multiplier of what a score is worked out from; 0: scores don't look at private units.
    """

    kind: ClassVar[str] = "repeat_and_select"
    by_rdp_alone: ClassVar[bool] = True
    mean: int
    sampling_rate: float
    noise_multiplier: float
    steps: int
    score_noise: float

    def __post_init__(self) -> None:
        for name in ("mean", "steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise KitError(f"{name} is {value!r}; it's a whole number of at least 1.")
        SampledGaussian(self.sampling_rate, self.noise_multiplier)  # raises what it must
        _check_noise(self.score_noise)

    def event(self) -> DpEvent:
        from dp_accounting.dp_event import ComposedDpEvent, RepeatAndSelectDpEvent, SelfComposedDpEvent

        parts = [SelfComposedDpEvent(SampledGaussian(self.sampling_rate, self.noise_multiplier).event(), self.steps)]
        if self.score_noise:
            parts.append(Gaussian(self.score_noise).event())
        return RepeatAndSelectDpEvent(ComposedDpEvent(parts), float(self.mean), 1.0)


def mechanism_from_dict(stored: Mapping[str, object]) -> Mechanism:
    """The mechanism that `to_dict` was called of. Raises: KitError for a kind or numbers that aren't known."""
    numbers = dict(stored)
    kind = str(numbers.pop("kind", ""))
    if kind not in _KINDS:
        raise KitError(f"There is no mechanism {kind!r}{nearest(kind, _KINDS)}; there are {', '.join(sorted(_KINDS))}.")
    try:
        return _KINDS[kind](**numbers)
    except TypeError as error:
        raise KitError(f"A stored {kind} mechanism has other numbers than this version of the kit knows: {error}.") from error


def _check_noise(multiplier: float) -> None:
    if not 0 <= multiplier < math.inf:
        raise KitError(f"The noise multiplier is {multiplier:g}; it's a finite number, 0 (no noise) or above.")
