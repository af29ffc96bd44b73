"""A hospital's ledger counts over processes, keeps its budget, and refuses what can't be."""

import multiprocessing
import re
import subprocess
import sys

import pytest

from primia_kit.errors import KitError
from primia_kit.privacy import Gaussian, Ledger, SampledGaussian, epsilon

from .conftest import ROOT
from .ledgers import STEP, begin, sentence

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


def test_a_runs_own_limit_holds_for_what_others_have_spent(tmp_path):
    mine = begin(tmp_path / "ledger", budget=8.0)
    Ledger.open(tmp_path / "ledger").spend(STEP, 100, purpose="another run")
    with pytest.raises(KitError, match="epsilon 3 doesn't allow 'round 1'"):
        mine.spend(STEP, 100, purpose="round 1", limit=3.0)
    mine.spend(STEP, 100, purpose="round 1", limit=8.0)
    with pytest.raises(KitError, match="epsilon 8 doesn't allow"):
        mine.spend(STEP, 1000, purpose="round 2", limit=100.0)


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
