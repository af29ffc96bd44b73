"""The imprint passes through secure aggregation; noise stops it, and so does a hospital that looks at what it approved."""

from dataclasses import replace

import pytest
import torch

from primia_kit.attacks import (
    DEFENCES,
    Defence,
    ImprintSpec,
    Inversion,
    attack_results,
    attack_table,
    bin_edges,
    brightness,
    compare_films,
    film_gradient,
    imprint_weights,
    read_imprint,
    release,
    run_attacks,
)
from primia_kit.data import load_films, pool_films
from primia_kit.errors import KitError
from primia_kit.federation import Federation, TrainingPlan, check_task, load_sites
from primia_kit.federation.fields import update_fields
from primia_kit.secagg import SecureSum

PLAN = TrainingPlan(
    architecture="small_cnn", norm="none", pool="avg", size=32, sync_every=1, batch_size=1000, augmentation="none", rounds=1
)


@pytest.fixture(scope="module")
def federation(hospitals):
    return Federation(PLAN, load_sites(hospitals, PLAN))


@pytest.fixture(scope="module")
def films(federation):
    return pool_films([site.train for site in federation.sites])


def poisoned(federation, hospitals, **changes):
    public = load_films(hospitals.select(split="test"), size=32, geometry="pad").images
    spec = ImprintSpec.of(federation.spec)
    plan = replace(federation.plan, **changes)
    return replace(federation.task(), plan=plan, spec=spec, weights=imprint_weights(spec, public))


def secure_sum_of(federation, task, count):
    updates = {site.name: replace(site, approved="").update(task)[0] for site in federation.sites}
    secure = SecureSum()
    total = secure.sum("round 1 update", updates, update_fields(updates["A"], count, 3))
    assert secure.survivors == ("A", "B", "C")
    return total


def test_films_are_read_exactly_from_a_secure_sum(federation, films, hospitals):
    task = poisoned(federation, hospitals)
    read = read_imprint(task.spec, secure_sum_of(federation, task, len(films)))
    score = compare_films(read.images, films.images, films.images)
    assert score.exact >= 0.5 * len(films) and score.match_rate >= 0.6
    # Whoever was alone in a bin was recovered, and nobody else exactly.
    bins = torch.bucketize(brightness(task.spec, films.images), -task.weights["imprint.measure.bias"] / 1e-4) - 1
    alone = {i for i, b in enumerate(bins.tolist()) if b >= 0 and bins.tolist().count(b) == 1}
    exact = {i for i, p in enumerate(score.psnr) if p > 40}
    assert len(exact - alone) <= 2 and len(exact) >= 0.8 * len(alone)


def test_several_local_steps_still_give_some(federation, films, hospitals):
    task = poisoned(federation, hospitals, sync_every=0, local_epochs=1, batch_size=8, learning_rate=0.01)
    read = read_imprint(task.spec, secure_sum_of(federation, task, len(films)))
    assert compare_films(read.images, films.images, films.images).exact >= 1


def test_windows_read_films_exactly_after_many_local_steps(federation, films, hospitals):
    """A window that a film has gone through moves away, and shuts: later steps can't spoil what is in its row."""
    public = load_films(hospitals.select(split="test"), size=32, geometry="pad").images
    spec = ImprintSpec.of(federation.spec, windowed=True)
    weights = imprint_weights(spec, public)
    steps = {"sync_every": 0, "local_epochs": 2, "batch_size": 4, "learning_rate": 0.05}
    task = replace(federation.task(), plan=replace(PLAN, **steps), spec=spec, weights=weights)
    read = read_imprint(spec, secure_sum_of(federation, task, len(films)))
    score = compare_films(read.images, films.images, films.images)
    bins = (torch.bucketize(brightness(spec, films.images), bin_edges(spec, public)) - 1).tolist()
    assert score.exact >= 0.9 * sum(b >= 0 and bins.count(b) == 1 for b in bins) > 10


def test_edges_ascend_and_share_out_normal_brightness(federation):
    spec = ImprintSpec.of(federation.spec, bins=16)
    gray = (spec.pixel_mean + 0.02 * torch.randn(4000, 1, 1, 1, generator=torch.Generator().manual_seed(0))).expand(-1, 1, 32, 32)
    edges = bin_edges(spec, gray)
    assert (edges.diff() > 0).all()
    counts = torch.bucketize(brightness(spec, gray), edges).bincount(minlength=17)
    assert counts[1:16].float().std() / counts[1:16].float().mean() < 0.15
    with pytest.raises(KitError, match="at least 2"):
        ImprintSpec.of(federation.spec, bins=1)


def test_as_many_bins_are_read_as_there_are_films(federation, films, hospitals):
    task = poisoned(federation, hospitals)
    gradient = film_gradient(task.spec, task.weights, films.images[:12], films.labels[:12])
    every, few = read_imprint(task.spec, gradient), read_imprint(task.spec, gradient, most=3)
    entries = gradient["imprint.measure.bias"].diff(append=torch.zeros(1)).abs()
    assert len(every.bins) > 6 and few.bins.tolist() == sorted(entries.topk(3).indices.tolist())
    assert torch.equal(few.images, every.images[torch.isin(every.bins, few.bins)])


def test_an_update_without_the_imprint_is_told(federation, films):
    gradient = film_gradient(federation.spec, federation.weights, films.images[:2], films.labels[:2])
    with pytest.raises(KitError, match="it wasn't run"):
        read_imprint(ImprintSpec.of(federation.spec), gradient)


def test_a_hospital_refuses_what_it_didnt_approve(federation, hospitals):
    honest, approved = federation.task(), PLAN.sha256
    check_task(honest, approved)
    task = poisoned(federation, hospitals)
    for sent, sentence in (
        (task, r"The server's model \(ImprintSpec\) isn't the approved plan's small_cnn"),
        (replace(task, spec=honest.spec), "'conv1.weight'"),
        (replace(honest, plan=replace(PLAN, batch_size=2)), "The plan's hash is"),
        (replace(honest, number=2), "asks for round 2 of the plan's 1"),
        (replace(honest, spec=replace(honest.spec, pool="max")), "isn't the approved plan's"),
        (replace(honest, spec=replace(honest.spec, pixel_std=0.0)), "pixel statistics"),
        (replace(honest, spec=replace(honest.spec, pixel_mean=float("inf"))), "pixel statistics"),
        (replace(honest, spec=object()), "isn't the approved plan's"),
        (replace(honest, weights={**honest.weights, "imprint.measure.bias": torch.zeros(9)}), "imprint.measure.bias"),
    ):
        with pytest.raises(KitError, match=sentence):
            check_task(sent, approved)
        with pytest.raises(KitError, match=sentence):
            federation.sites[0].update(sent)


def test_a_server_in_a_run_gets_no_answer_to_what_nobody_approved(federation, hospitals):
    with pytest.raises(KitError, match="Site A has approved the plan"):
        Federation(replace(PLAN, rounds=2), federation.sites)
    run = Federation(PLAN, federation.sites)
    run.task = lambda: poisoned(federation, hospitals)
    with pytest.raises(KitError, match=r"Round 1: 0 of 3 sites answered.*ImprintSpec"):
        run.run_round()


def test_noise_removes_what_batches_and_sums_dont(films, federation):
    defences = {name: DEFENCES[name] for name in ("nothing", "4 films", "secure sum", "noise 1")}
    trials = run_attacks(films, federation.spec, attacks=["imprint"], defences=defences, seeds=(0, 1))
    table = attack_table(trials, defences).loc["imprint"]
    assert table.loc["nothing", "exact"] == table.loc["secure sum", "exact"] == 1 and table.loc["4 films", "exact"] >= 0.5
    assert table.loc["noise 1", "exact"] == 0 and table.loc["noise 1", "SSIM"] < 0.2
    assert attack_results(trials)["imprint.secure_sum.exact"] == 1


def test_noise_removes_what_the_inversion_sees(films, federation):
    defences = {name: DEFENCES[name] for name in ("nothing", "noise 1")}
    trials = run_attacks(films, federation.spec, attacks=["inversion"], defences=defences, settings=Inversion(steps=80))
    clear, noisy = (trial.similarity for trial in trials)
    assert clear.ssim[0] > 0.85 and clear.match_rate == 1
    assert noisy.ssim[0] < 0.3 and noisy.psnr[0] < 15
    assert torch.equal(trials[0].originals, trials[1].originals)


def test_a_release_is_clipped_and_its_noise_has_the_right_size(films, federation):
    spec, weights = federation.spec, federation.weights

    def flat(defence, count, seed=0):
        got = release(spec, weights, films.images[:count], films.labels[:count], defence, seed)
        return torch.cat([part.flatten() for part in got.values()])

    plain = flat(Defence(films=4), 4)
    truth = film_gradient(spec, weights, films.images[:4], films.labels[:4])
    assert torch.allclose(plain, torch.cat([part.flatten() for part in truth.values()]), atol=1e-6)
    clipped = flat(Defence(clip=0.1, noise_multiplier=1e-9), 1)
    assert float(clipped.norm()) == pytest.approx(0.1, rel=1e-3)
    noise = flat(Defence(films=4, clip=0.1, noise_multiplier=2.0), 4) - flat(Defence(films=4, clip=0.1, noise_multiplier=1e-9), 4)
    assert float(noise.std()) == pytest.approx(2 * 0.1 / 4, rel=0.01)
    summed = flat(Defence(hospitals=3), 3)
    assert torch.allclose(summed, flat(Defence(films=3), 3), atol=1e-5)


def test_epsilon_is_the_analytic_gaussians():
    from scipy.stats import norm

    for sigma in (0.5, 1.0, 3.0):
        epsilon = Defence(noise_multiplier=sigma).epsilon(1e-5)
        delta = norm.cdf(0.5 / sigma - epsilon * sigma) - torch.tensor(epsilon).exp().item() * norm.cdf(
            -0.5 / sigma - epsilon * sigma
        )
        assert delta == pytest.approx(1e-5, rel=1e-2)
    assert Defence().epsilon() == float("inf")


def test_impossible_defences_and_attacks_are_refused(films, federation):
    for bad in ({"hospitals": 2}, {"films": 0}, {"clip": 0.0}, {"noise_multiplier": -1.0}):
        with pytest.raises(KitError):
            Defence(**bad)
    with pytest.raises(KitError, match="did you mean 'imprint'"):
        run_attacks(films, federation.spec, attacks=["imprnt"])
    with pytest.raises(KitError, match="these defences need 402"):
        run_attacks(films, federation.spec, defences={"many": Defence(films=400)})
