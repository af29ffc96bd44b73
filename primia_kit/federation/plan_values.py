"""A plan's values in their declared types, or a sentence."""

from __future__ import annotations

import types
import typing
from typing import Any, Literal

from ..errors import KitError, nearest


def checked(name: str, value: Any, hint: Any) -> Any:
    """The value in its declared type. An int passes for a float; a bool passes for nothing.

    Args:
        hint: the key's annotation: a Literal, tuple[str, ...], str, int or float.

    Raises: KitError that names the key and the value.
    """
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices or not isinstance(value, str):
            raise KitError(f"{name} is {value!r}{nearest(str(value), choices)}; it must be one of {', '.join(choices)}.")
        return value
    if isinstance(hint, types.GenericAlias):  # tuple[str, ...]
        if isinstance(value, str) or not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
            raise KitError(f"{name} is {value!r}; it must be a list of names.")
        return tuple(value)
    if hint is str and isinstance(value, str):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)
    article = {"int": "a whole number", "float": "a finite number", "str": "a text"}[hint.__name__]
    raise KitError(f"{name} is {value!r}; it must be {article}.")
