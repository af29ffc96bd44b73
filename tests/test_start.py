"""The long promises of the README: a class without a network, and a run on real films."""

import json
import shutil
import subprocess
import sys

import pytest

from .conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.real_films
def test_real_films_train_at_three_hospitals(kermany, tmp_path):
    command = [
        sys.executable,
        "-m",
        "primia_kit.cli",
        "run",
        str(ROOT / "notebooks" / "00_quickstart.ipynb"),
        "--runs",
        str(tmp_path),
    ]
    subprocess.run([*command, "-p", f"data_dir={kermany}", "-p", "size=64", "-p", "rounds=3"], check=True, cwd=ROOT)
    [path] = tmp_path.glob("*/result.json")
    result = json.loads(path.read_text())
    assert result["test_films"] == 299
    assert min(result["central.mcc"], result["federated.mcc"], result["local.mcc"]) > 0.3
    notebook = (path.parent / "notebook.ipynb").read_text()
    assert "image/png" in notebook and "person" not in notebook  # no film's name in what may be passed on


def test_a_class_needs_no_network(tmp_path):
    """`make wheelhouse` from a clone; then, in a namespace without a network, unpack it and start."""
    namespace = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a network namespace")
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "teacher")], check=True)
    packer = tmp_path / "teacher"
    subprocess.run(["make", "wheelhouse", f"PYTHON={sys.executable}"], check=True, cwd=packer)
    subprocess.run(["tar", "xf", str(packer / "primia-kit-class.tar")], check=True, cwd=tmp_path)
    shutil.rmtree(packer)
    laptop = tmp_path / "primia-kit"
    loopback = "import fcntl,socket,struct as t;s=socket.socket(2,2);fcntl.ioctl(s,0x8914,t.pack('16sh',b'lo',0x49))"
    start = f'{sys.executable} -c "{loopback}" && make quickstart PYTHON={sys.executable}'
    done = subprocess.run([*namespace, "sh", "-c", start], cwd=laptop, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "federated" in done.stdout
