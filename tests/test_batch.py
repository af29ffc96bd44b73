"""Runs are made once, sweeps go on after a kill, and nothing starts with a wrong parameter."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from primia_kit import cli
from primia_kit.batch.parameters import check_parameters
from primia_kit.batch.record import record
from primia_kit.batch.report import report
from primia_kit.batch.run import NOTEBOOK, PROVENANCE, RESULT, RunRequest, run
from primia_kit.batch.sweep import load_sweep
from primia_kit.errors import KitError

PARAMETERS = """\
n: int = 1  # how many
rate: float = 0.5  # how fast
name: str = "a"  # who
fast: bool = False  # whether
seed: int = 0  # every draw derives from it
"""
BODY = """\
from primia_kit.batch import record
if name == "fail":
    raise ValueError("on purpose")
record({"double": 2 * n, "noisy.mcc": n + seed / 10, "undefined": float("nan"), "name": name})
"""


def write_notebook(path, body=BODY, parameters=PARAMETERS):
    cells = [nbformat.v4.new_markdown_cell("Prose."), nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    notebook = nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell(body)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def notebook(tmp_path):
    return write_notebook(tmp_path / "lesson.ipynb")


def test_parameters_are_converted_to_their_declared_types(notebook, monkeypatch):
    monkeypatch.setenv("FILMS", "/films")
    given = {"n": "3", "rate": "1e-2", "name": "$FILMS/a", "fast": "yes"}
    assert check_parameters(notebook, given) == {"n": 3, "rate": 0.01, "name": "/films/a", "fast": True, "seed": 0}
    assert check_parameters(notebook, {"rate": 2, "name": "7"})["rate"] == 2.0


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"nn": 1}, r"no parameter 'nn'.*Its parameters: n, rate, name, fast, seed"),
        ({"sede": 1}, r"no parameter 'sede' \(did you mean 'seed'\?\)"),
        ({"n": "1.5"}, "must be a whole number"),
        ({"n": 1.5}, "must be a whole number"),
        ({"n": True}, "must be a whole number"),
        ({"rate": "quick"}, "must be a number"),
        ({"fast": "perhaps"}, "true or false"),
        ({"name": 3}, "must be a text"),
        ({"name": "$NOWHERE_SET/x"}, "environment variable NOWHERE_SET isn't set"),
    ],
)
def test_a_wrong_parameter_is_a_sentence(notebook, given, sentence):
    with pytest.raises(KitError, match=sentence):
        check_parameters(notebook, given)


def test_a_notebook_that_is_none_is_a_sentence(tmp_path):
    with pytest.raises(KitError, match="no notebook"):
        check_parameters(tmp_path / "none.ipynb", {})
    (tmp_path / "x.ipynb").write_text("{}")
    with pytest.raises(KitError, match="not a notebook"):
        check_parameters(tmp_path / "x.ipynb", {})
    with pytest.raises(KitError, match="needs an annotation"):
        check_parameters(write_notebook(tmp_path / "y.ipynb", parameters="n = 1"), {})
    with pytest.raises(KitError, match="a plain value"):
        check_parameters(write_notebook(tmp_path / "z.ipynb", parameters="n: int = 4 * 5  # how many"), {})


def test_a_run_is_recorded_once(notebook, tmp_path):
    request = RunRequest.make(notebook, {"n": "4"})
    first = run(request, tmp_path / "runs", html=True, quiet=True)
    assert first.status == "finished"
    assert first.result == {"double": 8, "noisy.mcc": 4.0, "undefined": None, "name": "a"}
    assert json.loads((first.folder / RESULT).read_text()) == first.result
    assert {p.name for p in first.folder.iterdir()} == {RESULT, PROVENANCE, NOTEBOOK, "notebook.html", ".lock"}
    provenance = json.loads((first.folder / PROVENANCE).read_text())
    assert provenance["status"] == "finished" and provenance["parameters"] == request.parameters
    assert provenance["packages"]["torch"].startswith("2.13.0") and len(provenance["code_sha256"]) == 64
    before = (first.folder / NOTEBOOK).stat().st_mtime_ns
    again = run(request, tmp_path / "runs", quiet=True)
    assert again.status == "skipped" and again.result == first.result
    assert (first.folder / NOTEBOOK).stat().st_mtime_ns == before
    assert run(request, tmp_path / "runs", quiet=True, again=True).status == "finished"


def test_a_repeated_run_that_fails_leaves_the_finished_one(tmp_path):
    switch = tmp_path / "switch"
    body = f"import os\nfrom primia_kit.batch import record\nassert not os.path.exists({str(switch)!r})\nrecord({{'x': 1}})"
    request = RunRequest.make(write_notebook(tmp_path / "n.ipynb", body), {})
    first = run(request, tmp_path / "runs", quiet=True)
    before = {p.name: p.read_bytes() for p in first.folder.iterdir()}
    switch.touch()
    again = run(request, tmp_path / "runs", quiet=True, again=True)
    assert again.status == "failed" and "AssertionError" in (again.folder / NOTEBOOK).read_text()
    assert {p.name: p.read_bytes() for p in first.folder.iterdir() if p.is_file()} == before
    assert run(request, tmp_path / "runs", quiet=True).status == "skipped"


def test_a_notebook_edited_after_the_start_isnt_run_under_the_old_id(notebook, tmp_path):
    request = RunRequest.make(notebook, {})
    write_notebook(notebook, BODY + "1")
    outcome = run(request, tmp_path / "runs", quiet=True)
    assert outcome.status == "failed" and "has changed since" in outcome.error


def test_a_folder_means_the_same_in_every_working_folder(tmp_path, monkeypatch):
    notebook = write_notebook(tmp_path / "n.ipynb", "1", 'data_dir: str = ""  # films')
    monkeypatch.chdir(tmp_path)
    one = RunRequest.make(notebook, {"data_dir": "films"})
    assert one.parameters == {"data_dir": str(tmp_path / "films")}
    (tmp_path / "films").mkdir()
    monkeypatch.chdir(tmp_path / "films")
    assert RunRequest.make(notebook, {"data_dir": "films"}).id != one.id
    assert RunRequest.make(notebook, {"data_dir": "../films"}).id == one.id
    assert RunRequest.make(notebook, {}).parameters == {"data_dir": ""}


def test_the_id_sees_code_and_parameters_and_not_prose(notebook, tmp_path):
    base = RunRequest.make(notebook, {})
    assert RunRequest.make(notebook, {"n": "1"}).id == base.id  # the default, said aloud
    assert RunRequest.make(notebook, {"n": "2"}).id != base.id
    assert RunRequest.make(write_notebook(tmp_path / "other.ipynb", BODY + "1"), {}).id != base.id
    text = notebook.read_text()
    notebook.write_text(text.replace("Prose.", "Better prose."))
    assert RunRequest.make(notebook, {}).id == base.id


def test_a_failed_run_is_recorded_and_tried_again(notebook, tmp_path):
    request = RunRequest.make(notebook, {"name": "fail"})
    outcome = run(request, tmp_path / "runs", quiet=True)
    assert outcome.status == "failed" and "ValueError: on purpose" in outcome.error
    assert not (outcome.folder / RESULT).exists()
    provenance = json.loads((outcome.folder / PROVENANCE).read_text())
    assert provenance["status"] == "failed" and "on purpose" in provenance["error"]
    assert "on purpose" in (outcome.folder / NOTEBOOK).read_text()  # with its traceback
    assert run(request, tmp_path / "runs", quiet=True).status == "failed"


def test_a_kernel_that_dies_is_a_failed_run(tmp_path):
    notebook = write_notebook(tmp_path / "n.ipynb", "import os; os._exit(9)")
    outcome = run(RunRequest.make(notebook, {}), tmp_path / "runs", quiet=True)
    assert outcome.status == "failed" and "kernel" in outcome.error.lower()


def test_a_run_that_another_process_is_at_is_left_alone(notebook, tmp_path):
    import fcntl

    request = RunRequest.make(notebook, {})
    folder = tmp_path / "runs" / request.id
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert run(request, tmp_path / "runs", quiet=True).status == "busy"


def test_only_plain_values_are_recorded():
    with pytest.raises(KitError, match="'x' is a list"):
        record({"x": [1]})


SWEEP = """\
notebook: lesson.ipynb
about: Twice as much.
parameters: {rate: 0.1}
grid: {n: [1, 2], seed: [0, 1, 2]}
report: [double, noisy.mcc]
"""


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("seed: [0", "sead: [0", r"no parameter 'sead' \(did you mean 'seed'\?\)"),
        ("grid", "gird", r"unknown key 'gird' \(did you mean 'grid'\?\)"),
        ("[1, 2]", "3", "must be a list"),
        ("[1, 2]", "[1, two]", "must be a whole number"),
        ("[1, 2]", "[1, 1]", "a value twice"),
        ("rate: 0.1", "n: 3", "choose one"),
        ("lesson", "lessen", "no notebook"),
        ("[double, noisy.mcc]", "double", "it must be a list of results"),
        ("[double, noisy.mcc]", "[3]", "it must be a list of results"),
        ("grid: {n: [1, 2], seed: [0, 1, 2]}", "grid: {}", "needs a `notebook` and a `grid`"),
        ("notebook: ", "notebook ", "not YAML|must have the keys"),
    ],
)
def test_a_wrong_sweep_stops_before_anything_runs(notebook, tmp_path, old, new, sentence, capsys):
    assert old in SWEEP
    (tmp_path / "s.yaml").write_text(SWEEP.replace(old, new))
    with pytest.raises(KitError, match=sentence):
        load_sweep(tmp_path / "s.yaml")
    assert cli.main(["sweep", str(tmp_path / "s.yaml"), "--runs", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err.startswith("primia: ") and not (tmp_path / "runs").exists()


def test_a_dry_run_makes_nothing(notebook, tmp_path, capsys):
    (tmp_path / "s.yaml").write_text(SWEEP)
    assert cli.main(["sweep", str(tmp_path / "s.yaml"), "--runs", str(tmp_path / "runs"), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("to do") == 6 and not (tmp_path / "runs").exists()


def test_a_killed_sweep_goes_on_and_is_reported(tmp_path):
    log = tmp_path / "log"
    body = f"""\
import time
from primia_kit.batch import record
open({str(log)!r}, "a").write(f"{{n}}/{{seed}} started\\n")
time.sleep(0.3)
if n == 4 and seed == 1:
    raise ValueError("on purpose")
record({{"double": 2 * n + seed, "seconds": 0.1}})
"""
    write_notebook(tmp_path / "lesson.ipynb", body)
    (tmp_path / "s.yaml").write_text(
        "notebook: lesson.ipynb\nabout: Twice.\ngrid: {n: [1, 2, 3, 4], seed: [0, 1]}\nreport: [double]\n"
    )
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "primia_kit.cli", "sweep", str(tmp_path / "s.yaml"), "--runs", str(runs)]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True)
    while len(list(runs.glob(f"*/{RESULT}"))) < 3:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    time.sleep(0.5)  # into the fourth run
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path.parent.name for path in runs.glob(f"*/{RESULT}")}
    assert 3 <= len(finished) < 8
    unfinished = [n for n in log.read_text().split(" started\n") if n][len(finished) :]

    going_on = subprocess.run(command, capture_output=True, text=True)
    assert going_on.returncode == 1  # one run fails on purpose
    assert going_on.stdout.count("finished before") == len(finished)
    assert "failed: cell" in going_on.stdout and "7 of 8 runs are finished" in going_on.stdout
    started = [n for n in log.read_text().split(" started\n") if n]
    assert {n: started.count(n) for n in started if started.count(n) > 1}.keys() <= set(
        unfinished
    )  # none twice but the killed one

    [found] = report(runs)
    assert found.varying == ("n",) and found.metrics == ("double",)
    assert list(found.table["n_runs"]) == [2, 2, 2, 1]
    assert list(found.table["double"]) == [2.5, 4.5, 6.5, 8.0]
    assert found.table["double sd"][0] == pytest.approx(0.5**0.5)
    assert len(found.failed) == 1 and not found.missing
    text = (runs / "s.md").read_text()
    assert "| 1 | 2 | 2.500 ± 0.707 |" in text and "Failed: " in text
    assert (runs / "s.png").read_bytes().startswith(b"\x89PNG") and (runs / "s.csv").read_text().startswith("n,")


def test_a_report_tells_what_is_missing(notebook, tmp_path, capsys):
    (tmp_path / "s.yaml").write_text(SWEEP)
    assert cli.main(["sweep", str(tmp_path / "s.yaml"), "--runs", str(tmp_path / "runs")]) == 0
    victim = next((tmp_path / "runs").glob(f"*/{RESULT}"))
    victim.unlink()
    [found] = report(tmp_path / "runs")
    assert found.missing == (victim.parent.name,) and found.table["n_runs"].sum() == 5
    assert cli.main(["report", str(tmp_path / "runs")]) == 0
    assert "haven't been made" in capsys.readouterr().out
    with pytest.raises(KitError, match="holds no sweep"):
        report(tmp_path)


def test_a_report_says_where_a_metric_isnt_defined(tmp_path):
    body = """\
from primia_kit.batch import record
record({"some": n / 2 if seed else float("nan"), "never": float("nan"), "word": name, "films": 300})
"""
    write_notebook(tmp_path / "lesson.ipynb", body)
    (tmp_path / "s.yaml").write_text("notebook: lesson.ipynb\ngrid: {seed: [0, 1, 2]}\nreport: [some, never, word]\n")
    assert cli.main(["sweep", str(tmp_path / "s.yaml"), "--runs", str(tmp_path / "runs")]) == 0
    [found] = report(tmp_path / "runs")
    assert "| all | 3 | 0.500 ± 0.000 (defined in 2) | not defined | not defined |" in found.to_markdown()
    assert [path.suffix for path in found.written] == [".md", ".csv", ".png"] and all(path.is_file() for path in found.written)
    (tmp_path / "s.yaml").write_text("notebook: lesson.ipynb\ngrid: {seed: [0, 1, 2]}\n")
    cli.main(["sweep", str(tmp_path / "s.yaml"), "--runs", str(tmp_path / "runs")])
    assert report(tmp_path / "runs")[0].metrics == ("some",)  # counts aren't shown unless asked for


@pytest.mark.parametrize("arguments", [["run"], ["sweep"], ["report"], []])
def test_help_teaches(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*arguments, "--help"])
    assert stopped.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 8


def test_a_run_from_the_command_line(notebook, tmp_path, capsys):
    assert cli.main(["run", str(notebook), "-p", "n=5", "--runs", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert "double              10" in out and "noisy" in out and "5.000" in out and "not defined" in out
    for wrong, sentence in (
        (["-p", "n"], "NAME=VALUE"),
        (["-p", "n=1", "-p", "n=2"], "twice"),
        (["-p", "m=1"], "no parameter 'm'"),
    ):
        assert cli.main(["run", str(notebook), *wrong, "--runs", str(tmp_path / "runs")]) == 2
        assert sentence in capsys.readouterr().err
    assert cli.main(["run", str(notebook), "--list"]) == 0
    assert "rate: float = 0.5  # how fast" in capsys.readouterr().out
    assert cli.main(["run", str(notebook), "-p", "name=fail", "--runs", str(tmp_path / "runs")]) == 1
    assert "ValueError: on purpose" in capsys.readouterr().err
