"""What a search may vary: keys of the training plan, and the values that each can take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from ..errors import KitError, nearest
from .plan import TrainingPlan

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_FIXED = {  # key -> why it can't be searched
    **dict.fromkeys(("classes", "size", "geometry"), "the films were read for it"),
    **dict.fromkeys(("seed", "validation_share"), "the validation patients are drawn by it, so trials would be scored on others"),
    **dict.fromkeys(("start", "frozen"), "it belongs to the weights that training starts from"),
    **dict.fromkeys(
        ("privacy", "target_epsilon", "noise_multiplier", "delta", "statistics_noise", "noise", "colluders"),
        "it's what patients are promised, and less noise would always win",
    ),
}
_MOST_COMBINATIONS = 512  # that are tried in order to find a value possible


@dataclass(frozen=True)
class Choice:
    """One of these values: numbers and texts. A list in a space means the same."""

    values: tuple[int | float | str, ...]

    @property
    def some(self) -> tuple[int | float | str, ...]:
        return self.values

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)

    def told(self) -> Any:
        return list(self.values)


@dataclass(frozen=True)
class _Range:
    low: float
    high: float

    @property
    def some(self) -> tuple[float, float]:
        """Values that stand for all: if they are possible, so is what lies between."""
        return self.low, self.high

    def told(self) -> Any:
        return {_NAMES[type(self)]: [self.low, self.high]}


@dataclass(frozen=True)
class Uniform(_Range):
    """A number between `low` and `high`."""

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(float(self.low), float(self.high))


@dataclass(frozen=True)
class LogUniform(_Range):
    """A number between `low` and `high`, above 0, whose logarithm is uniform: for rates and sizes of a step."""

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(float(self.low), float(self.high), log=True)


@dataclass(frozen=True)
class Integers(_Range):
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high)


_NAMES = {Uniform: "uniform", LogUniform: "log_uniform", Integers: "integers"}
Values = Choice | Uniform | LogUniform | Integers
Space = dict[str, Values]


def check_space(plan: TrainingPlan, space: Mapping[str, Values | Sequence[Any]]) -> Space:
    """A space whose keys are a plan's, each with values that some plan of the space can have.

    Args:
        plan: gives every key that isn't searched.
        space: key -> a list of values, or `Uniform`, `LogUniform`, `Integers`.

    Raises: KitError that names the key, the value and, for an unknown key, the nearest right one.
    """
    known = [field.name for field in fields(TrainingPlan)]
    if not isinstance(space, Mapping) or not space:
        raise KitError('A search needs a space: {"learning_rate": LogUniform(1e-3, 1), "batch_size": [8, 16]}, for example.')
    checked: Space = {}
    for key, values in space.items():
        if key not in known:
            raise KitError(f"A training plan has no key {key!r}{nearest(str(key), known)}, so it can't be searched.")
        if key in _FIXED:
            raise KitError(f"{key} can't be searched: {_FIXED[key]}. Set it in the plan.")
        checked[key] = _checked(key, values)
    for key, values in checked.items():
        for value in values.some:
            _check_possible(plan, checked, key, value)
    return checked


def space_from_plain(space: Any) -> dict[str, Values | list[Any]]:
    """A space from YAML's or JSON's lists and mappings: {learning_rate: {log_uniform: [0.001, 1]}, batch_size: [8, 16]}.

    Raises: KitError for a mapping that names no kind of range, or not two ends.
    """
    kinds = {name: kind for kind, name in _NAMES.items()}
    if not isinstance(space, Mapping):
        raise KitError(f"The space is {space!r}; it must be a mapping from a plan's keys to lists or ranges.")
    found: dict[str, Values | list[Any]] = {}
    for key, values in space.items():
        if not isinstance(values, Mapping):
            found[str(key)] = values
            continue
        name, ends = next(iter(values.items()), ("", None))
        if len(values) != 1 or name not in kinds:
            raise KitError(f"space.{key} is {values!r}{nearest(str(name), kinds)}; a range is one of {', '.join(kinds)}.")
        if not isinstance(ends, Sequence) or isinstance(ends, str) or len(ends) != 2:
            raise KitError(f"space.{key}.{name} is {ends!r}; it must be [lowest, highest].")
        found[str(key)] = kinds[name](*map(_number, ends))
    return found


def space_to_plain(space: Space) -> dict[str, Any]:
    """What `space_from_plain` reads."""
    return {key: values.told() for key, values in space.items()}


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Optuna's own description of a space."""
    return {key: values.distribution() for key, values in space.items()}


def _checked(key: str, values: Any) -> Values:
    if isinstance(values, _Range):
        low, high = values.low, values.high
        for end in (low, high):
            if isinstance(end, bool) or not isinstance(end, (int, float)) or not math.isfinite(end):
                raise KitError(f"space.{key} ends at {end!r}; a range has two finite numbers.")
            if isinstance(values, Integers) and not isinstance(end, int):
                raise KitError(f"space.{key} ends at {end!r}; the ends of integers are whole numbers.")
        if not low < high:
            raise KitError(
                f"space.{key} runs from {low:g} to {high:g}; the first must be lower. For a single value, set the plan."
            )
        if isinstance(values, LogUniform) and low <= 0:
            raise KitError(f"space.{key} begins at {low:g}; a logarithmic range begins above 0.")
        return values
    listed = values.values if isinstance(values, Choice) else values
    if isinstance(listed, str) or not isinstance(listed, Sequence) or not listed:
        raise KitError(f"space.{key} is {values!r}; it must be a list of values, or Uniform, LogUniform or Integers.")
    if not all(isinstance(value, (int, float, str)) and not isinstance(value, bool) for value in listed):
        raise KitError(f"space.{key} is {list(listed)!r}; its values must be numbers or texts.")
    if len(set(listed)) < len(listed):
        raise KitError(f"space.{key} is {list(listed)!r}; a value stands in it twice.")
    return Choice(tuple(listed))


def _check_possible(plan: TrainingPlan, space: Space, key: str, value: Any) -> None:
    """Some plan of the space must have this value; which combinations go together is seen when one is drawn."""
    others = {name: values.some for name, values in space.items() if name != key}
    first: KitError | None = None
    for combination in itertools.islice(itertools.product(*others.values()), _MOST_COMBINATIONS):
        try:
            replace(plan, **{key: value}, **dict(zip(others, combination, strict=True)))
            return
        except KitError as error:
            first = first or error
    raise KitError(f"No plan of the space has {key} = {value!r}: {first}")


def _number(end: Any) -> Any:
    """YAML takes 1e-3, without a point, for a text."""
    if not isinstance(end, str):
        return end
    try:
        return float(end)
    except ValueError:
        raise KitError(f"{end!r} is no number, and a range has two.") from None
