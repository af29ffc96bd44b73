"""The command `primia`: notebooks as batches, films without their patients, parties of an encrypted inference."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import __version__, search_command
from .compile_command import add_command
from .errors import KitError
from .party_commands import add_commands

_RUN_HELP = """\
Execute a notebook with papermill and keep what came of it in RUNS/<id>/:
notebook.ipynb, result.json (what the notebook recorded) and provenance.json.
The same notebook, parameters, code and packages are never run twice.

  primia run notebooks/00_quickstart.ipynb
  primia run notebooks/00_quickstart.ipynb -p rounds=30 -p seed=1
  primia run notebooks/00_quickstart.ipynb -p data_dir=/films/kermany --html
  primia run notebooks/00_quickstart.ipynb --list      what it can be told
"""
_SWEEP_HELP = """\
Run a notebook over a grid of parameters that a YAML file names (see sweeps/).
All parameters are checked before anything runs. Stop it with Ctrl-C, by a kill
or a power cut: the same command goes on with the runs that aren't finished.

  primia sweep sweeps/weighting.yaml --dry-run        what would run
  primia sweep sweeps/weighting.yaml
  primia report runs
"""
_REPORT_HELP = """\
Gather the sweeps in a folder of runs: mean ± standard deviation over seeds for
every parameter combination, failed and missing runs apart. Writes NAME.md,
NAME.csv and NAME.png beside the runs.
"""
_DEIDENTIFY_HELP = """\
Copy the films below IN to OUT without what tells whose they are: DICOM by the
Basic Profile of PS3.15 Annex E, PNG, JPEG, TIFF and BMP as bare pixels. Of what
stays in a header only the equipment's make and model are free text; the rest are
numbers, the standard's terms and codes, and UIDs made with the key. Every file is
read again and searched for the names, numbers, dates and UIDs of its original, in
usual spellings, before it takes its place in OUT: who isn't named in the header
isn't searched for, and odd spellings can be missed. IN is never changed.

  primia deidentify export/ films/
  primia deidentify export/ films/ --labels normal,bacterial,viral --site A
  primia deidentify export/ films/ --key /secure/hospital.key

OUT/PATIENT/FILM.dcm   names are pseudonyms (HMAC-SHA256 with the hospital's key)
OUT/manifest.csv       if labels are known (folders a label, or IN's manifest.csv), else films.csv
OUT/deidentification.json   what was removed from each film and why; no values, no old names

The key is made on first use and stays at the hospital: whoever holds it can
find a known patient again in OUT. The picture is never changed. LOOK AT THE
FILMS: a name burned into the picture can't be told from the header.

Exit status: 0 done, 1 some films were refused (the rest is done), 2 a mistake
in the call. A run that was stopped goes on with the same command.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns: the exit status: 0 done, 1 a run failed or a film was refused, 2 a mistake in the call, 130 stopped.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return options.command(options)
    except KitError as error:
        print(f"primia: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where this one left off.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="primia", description="PriMIA Kit: privacy-preserving medical imaging in notebooks.")
    parser.add_argument("--version", action="version", version=f"primia-kit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="execute a notebook with parameters", description=_RUN_HELP, formatter_class=plain)
    run.add_argument("notebook", type=Path)
    run.add_argument(
        "-p", dest="parameters", metavar="NAME=VALUE", action="append", default=[], help="a parameter; may be repeated"
    )
    run.add_argument("--list", action="store_true", help="show the notebook's parameters and stop")
    run.add_argument("--html", action="store_true", help="write the executed notebook as a page, too")
    run.add_argument("--again", action="store_true", help="repeat a run that is finished")
    run.set_defaults(command=_run)

    sweep = commands.add_parser(
        "sweep", help="run a notebook over a grid of parameters", description=_SWEEP_HELP, formatter_class=plain
    )
    sweep.add_argument("sweep", type=Path, metavar="SWEEP.yaml")
    sweep.add_argument("--dry-run", action="store_true", help="check everything and list the runs, but make none")
    sweep.set_defaults(command=_sweep)
    for command in (run, sweep):
        command.add_argument(
            "--runs", type=Path, default=Path("runs"), metavar="DIR", help="the folder of all runs (default: runs)"
        )

    report = commands.add_parser(
        "report", help="tables and plots of finished sweeps", description=_REPORT_HELP, formatter_class=plain
    )
    report.add_argument("runs", type=Path, metavar="DIR")
    report.set_defaults(command=_report)

    search_command.add_command(commands, plain)

    deidentify = commands.add_parser(
        "deidentify", help="films without their patients", description=_DEIDENTIFY_HELP, formatter_class=plain
    )
    deidentify.add_argument("source", type=Path, metavar="IN", help="the folder of the originals")
    deidentify.add_argument("target", type=Path, metavar="OUT", help="the folder to give away, outside IN")
    deidentify.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="the hospital's key (default: primia-kit/hospital.key in the user's config folder)",
    )
    deidentify.add_argument("--labels", default="", metavar="A,B", help="the folder names in IN that are labels")
    deidentify.add_argument("--site", default="", metavar="NAME", help="the site of all films in the manifest, for example A")
    deidentify.add_argument(
        "--text",
        choices=("auto", "yes", "no"),
        default="auto",
        help="look for writing in the pixels with the extra `ocr` (auto: if it is installed)",
    )
    deidentify.set_defaults(command=_deidentify)
    add_command(commands, plain)
    add_commands(commands, plain)
    return parser


def _run(options: argparse.Namespace) -> int:
    from .batch.parameters import notebook_parameters
    from .batch.run import HTML, NOTEBOOK, RunRequest, run

    if options.list:
        for parameter in notebook_parameters(options.notebook).values():
            print(f"{parameter.name}: {parameter.type} = {parameter.default!r}  # {parameter.help}")
        return 0
    request = RunRequest.make(options.notebook, _assignments(options.parameters))
    print(f"Run {request.id} of {options.notebook}", flush=True)
    outcome = run(request, options.runs, html=options.html, again=options.again)
    if outcome.status in ("failed", "busy"):
        print(f"primia: {outcome.status}: {outcome.error}\nSee {outcome.folder / NOTEBOOK}", file=sys.stderr)
        return 1
    if outcome.status == "skipped":
        print("This run was finished before; --again repeats it.")
    print(_result_table(outcome.result))
    print(f"notebook  {outcome.folder / NOTEBOOK}")
    if options.html:
        print(f"page      {outcome.folder / HTML}")
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from .batch.run import RESULT
    from .batch.sweep import load_sweep, run_sweep, varying_part

    sweep = load_sweep(options.sweep)
    total = len(sweep.requests)

    def name(request) -> str:
        return " ".join(f"{k}={v}" for k, v in varying_part(request, sweep).items())

    if options.dry_run:
        for request in sweep.requests:
            state = "finished" if (options.runs / request.id / RESULT).is_file() else "to do"
            print(f"{request.id}  {state:8}  {name(request)}")
        return 0

    def on_run(index, request, outcome) -> None:
        if outcome is None:
            print(f"[{index + 1}/{total}] {name(request)} ", end="", flush=True)
            return
        told = {"finished": f"finished in {outcome.seconds:.0f} s", "skipped": "finished before"}.get(
            outcome.status, f"{outcome.status}: {outcome.error}"
        )
        print(f"... {told}", flush=True)

    outcomes = run_sweep(sweep, options.runs, on_run=on_run)
    failed = sum(outcome.status in ("failed", "busy") for outcome in outcomes)
    print(f"{total - failed} of {total} runs are finished. Look at them with: primia report {options.runs}")
    return 1 if failed else 0


def _report(options: argparse.Namespace) -> int:
    from .batch.report import report

    for found in report(options.runs):
        print(found.to_markdown())
        print("Written:", *found.written, "\n")
    return 0


def _deidentify(options: argparse.Namespace) -> int:
    from .data.deidentify import default_key_path, deidentify_folder
    from .progress import Progress

    key = options.key or default_key_path()
    new_key = not key.expanduser().exists()
    found = deidentify_folder(
        options.source,
        options.target,
        key=key,
        labels=tuple(label.strip() for label in options.labels.split(",") if label.strip()),
        site=options.site,
        look_for_text={"auto": None, "yes": True, "no": False}[options.text],
        progress=Progress(),
    )
    if new_key:
        print(f"A new key was made: {key}. Keep it at the hospital, with a copy in a safe place.")
    print(found.summary())
    print(f"Written: {options.target}")
    return 1 if found.refused else 0


def _assignments(texts: list[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise KitError(f"-p {text}: write NAME=VALUE, for example -p rounds=20.")
        if name in given:
            raise KitError(f"-p {name} is given twice.")
        given[name] = value
    return given


def _result_table(result: dict) -> str:
    """Names of the form WHAT.METRIC as a table, WHAT down and METRIC across; the others a line each."""
    if not result:
        return "The notebook recorded no result."
    split = {name: name.rpartition(".")[::2] for name in result if "." in name}
    rows = sorted({what for what, _ in split.values()}, key=lambda what: (what.count("."), what))
    columns = sorted({metric for _, metric in split.values()})
    lines = [f"{name:<18}  {_shown(value)}" for name, value in result.items() if name not in split]
    if rows:
        widths = [max(len(column), 11) for column in columns]
        lines += ["", " " * 18 + "".join(f"  {c:>{w}}" for c, w in zip(columns, widths, strict=True))]
        for what in rows:
            cells = [_shown(result[f"{what}.{c}"]) if f"{what}.{c}" in result else "" for c in columns]
            lines.append(f"{what:<18}" + "".join(f"  {cell:>{w}}" for cell, w in zip(cells, widths, strict=True)))
    return "\n".join(lines) + "\n"


def _shown(value) -> str:
    return "not defined" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
