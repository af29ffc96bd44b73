"""What went wrong in PriMIA's code, each with a test that the kit does it right.

The defects were read in the archived code of Kaissis et al. 2021; each is an easy mistake in federated training.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from primia_kit.data import FilmSet
from primia_kit.errors import KitError
from primia_kit.federation import Federation, TrainingPlan, federate, pool_sites
from primia_kit.federation import local as local_training
from primia_kit.secagg import PlainSum

from .noise_sites import PLAN, digest, films, site

SMALL = replace(PLAN, size=16, rounds=4)


def unequal():
    """A holds four times as many films as C, in another range of gray."""
    return [
        site("A", [0, 1, 2, 0] * 6, 1, size=16),
        site("B", [0, 1, 2] * 4, 2, size=16),
        site("C", [0, 0, 1, 0, 0, 2], 3, size=16),
    ]


@pytest.mark.parametrize("sync_every", [0, 2])
def test_learning_rate_decay_is_not_lost_at_a_sync(sync_every, monkeypatch):
    """PriMIA rebuilt its optimisers at every sync, and each began with the full learning rate again."""
    rates = []

    def spying(network, plan):
        optimizer = make_optimizer(network, plan)
        step = optimizer.step

        def noted():
            rates.append(optimizer.param_groups[0]["lr"])
            return step()

        optimizer.step = noted
        return optimizer

    make_optimizer = local_training.make_optimizer
    monkeypatch.setattr(local_training, "make_optimizer", spying)
    plan = replace(SMALL, sync_every=sync_every, learning_rate=0.01)
    run = federate(plan, [unequal()[1]])
    steps = sum(r.steps["B"] for r in run.rounds)
    assert rates == pytest.approx([0.01 * (1 + math.cos(math.pi * i / steps)) / 2 for i in range(steps)])


@pytest.mark.parametrize("sync_every", [1, 4, 9])
def test_a_site_out_of_batches_does_not_stay_in_the_average_with_stale_weights(sync_every):
    """PriMIA averaged such a site's old weights in, again and again, until the others were through. In the kit it
    goes on into its next pass: every contribution of every round is made of fresh steps from the global model."""
    fresh = []

    class Watching(PlainSum):
        def sum(self, purpose, contributions, fields=None):
            if "update" in purpose:
                fresh.append({name: float(parts["fc2.weight"].abs().sum()) for name, parts in contributions.items()})
            return super().sum(purpose, contributions, fields)

    plan = replace(SMALL, sync_every=sync_every, rounds=5)
    run = federate(plan, unequal(), aggregator=Watching())
    for moved, done in zip(fresh, run.rounds, strict=True):
        assert done.steps == {"A": sync_every, "B": sync_every, "C": sync_every}
        assert all(change > 0 for change in moved.values())
    per_pass = {s.name: plan.batches_in_a_pass(len(s.train)) for s in unequal()}
    assert per_pass["C"] < 5 * sync_every  # C did run out, more than once where sync_every is 4 or 9


def test_the_pooled_std_is_not_the_mean_of_stds():
    """PriMIA averaged the sites' standard deviations, which forgets that their means differ."""
    sites = unequal()
    spec = Federation(SMALL, sites).spec
    union = np.concatenate([s.train.images.numpy().ravel() for s in sites]).astype(np.float64)
    assert spec.pixel_mean == pytest.approx(union.mean(), rel=1e-6)
    assert spec.pixel_std == pytest.approx(union.std(), rel=1e-6)
    assert abs(np.mean([s.train.images.std() for s in sites]) - union.std()) > 1e-3


def test_class_counts_do_not_travel_in_clear():
    """PriMIA's sites sent their label counts to the server. The kit's go into a secure sum: of a site's own message
    with its counts, the server can read nothing."""
    plan, sites = replace(SMALL, class_weights="balanced", rounds=1), unequal()
    labels = torch.cat([s.train.labels for s in sites]).bincount().double()

    def received(aggregator):
        """What the server received from the sites in this sum: (site, what, how readable)."""
        federation = Federation(plan, sites, aggregator)
        federation.run_round()
        torch.testing.assert_close(federation.class_weights, (labels.sum() / (3 * labels)).float())
        entries = federation.aggregator.transcript.entries
        return {(e.sender, e.what, e.readable) for e in entries if e.purpose == "class counts" and e.sender != "server"}

    secure = received(None)  # the default
    assert {(name, "masked vectors", "opaque") for name in "ABC"} <= secure
    in_clear = {what for _, what, readable in secure if readable == "in clear"}
    assert in_clear == {"one share of one secret of each site"}  # which takes the masks off the sum
    assert {e for e in received(PlainSum()) if e[2] == "in clear"} == {(n, "its whole contribution", "in clear") for n in "ABC"}


def test_no_count_is_formed_that_the_plan_has_no_use_for():
    recording = []

    class Listing(PlainSum):
        def sum(self, purpose, contributions, fields=None):
            recording.append(purpose)
            return super().sum(purpose, contributions, fields)

    federate(replace(SMALL, rounds=1), unequal(), aggregator=Listing())
    assert recording == ["pixel statistics", "round 1 update"]


class Untouchable(FilmSet):
    """Test films that fail whoever looks at their pixels or labels while a model is trained or chosen."""

    def __getattribute__(self, name):
        if name in ("images", "labels"):
            raise AssertionError("the test films were looked at")
        return super().__getattribute__(name)

    def __len__(self):
        return 3

    @property
    def size(self):
        return 16


def test_the_model_is_not_selected_on_the_test_set():
    """PriMIA kept the weights that did best on the test films. The kit's early stopping looks at films of training
    patients that were set aside, and never at a test film."""
    plan = replace(SMALL, rounds=8, patience=2, validation_share=0.3)
    plain = unequal()
    guarded = [replace(s, test=Untouchable(**vars(films([0, 1, 2], size=16)))) for s in plain]
    run = federate(plan, guarded)
    assert all(r.validation_loss is not None for r in run.rounds)
    assert digest(run) == digest(federate(plan, plain))
    for s in plain:
        held = s.with_validation(plan)
        assert set(held.validation.patients) <= set(s.train.patients)
        assert not set(held.validation.patients) & set(held.train.patients)


def test_unknown_config_keys_are_not_ignored():
    """A misspelt key in PriMIA's configuration left the default in force, and nobody was told."""
    for key, meant in (
        ("sync_evry", "sync_every"),
        ("proximal_nu", "proximal_mu"),
        ("pacience", "patience"),
        ("mix_up", "mixup"),
    ):
        with pytest.raises(KitError, match=f"no key '{key}' .did you mean '{meant}'"):
            TrainingPlan.from_dict({key: 1})
    with pytest.raises(TypeError):
        TrainingPlan(sync_evry=1)


def test_a_pooled_run_is_compared_at_the_same_number_of_steps():
    """Syncing every n batches gives a pooled site a third of the steps of three sites, unless somebody counts."""
    sites = unequal()
    plan = replace(SMALL, sync_every=3)
    pooled = plan.pooled(len(sites))
    federated_steps = sum(sum(r.steps.values()) for r in federate(plan, sites).rounds)
    pooled_steps = sum(sum(r.steps.values()) for r in federate(pooled, [pool_sites(sites)]).rounds)
    assert federated_steps == pooled_steps
