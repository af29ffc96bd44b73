"""Intervals: what they cover, what they resample, and what they leave out."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from primia_kit.errors import KitError
from primia_kit.evaluation import Difference, Interval, PatientBootstrap, Predictions, difference, intervals, mcnemar
from primia_kit.evaluation.bootstrap import difference_of

CLASSES = ("normal", "bacterial", "viral")


def study(random, patients=100, *, films=(1, 1, 2, 4), alike=0.8, skill=1.4, sites="A"):
    """Patients with one label and several films, whose answers share a part `alike` of their chance."""
    patient = np.repeat(np.arange(patients), random.choice(films, patients))
    labels = random.integers(3, size=patients)[patient]
    values = alike * random.normal(size=(patients, 3))[patient] + math.sqrt(1 - alike**2) * random.normal(size=(len(patient), 3))
    values[np.arange(len(patient)), labels] += skill
    probabilities = np.exp(values) / np.exp(values).sum(1, keepdims=True)
    return Predictions(labels, probabilities, patient, np.array(list(sites))[patient % len(sites)], CLASSES)


def by_film(films):
    """The same films, each of another patient."""
    return Predictions(films.labels, films.probabilities, range(len(films)), films.sites, films.classes)


def test_intervals_cover_the_truth_as_often_as_they_say():
    random = np.random.default_rng(0)
    metrics = ("accuracy", "mcc", "auc", "sensitivity.viral", "brier")
    truth = intervals(study(random, 100_000), metrics, resamples=1)
    covered = dict.fromkeys(metrics, 0)
    for seed in range(150):
        for metric, found in intervals(study(random), metrics, resamples=300, seed=seed).items():
            covered[metric] += found.low <= truth[metric].value <= found.high
    # With coverage 0.95 fewer than 0.88 of 150 come up once in 3,000; 1.0 of 150 once in 2,000.
    assert all(0.88 <= count / 150 < 1 for count in covered.values()), covered


def test_a_calibration_errors_interval_comes_down_to_a_calibrated_models():
    """Labels are drawn from the model's own probabilities: its error is truly 0, and chance makes it 0.09."""
    random = np.random.default_rng(1)
    values, lows, percentiles = [], [], []
    for seed in range(60):
        films = study(random, 150, films=(1,))
        labels = (films.probabilities.cumsum(1) < random.random((len(films), 1))).sum(1).clip(max=2)
        calibrated = Predictions(labels, films.probabilities, films.patients, films.sites, CLASSES)
        bootstrap = PatientBootstrap(calibrated, resamples=200, seed=seed)
        found = bootstrap.interval(calibrated, "ece")
        assert 0 <= found.low <= found.high <= 1
        values.append(found.value)
        lows.append(found.low)
        percentiles.append(np.quantile(bootstrap.distribution(calibrated, "ece")[1], 0.025))
    assert np.mean(values) > 0.07
    assert np.mean(lows) < 0.02 < 0.06 < np.mean(percentiles)


def test_the_interval_of_an_accuracy_is_the_binomials():
    """One film a patient: the standard error is sqrt(p (1 - p) / n)."""
    films = study(np.random.default_rng(2), 400, films=(1,))
    found = intervals(films, ["accuracy"], resamples=4000)["accuracy"]
    error = math.sqrt(found.value * (1 - found.value) / 400)
    assert (found.low, found.high) == pytest.approx(
        (found.value - 1.96 * error, found.value + 1.96 * error),
        abs=0.006,  # an error more or less is 0.0025
    )


def test_films_of_one_patient_widen_the_interval():
    films = study(np.random.default_rng(3), 80, films=(6,), alike=0.95)
    for metric in ("accuracy", "mcc", "auc"):
        grouped, single = intervals(films, [metric])[metric], intervals(by_film(films), [metric])[metric]
        assert grouped.value == single.value
        assert grouped.high - grouped.low > 1.7 * (single.high - single.low)


def test_six_copies_of_each_film_tell_nothing_new():
    films = study(np.random.default_rng(4), 60, films=(1,))
    copied = films[np.repeat(np.arange(60), 6)]
    assert intervals(copied) == intervals(films)


def test_resamples_draw_whole_patients_and_within_sites_where_it_matters():
    films = study(np.random.default_rng(5), 40, sites="ABBC")
    bootstrap = PatientBootstrap(films, resamples=50)
    for on in ("all", "own"):
        counts = bootstrap.counts(on)
        assert counts.shape == (50, len(films))
        _, first, patient = np.unique(films.patients, return_index=True, return_inverse=True)
        assert (counts == counts[:, first][:, patient]).all()  # all films of a patient, equally often
        assert (counts[:, first].sum(1) == 40).all()
    of_site = [counts[:, first[films.sites[first] == site]].sum(1) for site in "ABC"]
    assert [set(drawn.tolist()) for drawn in of_site] == [{10}, {20}, {10}]


def test_equal_names_at_two_sites_are_two_patients():
    films = study(np.random.default_rng(6), 30, sites="AB")
    named = Predictions(films.labels, films.probabilities, films.patients.astype(int) // 2, films.sites, CLASSES)
    assert (PatientBootstrap(named, resamples=10).counts()[:, named.sites == "A"].sum(1) > 0).all()
    bootstrap = PatientBootstrap(named, resamples=200)
    counts = bootstrap.counts()
    a, b = (counts[:, np.flatnonzero((named.patients == "3") & (named.sites == site))[0]] for site in "AB")
    assert (a != b).any()


def test_the_mean_over_sites_is_taken_in_each_resample():
    films = study(np.random.default_rng(7), 60, sites="ABC")
    bootstrap = PatientBootstrap(films, resamples=300)
    sites = [bootstrap.distribution(films, "mcc", site) for site in "ABC"]
    value, replicates = bootstrap.distribution(films, "mcc", "own")
    assert value == pytest.approx(np.mean([s[0] for s in sites]))
    np.testing.assert_allclose(replicates, np.mean([s[1] for s in sites], axis=0))
    alone = (
        bootstrap.interval(films.at("A"), "mcc") if len(films.at("A")) == len(films) else intervals(films.at("A"), ["mcc"])["mcc"]
    )
    assert bootstrap.interval(films, "mcc", "A").value == alone.value


def test_seeds_are_averaged_in_each_resample():
    random = np.random.default_rng(8)
    films = study(random, 60)
    other = Predictions(films.labels, np.roll(films.probabilities, 1, axis=0), films.patients, films.sites, CLASSES)
    bootstrap = PatientBootstrap(films, resamples=100)
    parts = [bootstrap.distribution(model, "auc") for model in (films, other)]
    value, replicates = bootstrap.distribution([films, other], "auc")
    assert value == pytest.approx((parts[0][0] + parts[1][0]) / 2)
    np.testing.assert_allclose(replicates, (parts[0][1] + parts[1][1]) / 2)


def test_a_paired_difference_is_sharper_than_two_intervals():
    films = study(np.random.default_rng(9), 150)
    blurred = 0.93 * films.probabilities + 0.07 * np.roll(films.probabilities, 1, axis=1)
    worse = Predictions(films.labels, blurred, films.patients, films.sites, CLASSES)
    paired = difference(films, worse, "auc")
    separate = [intervals(model, ["auc"])["auc"] for model in (films, worse)]
    assert paired.value == pytest.approx(separate[0].value - separate[1].value)
    assert paired.high - paired.low < 0.5 * (separate[0].high - separate[0].low)
    assert paired.low > 0 and paired.p < 0.05
    turned = difference(worse, films, "auc")
    assert (turned.low, turned.high, turned.p) == pytest.approx((-paired.high, -paired.low, paired.p))


def test_a_model_doesnt_differ_from_itself():
    films = study(np.random.default_rng(10))
    found = difference(films, films)
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_a_p_value_is_twice_the_smaller_share():
    shifts = np.linspace(-1, 9, 100)  # ten below zero, ninety above
    found = difference_of((4, shifts), (0, np.zeros(100)), "mcc")
    assert found.p == pytest.approx(2 * (10 + 1) / 101)


def test_p_values_are_uniform_where_models_are_equal():
    """Two models with equal skill: p < 0.1 in about 10% of studies."""
    random = np.random.default_rng(11)
    below = 0
    for seed in range(120):
        first = study(random, 80)
        values = np.log(first.probabilities) + 2.0 * random.normal(size=first.probabilities.shape)
        second = np.log(first.probabilities) + 2.0 * random.normal(size=first.probabilities.shape)
        a, b = (np.exp(v) / np.exp(v).sum(1, keepdims=True) for v in (values, second))
        pair = [Predictions(first.labels, p, first.patients, first.sites, CLASSES) for p in (a, b)]
        below += difference(*pair, "accuracy", resamples=300, seed=seed).p < 0.1
    assert 3 <= below <= 24


def test_the_seed_decides_the_resamples():
    films = study(np.random.default_rng(12), 40)
    assert intervals(films, seed=1) == intervals(films, seed=1) != intervals(films, seed=2)


def test_resamples_without_a_class_are_left_out_and_counted():
    labels = [0] * 20 + [1] * 20 + [2]
    films = Predictions(labels, np.eye(3)[[0] * 15 + [1] * 5 + [1] * 20 + [2]], range(41), ["A"] * 41, CLASSES)
    found = intervals(films, ["accuracy", "balanced_accuracy"], resamples=1000)
    assert found["accuracy"].undefined == 0 and found["accuracy"].note == ""
    undefined = found["balanced_accuracy"].undefined
    assert undefined == pytest.approx(1000 * (40 / 41) ** 41, abs=60)
    assert f"{undefined} of 1,000 resamples are left out" in found["balanced_accuracy"].note
    assert found["balanced_accuracy"].low <= found["balanced_accuracy"].value <= found["balanced_accuracy"].high


def test_no_interval_where_there_is_nothing_to_draw():
    one = Predictions([0, 1], np.eye(3)[[0, 1]], ["p", "p"], ["A", "A"], CLASSES)
    found = intervals(one, ["mcc", "auc.viral"])
    assert found["mcc"].value == pytest.approx(1) and math.isnan(found["mcc"].low) and "only one patient" in found["mcc"].note
    assert str(found["mcc"]) == "1.00 [no interval]"
    assert str(found["auc.viral"]) == "not defined" and "too few classes" in found["auc.viral"].note
    alone = Predictions([0, 1, 0, 1], np.eye(3)[[0, 1, 1, 1]], ["p", "p", "q", "r"], ["A", "A", "B", "B"], CLASSES)
    assert math.isnan(intervals(alone, ["accuracy"], on="own")["accuracy"].low)  # site A never varies
    assert not math.isnan(intervals(alone, ["accuracy"], on="B")["accuracy"].low)
    empty = Predictions([], np.zeros((0, 3)), [], [], CLASSES)
    assert all(str(interval) == "not defined" for interval in intervals(empty).values())


def test_intervals_as_texts():
    assert str(Interval(0.674, 0.58, 0.751, 2000, 0)) == "0.67 [0.58, 0.75]"
    assert str(Difference(0.05, -0.02, 0.12, 2000, 0, 0.1512)) == "+0.05 [-0.02, +0.12], p = 0.15"


@pytest.mark.parametrize("better", [0, 3, 9])
def test_with_one_film_a_patient_it_is_mcnemars_exact_test(better):
    worse = 4
    n = better + worse + 6
    first = np.eye(3)[[0] * better + [1] * worse + [0] * 6]
    second = np.eye(3)[[1] * better + [0] * worse + [0] * 6]
    pair = [Predictions([0] * n, p, range(n), ["A"] * n, CLASSES) for p in (first, second)]
    assert mcnemar(*pair) == pytest.approx(stats.binomtest(better, better + worse).pvalue)


def test_mcnemar_by_patients_counts_all_exchanges():
    random = np.random.default_rng(13)
    films = study(random, 9, films=(1, 2, 3))
    other = Predictions(films.labels, np.eye(3)[random.integers(3, size=len(films))], films.patients, films.sites, CLASSES)
    right = [(m.answers == m.labels).astype(int) for m in (films, other)]
    d = [int((right[0] - right[1])[films.patients == str(p)].sum()) for p in range(9)]
    sums = [sum(s * x for s, x in zip(signs, d)) for signs in itertools.product((1, -1), repeat=9)]
    assert mcnemar(films, other) == pytest.approx(np.mean([abs(s) >= abs(sum(d)) for s in sums]))
    assert mcnemar(films, films) == 1


def test_other_films_and_sites_are_a_sentence():
    films = study(np.random.default_rng(14), 20)
    with pytest.raises(KitError, match="same films only; their labels differ"):
        difference(films, films[::-1])
    with pytest.raises(KitError, match="their sites differ"):
        mcnemar(films, Predictions(films.labels, films.probabilities, films.patients, ["B"] * len(films), CLASSES))
    with pytest.raises(KitError, match="no films of 'B'; choose one of all, own, A"):
        intervals(films, on="B")
    with pytest.raises(KitError, match="resamples is 0"):
        intervals(films, resamples=0)


def test_many_resamples_in_pieces_are_the_same():
    films = study(np.random.default_rng(15), 700)
    bootstrap = PatientBootstrap(films, resamples=2000)
    assert 2000 * len(films) > 2**20  # more than one piece
    replicates = bootstrap.replicate(lambda w: w @ (films.answers == films.labels) / w.sum(1))
    counts = bootstrap.counts().astype(float)
    np.testing.assert_allclose(replicates, counts @ (films.answers == films.labels) / counts.sum(1))
