"""Which batches a round has, and at which learning rate."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from primia_kit.federation import TrainingPlan, federate
from primia_kit.federation.local import round_batches

from .noise_sites import SMALL, hospitals

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
