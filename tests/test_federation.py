"""Federated averaging, checked against arithmetic done another way."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from primia_kit.errors import KitError
from primia_kit.federation import Federation, Site, compare, evaluate, federate, load_sites, pool_sites
from primia_kit.federation.fields import PRECISION, update_fields
from primia_kit.federation.local import random_shift
from primia_kit.secagg import PlainSum, SecureSum
from primia_kit.seeds import torch_generator

from .noise_sites import PLAN, films, site


def test_the_average_is_weighted_by_films():
    sites = [site("A", [0, 1, 2, 0, 1, 2], 1), site("B", [0, 1], 2)]
    federation = Federation(PLAN, sites, PlainSum())
    before = federation.weights
    updates = [s.update(federation.task())[0] for s in sites]
    federation.run_round()
    for name, weights in federation.weights.items():
        local = [before[name] + u[name] / n for u, n in zip(updates, (6, 2), strict=True)]
        torch.testing.assert_close(weights, 0.75 * local[0] + 0.25 * local[1], atol=1e-6, rtol=1e-5)


def test_uniform_weights_count_sites_not_films():
    sites = [site("A", [0, 1, 2, 0, 1, 2], 1), site("B", [0, 1], 2)]
    plan = replace(PLAN, weighting="uniform")
    federation = Federation(plan, sites, PlainSum())
    before = federation.weights
    updates = [s.update(federation.task())[0] for s in sites]
    assert all(u["weight"] == 1 for u in updates)
    federation.run_round()
    for name, weights in federation.weights.items():
        torch.testing.assert_close(weights, before[name] + (updates[0][name] + updates[1][name]) / 2, atol=1e-6, rtol=1e-5)


@pytest.fixture
def double_precision():
    """BatchNorm on a handful of films amplifies float32's rounding to any size; float64 leaves room."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_federation_of_one_is_plain_training(norm, double_precision):
    """Bare torch, no kit code but the random draws: the same numbers."""
    plan = replace(PLAN, architecture="resnet9", norm=norm, augmentation="none", local_epochs=2)
    data = films([0, 1, 2, 0, 1, 2, 0, 1, 2, 1])
    run = federate(plan, [Site("only", data, data)])

    network = run.model.spec.build(plan.seed).to(memory_format=torch.channels_last)
    mean, std = data.images.mean(), data.images.std(correction=0)
    for round in (1, 2):
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-4, nesterov=True)
        shuffle = torch_generator(plan.seed, round, "only", "shuffle")
        network.train()
        for epoch in range(2):
            for step, batch in enumerate(torch.randperm(10, generator=shuffle).tensor_split(3)):
                way = (round - 1 + (3 * epoch + step) / 6) / 2  # cosine, within a round too
                optimizer.param_groups[0]["lr"] = 0.02 * (1 + math.cos(math.pi * way)) / 2
                optimizer.zero_grad()
                F.cross_entropy(network((data.images[batch] - mean) / std), data.labels[batch]).backward()
                optimizer.step()
    for name, weights in network.state_dict().items():
        if weights.is_floating_point():
            torch.testing.assert_close(run.model.weights[name], weights.contiguous(), atol=1e-8, rtol=1e-6)


def test_pooled_statistics_are_those_of_the_union(sites, small_plan):
    spec = Federation(small_plan, sites).spec
    every = np.concatenate([s.train.images.numpy().ravel() for s in sites]).astype(np.float64)
    assert spec.pixel_mean == pytest.approx(every.mean(), rel=1e-6)
    assert spec.pixel_std == pytest.approx(every.std(), rel=1e-6)
    mean_of_stds = np.mean([s.train.images.std() for s in sites])
    assert abs(spec.pixel_std - mean_of_stds) > 1e-3  # what a careless federation would use


def test_batchnorm_statistics_travel_and_counters_stay(sites, small_plan):
    federation = Federation(small_plan, sites)
    before = federation.weights
    federation.run_round()
    assert not federation.weights["bn1.running_mean"].equal(before["bn1.running_mean"])
    assert federation.weights["bn1.num_batches_tracked"] == 0


def test_the_seed_decides_everything_and_nothing_else_does(sites, small_plan):
    torch.manual_seed(5)
    first = federate(small_plan, sites)
    torch.manual_seed(6)
    again = federate(small_plan, sites)
    other = federate(replace(small_plan, seed=1), sites)
    assert all(first.model.weights[n].equal(again.model.weights[n]) for n in first.model.weights)
    assert not first.model.weights["conv1.weight"].equal(other.model.weights["conv1.weight"])


def test_dropout_draws_from_the_plans_seed():
    plan = replace(PLAN, architecture="vgg16", norm="group", rounds=1, learning_rate=1e-3)
    sites = [site("A", [0, 1])]
    runs = []
    for disturbed in (1, 2):
        torch.manual_seed(disturbed)
        runs.append(federate(plan, sites).rounds[0].losses["A"])
    assert runs[0] == runs[1]


def test_training_learns_what_can_be_learned():
    plan = replace(PLAN, rounds=6, architecture="resnet9", norm="batch")
    sites = [site("A", [0, 1, 2] * 6, 1), site("B", [0, 1, 2] * 4, 2)]
    run = federate(plan, sites, aggregator=PlainSum())
    assert evaluate(run.model, sites)["all"].accuracy == 1
    assert run.rounds[-1].losses["A"] < run.rounds[0].losses["A"]


def test_a_label_at_one_site_only_is_learned_by_all():
    plan = replace(PLAN, rounds=8, architecture="resnet9", norm="group", learning_rate=0.05)
    sites = [site("A", [0, 1] * 8, 1, test=(0, 1)), site("B", [1, 2] * 8, 2, test=(1, 2))]
    federated = federate(plan, sites, aggregator=PlainSum()).model
    scores = evaluate(federated, sites)
    assert scores["all"].films == 4 and scores["all"].mcc > 0.5
    comparison = compare(federated, {s.name: federate(replace(plan, rounds=1), [s]).model for s in sites}, federated, sites)
    assert comparison.results()["federated.mcc"] == scores["all"].mcc


def test_a_site_without_test_films_or_with_one_class_has_undefined_scores():
    plan = replace(PLAN, rounds=1)
    sites = [site("A", [0, 1, 2], test=()), site("B", [0, 1, 2], 1, test=(1,)), site("C", [2, 0], 2)]
    model = federate(plan, sites).model
    scores = evaluate(model, sites)
    assert scores["A"].films == 0 and math.isnan(scores["A"].accuracy)
    assert math.isnan(scores["B"].mcc) and not math.isnan(scores["B"].accuracy)
    comparison = compare(model, {s.name: model for s in sites}, model, sites)
    assert comparison.results()["local.mcc"] == pytest.approx(scores["C"].mcc)  # the mean of what is defined
    assert list(comparison.by_site().index) == ["A", "B", "C"]


def test_progress_is_told_after_every_round(sites, small_plan):
    told = []
    run = federate(small_plan, sites, on_round=lambda round, rounds: told.append((round.number, rounds)))
    assert told == [(1, 2), (2, 2)]
    last = run.rounds[-1]
    assert last.losses.keys() == last.steps.keys() == {"A", "B", "C"}
    assert last.steps["A"] == -(-len(sites[0].train) // small_plan.batch_size)
    parameters = sum(w.numel() for w in run.model.weights.values() if w.is_floating_point())
    assert last.update_bytes == 4 * (parameters + 1)


def test_what_leaves_a_site(sites, small_plan):
    """Three sums of pixels; a weighted update of the model's shape with its weight; a loss and a count in clear."""
    site = sites[0]
    assert {name: part.shape for name, part in site.pixel_sums().items()} == dict.fromkeys(
        ("pixels", "sum", "sum_of_squares"), ()
    )
    federation = Federation(small_plan, sites)
    update, training = site.update(federation.task())
    floats = {name: w.shape for name, w in federation.weights.items() if w.is_floating_point()}
    assert {name: part.shape for name, part in update.items()} == {**floats, "weight": ()}
    assert vars(training).keys() == {"steps", "loss", "ledger_head", "epsilon"} and isinstance(training.loss, float)
    assert training.ledger_head == "" and training.epsilon is None  # of private plans alone


@pytest.mark.parametrize("name", ["", "all", "own", "everywhere", "St. Mary"])
def test_a_name_that_results_would_confuse_is_refused(name):
    with pytest.raises(KitError, match="can't be called"):
        site(name, [0, 1])


def test_no_test_film_at_all_is_a_sentence(sites):
    lone = site("A", [0, 1, 2], test=())
    with pytest.raises(KitError, match="No site has a test film"):
        evaluate(federate(PLAN, [lone]).model, [lone])


def test_a_model_that_answers_no_number_is_a_sentence():
    lone = site("A", [0, 1, 2])
    model = federate(PLAN, [lone]).model
    model.weights["fc2.bias"][0] = float("inf")
    with pytest.raises(KitError, match="training diverged"):
        evaluate(model, [lone])


@pytest.mark.parametrize("count", range(2, 12))
def test_batchnorm_never_meets_a_batch_of_one(count):
    plan = replace(PLAN, architecture="resnet18", norm="batch", batch_size=2, rounds=1)
    assert federate(plan, [site("A", [i % 3 for i in range(count)])]).rounds[0].steps["A"] == count // 2


def test_every_sum_goes_through_the_aggregator(sites, small_plan):
    class Recording(PlainSum):
        def __init__(self):
            super().__init__()
            self.seen = []

        def sum(self, purpose, contributions, fields=None):
            self.seen.append((purpose, sorted(contributions), sorted(next(iter(contributions.values())))[-1]))
            return super().sum(purpose, contributions, fields)

    recording = Recording()
    federate(small_plan, sites, aggregator=recording)
    assert [s[:2] for s in recording.seen] == [
        (p, ["A", "B", "C"]) for p in ("pixel statistics", "round 1 update", "round 2 update")
    ]
    assert [s[2] for s in recording.seen] == ["sum_of_squares", "weight", "weight"]


@pytest.mark.parametrize(
    ("sites", "changes", "sentence"),
    [
        ([], {}, "at least one site"),
        ([site("A", [0, 1]), site("A", [0, 1])], {}, "same name"),
        ([site("A", [])], {}, "Site A has no training film"),
        ([site("A", [0])], {"norm": "batch"}, "single training film"),
        ([site("A", [0, 1])], {"size": 64}, "have size 32, the plan says 64"),
        ([site("A", [0, 1])], {"geometry": "stretch"}, "geometry 'pad'"),
        ([site("A", [0, 1])], {"classes": ("a", "b")}, "have classes"),
        ([Site("A", replace(films([0, 0]), images=torch.zeros(2, 1, 32, 32)), films([0]))], {}, "nothing to learn"),
    ],
)
def test_sites_that_dont_fit_the_plan_are_a_sentence(sites, changes, sentence):
    with pytest.raises(KitError, match=sentence):
        federate(replace(PLAN, **changes), sites)


def test_the_sum_is_secure_unless_told_otherwise(sites, small_plan):
    """The same model to the resolution of its fields; the server has no update, and what it has in clear is written down."""
    plan = replace(small_plan, rounds=1)
    secure, plain = federate(plan, sites), federate(plan, sites, aggregator=PlainSum())
    for name, weights in plain.model.weights.items():
        torch.testing.assert_close(secure.model.weights[name], weights, atol=5e-6, rtol=1e-5)
    clear = {
        (e.purpose, e.sender, e.what) for e in secure.transcript.entries if e.readable == "in clear" and "share" not in e.what
    }
    losses = {("round 1 update", name, "a mean training loss and a number of steps") for name in "ABC"}
    assert {entry for entry in clear if entry[1] != "server"} == losses
    whole = {(e.purpose, e.sender) for e in plain.transcript.entries if e.what == "its whole contribution"}
    assert whole == {(purpose, name) for purpose in ("pixel statistics", "round 1 update") for name in "ABC"}


def test_two_sites_have_to_choose():
    sites = [site("A", [0, 1, 2]), site("B", [0, 1, 2], 1)]
    with pytest.raises(KitError, match=r"2 sites .* each learns the other's contribution .*PlainSum.*unsafe_two_survivors"):
        Federation(PLAN, sites)
    assert federate(PLAN, sites, aggregator=SecureSum(unsafe_two_survivors=True)).rounds


def test_a_site_that_leaves_leaves_numerator_and_denominator():
    """Four sites, one gone before its vector: the mean of the other three, weighted by their films."""
    sites = [site(name, [0, 1, 2] * count, seed) for seed, (name, count) in enumerate(zip("ABCD", (1, 2, 3, 4)))]
    secure = SecureSum()
    federation = Federation(PLAN, sites, secure)
    before = federation.weights
    updates = [s.update(federation.task())[0] for s in sites[:3]]
    secure.dropouts = {"D": "before masking"}
    federation.run_round()
    assert secure.survivors == ("A", "B", "C")
    for name, weights in federation.weights.items():
        mean = sum(u[name] for u in updates) / sum(u["weight"] for u in updates)
        torch.testing.assert_close(weights, before[name] + mean, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("count", [3, 10, 50])
def test_the_fields_are_as_precise_as_they_say(count):
    """Weights that no power of two divides, and one site with nearly all films."""
    generator = torch.Generator().manual_seed(count)
    weights = [1.0] * (count - 1) + [4999.0]
    changes = [torch.randn(2000, generator=generator).clamp(-1.5, 1.5) for _ in weights]
    updates = {
        f"S{i}": {"weight": torch.tensor(w), "a.running_var": c[:10] * w * 1e3, "w": c * w}
        for i, (w, c) in enumerate(zip(weights, changes))
    }
    total = SecureSum().sum("x", updates, update_fields(updates["S0"], sum(weights), count))
    exact = sum(w * c.double() for w, c in zip(weights, changes)) / sum(weights)
    assert float(total["weight"]) == sum(weights)
    assert (total["w"] / total["weight"] - exact).abs().max() <= PRECISION
    torch.testing.assert_close(total["a.running_var"].double() / sum(weights), exact[:10] * 1e3, atol=1e-6, rtol=1e-5)


def test_a_site_of_one_film_takes_part():
    run = federate(PLAN, [site("A", [0, 1, 2] * 3), site("B", [1])], aggregator=PlainSum())
    assert run.rounds[-1].steps == {"A": 3, "B": 1}


def test_a_site_that_diverges_is_named():
    with pytest.raises(KitError, match=r"round \d update: .* of site A isn't finite: its training diverged"):
        federate(replace(PLAN, learning_rate=1e6, rounds=5), [site("A", [0, 1, 2] * 4)])


def test_contributions_that_dont_agree_are_named():
    one = {"w": torch.zeros(2)}
    with pytest.raises(KitError, match="no site contributed"):
        PlainSum().sum("x", {})
    with pytest.raises(KitError, match="'v' is at one of them only"):
        PlainSum().sum("x", {"A": one, "B": {**one, "v": torch.zeros(1)}})
    with pytest.raises(KitError, match=r"\(3,\) at site B, \(2,\) at A"):
        PlainSum().sum("x", {"A": one, "B": {"w": torch.zeros(3)}})


@given(st.integers(1, 5), st.integers(1, 4))
def test_the_plain_sum_adds_and_leaves_the_contributions_alone(count, parts):
    generator = torch.Generator().manual_seed(count)
    contributions = {f"S{i}": {f"p{j}": torch.randn(2, j + 1, generator=generator) for j in range(parts)} for i in range(count)}
    copies = {s: {n: t.clone() for n, t in c.items()} for s, c in contributions.items()}
    total = PlainSum().sum("x", contributions)
    for name in total:
        torch.testing.assert_close(total[name], torch.stack([c[name] for c in copies.values()]).sum(0))
    assert all(contributions[s][n].equal(copies[s][n]) for s in copies for n in copies[s])


def test_a_pooled_site_holds_everything(sites):
    pooled = pool_sites(sites)
    assert len(pooled.train) == sum(len(s.train) for s in sites) and len(pooled.test) == sum(len(s.test) for s in sites)


def test_films_without_a_site_are_a_sentence(hospitals, small_plan):
    homeless = replace(hospitals, films=tuple(replace(f, site="") for f in hospitals))
    with pytest.raises(KitError, match="no site yet"):
        load_sites(homeless, small_plan)


def test_a_shift_moves_whole_films_by_up_to_the_limit():
    images = torch.zeros(50, 1, 9, 9)
    images[:, :, 4, 4] = 1
    shifted = random_shift(images, 2, torch.Generator().manual_seed(0))
    assert shifted.shape == images.shape and shifted.sum() == 50
    _, _, rows, columns = shifted.nonzero(as_tuple=True)
    assert {r.item() for r in rows} == {c.item() for c in columns} == {2, 3, 4, 5, 6}
