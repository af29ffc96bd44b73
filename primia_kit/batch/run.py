"""One run: a notebook, its parameters, the code and the packages, and what came of them.

runs/<id>/notebook.ipynb     the executed notebook
         /provenance.json    what ran, on what, when; "finished" or "failed"
         /result.json        what the notebook recorded; written last, its presence says "finished"
         /notebook.html      on request
         /attempt/           a run in progress, or one that was stopped

The id is a hash of everything that decides the result, so the same run is never made twice, and a change
of the code makes a new one. What the id can't see is the content of a folder that a parameter names.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..progress import BATCH_VARIABLE
from ..storage import disk_error, write_atomically
from .parameters import check_parameters, notebook_parameters
from .record import recorded

RESULT, PROVENANCE, NOTEBOOK, HTML = "result.json", "provenance.json", "notebook.ipynb", "notebook.html"


@dataclass(frozen=True)
class RunRequest:
    """A checked run.

    parameters: every parameter of the notebook, in its declared type. changed: those that aren't the
    notebook's defaults. id: 12 hex digits over the notebook's code, the parameters, the kit's code and
    the packages.
    """

    notebook: Path
    parameters: dict[str, Any]
    changed: dict[str, Any]
    id: str

    @classmethod
    def make(cls, notebook: str | Path, given: Mapping[str, Any]) -> RunRequest:
        """Check the parameters against the notebook; raises KitError, see `check_parameters`."""
        notebook, parameters = Path(notebook), check_parameters(notebook, given)
        defaults = notebook_parameters(notebook)
        changed = {name: value for name, value in parameters.items() if value != defaults[name].default}
        return cls(notebook, parameters, changed, _run_id(notebook, parameters))


def _run_id(notebook: Path, parameters: Mapping[str, Any]) -> str:
    decides = [_notebook_code(notebook), sorted(parameters.items()), code_version(), package_versions()]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Outcome:
    """status: "finished", "skipped" (finished before), "failed" or "busy" (another process is at it).

    folder: where it lies. result: what the notebook recorded. error: a sentence, where it failed.
    """

    status: str
    folder: Path
    seconds: float
    result: dict[str, Any]
    error: str = ""


def run(
    request: RunRequest, runs: str | Path = "runs", *, html: bool = False, again: bool = False, quiet: bool = False
) -> Outcome:
    """Execute a notebook, or find that it has been.

    Args:
        runs: the folder of all runs.
        html: write the executed notebook as a page, too.
        again: repeat a run that is finished.
        quiet: show neither papermill's bar nor what the notebook prints.

    Raises: KitError if the disk is full. A notebook that fails is an outcome, not an exception.
    """
    folder = Path(runs) / request.id
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _claim(folder) as mine:
            if not mine:
                return Outcome("busy", folder, 0.0, {}, "Another process is at this run.")
            if (folder / RESULT).is_file() and not again:
                outcome = Outcome("skipped", folder, 0.0, json.loads((folder / RESULT).read_text()))
            else:
                outcome = _execute(request, folder, quiet)
            if html and outcome.status != "failed" and not ((folder / HTML).is_file() and outcome.status == "skipped"):
                write_atomically(folder / HTML, _as_html(folder / NOTEBOOK))
            return outcome
    except OSError as error:
        raise disk_error(error, folder) from error


def _execute(request: RunRequest, folder: Path, quiet: bool) -> Outcome:
    """Run in `attempt/`, and replace what stood there before only by a finished run (or by a failed one,
    if nothing finished stood there)."""
    import nbformat

    if _run_id(request.notebook, request.parameters) != request.id:
        sentence = "the notebook or the kit's code has changed since this command was started: start it again."
        return Outcome("failed", folder, 0.0, {}, sentence)
    attempt = folder / "attempt"
    attempt.mkdir(exist_ok=True)
    provenance = {"status": "running", **_provenance(request)}
    _write_json(attempt / PROVENANCE, provenance)
    start = time.perf_counter()
    error = _papermill(request, attempt / NOTEBOOK, quiet)
    provenance |= {"status": "failed" if error else "finished", "seconds": time.perf_counter() - start}
    if error:
        provenance["error"] = error
        _write_json(attempt / PROVENANCE, provenance)
        if (folder / RESULT).is_file():  # a repeated run that failed: the finished one stays
            return Outcome("failed", attempt, provenance["seconds"], {}, error)
    result = {} if error else recorded(nbformat.read(attempt / NOTEBOOK, as_version=4))
    write_atomically(folder / NOTEBOOK, (attempt / NOTEBOOK).read_bytes())
    _write_json(folder / PROVENANCE, provenance)
    if not error:
        _write_json(folder / RESULT, result)  # last
    shutil.rmtree(attempt)
    return Outcome(provenance["status"], folder, provenance["seconds"], result, error)


def _papermill(request: RunRequest, output: Path, quiet: bool) -> str:
    """Execute the notebook; returns "" or a sentence that says why it failed."""
    import papermill

    before = os.environ.get(BATCH_VARIABLE)
    os.environ[BATCH_VARIABLE] = "1"
    try:
        papermill.execute_notebook(
            str(request.notebook), str(output), parameters=request.changed, kernel_name="python3",
            progress_bar=not quiet, stdout_file=None if quiet else sys.stdout,
            extra_arguments=["--log-level=CRITICAL"],  # else every run prints how Jupyter talks to its own kernel
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        return f"cell {error.exec_count}: {error.ename}: {error.evalue}"
    except OSError:
        raise
    except Exception as error:  # a kernel that died (out of memory) or never came up
        return f"the kernel stopped: {error}"
    finally:
        os.environ.pop(BATCH_VARIABLE) if before is None else os.environ.update({BATCH_VARIABLE: before})
    return ""


@contextmanager
def _claim(folder: Path) -> Iterator[bool]:
    """Whether this process may work on a run; a lock that a killed process can't leave behind."""
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _provenance(request: RunRequest) -> dict[str, Any]:
    return {
        "id": request.id,
        "notebook": request.notebook.name,
        "parameters": request.parameters,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kit": __version__,
        "code_sha256": code_version(),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
    }


def code_version() -> str:
    """SHA-256 over the kit's own Python files."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@lru_cache(maxsize=1)
def package_versions() -> dict[str, str]:
    """The versions of the packages that the kit names as its dependencies."""
    names = sorted(r.split(";")[0].strip() for r in metadata.requires("primia-kit") or () if "extra ==" not in r)
    return {name: metadata.version(name) for name in names}


def _notebook_code(path: Path) -> list[str]:
    """The code cells' sources: mending a notebook's prose doesn't make its runs others."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def _git_commit() -> str | None:
    where = Path(__file__).parent
    try:
        shown = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=where,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return shown.stdout.strip() or None


def _as_html(path: Path) -> str:
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(embed_images=True, mathjax_url="", require_js_url="")  # nothing from outside
    html, _ = exporter.from_filename(str(path))
    return html
