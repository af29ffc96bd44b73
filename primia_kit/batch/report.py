"""What a folder of runs found: means and standard deviations over seeds, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import KitError
from ..figures import sweep_results
from ..storage import write_atomically
from .run import PROVENANCE, RESULT
from .sweep import SWEEP_SUFFIX

SEED = "seed"
MOST_METRICS = 4  # shown where a sweep doesn't say what to report


@dataclass(frozen=True)
class Report:
    """One sweep's findings.

    table: a row a parameter combination, with "n_runs", the number of finished runs, and for each metric its
        mean, "METRIC sd" (sample standard deviation over the seeds, NaN for a single one) and "METRIC n",
        in how many runs it was defined.
    failed: run id -> sentence. missing: ids of runs that haven't been made. written: the files of the report.
    """

    name: str
    about: str
    varying: tuple[str, ...]
    metrics: tuple[str, ...]
    table: pd.DataFrame
    failed: dict[str, str]
    missing: tuple[str, ...]
    written: tuple[Path, ...] = ()

    def to_markdown(self) -> str:
        """The table with "mean ± sd", then failed and missing runs."""
        head = (*(self.varying or ("parameters",)), "runs", *self.metrics)
        lines = [f"# {self.name}", "", self.about, "", _table_row(head), _table_row(["---"] * len(head))]
        for row in self.table.to_dict("records"):
            point = [row[name] for name in self.varying] or ["all"]
            lines.append(_table_row([*point, row["n_runs"], *(_mean_sd(row, metric) for metric in self.metrics)]))
        lines += ["", "runs: how many have finished; mean ± standard deviation over their seeds."]
        lines += [f"Failed: {run}: {sentence}" for run, sentence in self.failed.items()]
        if self.missing:
            lines.append(f"Missing: {len(self.missing)} run(s) haven't been made ({', '.join(self.missing)}).")
        return "\n".join(lines) + "\n"


def report(runs: str | Path) -> list[Report]:
    """Read every sweep in a folder of runs; write `NAME.md`, `NAME.csv` and `NAME.png` beside them.

    Raises: KitError if the folder has no sweep.
    """
    runs = Path(runs)
    sweeps = sorted(runs.glob(f"*{SWEEP_SUFFIX}"))
    if not sweeps:
        raise KitError(f"{runs} holds no sweep. Make one with: primia sweep sweeps/NAME.yaml --runs {runs}")
    reports = []
    for path in sweeps:
        found = _read(json.loads(path.read_text()), runs)
        stem = runs / path.name.removesuffix(SWEEP_SUFFIX)
        written = [
            write_atomically(f"{stem}.md", found.to_markdown()),
            write_atomically(f"{stem}.csv", found.table.to_csv(index=False)),
        ]
        if found.metrics:
            figure = sweep_results(found.table, found.varying, found.metrics)
            written.append(write_atomically(f"{stem}.png", lambda part, f=figure: f.savefig(part, format="png")))
        reports.append(replace(found, written=tuple(written)))
    return reports


def _read(plan: dict[str, Any], runs: Path) -> Report:
    varying = tuple(name for name in plan["varying"] if name != SEED)
    rows, failed, missing = [], {}, []
    for planned in plan["runs"]:
        folder = runs / planned["id"]
        if (folder / RESULT).is_file():
            rows.append({**{n: planned["parameters"][n] for n in varying}, **json.loads((folder / RESULT).read_text())})
            continue
        provenance = json.loads((folder / PROVENANCE).read_text()) if (folder / PROVENANCE).is_file() else {}
        if provenance.get("status") == "failed":
            failed[planned["id"]] = provenance["error"]
        else:
            missing.append(planned["id"])
    frame = pd.DataFrame(rows)
    if rows and (unknown := [m for m in plan["report"] if m not in frame]):
        raise KitError(f"The sweep {plan['name']} wants to report {unknown[0]!r}; its runs recorded {', '.join(frame.columns)}.")
    for metric in plan["report"] if rows else ():
        frame[metric] = pd.to_numeric(frame[metric], errors="coerce")  # undefined in every run, or no number
    numeric = [c for c in frame.select_dtypes("number") if c not in varying]
    metrics = tuple(plan["report"]) or tuple(c for c in numeric if frame[c].dtype.kind == "f")[:MOST_METRICS]
    table = _summarise(frame, varying, numeric)
    return Report(plan["name"], plan["about"], varying, metrics if rows else (), table, failed, tuple(missing))


def _summarise(frame: pd.DataFrame, varying: tuple[str, ...], numeric: list[str]) -> pd.DataFrame:
    if frame.empty:
        return pd.DataFrame(columns=[*varying, "n_runs"])
    groups = frame.groupby(list(varying), sort=False) if varying else frame.groupby(lambda _: 0)
    columns = {"n_runs": groups.size()}
    for name in numeric:
        values = groups[name]
        columns |= {name: values.mean(), f"{name} sd": values.std(ddof=1), f"{name} n": values.count()}
    return pd.DataFrame(columns).reset_index(drop=not varying)


def _table_row(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _mean_sd(row: Mapping[str, Any], metric: str) -> str:
    if not row[f"{metric} n"]:
        return "not defined"
    spread = "" if pd.isna(row[f"{metric} sd"]) else f" ± {row[f'{metric} sd']:.3f}"
    defined = "" if row[f"{metric} n"] == row["n_runs"] else f" (defined in {row[f'{metric} n']})"
    return f"{row[metric]:.3f}{spread}{defined}"
