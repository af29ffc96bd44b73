"""Which sites are drawn for a round, and those that fail, are late, or come back."""

import logging
import time
from dataclasses import dataclass, replace

import pytest
import torch

from primia_kit.errors import KitError
from primia_kit.federation import Federation, Site, federate
from primia_kit.secagg import PlainSum, SecureSum

from .noise_sites import PLAN, SMALL, STOPPING, Gone, Recording, digest, films, hospitals, site, with_patients

# --- who takes part


@pytest.mark.parametrize(("sites", "share", "drawn"), [(2, 0.1, 2), (3, 0.1, 3), (6, 0.1, 3), (6, 0.7, 4), (6, 1.0, 6)])
def test_a_round_draws_a_share_of_the_sites_and_three_at_least(sites, share, drawn):
    federation = Federation(replace(SMALL, participation=share, rounds=20), hospitals(*"ABCDEF"[:sites]), PlainSum())
    draws = [federation._drawn(number) for number in range(1, 21)]
    assert {count for _, count in draws} == {drawn}
    assert all(sorted(order) == list("ABCDEF"[:sites]) for order, _ in draws)
    assert draws == [federation._drawn(number) for number in range(1, 21)]
    if drawn < sites:
        assert len({order[:drawn] for order, _ in draws}) > 1


def test_a_site_that_is_gone_for_good_doesnt_stop_a_run_that_draws_few():
    plan, sites = replace(SMALL, participation=0.3, rounds=6), hospitals(*"ABCDEFGHIJ")
    federation = Federation(plan, sites)
    drawn = [federation._drawn(number)[0] for number in range(1, 7)]
    lost = drawn[1][0]
    run = federate(plan, [Gone(s.name, s.train, s.test) if s.name == lost else s for s in sites])
    for order, done in zip(drawn, run.rounds, strict=True):
        assert set(done.losses) == set([name for name in order if name != lost][:3])
        assert done.absent.get(lost) == ("failed with RuntimeError" if lost in order[:3] else "not drawn")
    assert any("why it gave no answer: failed with RuntimeError" in e.what for e in run.transcript.entries)


def test_the_average_is_over_those_who_took_part():
    plan, sites = replace(SMALL, participation=0.5, rounds=1), hospitals(*"ABCDEF")
    run = federate(plan, sites)
    drawn = [s for s in sites if s.name in run.rounds[0].losses]
    assert len(drawn) == 3 and run.rounds[0].absent == {s.name: "not drawn" for s in sites if s not in drawn}
    federation = Federation(plan, sites)
    updates = [s.update(federation.task())[0] for s in drawn]
    for name, start in federation.weights.items():
        expected = start + sum(u[name] for u in updates) / sum(u["weight"] for u in updates)
        torch.testing.assert_close(run.model.weights[name], expected)


# --- sites that fail, are late, or come back


@dataclass(frozen=True)
class Troubled(Site):
    """A site that does `trouble` in the rounds of `when`, before it trains or in the middle."""

    when: tuple[int, ...] = ()
    trouble: object = None
    midway: bool = False

    def update(self, task, memory=None, **options):
        if task.number not in self.when:
            return super().update(task, memory, **options)
        if not self.midway:
            self.trouble()
            return super().update(task, memory, **options)
        inner = options.pop("on_step", None)

        def on_step(done, total):
            if inner:
                inner(done, total)
            if done == 2:
                self.trouble()

        return super().update(task, memory, on_step=on_step, **options)


def crash():
    raise RuntimeError("cannot read /films/Jane_Doe.dcm")


def troubled(name="B", **trouble):
    plain = site(name, [0, 1, 2] * 3, 7, size=16)
    return Troubled(name, plain.train, plain.test, **trouble)


@pytest.mark.parametrize("midway", [False, True])
@pytest.mark.parametrize("strategy", ["fedavg", "scaffold", "fedbn"])
def test_a_site_that_fails_is_left_out_and_comes_back(strategy, midway, caplog):
    a, c, d = hospitals("A", "C", "D")  # four, so that the secure sum goes on without one
    plan = replace(SMALL, strategy=strategy, norm="batch", rounds=3)
    with caplog.at_level(logging.WARNING):
        run = federate(plan, [a, troubled(when=(2,), trouble=crash, midway=midway), c, d])
    assert [r.absent for r in run.rounds] == [{}, {"B": "failed with RuntimeError"}, {}]
    assert ["".join(sorted(r.losses)) for r in run.rounds] == ["ABCD", "ACD", "ABCD"]
    assert "Jane_Doe" in caplog.text and "Jane_Doe" not in repr(run)  # the site's own log has it, the server doesn't


def test_a_round_without_a_site_is_the_round_of_the_others():
    a, c = hospitals("A", "C")
    plan = replace(SMALL, rounds=1)
    federation = Federation(plan, [a, troubled(when=(1,), trouble=crash), c], PlainSum())
    start, updates = federation.weights, [s.update(federation.task())[0] for s in (a, c)]
    federation.run_round()
    for name, value in federation.weights.items():
        torch.testing.assert_close(value, start[name] + (updates[0][name] + updates[1][name]) / 18)


def test_a_site_that_is_left_out_keeps_its_old_control_variate():
    a, c = hospitals("A", "C")
    federation = Federation(
        replace(SMALL, strategy="scaffold"),
        [a, troubled(when=(2,), trouble=lambda: time.sleep(0.5)), c],
        PlainSum(),
        time_out=30,
    )
    federation.run_round()
    before = federation.memories["B"].kept
    federation.time_out = 0.4
    assert federation.run_round().absent["B"] == "took longer than 0.4 s"
    after = federation.memories["B"]
    assert after.kept is before and not after.offered


@pytest.mark.parametrize("midway", [False, True])
def test_a_slow_site_is_left_out_of_the_round(midway):
    a, c = hospitals("A", "C")
    slow = troubled(when=(1,), trouble=lambda: time.sleep(1.2), midway=midway)
    run = federate(replace(SMALL, rounds=2), [a, slow, c], aggregator=PlainSum(), time_out=1.0)
    assert [r.absent for r in run.rounds] == [{"B": "took longer than 1 s"}, {}]


def test_a_site_that_drops_out_of_the_sum_keeps_its_old_state():
    """An aggregator with `survivors` says who is in the sum, whatever it was handed."""

    class Dropping(PlainSum):
        survivors = ()

        def sum(self, purpose, contributions, fields=None):
            self.survivors = tuple(site for site in contributions if (purpose, site) != ("round 2 update", "B"))
            return super().sum(purpose, {site: contributions[site] for site in self.survivors}, fields)

    federation = Federation(replace(SMALL, strategy="scaffold"), hospitals("A", "B", "C"), Dropping())
    federation.run_round()
    memory = federation.memories["B"]
    before = memory.kept
    assert federation.run_round().absent == {"B": "dropped out of the sum"}
    assert before and memory.kept is before and not memory.offered
    assert federation.run_round().absent == {} and memory.kept is not before


def test_a_sentence_of_a_site_is_passed_on():
    def refuse():
        raise KitError("Site B doesn't approve this plan.")

    run = federate(replace(SMALL, rounds=1), [*hospitals("A", "C", "D"), troubled(when=(1,), trouble=refuse)])
    assert run.rounds[0].absent == {"B": "Site B doesn't approve this plan."}


def test_too_few_answers_stop_the_run_and_it_can_go_on(tmp_path):
    sites = [hospitals("A")[0], troubled(when=(2,), trouble=crash)]
    with pytest.raises(KitError, match=r"Round 2: 1 of 2 sites answered, min_sites is 2\. B: failed with RuntimeError"):
        federate(SMALL, sites, aggregator=PlainSum(), checkpoints=tmp_path)
    mended = [sites[0], troubled()]
    resumed = federate(SMALL, mended, aggregator=PlainSum(), checkpoints=tmp_path)
    assert digest(resumed) == digest(federate(SMALL, mended, aggregator=PlainSum()))
    alone = federate(replace(SMALL, min_sites=1), sites, aggregator=PlainSum())
    assert sorted(alone.rounds[1].losses) == ["A"]


def test_too_few_for_a_secure_sum_stop_the_run_with_the_reason_and_it_can_go_on(tmp_path):
    """Three hospitals, one fails: in a sum of two each would learn the other's update."""
    a, c = hospitals("A", "C")
    with pytest.raises(KitError, match=r"Round 2: 2 of 3 sites answered, and a secure sum needs 3\. B: failed with RuntimeError"):
        federate(SMALL, [a, troubled(when=(2,), trouble=crash), c], checkpoints=tmp_path)
    mended = [a, troubled(), c]
    assert digest(federate(SMALL, mended, checkpoints=tmp_path)) == digest(federate(SMALL, mended))


def test_a_stop_by_the_user_is_no_failure_of_a_site():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        federate(SMALL, [*hospitals("A", "C"), troubled(when=(1,), trouble=stop)])


@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_a_time_out_that_is_none_is_a_sentence(value):
    with pytest.raises(KitError, match="time_out is"):
        federate(SMALL, hospitals("A"), time_out=value)


def test_all_that_a_site_sends_goes_through_the_aggregator():
    recording = Recording()
    plan = replace(STOPPING, strategy="scaffold", class_weights="balanced", rounds=2)
    run = federate(plan, [with_patients(name, seed) for seed, name in enumerate("ABC")], aggregator=recording)
    assert list(recording.seen) == [
        "pixel statistics", "class counts", "weights of all sites",
        "round 1 update", "round 1 validation", "round 2 update", "round 2 validation",
    ]  # fmt: skip
    parts = set(recording.seen["round 1 update"]["A"])
    weights = set(run.model.weights)
    assert parts == {"weight"} | weights | {f"control.{name}" for name in weights}
    assert set(recording.seen["round 1 validation"]["B"]) == {"loss", "films"}


def test_an_empty_validation_set_adds_nothing():
    held = replace(site("A", [0, 1], size=16), validation=films([], size=16))
    federation = Federation(SMALL, [held])
    sums = held.validation_sums(federation.task(), federation.memories["A"])
    assert float(sums["films"]) == float(sums["loss"]) == 0


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold", "fedbn"])
def test_sites_side_by_side_find_what_they_find_in_turn(strategy):
    """To the bit, whatever the number of cores, and torch's own generator and threads stay as they were."""
    plan = replace(SMALL, strategy=strategy, norm="batch", architecture="small_cnn", patience=5, local_epochs=3)
    sites = [with_patients(name, seed) for seed, name in enumerate("ABCD")]
    before, digests = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            generator = torch.get_rng_state()
            federation = Federation(plan, sites)
            for _ in federation:
                pass
            digests.append(digest(federation.run()))
            assert torch.get_num_threads() == threads and torch.get_rng_state().equal(generator)
    finally:
        torch.set_num_threads(before)
    assert len(set(digests)) == 1


def test_networks_with_dropout_take_turns():
    plan = replace(PLAN, architecture="vgg16")
    assert Federation(plan, [site(name, [0, 1]) for name in "ABC"])._asking._pool is None


def test_a_stop_ends_the_other_sites_too():
    def stop():
        raise KeyboardInterrupt

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        members = [*hospitals("A"), troubled(when=(1,), trouble=stop)]
        federation = Federation(replace(SMALL, sync_every=10**4), members, PlainSum())
        start = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            federation.run_round()
        federation._asking._pool.shutdown(wait=True)  # A was to make ten thousand steps
        assert time.perf_counter() - start < 20
    finally:
        torch.set_num_threads(before)


def test_the_facts_about_all_films_need_all_sites():
    """A sum without somebody's films would be wrong, and used all through the run."""
    sites, plan = hospitals(*"ABCD"), replace(SMALL, strategy="scaffold", class_weights="balanced")
    for purpose in ("pixel statistics", "class counts", "weights of all sites"):

        class Leaving(SecureSum):
            def sum(self, of, *rest, purpose=purpose):
                self.dropouts = {"D": "before masking"} if of == purpose else {}
                return super().sum(of, *rest)

        with pytest.raises(KitError, match=f"{purpose}: D dropped out, and the run needs this sum"):
            Federation(plan, sites, Leaving())


def test_a_site_that_fedbn_never_drew_is_named():
    plan = replace(SMALL, norm="batch", strategy="fedbn", participation=0.3, rounds=1)
    run = federate(plan, hospitals(*"ABCDE"))
    never = [name for name in "ABCDE" if name not in run.rounds[0].losses]
    assert run.notes == (f"Never in a round, so their BatchNorm layers are as they began: {', '.join(never)}.",)
    assert federate(replace(plan, participation=1.0), hospitals(*"ABC")).notes == ()
