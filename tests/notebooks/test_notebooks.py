"""Every notebook runs, with small parameters, and reads as a lesson."""

import copy
import statistics
import subprocess
import sys

import nbformat
import papermill
import pytest

from primia_kit.batch.parameters import check_parameters
from primia_kit.batch.record import recorded
from primia_kit.progress import BATCH_VARIABLE

from ..conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = {  # each notebook has its line here: there is no list of notebooks to skip
    "00_quickstart": {"patients": 10, "rounds": 1, "size": 32},
    "01_hospital_data": {"patients": 10, "size": 32, "sites": 3},
    "02_federated_training": {"patients": 10, "rounds": 1, "size": 32, "seeds": 1},
    "03_secure_aggregation": {"patients": 10, "rounds": 1, "parameters": 1000},
    "04_differential_privacy": {
        "patients": 40,
        "public_patients": 10,
        "curve": "1 10",
        "repeats": 1,
        "rounds": 2,
        "local_steps": 2,
        "batch_size": 10,
    },
    "05_attacks": {"patients": 14, "steps": 4, "passes": 2, "canaries": 60},
    "06_secret_sharing": {"size": 32, "count": 2000},
    "07_encrypted_inference": {"patients": 10, "rounds": 1, "size": 32, "films": 4, "batch": 2, "architecture": "small_cnn"},
}
HOLDS = {  # what a notebook's prose says of its results, whatever the parameters
    "04_differential_privacy": lambda found: (
        found["GroupNorm.change"] <= 1 + 1e-5 < found["BatchNorm.change"]
        and found["rounds_until_stopped"] == 1
        and found["largest_epsilon"] <= 3
    ),
}
FIRST_WORDS, LAST_WORDS = ("question", "see", "how long"), ("learned", "leaks", "limits", "exercises", "<details>")


def problems(notebook) -> list[str]:
    """What keeps a notebook from being a lesson; [] if nothing does."""
    found = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    lines = [len(cell.source.splitlines()) for cell in code]
    if any(cell.outputs or cell.execution_count for cell in code):
        found.append("has outputs: run nbstripout on it")
    if not any("parameters" in cell.metadata.get("tags", []) for cell in code):
        found.append("has no cell tagged parameters")
    if len(code) > 25 or statistics.median(lines) > 6:
        found.append(f"has {len(code)} code cells of {statistics.median(lines)} lines (median)")
    if sum(len(p.split()) for p in prose) < sum(len(cell.source.split()) for cell in code):
        found.append("has more code than prose")
    for words, text, where in ((FIRST_WORDS, prose[0], "opens"), (LAST_WORDS, prose[-1], "closes")):
        found += [f"{where} without {word!r}" for word in words if word not in text.lower()]
    return found


def execute(notebook_path, parameters, folder):
    """Run a notebook as a batch does; raises PapermillExecutionError where it fails."""
    checked = check_parameters(notebook_path, parameters)
    return papermill.execute_notebook(
        str(notebook_path), str(folder / "out.ipynb"), checked, kernel_name="python3", progress_bar=False
    )


def test_there_are_notebooks_and_each_has_small_parameters():
    assert NOTEBOOKS
    assert {path.stem for path in NOTEBOOKS} == SMALL.keys()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_a_lesson(path):
    assert problems(nbformat.read(path, as_version=4)) == []


@pytest.fixture(autouse=True)
def _as_in_a_batch(monkeypatch):
    monkeypatch.setenv(BATCH_VARIABLE, "1")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_something(path, tmp_path):
    executed = execute(path, SMALL[path.stem], tmp_path)
    assert recorded(executed) and HOLDS.get(path.stem, bool)(recorded(executed))
    outputs = [output for cell in executed.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any("widget" in kind for output in outputs for kind in output.get("data", {}))
    assert not any(output.get("name") == "stderr" for output in outputs), [o.text for o in outputs if o.get("name") == "stderr"]


def test_the_federated_notebook_trains_nothing_twice_and_leaves_out_what_isnt_wanted(tmp_path):
    """FedBN as the strategy isn't trained a second time as the personal variant; skew=0 leaves section 5 out."""
    path = ROOT / "notebooks" / "02_federated_training.ipynb"
    executed = execute(path, SMALL[path.stem] | {"strategy": "fedbn", "skew": 0}, tmp_path)
    found = recorded(executed)
    assert "federated.mcc" in found and not any(name.startswith("fedbn") for name in found)
    assert {"central.ece", "federated.sensitivity.viral.low", "federated.A.ece"} <= found.keys()
    shown = [o for cell in executed.cells for o in cell.get("outputs", ())]
    assert not any("skewed" in o.get("text", "") for o in shown)
    with pytest.raises(papermill.PapermillExecutionError, match="seeds is 0; each way must be trained"):
        execute(path, SMALL[path.stem] | {"seeds": 0}, tmp_path)


def test_attacks_on_real_films_are_numbers_without_pictures(tmp_path):
    """A reconstruction of a real film is that child's picture. (Here the "real" films are synthetic ones in a folder.)"""
    from primia_kit.data import synthetic_hospitals

    manifest = synthetic_hospitals(patients=14)
    small = SMALL["05_attacks"] | {"data_dir": str(manifest.root), "steps": 2}
    executed = execute(ROOT / "notebooks" / "05_attacks.ipynb", small, tmp_path)
    assert recorded(executed)["imprint.nothing.exact"] == 1
    cells = {cell.source: cell.outputs for cell in executed.cells if cell.cell_type == "code"}
    showing = [source for source, outputs in cells.items() if any("image/png" in o.get("data", {}) for o in outputs)]
    curves = ("inversion_losses", "imprint_bins", "membership_roc", "audit_beside_ledger")
    assert showing and all(any(curve in source for curve in curves) for source in showing)
    assert sum("not_drawn" in source and "figures." in source for source in cells) == 4


def test_a_broken_notebook_fails(tmp_path):
    """The two tests above can fail: a cell that raises, and each fault of form, are found."""
    whole = nbformat.read(NOTEBOOKS[0], as_version=4)
    broken = copy.deepcopy(whole)
    broken.cells.insert(2, nbformat.v4.new_code_cell("undefined_name"))
    nbformat.write(broken, tmp_path / "broken.ipynb")
    with pytest.raises(papermill.PapermillExecutionError, match="undefined_name"):
        execute(tmp_path / "broken.ipynb", SMALL[NOTEBOOKS[0].stem], tmp_path)

    def changed(change):
        notebook = copy.deepcopy(whole)
        change(notebook)
        return problems(notebook)

    code = [i for i, cell in enumerate(whole.cells) if cell.cell_type == "code"]
    assert changed(lambda n: n.cells[code[1]].update(execution_count=1))
    assert changed(lambda n: n.cells[code[0]].metadata.pop("tags"))
    assert changed(lambda n: n.cells.pop(0))
    assert changed(lambda n: n.cells.pop())
    assert changed(lambda n: n.cells.__setitem__(slice(1, 1), [nbformat.v4.new_code_cell("1")] * 25))


OFFLINE = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:  # bring up loopback, a kernel's own channel
    flags = struct.unpack("16sh", fcntl.ioctl(s, 0x8913, struct.pack("16sh", b"lo", 0)))[1]
    fcntl.ioctl(s, 0x8914, struct.pack("16sh", b"lo", flags | 1))
assert len(socket.if_nameindex()) == 1
os.execv(sys.executable, [sys.executable, "-m", "primia_kit.cli", *sys.argv[1:]])
"""


@pytest.mark.slow  # two minutes: as a new user runs it, nothing made smaller
def test_quickstart_needs_no_network(tmp_path):
    """With its own parameters, in a network namespace that holds nothing but loopback, from an empty cache."""
    namespace = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a network namespace")
    command = [*namespace, sys.executable, "-c", OFFLINE, "run", str(ROOT / "notebooks" / "00_quickstart.ipynb"), "--html"]
    done = subprocess.run([*command, "--runs", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "federated" in done.stdout and len(list(tmp_path.glob("*/notebook.html"))) == 1
