"""Films set aside, losses that can be compared, and when a round is the last."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from primia_kit.errors import KitError
from primia_kit.federation import Federation, Site, federate, load_sites, pool_sites
from primia_kit.secagg import PlainSum

from .noise_sites import SMALL, STOPPING, digest, site, with_patients


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
