"""Files are whole or not there, also on a full disk."""

import os
import subprocess
import sys

import pytest

from primia_kit.errors import KitError
from primia_kit.storage import cache_folder, write_atomically

from .conftest import ROOT


def test_writes_text_bytes_and_through_a_function(tmp_path):
    assert write_atomically(tmp_path / "new" / "a.txt", "é").read_bytes() == "é".encode()
    assert write_atomically(tmp_path / "b", b"\0\1").read_bytes() == b"\0\1"
    assert write_atomically(tmp_path / "c", lambda part: part.write_text("c")).read_text() == "c"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "c", "new"]


def test_a_failed_write_leaves_the_earlier_file(tmp_path):
    path = write_atomically(tmp_path / "a", "before")

    def fail(part):
        part.write_text("half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_files_get_ordinary_permissions(tmp_path):
    old = os.umask(0o027)
    try:
        assert write_atomically(tmp_path / "a", "").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(old)


def test_a_place_that_cant_be_written_to_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match=r"Can't write .*file"):
        write_atomically(tmp_path / "file" / "below", "x")


FULL_DISK = """
import sys
from pathlib import Path
from primia_kit.data import synthetic_hospitals
from primia_kit.errors import KitError
try:
    synthetic_hospitals(patients=10, folder=sys.argv[1], jobs=1)
except KitError as error:
    files = list(Path(sys.argv[1]).rglob("*"))
    films = [f for f in files if f.suffix == ".dcm"]
    print(error, len(films), min(f.stat().st_size for f in films), [f.name for f in files if f.suffix == ".part"])
"""


@pytest.fixture
def tiny_disk(tmp_path):
    """A command that runs Python with a 500 KB file system mounted on tmp_path, in a namespace of its own."""
    shell = f'mount -t tmpfs -o size=500k none {tmp_path} && exec {sys.executable} -c "$0" {tmp_path}'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", shell]
    if subprocess.run([*command[:-2], "-c", f"mount -t tmpfs -o size=500k none {tmp_path}"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system in a namespace")
    return command


def test_a_full_disk_is_a_sentence_and_keeps_whole_films(tiny_disk):
    done = subprocess.run([*tiny_disk, FULL_DISK], capture_output=True, text=True, cwd=ROOT)
    assert "No space left while writing" in done.stdout, done.stderr
    films, smallest, parts = done.stdout.split("is kept.")[1].split(maxsplit=2)
    assert 2 <= int(films) <= 5  # of about 100 KB each
    assert int(smallest) > 2 * 224 * 224
    assert parts.strip() == "[]"


def test_the_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("PRIMIA_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("PRIMIA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert str(cache_folder()) == "/xdg/primia-kit"
