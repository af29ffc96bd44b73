"""A sweep: one notebook over a grid of parameters, in a YAML file; stop it and start it again at will.

notebook: ../notebooks/00_quickstart.ipynb   # from the YAML file's folder
about: What the sweep is to find out.
parameters: {rounds: 10}                     # the same in all runs
grid:                                        # every combination is a run
  weighting: [films, uniform]
  seed: [0, 1, 2]
report: [local.mcc, federated.mcc]           # the results that the report shows
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import KitError
from ..storage import write_atomically
from ..yaml_files import read_mapping
from .run import Outcome, RunRequest, run

SWEEP_SUFFIX = ".sweep.json"
_KEYS = ("notebook", "about", "parameters", "grid", "report")


@dataclass(frozen=True)
class Sweep:
    """A checked sweep: its runs in order, the parameters that vary, and the results to report."""

    name: str
    about: str
    requests: tuple[RunRequest, ...]
    varying: tuple[str, ...]
    report: tuple[str, ...]


def load_sweep(path: str | Path) -> Sweep:
    """Read a sweep and check every run of it, so that nothing starts that a later typing error would stop.

    Raises: KitError naming the key, the parameter or the value that is wrong, and the nearest right one.
    """
    path = Path(path)
    content = read_mapping(path, "sweep", _KEYS)
    grid, fixed = content.get("grid") or {}, content.get("parameters") or {}
    if "notebook" not in content or not isinstance(grid, dict) or not grid or not isinstance(fixed, dict):
        raise KitError(f"{path} needs a `notebook` and a `grid` of parameters with lists of values.")
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise KitError(f"{path}: grid.{name} is {values!r}; it must be a list of values.")
        if name in fixed:
            raise KitError(f"{path}: {name} stands under `parameters` and under `grid`; choose one.")
    report = content.get("report") or []
    if not isinstance(report, list) or not all(isinstance(name, str) for name in report):
        raise KitError(f"{path}: report is {report!r}; it must be a list of results, for example [local.mcc, federated.mcc].")
    notebook = path.parent / str(content["notebook"])
    points = [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]
    requests = [RunRequest.make(notebook, {**fixed, **point}) for point in points]
    ids = [request.id for request in requests]
    if len(set(ids)) < len(ids):
        raise KitError(f"{path}: two runs of the grid are the same; a list has a value twice.")
    return Sweep(path.stem, str(content.get("about") or ""), tuple(requests), tuple(grid), tuple(report))


def run_sweep(
    sweep: Sweep, runs: str | Path = "runs", *, on_run: Callable[[int, RunRequest, Outcome | None], None] | None = None
) -> list[Outcome]:
    """Make every run that isn't finished. A failed one is recorded and the sweep goes on.

    Args:
        on_run: called as (index, request, None) before and (index, request, outcome) after each run.
    """
    plan = {
        "name": sweep.name, "about": sweep.about, "varying": sweep.varying, "report": sweep.report,
        "runs": [{"id": r.id, "parameters": r.parameters} for r in sweep.requests],
    }  # fmt: skip
    write_atomically(Path(runs) / f"{sweep.name}{SWEEP_SUFFIX}", json.dumps(plan, indent=1) + "\n")
    outcomes = []
    for index, request in enumerate(sweep.requests):
        if on_run:
            on_run(index, request, None)
        outcomes.append(run(request, runs, quiet=True))
        if on_run:
            on_run(index, request, outcomes[-1])
    return outcomes


def varying_part(request: RunRequest, sweep: Sweep) -> dict[str, Any]:
    """The parameters that tell a run from its neighbours."""
    return {name: request.parameters[name] for name in sweep.varying}
