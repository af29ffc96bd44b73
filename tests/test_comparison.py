"""Ways to train side by side: arms by name, personal models, seeds, and the keys of a result file."""

import math
from dataclasses import replace

import numpy as np
import pytest

from primia_kit.errors import KitError
from primia_kit.evaluation import Predictions, difference, intervals, scores
from primia_kit.federation import Comparison, Federation, compare, compare_arms, evaluate, predict_sites

METRICS = ("accuracy", "balanced_accuracy", "mcc", "auc")


@pytest.fixture(scope="module")
def models(sites, small_plan):
    """Untrained models of different seeds: different answers, in no time."""
    return [Federation(replace(small_plan, seed=seed), sites).run().model for seed in range(5)]


@pytest.fixture(scope="module")
def personal(sites, models):
    return {site.name: model for site, model in zip(sites, models)}


@pytest.fixture(scope="module")
def three(sites, models, personal):
    return compare(models[3], personal, models[4], sites)


def drawn(skills, sites="ABC", n=150, seeds=1):
    """A comparison of made-up answers: arm -> skill; patients have two films."""
    random = np.random.default_rng(0)
    labels, patients = np.arange(n) % 3, np.arange(n) // 2
    where = np.array(list(sites))[patients % len(sites)]

    def answers(skill):
        values = random.normal(size=(n, 3)) + skill * np.eye(3)[labels]
        return Predictions(labels, np.exp(values) / np.exp(values).sum(1, keepdims=True), patients, where, ("a", "b", "c"))

    return Comparison({arm: tuple(answers(skill) for _ in range(seeds)) for arm, skill in skills.items()}, tuple(sites))


def test_predictions_know_film_patient_and_site(sites, models):
    found = predict_sites(models[0], sites)
    assert found.site_names == ("A", "B", "C") and found.classes == sites[0].test.classes
    assert tuple(found.at("B").patients) == sites[1].test.patients
    assert found.labels.tolist() == [label for site in sites for label in site.test.labels.tolist()]
    assert evaluate(models[0], sites)["all"] == scores(found)


def test_personal_models_answer_their_own_sites_films(sites, models, personal):
    found = predict_sites(personal, sites)
    for site, model in zip(sites, models):
        np.testing.assert_array_equal(found.at(site.name).probabilities, predict_sites(model, [site]).probabilities)
    assert evaluate(personal, sites)["all"] == scores(found)


def test_a_comparison_scores_every_model_everywhere(three, sites, models):
    assert three.central == evaluate(models[3], sites) and three.federated == evaluate(models[4], sites)
    assert three.local["B"] == evaluate(models[1], sites)
    assert three.own() == {name: three.local[name][name] for name in "ABC"}
    table = three.table()
    assert list(table.index) == ["pooled (central)", "federated", "A alone", "B alone", "C alone"]
    assert list(table.columns) == ["films", *METRICS]
    assert table.loc["B alone", "auc"] == three.local["B"]["all"].auc
    by_site = three.by_site()
    assert list(by_site.columns) == ["alone", "federated", "pooled (central)", "gain by joining"]
    assert by_site.loc["C", "gain by joining"] == three.federated["C"].mcc - three.own()["C"].mcc


def test_flat_results_and_their_bounds(three):
    flat = three.results()
    assert flat["test_films"] == len(three.arms["central"][0])
    own = [three.own()[site].mcc for site in "ABC"]
    assert flat["local.mcc"] == pytest.approx(np.mean(own)) and flat["local.B.mcc"] == own[1]
    assert flat["central.mcc"] == three.central["all"].mcc and flat["federated.C.auc"] == three.federated["C"].auc
    assert flat["federated.own.mcc"] == pytest.approx(np.mean([three.federated[s].mcc for s in "ABC"]))
    assert flat["local.everywhere.auc"] == pytest.approx(np.mean([three.local[s]["all"].auc for s in "ABC"]))
    for metric in METRICS:
        for arm in ("central", "federated", "local", "central.own", "federated.own", "federated_minus_central"):
            key = f"{arm}.{metric}"
            assert flat[f"{key}.low"] <= flat[key] <= flat[f"{key}.high"], key
        assert flat[f"local_minus_central.{metric}"] == pytest.approx(flat[f"local.{metric}"] - flat[f"central.own.{metric}"])
    plain = three.results(intervals=False)
    assert plain == {key: flat[key] for key in plain} and not any("low" in key or "minus" in key for key in plain)
    assert list(flat)[: len(plain)] == list(plain)  # a report without a list of metrics shows the first


def test_results_and_tables_of_other_metrics():
    """What errors, and how sure of itself: overall, and for each hospital."""
    found = drawn({"central": 2.0, "local": 0.8, "federated": 1.6})
    wanted = [*METRICS, "sensitivity.b", "specificity.a", "ece"]
    flat, usual = found.results(metrics=wanted), found.results()
    assert usual == {key: flat[key] for key in usual}  # more metrics change no key
    for metric in wanted:
        for key, arm, on in ((f"federated.{metric}", "federated", "all"), (f"local.{metric}", "local", "own")):
            interval = found.interval(arm, metric, on)
            assert (flat[key], flat[f"{key}.low"], flat[f"{key}.high"]) == (interval.value, interval.low, interval.high)
        at_b = found.value("central", metric, "B")  # where class b has no film, so its sensitivity isn't defined
        assert flat[f"central.B.{metric}"] == pytest.approx(at_b, nan_ok=True)
        assert flat[f"federated_minus_central.{metric}"] == found.difference("federated", "central", metric).value
    several = found.by_site(["sensitivity.b", "ece"])
    assert several.index.names == ["metric", "hospital"] and len(several) == 2 * len(found.sites)
    assert several.loc["ece"].equals(found.by_site("ece"))
    with pytest.raises(KitError, match=r"no metric 'sensitivity\.d'"):
        found.results(metrics=["sensitivity.d"])


def test_intervals_are_those_of_evaluation(three):
    central, federated = three.arms["central"][0], three.arms["federated"][0]
    assert three.interval("central", "auc") == intervals(central, ["auc"])["auc"]
    assert three.difference("federated", "central", "auc", "B") == difference(federated, central, "auc", on="B")
    assert three.interval("A alone") == intervals(three.alone["A"], ["mcc"])["mcc"]


def test_arms_by_name(sites, models, personal):
    found = compare_arms({"central": models[3], "fedavg": models[4], "fedbn": personal}, sites, resamples=100, seed=3)
    assert list(found.table().index) == ["pooled (central)", "fedavg", "fedbn"]
    assert found.scores("fedbn")["B"] == evaluate(models[1], [sites[1]])["B"]
    flat = found.results()
    assert flat["fedbn.mcc"] == scores(predict_sites(personal, sites)).mcc
    assert "fedbn_minus_central.mcc.low" in flat and "local.everywhere.mcc" not in flat
    assert found.interval("fedavg").resamples == 100
    assert list(found.by_site("accuracy", intervals=True).columns) == ["fedavg", "fedbn", "pooled (central)"]


def test_seeds_are_averaged(sites, models, personal):
    found = compare_arms({"fedavg": models[:3], "fedbn": [personal, dict(zip("ABC", models[2:]))]}, sites)
    each = [evaluate(model, sites)["all"].auc for model in models[:3]]
    assert found.scores("fedavg")["all"].auc == found.table().loc["fedavg", "auc"] == pytest.approx(np.mean(each))
    assert len(found.models("fedbn")) == 2
    assert found.interval("fedavg", "auc").low < np.mean(each) < found.interval("fedavg", "auc").high


def test_a_table_with_intervals_has_texts_and_numbers():
    found = drawn({"central": 2.0, "local": 0.8, "federated": 1.6})
    table = found.table(intervals=True, metrics=["mcc", "sensitivity.b", "ece"])
    row, interval = table.loc["federated"], found.interval("federated")
    assert row["mcc [95%]"] == str(interval) and (row["mcc"], row["mcc.low"], row["mcc.high"]) == (
        interval.value,
        interval.low,
        interval.high,
    )
    assert table["sensitivity.b.low"].dtype == float and list(table.index) == ["pooled (central)", "alone", "federated"]
    cell = found.by_site(intervals=True).loc["A", "gain by joining"]
    assert cell == str(found.difference("federated", "local", "mcc", "A")) and cell.startswith("+")


def test_seeds_dont_narrow_what_patients_leave_open():
    """The mean of five equal models is as uncertain as one of them."""
    one = drawn({"a": 1.0})
    five = Comparison({"a": one.arms["a"] * 5}, one.sites)
    assert five.interval("a").low == pytest.approx(one.interval("a").low)


def test_a_site_without_test_films_stays_in_the_tables():
    found = drawn({"central": 2.0, "local": 0.8, "federated": 1.6}, n=60)
    wider = Comparison(found.arms, (*found.sites, "D"))
    assert math.isnan(wider.by_site().loc["D", "alone"]) and wider.scores("local")["D"].films == 0
    assert wider.by_site(intervals=True).loc["D"].tolist() == ["not defined"] * 4
    assert wider.results()["local.mcc"] == found.results()["local.mcc"]


def test_what_cant_be_compared_is_a_sentence(sites, models, personal, three):
    lacking = {"A": models[0], "B": models[1]}
    with pytest.raises(KitError, match="Site C has no model of its own; there are models for A, B"):
        compare(models[0], lacking, models[0], sites)
    with pytest.raises(KitError, match="Site C has no model; there are models for A, B"):
        compare_arms({"fedbn": lacking}, sites)
    with pytest.raises(KitError, match="Nothing to compare"):
        compare_arms({}, sites)
    with pytest.raises(KitError, match=r"can't be called 'fed\.bn'"):
        compare_arms({"fed.bn": personal}, sites)
    with pytest.raises(KitError, match="Arm fedavg has no model"):
        compare_arms({"fedavg": []}, sites)
    with pytest.raises(KitError, match=r"no arm 'federate' .did you mean 'federated'"):
        three.interval("federate")
    with pytest.raises(KitError, match="no films of 'Z'"):
        three.interval("central", on="Z")
