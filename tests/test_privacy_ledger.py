"""A hospital's ledger is never below what was used: over processes, crashes, edits, old copies and full budgets."""

import fcntl
import json
import logging
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from primia_kit.errors import KitError
from primia_kit.privacy import Gaussian, Ledger, SampledGaussian, epsilon

from .conftest import ROOT

STEP = SampledGaussian(0.05, 1.1)


def begin(path, budget=None, site="A", delta=1e-4):
    return Ledger.create(path, site=site, delta=delta, budget=budget, patients=800)


def sentence(error) -> str:
    """The message, which is to be short, name the ledger or the numbers, and end like a sentence."""
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 420
    return text


SPEND = """
import sys
from primia_kit.privacy import Ledger, SampledGaussian
ledger = Ledger.open(sys.argv[1], sys.argv[2] or None, site="A")
print(ledger.spend(SampledGaussian(0.05, 1.1), 20, purpose=f"round {sys.argv[3]}", run="r"))
if sys.argv[3] == "4":
    print(ledger.epsilon())
"""


def test_five_processes_spend_what_one_does(tmp_path):
    begin(tmp_path / "ledger")
    head = ""
    for number in range(5):
        command = [sys.executable, "-c", SPEND, str(tmp_path / "ledger"), head, str(number)]
        head, *found = subprocess.check_output(command, cwd=ROOT, text=True).split()
    unbroken = begin(tmp_path / "other")
    for number in range(5):
        unbroken.spend(STEP, 20, purpose=f"round {number}", run="r")
    ledger = Ledger.open(tmp_path / "ledger", head)
    assert [(e.mechanism, e.count, e.purpose, e.run) for e in ledger.entries] == [
        (e.mechanism, e.count, e.purpose, e.run) for e in unbroken.entries
    ]
    assert float(found[0]) == ledger.epsilon() == unbroken.epsilon() == epsilon([(STEP, 100)], 1e-4)
    assert ledger.head == head != unbroken.head


def _spend_often(path, name, times):
    ledger = Ledger.open(path)
    for number in range(times):
        ledger.spend(STEP, purpose=f"{name} {number}")


def test_processes_at_once_dont_fork_the_chain(tmp_path):
    begin(tmp_path / "ledger")
    fork = multiprocessing.get_context("fork")
    spenders = [fork.Process(target=_spend_often, args=(tmp_path / "ledger", name, 25)) for name in "abcd"]
    for spender in spenders:
        spender.start()
    for spender in spenders:
        spender.join()
        assert spender.exitcode == 0
    purposes = [entry.purpose for entry in Ledger.open(tmp_path / "ledger").entries]
    assert sorted(purposes) == sorted(f"{name} {number}" for name in "abcd" for number in range(25))


def test_a_budget_for_two_processes_is_one_budget(tmp_path):
    mine = begin(tmp_path / "ledger", budget=3.0)
    theirs = Ledger.open(tmp_path / "ledger")
    theirs.spend(STEP, 100, purpose="round 1")
    with pytest.raises(KitError, match="A's privacy budget of epsilon 3 doesn't allow 'round 2'"):
        mine.spend(STEP, 100, purpose="round 2")  # alone it would fit
    assert len(mine.entries) == 1


def test_the_budget_stops_before_it_is_passed(tmp_path):
    ledger = begin(tmp_path / "ledger", budget=2.6)
    for number in range(3):
        ledger.spend(STEP, 40, purpose=f"round {number}")
    assert ledger.epsilon() == pytest.approx(2.58, abs=0.005) and ledger.remaining == 2.6 - ledger.epsilon()
    before = (tmp_path / "ledger").read_bytes()
    with pytest.raises(KitError, match=r"2\.58\d is spent, and it would come to 2\.\d+\. Stop here") as error:
        ledger.spend(STEP, 40, purpose="round 3")
    sentence(error)
    assert (tmp_path / "ledger").read_bytes() == before
    for mechanism in (Gaussian(0.0), SampledGaussian(0.01, 0.0)):
        with pytest.raises(KitError, match="it would come to inf"):
            ledger.spend(mechanism, purpose="without noise")
    ledger.spend(SampledGaussian(0.001, 5.0), purpose="something small")
    assert ledger.epsilon() <= 2.6


def test_tables_and_curves(tmp_path):
    ledger = begin(tmp_path / "ledger")
    assert ledger.epsilon() == 0 and ledger.curve()[1].tolist() == [0] and len(ledger.table()) == 0
    ledger.spend(Gaussian(10.0), purpose="pixel statistics", run="r")
    ledger.spend(STEP, 20, purpose="round 1", run="r")
    spends, so_far = ledger.curve()
    assert spends.tolist() == [0, 1, 2]
    assert so_far.tolist() == [0, epsilon([(Gaussian(10.0), 1)], 1e-4), ledger.epsilon()]
    table = ledger.table()
    assert table["purpose"].tolist() == ["pixel statistics", "round 1"] and table["epsilon"].tolist() == so_far[1:].tolist()
    assert ledger.epsilon(1e-6) > ledger.epsilon()


# --- crashes ---------------------------------------------------------------------------------------------------------


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


# --- tampering -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "ledger"
    ledger = begin(path)
    for number in range(4):
        ledger.spend(SampledGaussian(0.05, 1.1 + number), 10, purpose=f"round {number}")
    return path.read_bytes(), ledger.head


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), what=st.sampled_from(["flip", "insert", "delete"]), byte=st.integers(0, 255))
def test_no_byte_can_be_changed(written, tmp_path, at, what, byte):
    content, head = written
    index = int(at * len(content))
    edited = {
        "flip": content[:index] + bytes([byte]) + content[index + 1 :],
        "insert": content[:index] + bytes([byte]) + content[index:],
        "delete": content[:index] + content[index + 1 :],
    }[what]
    (tmp_path / "ledger").write_bytes(edited)
    try:
        found = Ledger.open(tmp_path / "ledger", head)
    except KitError:
        return
    whole = content + bytes([byte])  # only what stands behind the last line can be other, and is then cut off
    assert edited == content or (edited == whole and found.torn)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.integers(0, 4), min_size=1, max_size=7))
def test_lines_cant_be_left_out_doubled_or_swapped(written, tmp_path, order):
    content, head = written
    lines = content.splitlines(keepends=True)
    (tmp_path / "ledger").write_bytes(b"".join(lines[i] for i in order))
    if order == [0, 1, 2, 3, 4]:
        assert Ledger.open(tmp_path / "ledger", head).head == head
    else:
        with pytest.raises(KitError) as error:
            Ledger.open(tmp_path / "ledger", head)
        sentence(error)


def test_an_edited_number_names_its_line(written, tmp_path):
    content, _ = written
    (tmp_path / "ledger").write_bytes(content.replace(b'"noise_multiplier": 2.1', b'"noise_multiplier": 9.1'))
    with pytest.raises(KitError, match=r"Line 3 of the ledger .* the file was edited or damaged") as error:
        Ledger.open(tmp_path / "ledger")
    sentence(error)


def test_an_edited_first_line_is_refused(written, tmp_path):
    (tmp_path / "ledger").write_bytes(written[0].replace(b'"budget": null', b'"budget": 9.0'))
    with pytest.raises(KitError, match="its first line was edited"):
        Ledger.open(tmp_path / "ledger")


def test_a_whole_new_chain_is_missed_by_its_head(tmp_path):
    head = begin(tmp_path / "ledger").spend(STEP, purpose="round 1")
    (tmp_path / "ledger").unlink()
    begin(tmp_path / "ledger").spend(STEP, purpose="round 1")
    with pytest.raises(KitError, match="set back to an older copy, cut short or replaced"):
        Ledger.open(tmp_path / "ledger", head)


def test_an_old_copy_put_back_is_refused_again_and_again(tmp_path):
    ledger = begin(tmp_path / "ledger")
    earlier = ledger.spend(STEP, purpose="round 1")
    old = (tmp_path / "ledger").read_bytes()
    later = ledger.spend(STEP, purpose="round 2")
    assert Ledger.open(tmp_path / "ledger", earlier).head == later  # spends may follow the head that is known
    (tmp_path / "ledger").write_bytes(old)
    for _ in range(2):
        with pytest.raises(KitError, match="set back") as error:
            ledger.spend(STEP, purpose="round 3")
        assert later[:12] in sentence(error)
    assert (tmp_path / "ledger").read_bytes() == old
    with pytest.raises(KitError, match="set back"):
        Ledger.open(tmp_path / "ledger", later)
    assert Ledger.open(tmp_path / "ledger", earlier).head == earlier  # nobody who knows no more can notice


def test_a_ledger_that_vanished_is_missed(tmp_path):
    ledger = begin(tmp_path / "ledger")
    (tmp_path / "ledger").unlink()
    with pytest.raises(KitError, match="is gone, though it was begun"):
        Ledger.open(tmp_path / "ledger", ledger.head)
    with pytest.raises(KitError, match="is gone"):
        ledger.spend(STEP, purpose="round 1")
    with pytest.raises(KitError, match=re.escape("begin one with Ledger.create")):
        Ledger.open(tmp_path / "ledger")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [({"site": "B"}, "site 'A', not 'B'"), ({"delta": 1e-5}, "delta 0.0001"), ({"unit": "film"}, "unit 'patient'")],
)
def test_anothers_ledger_is_refused(tmp_path, wanted, said):
    begin(tmp_path / "ledger")
    assert Ledger.open(tmp_path / "ledger", site="A", delta=1e-4, unit="patient").account.patients == 800
    with pytest.raises(KitError, match=said) as error:
        Ledger.open(tmp_path / "ledger", **wanted)
    sentence(error)


def test_a_chain_of_unknown_things_is_refused(tmp_path):
    """Whole in itself, but of a later version of the kit."""
    from primia_kit.privacy.chain import _line

    begin(tmp_path / "ledger")
    first = json.loads((tmp_path / "ledger").read_bytes())
    entry = {"mechanism": {"kind": "gaussian", "noise_multiplier": 1.0}, "count": 1, "purpose": "p", "run": "", "time": ""}
    entry["previous"] = first["hash"]
    for change, said in (
        ({}, None),
        ({"mechanism": {"kind": "laplace"}}, "no mechanism 'laplace'"),
        ({"count": -5}, "applied -5 times"),
        ({"more": 1}, "doesn't know"),
    ):
        (tmp_path / "ledger").write_bytes(_line({k: v for k, v in first.items() if k != "hash"}) + _line(entry | change))
        if said is None:
            assert len(Ledger.open(tmp_path / "ledger").entries) == 1
        else:
            with pytest.raises(KitError, match=said):
                Ledger.open(tmp_path / "ledger")


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"{}\n", b"[]\n", b"12\n", b"\xff\xfe\n", b'{"ledger": 1}', b"[" * 100_000 + b"\n"]
)
def test_other_files_arent_ledgers(tmp_path, content):
    (tmp_path / "ledger").write_bytes(content)
    with pytest.raises(KitError, match="isn't a ledger"):
        Ledger.open(tmp_path / "ledger")


# --- what can't be begun or spent ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"delta": 1.0}, "Delta is 1"),
        ({"delta": 0.0}, "Delta is 0"),
        ({"delta": 2e-4}, "too large for 800 patients: .* choose at most 0.000125"),
        ({"budget": 0.0}, "budget is 0"),
        ({"budget": float("nan")}, "budget is nan"),
        ({"budget": float("inf")}, "budget is inf"),
        ({"patients": 0}, "at least 1, not 0"),
        ({"patients": 2.5}, "at least 1, not 2.5"),
        ({"unit": "hospital"}, "unit is 'patient' or 'film', not 'hospital'"),
        ({"site": ""}, "hospital's name"),
    ],
)
def test_ledgers_that_cant_be_begun(tmp_path, change, said):
    with pytest.raises(KitError, match=said) as error:
        Ledger.create(tmp_path / "ledger", **{"site": "A", "delta": 1e-4, "budget": 5.0, "patients": 800} | change)
    sentence(error)
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_isnt_begun_twice(tmp_path):
    ledger = begin(tmp_path / "new" / "ledger")
    with pytest.raises(KitError, match=re.escape("open that ledger, since its spends count for good")):
        begin(tmp_path / "new" / "ledger")
    assert Ledger.open(tmp_path / "new" / "ledger").head == ledger.head
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["ledger"]


def test_the_largest_delta_is_a_tenth_of_one_in_all_patients(tmp_path):
    for patients in (1, 3, 7, 997):
        assert Ledger.create(tmp_path / f"{patients}", site="A", delta=1 / (10 * patients), budget=None, patients=patients)


def test_spends_that_cant_be(tmp_path):
    ledger = begin(tmp_path / "ledger")
    before = (tmp_path / "ledger").read_bytes()
    for count in (0, -1, 1.0, True):
        with pytest.raises(KitError, match="whole number of at least 1"):
            ledger.spend(STEP, count, purpose="round 1")
    with pytest.raises(KitError, match="needs a purpose"):
        ledger.spend(STEP, purpose="")
    assert (tmp_path / "ledger").read_bytes() == before


def test_without_a_budget_a_release_without_noise_is_written_down(tmp_path):
    ledger = begin(tmp_path / "ledger")
    ledger.spend(SampledGaussian(0.1, 0.0), 5, purpose="a run without noise, for comparison")
    assert ledger.epsilon() == float("inf") and ledger.remaining == float("inf")
