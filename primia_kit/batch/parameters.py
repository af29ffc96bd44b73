"""A notebook's parameters: the annotated, commented names of its cell tagged `parameters`."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import KitError, nearest

_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Parameter:
    """name: type = default  # help"""

    name: str
    type: str
    default: Any
    help: str


def notebook_parameters(path: str | Path) -> dict[str, Parameter]:
    """What a notebook can be told.

    Raises: KitError if it isn't there, isn't a notebook, or a parameter lacks its type annotation.
    """
    import ast

    from papermill import inspect_notebook

    path = Path(path)
    if not path.is_file():
        raise KitError(f"There is no notebook {path}.")
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        found = inspect_notebook(str(path))
    except Exception as error:  # nbformat, JSON and papermill raise a dozen kinds for a file that's no notebook
        raise KitError(f"{path} is not a notebook that papermill can read: {error}") from error
    parameters = {}
    for name, info in found.items():
        if info["inferred_type_name"] not in ("int", "float", "str", "bool"):
            raise KitError(f"{path}: parameter {name!r} needs an annotation: int, float, str or bool.")
        try:
            default = ast.literal_eval(info["default"])
        except (ValueError, SyntaxError) as error:
            raise KitError(f"{path}: the default of {name!r} must be a plain value without '#' in it.") from error
        parameters[name] = Parameter(name, info["inferred_type_name"], default, info["help"])
    return parameters


def check_parameters(path: str | Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a notebook with what is given put in, each in its declared type.

    Args:
        given: name -> value; texts (from a command line) are converted, other values must fit.
            Environment variables in texts are filled in; a text whose name ends in `_dir` or `_path` becomes
            an absolute path, so that it means the same in every working folder.

    Raises: KitError for a name that the notebook doesn't have, or a value that doesn't fit.
    """
    known = notebook_parameters(path)
    for name in given:
        if name not in known:
            names = ", ".join(known) or "none"
            raise KitError(f"{path} has no parameter {name!r}{nearest(str(name), known)}. Its parameters: {names}.")
    values = {name: parameter.default for name, parameter in known.items()}
    for name, value in given.items():
        values[name] = _convert(name, value, known[name].type)
    return values


def _convert(name: str, value: Any, type_name: str) -> Any:
    problem = KitError(f"Parameter {name} is {value!r}; it must be {_WANTED[type_name]}.")
    if type_name == "str":
        if not isinstance(value, str):
            raise problem
        value = _expand(name, value)
        return os.path.abspath(os.path.expanduser(value)) if value and name.endswith(("_dir", "_path")) else value
    if type_name == "bool":
        value = _TRUTH.get(value.lower()) if isinstance(value, str) else value
        if not isinstance(value, bool):
            raise problem
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise problem
    try:
        if type_name == "float":
            return float(value)
        if isinstance(value, float) and not value.is_integer():
            raise problem
        return int(value)
    except ValueError:
        raise problem from None


_WANTED = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text (in a sweep, put it in quotes)"}


def _expand(name: str, text: str) -> str:
    expanded = os.path.expandvars(text)
    if left := re.search(r"\$\{?(\w+)", expanded):
        raise KitError(f"Parameter {name} is {text!r}, but the environment variable {left.group(1)} isn't set.")
    return expanded
