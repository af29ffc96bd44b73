"""Whether loops are compiled by numba in this process, or done in numpy."""

from __future__ import annotations

import importlib
import os
from functools import cache
from types import ModuleType


def loops(package: str) -> ModuleType:
    """`package`.in_numba, or `package`.in_numpy, with the same functions and the same words.

    numpy's are for machines on which numba can't be imported, and for PRIMIA_KERNELS=torch, "nothing compiled".
    """
    return importlib.import_module(f"{package}.in_{'numba' if compiles() else 'numpy'}")


def compiles() -> bool:
    """True if numba is to be used; imports it."""
    return os.environ.get("PRIMIA_KERNELS") != "torch" and _numba_is_here()


@cache
def _numba_is_here() -> bool:
    try:
        importlib.import_module("numba")
    except ImportError:
        return False
    return True
