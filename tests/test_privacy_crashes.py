"""A ledger is never below what was used, wherever its process dies."""

import fcntl
import logging
import os
import random
import signal
import sys

import pytest

from primia_kit.errors import KitError
from primia_kit.privacy import Ledger

from .ledgers import STEP, begin, sentence


def test_a_spend_is_on_the_disk_before_it_is_granted(tmp_path, monkeypatch):
    """A kill leaves the kernel's pages, a power cut doesn't: file and folder are synced, in this order."""
    calls = []

    def told(name, module=os):
        real = getattr(module, name)

        def call(*args, **kwargs):
            what = os.readlink(f"/proc/self/fd/{args[0]}") if isinstance(args[0], int) else str(args[0])
            calls.append((name, "part" if what.endswith(".part") else os.path.basename(what)))
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    for name in ("pwrite", "fsync", "link", "ftruncate"):
        told(name)
    ledger = begin(tmp_path / "ledger")
    assert calls == [("fsync", "part"), ("link", "part"), ("fsync", tmp_path.name)]
    calls.clear()
    ledger.spend(STEP, purpose="round 1")
    assert calls == [("pwrite", "ledger"), ("fsync", "ledger")]
    with (tmp_path / "ledger").open("ab") as file:
        file.write(b'{"mecha')
    calls.clear()
    ledger.spend(STEP, purpose="round 2")
    assert calls == [("ftruncate", "ledger"), ("fsync", "ledger"), ("pwrite", "ledger"), ("fsync", "ledger")]


class Killed(BaseException):
    """Stands for the end of the process at a system call."""


def granted_then_found(path, kill_at, before, partial, monkeypatch):
    """(spends granted before the kill, whether it came); every system call of `spend` is a place to die."""
    calls = 0

    def deadly(name, module):
        real = getattr(module, name)

        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == kill_at and before:
                if name == "pwrite" and partial is not None:
                    real(args[0], args[1][: int(partial * len(args[1]))], args[2])
                raise Killed
            result = real(*args, **kwargs)
            if calls == kill_at:
                raise Killed
            return result

        monkeypatch.setattr(module, name, call)

    ledger, granted = Ledger.open(path), 0
    for name, module in (("pwrite", os), ("fsync", os), ("ftruncate", os), ("flock", fcntl)):
        deadly(name, module)
    try:
        for number in range(2):
            ledger.spend(STEP, purpose=f"spend {number}")
            granted += 1
        return granted, False
    except Killed:
        return granted, True
    finally:
        monkeypatch.undo()


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize(("before", "partial"), [(True, None), (True, 0.4), (True, 0.999), (False, None)])
def test_death_at_any_system_call_never_under_reports(tmp_path, monkeypatch, torn, before, partial):
    died, kill_at = True, 0
    while died:
        kill_at += 1
        path = tmp_path / f"ledger {kill_at}"
        begin(path).spend(STEP, purpose="first")
        if torn:
            with path.open("ab") as file:
                file.write(b'{"mechanism": {"kind": "sampl')
        granted, died = granted_then_found(path, kill_at, before, partial, monkeypatch)
        found = Ledger.open(path)
        assert 1 + granted <= len(found.entries) <= 1 + granted + died
        found.spend(STEP, purpose="afterwards")
        purposes = [entry.purpose for entry in Ledger.open(path, found.head).entries]
        assert purposes[0] == "first" and purposes[-1] == "afterwards" and len(purposes) == len(found.entries)
    assert kill_at > (7 if torn else 5)


def killed_at_line(path, line):
    """(spends granted, lines run) of a forked process that kills itself before that line of the ledger's code."""
    out, into = os.pipe()
    if (child := os.fork()) == 0:
        try:
            lines = 0

            def trace(frame, event, argument):
                nonlocal lines
                if "primia_kit/privacy" not in frame.f_code.co_filename:
                    return None
                if event == "line":
                    lines += 1
                    if lines == line:
                        os.kill(os.getpid(), signal.SIGKILL)
                return trace

            ledger = Ledger.open(path)
            sys.settrace(trace)
            for number in range(3):
                ledger.spend(STEP, purpose=f"spend {number}")
                os.write(into, b".")  # the first gradient
            sys.settrace(None)
            os.write(into, lines.to_bytes(4, "big"))
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        told = pipe.read()
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    return (len(told), 0) if killed else (3, int.from_bytes(told[3:], "big"))


def test_a_kill_between_any_two_lines_never_under_reports(tmp_path):
    begin(tmp_path / "whole")
    _, lines = killed_at_line(tmp_path / "whole", 0)
    assert lines > 200
    kills = random.Random(0).sample(range(1, lines + 1), 20)
    for line in kills:
        path = tmp_path / f"ledger {line}"
        begin(path)
        granted, survived = killed_at_line(path, line)
        ledger = Ledger.open(path)
        assert not survived and granted <= len(ledger.entries) <= granted + 1
        ledger.spend(STEP, purpose="afterwards")
        assert Ledger.open(path, ledger.head).history == [(STEP, 1)] * len(ledger.entries)


def test_a_torn_last_line_is_told_and_taken_out(tmp_path, caplog):
    ledger = begin(tmp_path / "ledger")
    head = ledger.spend(STEP, purpose="round 1")
    whole = (tmp_path / "ledger").read_bytes()
    ledger.spend(STEP, purpose="round 2")
    line = (tmp_path / "ledger").read_bytes()[len(whole) :]
    for cut in range(1, len(line)):
        (tmp_path / "ledger").write_bytes(whole + line[:cut])
        with caplog.at_level(logging.WARNING):
            ledger = Ledger.open(tmp_path / "ledger", head)
        assert "a crash cut off: that spend was never granted" in ledger.torn and ledger.torn in caplog.text
        assert ledger.head == head
    (tmp_path / "ledger").write_bytes(whole + b"\0" * 300)  # a page that was never written
    ledger = Ledger.open(tmp_path / "ledger", head)
    ledger.spend(STEP, purpose="round 2")
    assert ledger.torn == "" and [e.purpose for e in Ledger.open(tmp_path / "ledger").entries] == ["round 1", "round 2"]
    assert (tmp_path / "ledger").read_bytes().count(b"\n") == 3


def test_a_granted_spend_that_was_cut_off_later_is_missed_by_its_head(tmp_path):
    head = begin(tmp_path / "ledger").spend(STEP, purpose="round 1")
    content = (tmp_path / "ledger").read_bytes()
    (tmp_path / "ledger").write_bytes(content[:-5])
    with pytest.raises(KitError, match="cut short") as error:
        Ledger.open(tmp_path / "ledger", head)
    assert head[:12] in sentence(error)


def test_a_full_disk_grants_nothing(tmp_path, monkeypatch):
    ledger = begin(tmp_path / "ledger")

    def full(handle, line, at):
        if len(line) < 100:
            raise OSError(28, "No space left on device")
        return real(handle, line[:150], at)

    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(KitError, match="No space left"):
        for _ in range(3):
            ledger.spend(STEP, purpose="round 1")
    monkeypatch.undo()
    granted = ledger.entries
    assert Ledger.open(tmp_path / "ledger").entries == granted
    ledger.spend(STEP, purpose="round 1, again")
    assert Ledger.open(tmp_path / "ledger").entries[:-1] == granted
