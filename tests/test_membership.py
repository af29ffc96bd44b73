"""Membership inference: the attacks are the papers', find what is there to find, and nothing where there is nothing."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from primia_kit.attacks import MembershipGame, membership_table, split_patients, train_game
from primia_kit.errors import KitError
from primia_kit.federation import TrainingPlan


def game(films=4000, targets=1, references=4, gain=1.0, seed=0):
    """Confidences of models that are surer, by `gain` of log-odds, of what they were trained on. Films differ in how hard
    they are by more than that, and a patient has two films."""
    random = np.random.default_rng(seed)
    patients = tuple(f"p{i // 2}" for i in range(films))
    halves = split_patients(patients, targets=targets, references=references, population=0.2, seed=seed)
    log_odds = 2 * random.normal(size=films) + 0.7 * random.normal(size=(targets + references, films)) + gain * halves.members
    return MembershipGame(expit(log_odds), halves.members, halves.population, patients, targets)


@pytest.fixture(scope="module")
def overfitted():
    return game()


def test_reference_models_tell_a_hard_film_from_one_that_was_not_seen(overfitted):
    found = {name: overfitted.attack(name, resamples=300) for name in ("loss", "rmia", "lira")}
    assert found["loss"].auc.high < found["lira"].auc.low and found["loss"].auc.high < found["rmia"].auc.low
    # LiRA's difference of a target and the mean of two references: normal, gain / (0.7 sqrt(1 + 1/2)) apart.
    expected = 0.5 * math.erfc(-1 / (0.7 * math.sqrt(1.5)) / 2)
    assert found["lira"].auc.value == pytest.approx(expected, abs=0.02)
    assert found["lira"].tpr(0.01).low > 0.01


@pytest.mark.parametrize("attack", ["loss", "rmia", "lira"])
def test_nothing_is_found_where_members_are_like_others(attack):
    found = game(gain=0, films=2000, targets=2).attack(attack, resamples=300)
    assert found.auc.low < 0.5 < found.auc.high and abs(found.auc.value - 0.5) < 0.04
    assert found.tpr(0.01).value < 0.03


def test_the_auc_is_that_of_the_scores(overfitted):
    scores, truth = overfitted.scores("lira")[0], overfitted.members[0, overfitted.asked]
    assert overfitted.attack("lira", resamples=10).auc.value == pytest.approx(roc_auc_score(truth, scores))


def test_tpr_is_that_of_a_threshold_that_so_many_outsiders_pass(overfitted):
    scores, truth = overfitted.scores("lira")[0], overfitted.members[0, overfitted.asked]
    outsiders = np.sort(scores[~truth])[::-1]
    result = overfitted.attack("lira", resamples=50)
    assert (result.members, result.outsiders) == (truth.sum(), len(outsiders)) == (1600, 1600)
    for fpr in (0.01, 0.1):
        passing = (scores[truth] > outsiders[int(fpr * len(outsiders))]).mean()
        assert result.tpr(fpr).value == pytest.approx(passing, abs=1e-9)


def test_intervals_are_by_patients():
    """Films of a child that are all alike tell as much as one of them: twice the films, the same interval."""
    once = game(films=1000)
    few, many = ([np.repeat(part, k, axis=-1) for part in (once.confidences, once.members, once.population)] for k in (1, 4))
    widths = []
    for arrays, k in ((few, 1), (many, 4)):
        auc = MembershipGame(*arrays, tuple(np.repeat(once.patients, k)), 1).attack("lira", resamples=400).auc
        widths.append(auc.high - auc.low)
    assert widths[1] == pytest.approx(widths[0], rel=0.1)


def test_the_roc_runs_to_the_end_and_its_band_holds_it(overfitted):
    fpr, tpr, low, high = overfitted.attack("rmia", resamples=100).roc(30)
    assert fpr[0] == pytest.approx(1 / 1600) and fpr[-1] == tpr[-1] == 1
    assert (np.diff(tpr) >= 0).all() and (low <= tpr + 0.02).all() and (tpr <= high + 0.02).all()


def test_rmia_by_its_definition(overfitted):
    """The paper's double loop over films and population, on a few of each."""
    part = overfitted
    keep = np.r_[np.flatnonzero(part.asked)[:40], np.flatnonzero(part.population)[:30]]
    few = MembershipGame(
        part.confidences[:, keep], part.members[:, keep], part.population[keep], tuple(f"q{i}" for i in keep), part.targets
    )
    a, gamma = 0.4, 1.1

    def likelihood_ratio(i):
        out = [few.confidences[r, i] for r in range(1, 5) if not few.members[r, i]]
        return few.confidences[0, i] / (((1 + a) * sum(out) / len(out) + 1 - a) / 2)

    strangers = [likelihood_ratio(z) for z in range(40, 70)]
    by_hand = [sum(likelihood_ratio(x) / z >= gamma for z in strangers) for x in range(40)]
    scores = few.scores("rmia", a=a, gamma=gamma)[0]
    assert np.floor(scores * 31).tolist() == by_hand and len(set(by_hand)) > 10
    assert np.argsort(scores).tolist() == np.argsort([likelihood_ratio(x) for x in range(40)]).tolist()


def test_a_gamma_beyond_all_ratios_keeps_the_order(overfitted):
    usual, beyond = (overfitted.attack("rmia", resamples=10, gamma=gamma).auc.value for gamma in (1.0, 1e6))
    assert usual == beyond


def test_lira_by_its_definition(overfitted):
    odds = np.log(overfitted.confidences / (1 - overfitted.confidences))
    out = [[odds[r, i] for r in range(1, 5) if not overfitted.members[r, i]] for i in np.flatnonzero(overfitted.asked)]
    everyone = [[odds[r, i] for r in range(1, 5) if not overfitted.members[r, i]] for i in range(len(overfitted.patients))]
    deviation = math.sqrt(np.mean([np.var(values, ddof=1) for values in everyone]))
    z = [(odds[0, i] - np.mean(values)) / deviation for i, values in zip(np.flatnonzero(overfitted.asked), out, strict=True)]
    assert overfitted.scores("lira")[0] == pytest.approx(z)


@given(
    films=st.integers(12, 60), per_patient=st.integers(1, 2), targets=st.integers(1, 3), pairs=st.integers(0, 3),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_halves_are_of_patients(films, per_patient, targets, pairs, seed):
    patients = tuple(f"p{i // per_patient}" for i in range(films))
    halves = split_patients(patients, targets=targets, references=2 * pairs, population=0.2, seed=seed)
    rows = np.concatenate([halves.members, halves.population[None]])
    for i in range(1, films):
        if patients[i] == patients[i - 1]:
            assert (rows[:, i] == rows[:, i - 1]).all()
    assert not halves.members[:, halves.population].any()
    references = halves.members[targets:, ~halves.population]
    assert (references.sum(0) == pairs).all()  # the number of references that saw a film is the same for all films


def test_a_target_s_half_says_nothing_of_the_references():
    halves = split_patients(tuple(map(str, range(4000))), targets=1, references=2, population=0, seed=3)
    assert abs(np.corrcoef(halves.members[0], halves.members[1])[0, 1]) < 0.05


def test_games_that_mean_nothing_are_refused(overfitted):
    p, members, population, patients = np.full((3, 4), 0.5), np.zeros((3, 4), bool), np.zeros(4, bool), tuple("abcd")
    for change, sentence in (
        ({"patients": ("a", "b")}, "same films"),
        ({"confidences": np.ones((3, 4))}, "outside"),
        ({"population": np.ones(4, bool), "members": np.ones((3, 4), bool)}, "strangers"),
        ({"members": np.eye(3, 4, dtype=bool), "patients": tuple("aabb")}, "patient a"),
        ({"targets": 4}, "targets is 4"),
    ):
        arguments = {"confidences": p, "members": members, "population": population, "patients": patients} | change
        with pytest.raises(KitError, match=sentence):
            MembershipGame(**arguments)
    with pytest.raises(KitError, match="did you mean 'rmia'"):
        overfitted.scores("rmai")
    with pytest.raises(KitError, match="there are none"):
        MembershipGame(p, members, population, patients).scores("rmia")
    with pytest.raises(KitError, match="weren't trained on it"):
        MembershipGame(p, np.ones((3, 4), bool), population, patients).scores("lira")
    with pytest.raises(KitError, match="a is 2"):
        overfitted.scores("rmia", a=2.0)
    with pytest.raises(KitError, match="in pairs"):
        split_patients(patients, references=3)


def test_a_rate_of_less_than_one_film_is_refused():
    result = game(films=600).attack("loss", resamples=20)
    with pytest.raises(KitError, match="1,000 films"):
        result.tpr(0.001)
    table = membership_table({"a model": result})
    assert table.loc["a model", "TPR at 0.1% FPR"] == "too few films" and "%" in table.loc["a model", "TPR at 1% FPR"]


def test_a_network_that_learned_by_heart_betrays_its_patients(one_thread):
    """Films of noise: nothing to learn but which film has which label."""
    import torch

    from primia_kit.data import FilmSet

    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(120, 1, 16, 16, generator=generator), torch.randint(0, 2, (120,), generator=generator)
    films = FilmSet(images, labels, tuple(f"p{i // 2}" for i in range(120)), ("a", "b"), "pad")
    plan = TrainingPlan(
        classes=("a", "b"), architecture="small_cnn", norm="none", size=16, rounds=40, batch_size=8, learning_rate=0.02,
        augmentation="none",
    )  # fmt: skip
    played, _ = train_game(plan, films, references=2, seed=1)
    assert played.confidences[0, played.members[0]].min() > 0.5  # learned by heart
    assert played.attack("rmia", resamples=100).auc.low > 0.75
    short = replace(plan, rounds=1)
    (once, models), (again, _) = (train_game(short, films, references=2, seed=1) for _ in range(2))
    assert len(models) == 1 and np.array_equal(once.confidences, again.confidences)
    assert np.array_equal(once.members, played.members)
