"""Gradient inversion recovers an unprotected film, and says what it can't do."""

from dataclasses import replace

import pytest
import torch

from primia_kit.attacks import Inversion, compare_films, film_gradient, infer_labels, invert_gradient, invert_update, psnr, ssim
from primia_kit.attacks.inversion import _unrolled
from primia_kit.data import load_films
from primia_kit.errors import KitError
from primia_kit.federation import RoundTask, Site, TrainingPlan
from primia_kit.federation.local import round_batches

PLAN = TrainingPlan(
    architecture="small_cnn", norm="none", pool="avg", size=32, batch_size=4, augmentation="none", learning_rate=0.02
)
SPEC = PLAN.model_spec(0.4, 0.25)
WEIGHTS = SPEC.build(0).state_dict()
QUICK = Inversion(steps=80)


@pytest.fixture(scope="module")
def films(hospitals):
    return load_films(hospitals, size=32, geometry="pad")


def a_site(films, count, name="A"):
    chosen = replace(films, images=films.images[:count], labels=films.labels[:count], patients=films.patients[:count])
    return Site(name, chosen, films)


def test_one_gradient_gives_the_film_and_its_label(films):
    gradient = film_gradient(SPEC, WEIGHTS, films.images[3:4], films.labels[3:4])
    calls = []
    found = invert_gradient(SPEC, WEIGHTS, gradient, settings=QUICK, progress=lambda *call: calls.append(call))
    score = compare_films(found.images, films.images[3:4], films.images)
    assert found.labels.tolist() == films.labels[3:4].tolist()
    assert score.psnr[0] > 25 and score.ssim[0] > 0.85 and score.match_rate == 1
    others = torch.cat([films.images[:3], films.images[4:]]).mean(0, keepdim=True)
    assert score.psnr[0] > psnr(others, films.images[3:4]) + 2  # what nobody needs an attack for
    assert len(found.losses) == 80 and found.losses[-1] < found.losses[0] / 20 and found.distance < found.losses[-1]
    assert calls[-1] == (80, 80, "gradient inversion") and found.seconds > 0
    again = invert_gradient(SPEC, WEIGHTS, gradient, settings=Inversion(steps=3))
    assert torch.equal(again.images, invert_gradient(SPEC, WEIGHTS, gradient, settings=Inversion(steps=3)).images)


def test_the_nearest_of_several_tries_counts(films):
    gradient = film_gradient(SPEC, WEIGHTS, films.images[:1], films.labels[:1])
    two = invert_gradient(SPEC, WEIGHTS, gradient, settings=Inversion(steps=5, restarts=2))
    one = invert_gradient(SPEC, WEIGHTS, gradient, settings=Inversion(steps=5))
    assert two.losses[-1] <= one.losses[-1]


@pytest.mark.parametrize("augmentation", ["none", "shift"])
@pytest.mark.parametrize("weight_decay, momentum", [(0.0, 0.0), (0.1, 0.9)])
def test_the_attacks_simulation_is_the_sites_training(films, augmentation, weight_decay, momentum):
    plan = replace(PLAN, augmentation=augmentation, weight_decay=weight_decay, momentum=momentum, local_epochs=2)
    site, task = a_site(films, 6), RoundTask(plan, SPEC, 1, WEIGHTS)
    update, _ = site.update(task)
    network = SPEC.build_with(WEIGHTS).train()
    batches = round_batches(plan, 6, 1, "A")
    assert len(batches) == 4
    simulated = _unrolled(task, network, films.images[:6], films.labels[:6], batches, "A")
    for (name, _), part in zip(network.named_parameters(), simulated, strict=True):
        torch.testing.assert_close(-part * update["weight"], update[name], rtol=2e-3, atol=2e-5)


def test_a_round_of_several_steps_gives_the_film(films):
    task = RoundTask(replace(PLAN, local_epochs=3), SPEC, 1, WEIGHTS)
    update, training = a_site(films, 1).update(task)
    found = invert_update(task, update, site="A", settings=QUICK)
    score = compare_films(found.images, films.images[:1], films.images)
    assert training.steps == 3 and found.labels.tolist() == films.labels[:1].tolist()
    assert score.ssim[0] > 0.8 and score.match_rate == 1


def test_label_counts_of_a_batch_are_read_off_the_last_bias(films):
    images, labels = films.images[:8], torch.tensor([0, 0, 0, 0, 0, 1, 1, 2])
    gradient = film_gradient(SPEC, WEIGHTS, images, labels)
    assert infer_labels(SPEC.build_with(WEIGHTS), SPEC, gradient, 8).tolist() == labels.tolist()
    task = RoundTask(replace(PLAN, batch_size=8), SPEC, 1, WEIGHTS)
    update, _ = a_site(replace(films, labels=torch.cat([labels, films.labels[8:]])), 8).update(task)
    assert invert_update(task, update, site="A", settings=Inversion(steps=1)).labels.tolist() == labels.tolist()


def test_what_the_attack_cant_simulate_is_refused(films):
    def attack(spec=SPEC, films=0, **changes):
        task = RoundTask(replace(PLAN, **changes), spec, 1, spec.build(0).state_dict())
        update = {"weight": torch.tensor(6.0), **task.weights}
        return invert_update(task, update, site="A", films=films, settings=Inversion(steps=1))

    for changes, sentence in (
        ({"optimizer": "adam"}, 'optimizer "adam"'),
        ({"strategy": "fedprox"}, 'strategy "fedprox"'),
        ({"mixup": 0.2}, "MixUp"),
        ({"weighting": "uniform"}, "doesn't tell how many"),
        ({}, "which has which label"),
        ({"spec": replace(SPEC, architecture="vgg16"), "films": 1}, "dropout"),
    ):
        with pytest.raises(KitError, match=sentence):
            attack(**changes)
    with pytest.raises(KitError, match="another model's"):
        invert_gradient(SPEC, WEIGHTS, {"conv1.weight": torch.zeros(2)}, labels=torch.tensor([0]))
    with pytest.raises(KitError, match="steps is 0"):
        Inversion(steps=0)
    with pytest.raises(KitError, match="step_size is 0"):
        Inversion(step_size=0)


def test_similarity_is_the_libraries_and_the_formulas(films):
    one, other = films.images[:2], films.images[2:4]
    assert psnr(one, one).tolist() == [100, 100] and ssim(one, one).tolist() == pytest.approx([1, 1])
    assert psnr(one * 0, one * 0 + 0.1).tolist() == pytest.approx([20, 20], abs=1e-4)
    assert (ssim(one, other) < 0.99).all() and torch.allclose(ssim(one, other), ssim(other, one))
    with pytest.raises(KitError, match="11 pixels"):
        ssim(one[..., :8, :8], other[..., :8, :8])
    with pytest.raises(KitError, match="have shapes"):
        psnr(one, other[:1])


def test_a_reconstruction_is_given_to_its_film_whatever_the_order(films):
    originals, back = films.images[:4], films.images[[2, 0, 3]]
    score = compare_films(back, originals, films.images)
    assert score.images == (1, -1, 0, 2) and score.matched == (True, False, True, True)
    assert score.match_rate == 0.75 and score.exact == 3 and set(score.best) == {0, 2, 3}
    assert compare_films(back[:0], originals, films.images).match_rate == 0


@pytest.mark.parametrize("count", [1, 5, 30])
def test_noise_is_matched_by_chance_and_chance_is_told(count):
    """Of films that are noise themselves, so that none is nearest to everything."""
    generator = torch.Generator().manual_seed(count)

    def draw(n):
        return torch.rand(n, 1, 16, 16, generator=generator)

    trials = []
    for _ in range(60):
        candidates = draw(30)
        trials.append(compare_films(draw(count), candidates[:count], candidates))
    assert {t.chance for t in trials} == {1 - (1 - 1 / 30) ** count}
    rate, error = sum(t.match_rate for t in trials) / 60, 3 * (0.25 / 60 / count) ** 0.5
    assert 0.8 * trials[0].chance - error < rate < trials[0].chance + error
    # A reconstruction whose film is known isn't given to the nearest one.
    known = [compare_films(draw(count), films_, films_, pairs=range(count)) for films_ in (draw(30)[:count] for _ in range(60))]
    assert known[0].chance == pytest.approx(1 / count) and known[0].images == tuple(range(count))
    assert sum(t.match_rate for t in known) / 60 == pytest.approx(1 / count, abs=3 * (0.25 / 60 / count) ** 0.5)


def test_pairs_say_which_reconstruction_is_whose(films):
    originals, back = films.images[:3], films.images[[5, 1]]
    score = compare_films(back, originals, films.images, pairs=[0, 1, -1])
    assert score.images == (0, 1, -1) and score.matched == (False, True, False)
    assert score.chance == pytest.approx(1 / len(films))
