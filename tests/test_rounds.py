"""What a round is: which batches, which sites, which loss, and when it is the last."""

import logging
import math
import time
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from primia_kit.errors import KitError
from primia_kit.federation import Federation, Site, TrainingPlan, federate, load_sites, pool_sites
from primia_kit.federation.fields import update_fields
from primia_kit.federation.local import round_batches
from primia_kit.secagg import PlainSum, SecureSum
from primia_kit.seeds import numpy_generator, torch_generator

from .noise_sites import PLAN, digest, films, site

SMALL = replace(PLAN, size=16, rounds=3)


def hospitals(*names, films=9):
    return [site(name, [i % 3 for i in range(films)], seed, size=16) for seed, name in enumerate(names)]


class Gone(Site):
    """A site whose machine is down."""

    def update(self, *_, **__):
        raise RuntimeError


class Recording(PlainSum):
    def __init__(self):
        super().__init__()
        self.seen = {}

    def sum(self, purpose, contributions, fields=None):
        self.seen[purpose] = {site: dict(parts) for site, parts in contributions.items()}
        return super().sum(purpose, contributions, fields)


# --- batches


@given(st.integers(2, 40), st.integers(2, 9), st.integers(1, 12), st.integers(1, 8))
def test_a_site_makes_as_many_batches_as_asked_and_passes_over_its_films_evenly(count, batch_size, sync_every, rounds):
    plan = TrainingPlan(batch_size=batch_size, sync_every=sync_every)
    batches = [round_batches(plan, count, r, "A") for r in range(1, rounds + 1)]
    assert all(len(each) == sync_every for each in batches)
    row = [b for each in batches for b in each]
    cut = plan.batches_in_a_pass(count)
    for start in range(0, len(row) - cut + 1, cut):  # every whole pass sees every film once
        assert sorted(torch.cat(row[start : start + cut]).tolist()) == list(range(count))
    seen = Counter(torch.cat(row).tolist())
    assert max(seen.values()) - min(seen[i] for i in range(count)) <= 1
    assert min(len(b) for b in row) >= 2 and max(len(b) for b in row) <= max(batch_size, 3)


def test_passes_are_shuffled_anew():
    plan = TrainingPlan(batch_size=4, sync_every=3)
    first, second = (torch.cat(round_batches(plan, 12, r, "A")).tolist() for r in (1, 2))
    assert first != second and sorted(first) == sorted(second)
    assert first != torch.cat(round_batches(plan, 12, 1, "B")).tolist()


def test_passes_over_the_data_can_be_compared():
    """A pooled run with as many steps a round as the sites make together passes over the films as often."""
    plan = TrainingPlan(batch_size=10, sync_every=4, rounds=25)
    counts = (200, 100, 60)
    assert [plan.passes(n) for n in counts] == [5, 10, pytest.approx(100 / 6)]
    by_films = sum(n * plan.passes(n) for n in counts) / sum(counts)
    pooled = plan.pooled(sites=3)
    assert pooled.passes(sum(counts)) == pytest.approx(by_films, rel=1e-6)
    whole = TrainingPlan(rounds=7, local_epochs=2)
    assert whole.pooled(3) == whole and whole.passes(5) == whole.passes(500) == 14


def test_syncing_often_is_training_with_averages_in_between():
    run = federate(replace(SMALL, sync_every=1, rounds=5), hospitals("A", "B", "C"))
    assert all(set(r.steps.values()) == {1} for r in run.rounds)


# --- the learning rate


@given(st.integers(1, 30), st.sampled_from(["cosine", "step", "constant"]), st.floats(0, 0.9), st.integers(1, 7))
def test_the_learning_rate_climbs_in_the_warmup_and_never_after(rounds, schedule, warmup, steps):
    plan = TrainingPlan(rounds=rounds, schedule=schedule, warmup=warmup, learning_rate=1.0)
    places = [(r - 1 + s / steps) / rounds for r in range(1, rounds + 1) for s in range(steps)]
    rates = [plan.learning_rate_in(r, s / steps) for r in range(1, rounds + 1) for s in range(steps)]
    assert all(0 < rate <= 1 + 1e-12 for rate in rates)
    for (place, rate), (later, following) in zip(zip(places, rates), zip(places[1:], rates[1:])):
        if later < warmup:
            assert following > rate
        elif place >= warmup:
            assert following <= rate


def test_the_steps_of_the_step_schedule():
    plan = TrainingPlan(rounds=8, schedule="step", learning_rate=1.0)
    assert [plan.learning_rate_in(r) for r in range(1, 9)] == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    warm = replace(plan, warmup=0.5, schedule="cosine")
    assert warm.learning_rate_in(1) == pytest.approx(0.1) and warm.learning_rate_in(5) == 1.0


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


# --- the loss


def test_class_weights_are_balanced_over_all_sites():
    sites = [site("A", [0] * 8 + [1], 1, size=16), site("B", [1, 1, 2, 0], 2, size=16)]
    recording = Recording()
    federation = Federation(replace(SMALL, class_weights="balanced"), sites, recording)
    union = np.concatenate([s.train.labels.numpy() for s in sites])
    np.testing.assert_allclose(
        federation.class_weights, compute_class_weight("balanced", classes=np.arange(3), y=union), rtol=1e-6
    )
    assert recording.seen["class counts"]["A"]["films"].tolist() == [8, 1, 0]
    assert federation.task().class_weights is federation.class_weights
    assert Federation(SMALL, sites, PlainSum()).class_weights is None


def test_class_weights_count_at_sites_with_a_single_label():
    """One step at each of three sites is a step along the gradient of the pooled, weighted loss."""
    changes = {"rounds": 1, "momentum": 0.0, "weight_decay": 0.0, "augmentation": "none", "batch_size": 100}
    plan = replace(SMALL, class_weights="balanced", **changes)
    sites = [site(name, [label] * count, label, size=16) for label, (name, count) in enumerate((("A", 40), ("B", 4), ("C", 4)))]
    federation = Federation(plan, sites)
    network, films = federation.spec.build(plan.seed), pool_sites(sites).train
    weights = torch.tensor([48 / 3 / 40, 4, 4])
    loss = F.cross_entropy(network(federation.spec.normalise(films.images)), films.labels, weights)
    expected = {
        name: parameter.detach() - plan.learning_rate_in(1, 0) * gradient
        for (name, parameter), gradient in zip(
            network.named_parameters(), torch.autograd.grad(loss, list(network.parameters())), strict=True
        )
    }
    federation.run_round()
    for name, value in expected.items():
        torch.testing.assert_close(federation.weights[name], value, atol=1e-5, rtol=1e-4)


def test_a_label_that_nobody_has_weighs_nothing():
    federation = Federation(replace(SMALL, class_weights="balanced"), [site("A", [0, 0, 1, 0], size=16)])
    assert federation.class_weights.tolist() == pytest.approx([4 / 6, 2, 0])
    assert math.isfinite(federation.run_round().losses["A"])


@pytest.mark.parametrize("changes", [{"mixup": 0.4}, {"class_weights": "balanced"}, {"mixup": 1.0, "class_weights": "balanced"}])
def test_a_step_with_mixup_and_class_weights_is_that_of_bare_torch(changes):
    plan = replace(SMALL, rounds=1, momentum=0.0, weight_decay=0.0, augmentation="none", batch_size=4, **changes)
    lone = site("A", [0, 0, 1, 2, 0], size=16)
    federation = Federation(plan, [lone])
    network, x, y = federation.spec.build(plan.seed), lone.train.images, lone.train.labels
    weights = torch.tensor(compute_class_weight("balanced", classes=np.arange(3), y=y.numpy())).float()
    weights = weights if plan.class_weights == "balanced" else None
    blend = numpy_generator(plan.seed, 1, "A", "mixup")
    batches = torch.randperm(5, generator=torch_generator(plan.seed, 1, "A", "shuffle")).tensor_split(2)
    for step, batch in enumerate(batches):
        images, labels = federation.spec.normalise(x[batch]), y[batch]
        share, partner = 1.0, torch.arange(len(batch))
        if plan.mixup:
            share = blend.beta(plan.mixup, plan.mixup)
            partner = torch.from_numpy(blend.permutation(len(batch)))
        logits = network(share * images + (1 - share) * images[partner])
        losses = [F.cross_entropy(logits, y, weights, reduction="none").mean() for y in (labels, labels[partner])]
        loss = share * losses[0] + (1 - share) * losses[1]
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), gradients):
                parameter -= plan.learning_rate_in(1, step / 2) * gradient
    federation.run_round()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(federation.weights[name], value, atol=1e-6, rtol=1e-4)


# --- early stopping

STOPPING = replace(SMALL, rounds=30, patience=2, validation_share=0.3, learning_rate=0.01, schedule="constant")


def with_patients(name, seed=0, patients=8):
    """Three films a patient."""
    return site(
        name, [i % 3 for i in range(3 * patients)], seed, size=16, patients=[f"{name}{i // 3}" for i in range(3 * patients)]
    )


def test_validation_sets_whole_patients_aside_and_none_for_nothing():
    lone = with_patients("A")
    held = lone.with_validation(STOPPING)
    ours, theirs = set(held.train.patients), set(held.validation.patients)
    assert ours and theirs and not ours & theirs and ours | theirs == set(lone.train.patients)
    assert len(held.train) + len(held.validation) == len(lone.train)
    assert lone.with_validation(SMALL) is lone


def test_pooled_and_federated_runs_set_the_same_patients_aside():
    sites = [with_patients(name, seed, 12) for seed, name in enumerate("ABC")]
    apart = {patient for s in sites for patient in s.with_validation(STOPPING).validation.patients}
    assert set(pool_sites(sites).with_validation(STOPPING).validation.patients) == apart


@given(st.integers(1, 6), st.integers(0, 20), st.sampled_from([0.01, 0.2, 0.5]))
def test_one_patient_at_least_is_set_aside_and_one_stays(patients, seed, share):
    plan = replace(STOPPING, seed=seed, validation_share=share)
    held = with_patients("A", patients=patients).with_validation(plan)
    left, aside = len(set(held.train.patients)), len(set(held.validation.patients))
    assert left + aside == patients and left >= 1 and (aside >= 1 or patients == 1)


def test_losses_over_other_films_arent_compared():
    """A site that is missing from a round's validation loss would make that round look better, or worse."""

    class OftenAway(Site):
        def validation_sums(self, task, *rest, **options):
            if task.number % 2 == 0:
                raise RuntimeError
            return super().validation_sums(task, *rest, **options)

    plan = replace(STOPPING, rounds=8, patience=20)
    sites = [with_patients(name, seed) for seed, name in enumerate("ABCD")]
    away = OftenAway("D", sites[3].train, sites[3].test)
    run, whole = federate(plan, [*sites[:3], away]), federate(plan, sites)
    losses = {r.number: r.validation_loss for r in run.rounds}
    known = {r.number: r.validation_loss for r in whole.rounds if r.number % 2}
    assert losses == known | dict.fromkeys((2, 4, 6, 8)) and run.best_round == min(known, key=known.get)
    assert run.rounds[1].absent == {"D": "not in the validation loss: failed with RuntimeError"}


class StopsOnce(PlainSum):
    """The user's stop, in the middle of the second round."""

    def sum(self, purpose, *rest):
        if purpose == "round 2 validation" and not hasattr(self, "stopped"):
            self.stopped = True
            raise KeyboardInterrupt
        return super().sum(purpose, *rest)


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold", "fedadam", "fedbn"])
def test_a_round_that_is_stopped_can_be_made_again(strategy):
    changes = {} if strategy == "scaffold" else {"norm": "batch"}
    plan = replace(STOPPING, rounds=3, strategy=strategy, **changes)
    sites = [with_patients(name, seed) for seed, name in enumerate("ABC")]
    federation = Federation(plan, sites, StopsOnce())
    with pytest.raises(KeyboardInterrupt):
        list(federation)
    assert federation.finished == 1
    list(federation)
    assert digest(federation.run()) == digest(federate(plan, sites, aggregator=PlainSum()))


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


def test_uniform_weights_leave_updates_as_much_room_as_weights_by_films():
    for weighting in ("uniform", "films"):
        federation = Federation(replace(SMALL, weighting=weighting), hospitals(*"ABC"))
        mean_weight = federation.total_weight / 3
        fields = update_fields(["layer"], federation.total_weight, 3)
        assert fields["layer"].bound / mean_weight == pytest.approx(2**12 / 3)


def test_the_manifests_validation_films_come_first(hospitals, small_plan):
    """A manifest with a validation split is used as it is, and read only when somebody asks for it."""
    chosen = {film.patient for film in hospitals.select(split="train", site="A")}
    chosen = set(sorted(chosen)[:3])
    split = replace(hospitals, films=tuple(replace(f, split="validation") if f.patient in chosen else f for f in hospitals))
    plan = replace(small_plan, patience=1)
    sites = load_sites(split, plan)
    a, b = sites[0].with_validation(plan), sites[1].with_validation(plan)
    assert set(a.validation.patients) == chosen and len(a.train) == len(sites[0].train)
    assert len(sites[1].validation) == 0 and 0 < len(b.validation) < len(sites[1].train)
    assert load_sites(split, small_plan)[0].validation is None
    with pytest.raises(KitError, match=r"Site \w+ has no validation film, others have.*with_validation"):
        pool_sites(sites)
    held = [site.with_validation(plan) for site in sites]
    pooled = pool_sites(held).with_validation(plan)
    assert len(pooled.train) == sum(len(site.train) for site in held)
    assert pooled.validation.patients == tuple(patient for site in held for patient in site.validation.patients)


def test_training_stops_after_its_patience_and_keeps_the_best_model():
    sites = [with_patients(name, seed) for seed, name in enumerate("ABC")]
    plan = replace(STOPPING, learning_rate=0.06)
    federation = Federation(plan, sites)
    weights = {0: federation.weights}
    for done in federation:
        weights[done.number] = federation.weights
    run = federation.run()
    losses = {r.number: r.validation_loss for r in run.rounds}
    best = min(losses, key=losses.get)
    assert run.best_round == best
    assert len(run.rounds) == min(best + plan.patience, plan.rounds) < plan.rounds
    assert all(run.model.weights[n].equal(weights[best][n]) for n in weights[best])
    network = run.model.network()
    with torch.no_grad():  # the pooled loss, formed in one place
        held = [s.with_validation(plan).validation for s in sites]
        logits = torch.cat([network(run.model.spec.normalise(f.images)) for f in held])
        loss = F.cross_entropy(logits, torch.cat([f.labels for f in held]))
    assert losses[best] == pytest.approx(float(loss), rel=1e-4)


def test_fedbn_restores_each_sites_layers_of_the_best_round():
    sites = [with_patients(name, seed) for seed, name in enumerate("ABC")]
    federation = Federation(replace(STOPPING, learning_rate=0.1, norm="batch", strategy="fedbn", rounds=6, patience=4), sites)
    layers = {}
    for done in federation:
        layers[done.number] = dict(federation.memories["B"].kept)
    run = federation.run()
    assert run.best_round < len(run.rounds)
    assert run.models["B"].weights["norm1.bias"].equal(layers[run.best_round]["norm1.bias"])
    assert not run.models["B"].weights["norm1.bias"].equal(layers[len(run.rounds)]["norm1.bias"])


def test_no_validation_film_anywhere_is_a_sentence():
    lone = site("A", [0, 1, 2], size=16, patients=["one"] * 3)
    with pytest.raises(KitError, match="set patience to 0"):
        federate(STOPPING, [lone])


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
