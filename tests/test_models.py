"""The networks have the published shapes and names, and their files hold nothing but numbers."""

import pytest
import torch
from torch import nn

from primia_kit.errors import KitError
from primia_kit.models import (
    ARCHITECTURES,
    NORMS,
    POOLS,
    SMALLEST_FILM,
    ModelSpec,
    TrainedModel,
    count_parameters,
    load_model,
    resnet18,
    vgg16,
)


def spec(**changes):
    return ModelSpec(**{
        "architecture": "resnet9", "classes": ("a", "b", "c"), "norm": "batch", "pool": "max", "size": 32, "geometry": "pad",
        "pixel_mean": 0.4, "pixel_std": 0.2, **changes,
    })  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pool", POOLS)
def test_every_choice_runs_and_learns(name, norm, pool):
    if name == "vgg16" and pool == "avg":
        pytest.skip("134 million parameters: one pooling is enough")
    network = ARCHITECTURES[name](3, norm, pool)
    side = SMALLEST_FILM[name]
    output = network(torch.randn(2, 1, side, side))
    assert output.shape == (2, 3)
    output.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == (norm == "batch")
    assert any(isinstance(m, nn.MaxPool2d) for m in network.modules()) == (pool == "max")


def test_sizes_are_the_published_ones():
    # torchvision's resnet18 and vgg16_bn for three classes, less the two colour channels of the first layer
    assert count_parameters(resnet18(3)) == 11_178_051 - 2 * 64 * 49
    assert count_parameters(vgg16(3)) == 134_281_283 - 2 * 64 * 9
    assert count_parameters(ARCHITECTURES["resnet9"](3)) == 307_635


def test_resnet18_has_torchvisions_names():
    names = {"conv1.weight", "fc.weight", "fc.bias"}
    norms = ["bn1"]
    for layer in range(1, 5):
        for block in range(2):
            names |= {f"layer{layer}.{block}.conv{i}.weight" for i in (1, 2)}
            norms += [f"layer{layer}.{block}.bn{i}" for i in (1, 2)]
        if layer > 1:
            names.add(f"layer{layer}.0.downsample.0.weight")
            norms.append(f"layer{layer}.0.downsample.1")
    for norm in norms:
        names |= {f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    assert resnet18(1000).state_dict().keys() == names and len(names) == 122


def test_vgg16_has_torchvisions_names():
    convolutions = [int(n.split(".")[1]) for n, p in vgg16(2, "none").named_parameters() if p.dim() == 4]
    assert convolutions == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    convolutions = [int(n.split(".")[1]) for n, p in vgg16(2, "batch").named_parameters() if p.dim() == 4]
    assert convolutions == [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]
    assert {n.split(".")[1] for n, _ in vgg16(2).classifier.named_parameters(prefix="classifier")} == {"0", "3", "6"}


def test_the_seed_decides_the_weights_and_disturbs_nothing():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one, same, other = (spec().build(seed).state_dict()["conv1.weight"] for seed in (0, 0, 1))
    assert torch.rand(3).equal(expected)
    assert one.equal(same) and not one.equal(other)


def test_save_and_load(tmp_path):
    model = TrainedModel(spec(), spec().build(3).state_dict())
    loaded = load_model(model.save(tmp_path / "m.pt"))
    assert loaded.spec == model.spec
    film = torch.rand(2, 1, 32, 32)
    assert loaded.network()(film).equal(model.network()(film))
    assert not loaded.network().training


def test_a_file_with_code_in_it_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    torch.save({"spec": Harmful(), "weights": {}}, tmp_path / "m.pt")
    with pytest.raises(KitError, match="not a model saved by the kit"):
        load_model(tmp_path / "m.pt")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("content", [[1], torch.zeros(3), {}, {"spec": {"size": 3}, "weights": {}}])
def test_a_torch_file_of_something_else_is_a_sentence(tmp_path, content):
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(KitError, match="not a model saved by the kit"):
        load_model(tmp_path / "m.pt")


def test_a_spec_with_a_wrong_type_is_a_sentence(tmp_path):
    TrainedModel(spec(size="32"), {}).save(tmp_path / "m.pt")
    with pytest.raises(KitError, match="its size is '32'"):
        load_model(tmp_path / "m.pt")


@pytest.mark.parametrize("content", [b"", b"junk" * 100])
def test_a_file_that_is_no_model_is_a_sentence(tmp_path, content):
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(KitError, match="not a model saved by the kit"):
        load_model(tmp_path / "m.pt")
    with pytest.raises(KitError, match="not a model"):
        load_model(tmp_path / "missing.pt")


def test_weights_that_dont_fit_are_named():
    weights = spec().build().state_dict()
    with pytest.raises(KitError, match=r"'fc.weight' has shape \(3, 128\); the architecture has \(2, 128\)"):
        TrainedModel(spec(classes=("a", "b")), weights).network()
    with pytest.raises(KitError, match=r"no parameter 'fc.bias'"):
        TrainedModel(spec(), {n: w for n, w in weights.items() if n != "fc.bias"}).network()
    with pytest.raises(KitError, match="'extra'"):
        TrainedModel(spec(), {**weights, "extra": torch.zeros(1)}).network()


def test_unknown_choices_name_the_nearest():
    with pytest.raises(KitError, match="did you mean 'resnet18'"):
        spec(architecture="resnet81").build()
    with pytest.raises(KitError, match="did you mean 'batch'"):
        spec(norm="batsh").build()
    with pytest.raises(KitError, match="did you mean 'avg'"):
        spec(pool="avgg").build()
