"""Single-use material: taken once, whatever crashes, whatever is asked."""

import os
import signal
import subprocess
import sys

import pytest

from primia_kit.errors import KitError
from primia_kit.inference import store as module
from primia_kit.inference.store import Store

from .conftest import ROOT

ID, OTHER = bytes(range(16)), bytes(16)


class Killed(BaseException):
    """A power cut: nothing in the code under test may catch it."""


def mode(path):
    return path.stat().st_mode & 0o777


def test_material_comes_back_once_and_leaves_nothing_but_its_mark(tmp_path):
    store = Store(tmp_path / "s", 10_000)
    store.put(ID, {"batch": 2}, b"abc", memoryview(b"defg"))
    assert mode(tmp_path / "s" / "ready" / ID.hex()) == 0o600 and mode(tmp_path / "s") == 0o700
    assert store.ready() == {ID: {"batch": 2}} and not store.is_used(ID)
    assert store.take(ID) == ({"batch": 2}, b"abcdefg")
    assert store.ready() == {} and store.is_used(ID)
    assert (tmp_path / "s" / "used" / ID.hex()).stat().st_size == 0
    for again in (lambda: store.take(ID), lambda: store.put(ID, {}, b"x")):
        with pytest.raises(KitError, match="serves once"):
            again()
    store.close()
    with pytest.raises(KitError, match="used before"):  # the mark survives the process
        Store(tmp_path / "s", 10_000).take(ID)


def test_an_id_that_was_never_put_is_refused(tmp_path):
    with pytest.raises(KitError, match="nothing was dealt"):
        Store(tmp_path, 100).take(ID)


def test_the_limit_holds_and_taking_makes_room(tmp_path):
    store = Store(tmp_path, 1000)
    store.put(ID, {}, bytes(900))
    with pytest.raises(KitError, match="1,000 bytes, 94 are left"):
        store.put(OTHER, {}, bytes(900))
    assert sorted(path.name for path in (tmp_path / "ready").iterdir()) == [ID.hex()]
    store.take(ID)
    store.put(OTHER, {}, bytes(900))
    store.close()
    assert Store(tmp_path, 1000).room == 94  # counted again after a restart


def test_two_processes_cant_share_a_store(tmp_path):
    store = Store(tmp_path, 100)
    with pytest.raises(KitError, match="in use by another process"):
        Store(tmp_path, 100)
    store.close()
    Store(tmp_path, 100).close()


def test_a_file_that_is_no_stores_is_named_and_the_folder_stays_usable(tmp_path):
    Store(tmp_path, 100).close()
    strange = tmp_path / "ready" / ID.hex()
    for content in (b"", b"\x00\x00\x00\x02[]", b"\xff\xff\xff\xff{}", b"\x00\x00\x00\x02{x"):
        strange.write_bytes(content)
        with pytest.raises(KitError, match="is no file of a store: delete it"):
            Store(tmp_path, 100)
    strange.unlink()
    Store(tmp_path, 100).close()


def test_damaged_material_is_refused_and_used_up(tmp_path):
    store = Store(tmp_path, 1000)
    store.put(ID, {}, bytes(100))
    with (tmp_path / "ready" / ID.hex()).open("r+b") as file:
        file.truncate(50)
    with pytest.raises(KitError, match="damaged"):
        store.take(ID)
    assert store.is_used(ID)


@pytest.mark.parametrize("operation", ["put", "take"])
def test_a_crash_at_any_system_call_leaves_an_id_unused_or_used(tmp_path, operation, monkeypatch):
    """`os` functions that the store and the atomic writer use are cut off one after the other, before and after."""
    real = {name: getattr(os, name) for name in ("rename", "replace", "fsync", "open", "close", "fchmod", "chmod")}
    cuts = reached = 0
    for after in (False, True):
        for cut in range(40):
            folder = tmp_path / f"{after}{cut}"
            store, count, returned = Store(folder, 10_000), 0, None
            if operation == "take":
                store.put(ID, {}, b"secret")

            def interrupted(name, cut=cut, after=after):
                def call(*arguments, **options):
                    nonlocal count
                    count += 1
                    if count == cut + 1 and not after:
                        raise Killed
                    result = real[name](*arguments, **options)
                    if count == cut + 1:
                        raise Killed
                    return result

                return call

            with monkeypatch.context() as patch:
                for name in real:
                    patch.setattr(os, name, interrupted(name))
                try:
                    if operation == "put":
                        store.put(ID, {}, b"secret")
                    else:
                        returned = store.take(ID)
                    whole = True
                except Killed:
                    whole = False
                    cuts += 1
            store.close()
            again = Store(folder, 10_000)  # the process starts anew
            assert all(path.stat().st_size == 0 for path in (folder / "used").iterdir())
            assert (ID in again.ready()) + again.is_used(ID) == (operation == "take" or ID in again.ready())
            if operation == "take" and returned:
                assert again.is_used(ID)
            if operation == "put" and whole:
                assert ID in again.ready()
            if ID in again.ready():
                assert again.take(ID)[1] == b"secret"
            with pytest.raises(KitError):
                again.take(ID)
            again.close()
            if whole:
                reached += 1
                break
    assert reached == 2 and cuts >= 8  # every call was cut once, and the last run went through


def test_rename_is_on_the_disk_before_the_material_is_read(tmp_path, monkeypatch):
    """The order of steps is the promise: mark, sync both folders, then read."""
    store, seen = Store(tmp_path, 1000), []
    store.put(ID, {}, b"secret")
    rename, sync, wipe = os.rename, module.sync_folder, module.wipe
    monkeypatch.setattr(os, "rename", lambda *a: (seen.append("rename"), rename(*a)))
    monkeypatch.setattr(module, "sync_folder", lambda path: (seen.append(f"sync {path.name}"), sync(path)))
    monkeypatch.setattr(module, "wipe", lambda path: (seen.append("wipe"), wipe(path)))
    monkeypatch.setattr(module, "bytearray", lambda size: (seen.append("read"), bytearray(size))[1], raising=False)
    store.take(ID)
    assert seen == ["rename", "sync used", "sync ready", "read", "wipe"]


def test_a_secret_file_is_removed_whole_whatever_interrupts(tmp_path, monkeypatch):
    path = tmp_path / "secret"
    module.write_private(path, b"secret")
    with path.open("rb") as file, monkeypatch.context() as patch:
        patch.setattr(module, "wipe", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            module.remove_private(path)
        assert not path.exists() and file.read() == b"secret"
        patch.undo()
        module.remove_private(path)  # there is none; what was left is wiped
        file.seek(0)
        assert file.read() == b"" and not list(tmp_path.iterdir())


_VICTIM = """
import os, signal, sys
from primia_kit.inference.store import Store
real, left = os.fsync, int(sys.argv[2])
def fsync(handle):
    global left
    real(handle)
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = fsync
store = Store(sys.argv[1], 10_000)
store.take(bytes(range(16)))
print("taken", flush=True)
"""


@pytest.mark.parametrize("syncs", range(5))
def test_a_killed_process_never_gives_an_id_twice(tmp_path, syncs):
    store = Store(tmp_path, 10_000)
    store.put(ID, {}, b"secret")
    store.close()
    ended = subprocess.run([sys.executable, "-c", _VICTIM, tmp_path, str(syncs)], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == ((-signal.SIGKILL, "") if syncs < 4 else (0, "taken\n")), ended.stderr
    again = Store(tmp_path, 10_000)
    assert again.is_used(ID) and not again.ready()
    assert all(path.stat().st_size == 0 for path in (tmp_path / "used").iterdir())
    with pytest.raises(KitError, match="used before"):
        again.take(ID)
