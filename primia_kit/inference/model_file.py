"""A compiled model on the model owner's disk: the public program and the private weights in one `.npz`, without pickle."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import KitError
from ..mpc.program import Program
from ..storage import write_atomically

_PROGRAM, _WEIGHTS, _BIAS = "program", "weights/", "bias/"


def save_compiled(path: str | Path, program: Program, weights: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    """Write program and weights of `compile_private` to one file, mode 0600. Raises: KitError if it can't be written."""
    arrays = {_PROGRAM: np.frombuffer(program.to_json().encode(), np.uint8)}
    for name, (array, bias) in weights.items():
        arrays[_WEIGHTS + name], arrays[_BIAS + name] = array, bias

    def write(temporary: Path) -> None:
        os.chmod(temporary, 0o600)  # the weights are the model owner's secret
        with temporary.open("wb") as file:
            np.savez(file, **arrays)

    return write_atomically(path, write)


def load_compiled(path: str | Path) -> tuple[Program, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """(program, weights) of a file of `save_compiled`. Raises: KitError, one sentence that names the file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            program = Program.from_json(file[_PROGRAM].tobytes().decode())
            names = [name.removeprefix(_WEIGHTS) for name in file.files if name.startswith(_WEIGHTS)]
            return program, {name: (file[_WEIGHTS + name], file[_BIAS + name]) for name in names}
    except OSError as error:
        raise KitError(f"{path} can't be read ({error.strerror or error}).") from error
    except (KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, EOFError) as error:
        raise KitError(f"{path} holds no compiled model: write it with `primia compile`.") from error
