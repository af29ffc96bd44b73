"""A search over the federation: what it scores by, what it may vary, and that a stopped one ends as an unbroken one."""

import math
import multiprocessing
import os
import signal
import stat
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from primia_kit import cli, figures
from primia_kit.errors import KitError
from primia_kit.evaluation import METRICS, Predictions, metric_named
from primia_kit.federation import (
    Federation,
    Integers,
    LogUniform,
    Site,
    TrainingPlan,
    Uniform,
    check_space,
    predict,
    search,
    space_from_plain,
)
from primia_kit.federation.proposals import propose
from primia_kit.federation.search_record import SearchRecord, Trial
from primia_kit.federation.validation import metric_of, pooled_answers
from primia_kit.search_command import read_search
from primia_kit.secagg import SecureSum
from primia_kit.yaml_files import read_mapping

from .conftest import ROOT
from .noise_sites import CLASSES, SMALL, films, with_patients

pytestmark = pytest.mark.usefixtures("one_thread")

# The last layer alone: a round takes hundredths of a second. At most rates of the space it learns; at the highest it doesn't.
PLAN = replace(SMALL, rounds=4, frozen=("body",), augmentation="none", learning_rate=0.05, momentum=0.0)
SPACE = {"learning_rate": LogUniform(1e-4, 10.0), "batch_size": [4, 8], "weight_decay": Uniform(0.0, 0.1)}


def hospitals():
    return [with_patients(name, seed, patients=6) for seed, name in enumerate("ABC")]


def found(result):
    """All of a result but seconds."""
    return [replace(trial, seconds=0.0) for trial in result.trials]


# --- the space


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        ({}, "needs a space"),
        ({"learning_rat": [0.1]}, "no key 'learning_rat' .did you mean 'learning_rate'"),
        ({"seed": [0, 1]}, "seed can't be searched: the validation patients are drawn by it"),
        ({"size": [16, 32]}, "the films were read for it"),
        ({"noise_multiplier": Uniform(0.5, 2.0)}, "less noise would always win"),
        ({"colluders": [0, 1]}, "less noise would always win"),
        ({"batch_size": 8}, "must be a list of values, or Uniform"),
        ({"batch_size": []}, "must be a list of values"),
        ({"batch_size": [8, 8]}, "stands in it twice"),
        ({"batch_size": [8, True]}, "must be numbers or texts"),
        ({"batch_size": Uniform(4, 16)}, r"No plan of the space has batch_size = 4\.5: .*whole number|runs from"),
        ({"batch_size": Integers(1, 16)}, "No plan of the space has batch_size = 1: batch_size is 1; the least is 2"),
        ({"learning_rate": LogUniform(0.0, 1.0)}, "begins above 0"),
        ({"learning_rate": Uniform(1.0, 0.1)}, "runs from 1 to 0.1"),
        ({"learning_rate": Uniform(0.1, math.inf)}, "two finite numbers"),
        ({"rounds": Integers(1, 2.5)}, "whole numbers"),
        ({"strategy": ["fedavg", "fedpro"]}, "did you mean 'fedprox'"),
        ({"strategy": ["fedavg", "fedbn"]}, "No plan of the space has strategy = 'fedbn': .*use norm=\"batch\""),
    ],
)
def test_a_space_that_cant_be_is_a_sentence(space, sentence):
    if space.get("batch_size") == Uniform(4, 16):
        space = {"batch_size": Uniform(4.5, 16)}
    with pytest.raises(KitError, match=sentence):
        check_space(PLAN, space)


def test_a_value_that_needs_another_is_possible():
    assert check_space(PLAN, {"strategy": ["fedavg", "fedbn"], "norm": ["none", "batch"]})


def test_a_space_in_yaml_is_the_same():
    plain = {"learning_rate": {"log_uniform": ["1e-4", 10]}, "batch_size": [4, 8], "rounds": {"integers": [2, 5]}}
    wanted = {"learning_rate": LogUniform(1e-4, 10), "batch_size": [4, 8], "rounds": Integers(2, 5)}
    assert space_from_plain(plain) == wanted
    for wrong, sentence in (
        ({"learning_rate": {"loguniform": [1, 2]}}, "did you mean 'log_uniform'"),
        ({"learning_rate": {"uniform": [1]}}, r"must be \[lowest, highest\]"),
        ({"learning_rate": {"uniform": ["a", 2]}}, "'a' is no number"),
        ([1], "must be a mapping"),
    ):
        with pytest.raises(KitError, match=sentence):
            space_from_plain(wrong)


# --- the score


@pytest.mark.parametrize("metric", ["mcc", "accuracy", "balanced_accuracy", "sensitivity.viral", "specificity.normal"])
def test_the_score_is_that_of_all_validation_films_in_one_place(metric):
    """And the sum of confusion matrices goes through the secure sum: the server learns nothing of a site in clear."""
    sites = [site.held_out(PLAN) for site in hospitals()]
    federation = Federation(replace(PLAN, rounds=1), sites)
    federation.run_round()
    aggregator = SecureSum()
    counts = pooled_answers("score", federation.models(), sites, aggregator)
    model = federation.run().model
    parts = [
        Predictions(f.labels.numpy(), predict(model.network(), f, model.spec).numpy(), f.patients, [s.name] * len(f), CLASSES)
        for s, f in ((site, site.validation) for site in sites)
    ]
    labels = np.concatenate([p.labels for p in parts])
    whole = Predictions(labels, np.concatenate([p.probabilities for p in parts]), labels, [""] * len(labels), CLASSES)
    assert int(counts.sum()) == len(whole) >= 9
    wanted = float(metric_named(metric, CLASSES)(whole, np.ones((1, len(whole))))[0])
    assert metric_of(counts, metric, CLASSES) == pytest.approx(wanted, abs=1e-12)
    told = {e.what for e in aggregator.transcript.entries if e.sender != "server" and e.readable == "in clear"}
    assert told == {"one share of one secret of each site"}


def test_a_class_that_nobody_has_doesnt_count():
    counts = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert metric_of(counts, "balanced_accuracy", CLASSES) == pytest.approx((3 / 4 + 1) / 2)
    assert math.isnan(metric_of(torch.zeros(3, 3, dtype=torch.float64), "mcc", CLASSES))


@pytest.mark.parametrize("metric", [*sorted(set(METRICS) - {"mcc", "accuracy", "balanced_accuracy"}), "auc.viral"])
def test_metrics_that_need_predictions_in_clear_are_refused(metric, tmp_path):
    with pytest.raises(KitError, match="would have to leave the sites in clear"):
        search(PLAN, hospitals(), SPACE, trials=1, folder=tmp_path, metric=metric)


def test_test_films_have_no_part_in_it(tmp_path, unbroken):
    poisoned = []
    for site in hospitals():
        test = films([0, 1, 2], 5, 16)
        poisoned.append(replace(site, test=replace(test, images=test.images * torch.nan)))
    result = search(PLAN, poisoned, SPACE, trials=3, folder=tmp_path)
    assert found(result) == found(unbroken)[:3]


# --- a search


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    torch.set_num_threads(1)
    return search(PLAN, hospitals(), SPACE, trials=7, folder=tmp_path_factory.mktemp("unbroken"))


def test_a_search_finds_a_plan(unbroken, monkeypatch):
    table, best = unbroken.table(), unbroken.best
    assert table["trial"].iloc[0] == best.number and list(table["mcc"]) == sorted(table["mcc"], reverse=True)
    assert best.score == max(t.score for t in unbroken.trials) > min(t.score for t in unbroken.trials)
    assert unbroken.plan == replace(PLAN, **best.values) and unbroken.plan.sha256 == best.sha256
    assert len({trial.sha256 for trial in unbroken.trials}) == 7 and all(t.rounds == 4 for t in unbroken.trials)
    assert unbroken.epsilons == {} and "Nothing bounds what they tell" in unbroken.cost
    assert [t.params for t in unbroken.study.trials] == [t.values for t in unbroken.trials]
    assert unbroken.study.best_trial.number == best.number

    def no(*_, **__):
        raise AssertionError

    monkeypatch.setattr(Site, "update", no)
    run = unbroken.run()  # from the checkpoint
    with pytest.raises(KitError, match=r"checkpoint isn't in .* any more"):
        replace(unbroken, _folder=unbroken._folder / "elsewhere").run()
    assert len(run.rounds) == 4 and run.plan == unbroken.plan
    sites = [site.held_out(PLAN) for site in hospitals()]
    counts = pooled_answers("again", run.models, sites, SecureSum())
    assert metric_of(counts, "mcc", CLASSES) == best.score


def test_a_search_repeats_and_another_seed_tries_others(unbroken, tmp_path):
    again = search(PLAN, hospitals(), SPACE, trials=3, folder=tmp_path / "again")
    assert found(again) == found(unbroken)[:3]
    other = propose(replace(PLAN, seed=1), check_space(PLAN, SPACE), (), sampler="tpe").params
    assert other != unbroken.trials[0].values


def test_more_trials_go_on_where_fewer_ended(unbroken, tmp_path):
    for trials in (2, 4):
        result = search(PLAN, hospitals(), SPACE, trials=trials, folder=tmp_path)
    assert found(result) == found(unbroken)[:4]


def test_the_sampler_goes_by_the_scores():
    """After its first ten trials TPE tries more where scores were high; random search doesn't."""
    space = check_space(PLAN, {"weight_decay": Uniform(0.0, 1.0)})
    means = {}
    for sampler in ("tpe", "random"):
        trials = []
        for number in range(40):
            values = propose(PLAN, space, trials, sampler=sampler).params
            trials.append(Trial(number, values, "complete", score=-abs(values["weight_decay"] - 0.9)))
        means[sampler] = np.mean([abs(t.values["weight_decay"] - 0.9) for t in trials[20:]])
    assert means["tpe"] < 0.15 < 0.3 < means["random"]


def test_a_trial_that_fails_is_told_and_counts_as_bad(tmp_path):
    space = {"strategy": ["fedavg", "fedbn"], "norm": ["none", "batch"], "learning_rate": LogUniform(1e-3, 1e-1)}
    result = search(replace(PLAN, frozen=(), rounds=1), hospitals(), space, trials=6, folder=tmp_path)
    failed = [t for t in result.trials if t.state == "failed"]
    assert failed and all('use norm="batch"' in t.reason and t.score is None and not t.sha256 for t in failed)
    assert [t.state.name for t in result.study.trials].count("PRUNED") == len(failed)
    assert result.table()["state"].tolist()[-len(failed) :] == ["failed"] * len(failed)


def test_where_all_trials_fail_the_first_ones_reason_is_the_sentence(tmp_path):
    lone = [with_patients("A"), with_patients("B", 1)]
    with pytest.raises(KitError, match=r"No trial was finished. The first ended so: .*2 sites"):
        search(PLAN, lone, SPACE, trials=2, folder=tmp_path)


def test_nobody_is_trained_on_and_scored(tmp_path):
    site = with_patients("A")
    both = replace(site, validation=site.train)
    with pytest.raises(KitError, match=r"Site A has 8 patient.s. among its training"):
        search(PLAN, [both], SPACE, trials=1, folder=tmp_path)


# --- stopped


class Killed(BaseException):
    """In place of SIGKILL."""


@pytest.mark.parametrize("moment", ["begin", "note_scores", "finish", "forget_models"])
def test_a_search_that_is_cut_at_any_step_ends_as_an_unbroken_one(moment, pruned, tmp_path, monkeypatch):
    for fail_at in (1, 3):
        calls, method = 0, getattr(SearchRecord, moment)

        def cut(*args, method=method, fail_at=fail_at):
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise Killed
            return method(*args)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(SearchRecord, moment, cut)
            search(PLAN, hospitals(), SPACE, trials=7, folder=tmp_path, pruning="median")
    assert found(search(PLAN, hospitals(), SPACE, trials=7, folder=tmp_path, pruning="median")) == found(pruned)


def _kill_in_round(folder, round):
    """Search, and be killed by the system before the checkpoint of a round of the third trial."""
    torch.set_num_threads(1)
    save = Federation._save

    def kill(self):
        if self.finished == round and (folder / "trials" / "0002").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        save(self)

    Federation._save = kill
    search(PLAN, hospitals(), SPACE, trials=7, folder=folder)


def test_a_process_killed_within_a_trial_goes_on_from_its_checkpoint(unbroken, tmp_path):
    round = 3
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_kill_in_round, args=(tmp_path, round))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL and len(SearchRecord(tmp_path).finished()) == 2
    made = []
    result = search(PLAN, hospitals(), SPACE, trials=7, folder=tmp_path, on_round=lambda r, _: made.append(r.number))
    assert found(result) == found(unbroken) and made[0] == round  # not 1


def test_a_trial_that_was_cut_tries_what_it_began_with(tmp_path):
    """Whatever this version of the sampler would draw."""
    search(PLAN, hospitals(), SPACE, trials=1, folder=tmp_path)
    begun = {"learning_rate": 0.0123, "batch_size": 8, "weight_decay": 0.05}
    SearchRecord(tmp_path).begin(1, begun)
    assert search(PLAN, hospitals(), SPACE, trials=2, folder=tmp_path).trials[1].values == begun


# --- pruning


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    torch.set_num_threads(1)
    return search(PLAN, hospitals(), SPACE, trials=7, folder=tmp_path_factory.mktemp("pruned"), pruning="median")


def test_pruning_ends_bad_trials_early(pruned):
    early = [t for t in pruned.trials if t.state == "pruned"]
    assert early and all(t.rounds < PLAN.rounds and list(t.scores) == list(range(1, t.rounds + 1)) for t in early)
    for trial in early:  # below the median of the complete ones before, after the same round
        before = [max(list(t.scores.values())[: trial.rounds]) for t in pruned.trials[: trial.number] if t.state == "complete"]
        assert max(trial.scores.values()) < np.median(before) and trial.score == trial.scores[trial.rounds]
    assert pruned.best.state == "complete"


def test_without_pruning_one_score_a_trial_leaves_the_sites(unbroken):
    assert all(t.scores == {} for t in unbroken.trials)
    purposes = {e.purpose for e in unbroken.run().transcript.entries if "score" in e.purpose}
    assert purposes <= {"search score"}


# --- the folder


def test_the_folder_is_for_its_owner_alone(unbroken):
    folder = unbroken._folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    ours = [p for p in folder.glob("**/*") if p.is_file() and "checkpoints" not in p.parts and p.name != ".lock"]
    assert len(ours) > 15 and {stat.S_IMODE(p.stat().st_mode) for p in ours} == {0o600}
    assert "EXACT SCORES ON PRIVATE FILMS" in (folder / "PRIVATE.txt").read_text()
    kept = [t.number for t in unbroken.trials if SearchRecord(folder).checkpoints(t.number).exists()]
    assert kept == [unbroken.best.number]


def test_another_search_in_the_folder_is_refused(tmp_path):
    search(PLAN, hospitals(), SPACE, trials=1, folder=tmp_path)
    for plan, space, more, sentence in (
        (PLAN, SPACE | {"batch_size": [4, 16]}, {}, r"begun with space.batch_size = \[4, 8\], now it's \[4, 16\]"),
        (PLAN, SPACE | {"momentum": [0.0, 0.5]}, {}, "begun with space.momentum = nothing"),
        (replace(PLAN, rounds=5), SPACE, {}, "begun with plan.rounds = 4, now it's 5"),
        (PLAN, SPACE, {"metric": "accuracy"}, 'begun with metric = "mcc", now it\'s "accuracy"'),
        (PLAN, SPACE, {"pruning": "median"}, "begun with pruning"),
        (PLAN, SPACE, {"sampler": "random"}, "begun with sampler"),
    ):
        with pytest.raises(KitError, match=sentence):
            search(plan, hospitals(), space, trials=2, folder=tmp_path, **more)
    others = [*hospitals()[:2], with_patients("C", 9, patients=6)]
    with pytest.raises(KitError, match="Site C's films aren't those"):
        search(PLAN, others, SPACE, trials=2, folder=tmp_path)
    with pytest.raises(KitError, match=r"begun with (sites|judges)"):
        search(PLAN, [*hospitals(), with_patients("D", 3)], SPACE, trials=2, folder=tmp_path)


def test_two_processes_dont_work_on_one_search(tmp_path):
    with SearchRecord.open(tmp_path, {}, {}, "public"), pytest.raises(KitError, match="Another process is at the search"):
        search(PLAN, hospitals(), SPACE, trials=1, folder=tmp_path)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"trials": 0}, "trials is 0"),
        ({"metric": "mc"}, "no metric 'mc'"),
        ({"pruning": "medium"}, "did you mean 'median'"),
        ({"sampler": "grid"}, "sampler is 'grid'"),
        ({"charge": "composition"}, "only a private search is charged"),
        ({"budget": 3.0}, "belong to a search that is charged"),
    ],
)
def test_arguments_that_cant_be_are_sentences(more, sentence, tmp_path):
    with pytest.raises(KitError, match=sentence):
        search(PLAN, hospitals(), SPACE, **({"trials": 1, "folder": tmp_path} | more))


# --- the command and the picture


def test_a_picture_has_a_panel_for_the_trials_and_for_each_key(pruned, tmp_path):
    figure = figures.search_scores(pruned)
    labels = [axis.get_xlabel() for axis in figure.axes if axis.get_visible() and axis.axison]
    assert labels == ["trial", "learning_rate", "batch_size", "weight_decay"]
    stars = [axis.collections[-1].get_offsets().data.tolist() for axis in figure.axes]
    assert stars[0] == [[pruned.best.number, pruned.best.score]]
    figure.savefig(tmp_path / "search.png")


SEARCH = """
about: Two trials.
films: {patients: 10}
plan: {architecture: small_cnn, norm: none, size: 32, rounds: 1, frozen: [body], augmentation: none}
space: {learning_rate: {log_uniform: [1e-3, 1e-1]}}
trials: 2
"""


def test_the_command_searches_and_goes_on(tmp_path, capsys, hospitals):
    path, folder = tmp_path / "two.yaml", tmp_path / "search"
    path.write_text(SEARCH)
    assert cli.main(["search", str(path), "--folder", str(folder), "--dry-run"]) == 0
    assert "Nothing was trained" in capsys.readouterr().out and not folder.exists()
    assert cli.main(["search", str(path), "--folder", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "[2/2] learning_rate=" in out and "Best: trial" in out and "Nothing bounds" in out
    assert cli.main(["search", str(path), "--folder", str(folder), "--trials", "3"]) == 0
    out = capsys.readouterr().out
    assert "[3/3]" in out and "[2/" not in out
    report = (folder / "report.md").read_text()
    assert report.count("| complete |") == 3 and len((folder / "report.csv").read_text().splitlines()) == 4
    assert stat.S_IMODE((folder / "report.csv").stat().st_mode) == 0o600
    plan = TrainingPlan.from_json((folder / "plan.json").read_text())
    assert plan.sha256 in report and asdict(plan)["rounds"] == 1


def test_the_commands_file_is_checked(tmp_path, capsys):
    path = tmp_path / "wrong.yaml"
    for old, new, sentence in (
        ("trials: 2", "trails: 2", "did you mean 'trials'"),
        ("trials: 2", "", "lacks the key trials"),
        ("patients: 10", "patient: 10", "did you mean 'patients'"),
        ("learning_rate:", "learning_rat:", "did you mean 'learning_rate'"),
        ("rounds: 1", "round: 1", "did you mean 'rounds'"),
    ):
        path.write_text(SEARCH.replace(old, new))
        assert cli.main(["search", str(path), "--dry-run"]) == 2
        assert sentence in capsys.readouterr().err


def test_numbers_without_a_point_are_numbers(tmp_path):
    path = tmp_path / "numbers.yaml"
    path.write_text("a: [1e-3, -2E5, 1.5e+2, .5e1, 1e, e3, 0x1e3]")
    assert read_mapping(path, "file", ["a"])["a"] == [1e-3, -2e5, 150.0, 5.0, "1e", "e3", 0x1E3]


def test_the_repositorys_own_search_is_right():
    content = read_search(ROOT / "sweeps" / "search.yaml")
    check_space(TrainingPlan.from_dict(content["plan"]), space_from_plain(content["space"]))
