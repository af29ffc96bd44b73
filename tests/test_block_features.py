"""Public features: what the transform does, that it's of public films alone, and private training of the layer on it."""

from dataclasses import replace

import pytest
import torch

from primia_kit.errors import KitError
from primia_kit.federation import federate
from primia_kit.federation.trainable import head_inputs
from primia_kit.inference import compile_private
from primia_kit.models import ARCHITECTURES, PublicTransform, imagenet_weights, lite0_blocks, public_start, weights_sha256

from .noise_sites import site
from .test_federation_private import HEAD
from .test_models_pretrained import wheel

pytestmark = pytest.mark.usefixtures("one_thread")


def numbers(films=40, width=6):
    """Features whose mean and spread differ by far from one to the next."""
    torch.manual_seed(0)
    return torch.randn(films, width) @ torch.randn(width, width) * torch.logspace(-2, 2, width) + torch.arange(width) * 10


def test_axes_are_uncorrelated_and_equalised_by_half():
    x, transform = numbers(), PublicTransform(6, 4)
    transform.fit(x)
    z = ((x - x.mean(0)) / x.std(0, correction=0)) @ transform.matrix.detach()
    covariance = z.T @ z / len(z)
    lengths = torch.linalg.svdvals((x - x.mean(0)) / x.std(0, correction=0)) / len(x) ** 0.5
    torch.testing.assert_close(covariance, torch.diag(lengths[:4]), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("outputs", [0, 4])
def test_each_film_has_length_one_and_a_constant(outputs):
    x, transform = numbers(), PublicTransform(6, outputs)
    transform.fit(x)
    found = transform(x)
    torch.testing.assert_close(found[:, :-1].norm(dim=1), torch.ones(40))
    assert found[:, -1].eq(0.5).all() and found.shape == (40, (outputs or 6) + 1)
    torch.testing.assert_close(transform(x[3:4]), found[3:4])  # no film depends on another


def test_a_film_far_from_all_public_ones_is_cut_off():
    transform = PublicTransform(6)
    transform.fit(numbers())
    far = numbers()[:1].clone()
    far[0, 2] += 1e6
    values = transform(far)[0, :-1]
    assert values[2] / values[[0, 1, 3, 4, 5]].abs().max() >= 6 / 6.01
    assert transform(far * 1e3)[0].isfinite().all()


def test_a_feature_that_never_changes_is_no_division_by_zero():
    x, transform = numbers(), PublicTransform(6, 4)
    x[:, 1] = 7.0
    transform.fit(x)
    assert transform(x).isfinite().all()


@pytest.mark.parametrize(("outputs", "films", "needed"), [(4, 4, 5), (0, 1, 2)])
def test_too_few_public_films_are_refused(outputs, films, needed):
    with pytest.raises(KitError, match=f"There are {films} public films; these features take {needed} at least"):
        PublicTransform(6, outputs).fit(numbers(films))


@wheel
def test_a_public_start_is_imagenets_body_and_a_layer_of_zeros():
    torch.manual_seed(0)
    films = torch.rand(3, 1, 64, 64)
    start = public_start(lite0_blocks(3), films)
    state = imagenet_weights("efficientnet_lite0")
    assert start["_blocks.7._project_conv.weight"].equal(state["_blocks.7._project_conv.weight"])
    assert start["_conv_stem.weight"].equal(state["_conv_stem.weight"].sum(1, keepdim=True))
    assert not start["_fc.weight"].any() and start["_fc.weight"].shape == (3, 1249)
    network = lite0_blocks(3)
    network.load_state_dict(start)
    with torch.no_grad():
        features = network.eval().block_features(films)
    torch.testing.assert_close(start["transform.mean"], features.mean(0), atol=1e-5, rtol=1e-4)
    assert weights_sha256(public_start(lite0_blocks(3), films)) == weights_sha256(start)
    with pytest.raises(KitError, match="There are 3 public films; these features take 65"):
        public_start(ARCHITECTURES["lite0_components"](3), films)


def test_a_layer_on_public_features_is_trained_privately_and_features_are_made_once(monkeypatch):
    torch.manual_seed(0)
    start = lite0_blocks(3).state_dict()
    who = [site(name, [0, 1, 2] * 4, seed, size=64, patients=[f"p{i}" for i in range(12)]) for seed, name in enumerate("ABC")]
    plan = replace(
        HEAD, architecture="lite0_blocks", norm="batch", size=64, batch_size=12, rounds=2, sync_every=0,
        start=weights_sha256(start),
    )  # fmt: skip
    made = []
    monkeypatch.setattr(
        "primia_kit.federation.site.head_inputs", lambda *given: made.append(head_inputs(*given)) or made[-1]
    )  # fmt: skip
    for noise in (1.0, 2.0):
        run = federate(replace(plan, noise_multiplier=noise), who, start=start)
        changed = {name for name, value in run.model.weights.items() if not value.equal(start[name])}
        assert changed == {"_fc.weight"} and run.largest_epsilon > 0
    assert len(made) == 3 and all(features.shape == (12, 1249) for features in made)
    other = {name: value + 0.1 if name == "transform.mean" else value for name, value in start.items()}
    federate(replace(plan, start=weights_sha256(other)), who, start=other)
    assert len(made) == 6


def test_encrypted_inference_refuses_it():
    with pytest.raises(KitError, match="var"):
        compile_private(lite0_blocks(3).eval(), torch.randn(2, 1, 64, 64))
