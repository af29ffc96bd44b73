"""The command `primia search`: hyper-parameters over the federation, by a YAML file."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import KitError, nearest
from .yaml_files import read_mapping

if TYPE_CHECKING:
    from .federation import SearchResult, Site, TrainingPlan

_OPTIONS = ("metric", "sampler", "pruning", "charge", "score_noise", "budget", "ledgers")  # arguments of federation.search
_KEYS = ("about", "films", "plan", "space", "trials", "public", *_OPTIONS)
_REQUIRED = ("plan", "space", "trials")
_FILMS = ("data_dir", "sites", "how", "alpha", "patients", "seed")  # arguments of data.open_films
_HELP = """\
Try many training plans over the hospitals, and find the one whose model does best
on their validation films. Test films have no part in it.

  primia search sweeps/search.yaml --dry-run      is the file right, and what it asks for
  primia search sweeps/search.yaml                stop it when you like: the same command goes on
  primia search sweeps/search.yaml --trials 40    more of the same search

FOLDER/report.md, .csv, .png    trials, the best first; scores over the keys that were searched
FOLDER/plan.json                the best plan: TrainingPlan.from_json(text)
FOLDER/trials/                  each trial; the best one's checkpoint is kept

The file's keys:
  films     where films come from: data_dir, sites, how, alpha, patients, seed
            (nothing: three synthetic hospitals)
  plan      keys of the training plan that all trials share
  space     keys that vary: a list of values, or {uniform: [a, b]},
            {log_uniform: [a, b]}, {integers: [a, b]}
  trials    how many
  metric    mcc (default), accuracy, balanced_accuracy, sensitivity.CLASS,
            specificity.CLASS: what a sum of the sites' confusion matrices tells
  sampler   tpe (default) or random
  pruning   none (default) or median: end trials that do badly early
  public    films of public patients, described like films: the search looks at these alone
  charge    composition: a private plan's trials on private films, charged to the ledgers;
            with score_noise (of the scores), budget (an epsilon that isn't passed) and
            ledgers (their folder; default in the search's own)

WHAT A SEARCH TELLS. It looks at films again in every trial. Without privacy in the
plan, its folder holds exact scores on private films: it's private data, made for its
owner alone (mode 0700). A private plan is searched on public films, for nothing, or
charged for all its trials; anything else is refused.
"""


def add_command(commands, plain) -> None:
    """Add `search` to the command line's subparsers; `plain` is their formatter."""
    command = commands.add_parser("search", help="hyper-parameters over the federation", description=_HELP, formatter_class=plain)
    command.add_argument("search", type=Path, metavar="SEARCH.yaml")
    command.add_argument("--folder", type=Path, metavar="DIR", help="the search's folder (default: searches/NAME)")
    command.add_argument("--trials", type=int, metavar="N", help="instead of the file's")
    command.add_argument("--dry-run", action="store_true", help="check the file and show it, but train nothing")
    command.set_defaults(command=_search)


def _search(options: argparse.Namespace) -> int:
    from .federation import TrainingPlan, check_space, search, space_from_plain

    path, content = options.search, read_search(options.search)
    plan = TrainingPlan.from_dict(content["plan"])
    space = check_space(plan, space_from_plain(content["space"]))
    trials = content["trials"] if options.trials is None else options.trials
    folder = options.folder or Path("searches") / path.stem
    if content.get("about"):
        print(content["about"].strip(), end="\n\n")
    if options.dry_run:
        print(plan)
        print("\nSearched:", *(f"{key}: {values.told()}" for key, values in space.items()), sep="\n  ")
        print(f"\n{trials} trial(s) in {folder}. Nothing was trained.")
        return 0
    sites = _sites(content.get("films"), plan)
    public = None if content.get("public") is None else [_renamed(s, content["public"]) for s in _sites(content["public"], plan)]
    chosen = {name: content[name] for name in _OPTIONS if name in content}
    result = search(plan, sites, space, trials=trials, folder=folder, public=public, on_trial=_tell, **chosen)
    written = write_report(result, folder, path.stem, str(content.get("about") or ""))
    best = result.best
    print(f"\nBest: trial {best.number}, {result.metric} {best.score:.3f}, of {len(result.trials)}:")
    print(*(f"  {key}  {value}" for key, value in best.values.items()), sep="\n")
    print(f"\n{result.cost}\nWritten:", *written)
    return 0


def read_search(path: Path) -> dict[str, Any]:
    """A search's file, its keys checked.

    Raises: KitError that names an unknown key and the nearest right one, or one that is missing.
    """
    content = read_mapping(path, "search", _KEYS, _REQUIRED)
    for key in ("plan", "films", "public"):
        if not isinstance(content.get(key) or {}, dict):
            raise KitError(f"{path}: {key} is {content[key]!r}; it must be a mapping.")
    for part in ("films", "public"):
        for key in content.get(part) or {}:
            if key not in _FILMS:
                raise KitError(
                    f"{path}: {part} has an unknown key {key!r}{nearest(str(key), _FILMS)}; it has {', '.join(_FILMS)}."
                )
    content["plan"] = content["plan"] or {}
    return content


def write_report(result: SearchResult, folder: Path, name: str, about: str = "") -> list[Path]:
    """Write `report.md`, `.csv`, `.png` and `plan.json` into the search's folder, for its owner alone; returns their paths."""
    from .figures import search_scores
    from .storage import write_atomically

    table, figure = result.table(), search_scores(result)
    lines = [f"# {name}", "", about.strip(), "", result.cost, ""]
    lines += [_row(table.columns), _row(["---"] * len(table.columns))]
    lines += [_row(map(_shown, row)) for row in table.itertuples(index=False)]
    lines += ["", f"The best trial's plan has SHA-256 {result.best.sha256}.", ""]
    parts = {
        "report.md": "\n".join(lines),
        "report.csv": table.to_csv(index=False),
        "report.png": lambda part: figure.savefig(part, format="png"),
        "plan.json": result.plan.to_json() + "\n",
    }
    return [write_atomically(folder / part, content, mode=0o600) for part, content in parts.items()]


def _sites(films: dict[str, Any] | None, plan: TrainingPlan) -> list[Site]:
    import os

    from .data import open_films
    from .federation import load_sites
    from .progress import Progress

    films = dict(films or {})
    if "data_dir" in films:
        films["data_dir"] = os.path.expanduser(os.path.expandvars(str(films["data_dir"])))
    return load_sites(open_films(**films, progress=Progress()), plan, validation=True, progress=Progress())


def _renamed(site: Site, films: dict[str, Any]) -> Site:
    """A site of public films. Synthetic children are others than those of the same names that another seed drew."""

    def apart(part):
        return part and replace(part, patients=tuple(f"public {patient}" for patient in part.patients))

    if not films.get("data_dir"):
        site = replace(site, train=apart(site.train), test=apart(site.test), validation=apart(site.validation))
    return replace(site, name=f"public {site.name}")


def _tell(trial, total: int, best) -> None:
    score = "" if trial.score is None else f" {trial.score:.3f}"
    tried = " ".join(f"{key}={_shown(value)}" for key, value in trial.values.items())
    reason = f": {trial.reason}" if trial.reason else ""
    leads = "" if best is None else f" (best: {best.score:.3f}, trial {best.number})"
    print(f"[{trial.number + 1}/{total}] {tried} ... {trial.state}{score}{reason}{leads}", flush=True)


def _row(cells) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}"
    return str(value).replace("|", "\\|")
