"""A ledger that was edited, set back, replaced or lost is refused, in a sentence."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from primia_kit.errors import KitError
from primia_kit.privacy import Ledger, SampledGaussian

from .ledgers import STEP, begin, sentence


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
