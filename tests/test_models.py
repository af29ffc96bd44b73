"""Every network runs with every choice, in layers that encrypted inference can carry; files hold nothing but numbers."""

import operator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from primia_kit.errors import KitError
from primia_kit.federation import TrainingPlan
from primia_kit.models import (
    ARCHITECTURES,
    CLASSIFIERS,
    SEGMENTERS,
    SIZE_STEP,
    SMALLEST_FILM,
    UPSAMPLINGS,
    ModelSpec,
    TrainedModel,
    load_model,
    unet,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def spec(**changes):
    return ModelSpec(**{
        "architecture": "resnet9", "classes": ("a", "b", "c"), "norm": "batch", "pool": "max", "size": 32, "geometry": "pad",
        "pixel_mean": 0.4, "pixel_std": 0.2, **changes,
    })  # fmt: skip


# Every norm and every pooling; VGG16 has 134 million parameters: running it once is enough.
CHOICES = [
    (name, norm, pool)
    for name in ARCHITECTURES
    for norm, pool in (("batch", "max"), ("group", "avg"), ("none", "max"))
    if name != "vgg16" or norm == "group"
]
UNPOOLED = {"mobilenet_v2", "efficientnet_lite0", "efficientnet_lite0_blocks"}


def small(name, norm="batch", pool="max"):
    """A network for three classes; U-Net narrow, since its width is free."""
    torch.manual_seed(0)
    return ARCHITECTURES[name](3, norm, pool, **({"width": 8} if name == "unet" else {}))


@pytest.mark.parametrize(("name", "norm", "pool"), CHOICES)
def test_every_norm_and_pooling_runs_and_learns(name, norm, pool):
    network = small(name, norm, pool)
    side = SMALLEST_FILM[name]
    output = network(torch.randn(2, 1, side, side))
    assert output.shape == ((2, 3) if name in CLASSIFIERS else (2, 3, side, side))
    output.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == (norm == "batch")
    assert any(isinstance(m, nn.MaxPool2d) for m in network.modules()) == (pool == "max" and name not in UNPOOLED)


# What encrypted inference has to carry: an architecture with another layer needs one there first.
CARRIED = {
    nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.MaxPool2d, nn.AvgPool2d,
    nn.AdaptiveAvgPool2d, nn.Upsample, nn.ZeroPad2d, nn.Identity, nn.Dropout, F.relu, operator.add, torch.cat, "flatten",
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_fx_reads_it_and_finds_only_layers_that_encrypted_inference_can_carry(name):
    with torch.device("meta" if name == "vgg16" else "cpu"):
        network = small(name).eval()
        films = torch.randn(2, 1, SMALLEST_FILM[name], SMALLEST_FILM[name])
    traced = torch.fx.symbolic_trace(network)
    for node in traced.graph.nodes:
        if node.op == "call_module":
            assert type(traced.get_submodule(node.target)) in CARRIED, node.format_node()
        elif node.op in ("call_function", "call_method"):
            assert node.target in CARRIED, node.format_node()
        else:
            assert node.op in ("placeholder", "output"), node.format_node()
    assert name == "vgg16" or traced(films).equal(network(films))


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "vgg16"])
def test_first_weights_keep_the_scale_of_what_goes_in(name):
    """With no norm to mend it, a wrong fan (a depthwise convolution's, say) ends in logits of 1e-20 or 1e20."""
    network = small(name, "none").eval()
    with torch.no_grad():
        spread = network(torch.randn(4, 1, 64, 64)).std(0).mean()  # between films: biases don't count
    assert 1e-3 < spread < 1e3


@pytest.mark.parametrize("side", [33, 50, 100])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_films_need_not_have_a_round_size(name, side):
    with torch.device("meta"):
        assert small(name)(torch.empty(2, 1, side, side)).shape == (2, 3)


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_unet_answers_for_every_pixel(upsampling):
    torch.manual_seed(0)
    network = unet(2, width=4, upsampling=upsampling).eval()
    films = torch.zeros(2, 1, 48, 48)
    films[1, 0, 5, 40] = 50.0
    with torch.no_grad():
        without, with_a_dot = network(films)
    assert without.shape == (2, 48, 48)
    y, x = divmod(int((with_a_dot - without).abs().sum(0).argmax()), 48)
    assert abs(y - 5) <= 4 and abs(x - 40) <= 4


def test_unets_choices():
    with pytest.raises(KitError, match="size is 40; for unet it must be a multiple of 16"):
        spec(architecture="unet", size=40).build()
    with pytest.raises(KitError, match="did you mean 'bilinear'"):
        unet(2, upsampling="bilinaer")


def test_a_plan_can_name_every_classifier_and_no_segmenter():
    for name in CLASSIFIERS:
        assert TrainingPlan(architecture=name).architecture == name
    with pytest.raises(KitError, match="architecture is 'unet'"):
        TrainingPlan(architecture="unet")
    assert CLASSIFIERS.keys() | SEGMENTERS.keys() == ARCHITECTURES.keys() == SMALLEST_FILM.keys() == SIZE_STEP.keys()


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
