"""Compiled networks compute what torch does, in few bits and comparisons; what can't be carried is refused in a sentence."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from primia_kit.errors import KitError
from primia_kit.inference import compile_private, decode_outputs, encode_images, run_clear
from primia_kit.inference.folding import fold
from primia_kit.inference.tracing import trace
from primia_kit.models import ARCHITECTURES, ModelSpec, TrainedModel, imagenet_weights
from primia_kit.mpc.costs import costs, total
from primia_kit.mpc.dialogue import Dialogue
from primia_kit.mpc.program import PRIVATE, Op, Program

from .test_compile_operators import Net, compiled, kinds

pytestmark = pytest.mark.usefixtures("one_thread")


def warmed(name, norm, pool, side, images=4, **options):
    """A network with random weights whose running statistics aren't the trivial ones, and images."""
    torch.manual_seed(0)
    network = ARCHITECTURES[name](3, norm, pool, **options)
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(images, 1, side, side))
    return network.eval(), torch.randn(images, 1, side, side)


# name, norm, pool, side, largest error of a logit with truncations as shares draw them
NETWORKS = [
    ("resnet9", "batch", "max", 32, 1e-3), ("resnet9", "none", "avg", 32, 1e-3),
    ("resnet18", "batch", "max", 64, 1e-3), ("resnet18", "batch", "avg", 64, 1e-3),
    pytest.param("resnet34", "batch", "max", 32, 2e-3, marks=pytest.mark.slow), ("resnet50", "batch", "max", 32, 2e-3),
    ("densenet121", "batch", "max", 32, 1e-3), ("densenet121", "none", "avg", 32, 1e-3),
    ("mobilenet_v2", "batch", "max", 32, 1e-3), ("mobilenet_v2", "none", "max", 32, 1e-3),
    ("efficientnet_lite0", "batch", "max", 32, 1e-3), ("unet", "batch", "max", 32, 3e-3), ("unet", "none", "avg", 32, 3e-3),
    ("small_cnn", "none", "max", 28, 1e-3), ("small_cnn", "batch", "avg", 32, 1e-3),
]  # fmt: skip


def compare(name, norm, pool, side, close, **options):
    network, images = warmed(name, norm, pool, side, **options)
    model = compile_private(network, images)
    assert model.program.bits <= 43
    with torch.no_grad():
        logits = network(images).numpy()
    run = run_clear(model.program, model.weights, images, rounding=np.random.default_rng(0))
    np.testing.assert_allclose(run.outputs, logits, rtol=0, atol=close)
    assert np.abs(logits).max() > 20 * close
    assert min(model.headroom.values()) >= 2 and max(run.used.values()) <= 0.5 + 1e-3
    return model


@pytest.mark.parametrize(("name", "norm", "pool", "side", "close"), NETWORKS)
def test_every_network_of_the_kit(name, norm, pool, side, close):
    model = compare(name, norm, pool, side, close, **({"width": 8} if name == "unet" else {}))
    again = Program.from_json(model.program.to_json())
    assert again == model.program and again.sha256 == model.program.sha256


def test_unet_with_interpolation():
    compare("unet", "batch", "max", 32, 3e-3, width=8, upsampling="bilinear")


@pytest.mark.slow
def test_vgg16():
    compare("vgg16", "batch", "max", 32, 3e-4, images=4)


def test_folding_changes_no_number():
    for name, norm, pool in (
        ("resnet9", "batch", "avg"),
        ("densenet121", "batch", "max"),
        ("efficientnet_lite0", "batch", "max"),
    ):
        network, images = warmed(name, norm, pool, 32, images=4)
        layers = trace(network, images[:2])
        fold(layers)
        assert not any(layer.kind in ("affine", "pad") for layer in layers.values())
        with torch.no_grad():
            assert torch.allclose(layers.run(images)[:, :, 0, 0], network(images), rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize(("name", "count"), [("resnet9", 9 + 3 + 1), ("densenet121", 120 + 62 + 1)])
def test_private_layers_that_are_left(name, count):
    """Every BatchNorm of a ResNet is folded; of a DenseNet, one after each concatenation or pool isn't: 58 + 3 + 1."""
    network, images = warmed(name, "batch", "max", 32, images=2)
    model = compile_private(network, images, split=99)
    assert sum(op.kind == "conv" for op in model.program.ops) == count


def test_an_activation_comes_after_its_max_pool():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1))
    model, _ = compiled(network, 1, 10, 10)
    assert kinds(model) == ["input", "conv", "truncate", "max_pool", "relu", "mask", "conv", "output"]
    by_name = {cost.name: cost.comparisons for cost in costs(model.program)}
    assert by_name["2"] == 8 * 4 * 4 + 4 * 4 * 4 and by_name["1"] == 64  # half of the rows, then of the columns


def test_resnet18_at_224_compares_as_often_as_the_design_says():
    network = ARCHITECTURES["resnet18"](3).eval()
    model = compile_private(network, torch.randn(1, 1, 224, 224))
    whole = total(costs(model.program))
    assert sum(op.kind == "conv" for op in model.program.ops) == 21
    assert 2.85e6 < whole.comparisons < 2.95e6
    assert model.program.bits <= 40 and 17e6 < whole.to_model < 25e6 and 10e6 < whole.to_data < 17e6


def test_a_residual_is_truncated_once():
    network = Net(lambda s, x: F.relu(s.b(F.relu(s.a(x))) + x), a=nn.Conv2d(2, 2, 3, padding=1), b=nn.Conv2d(2, 2, 3, padding=1))
    model, _ = compiled(network, 2, 6, 6)
    assert kinds(model) == ["input", "conv", "relu", "mask", "conv", "add", "relu", "output"]
    add, conv = (next(op for op in model.program.ops if op.kind == kind) for kind in ("add", "conv"))
    assert list(add.attributes["shifts"]) == [0, add.fraction_bits - model.program.ops[0].fraction_bits]
    assert conv.fraction_bits == conv.attributes["weight_bits"] + 13


def test_a_value_is_masked_once_for_all_its_readers():
    heads = {name: nn.Conv2d(2, 2, 1) for name in "abc"}
    network = Net(lambda s, x: (lambda y: s.a(y) + s.b(y) + s.c(y))(F.relu(s.stem(x))), stem=nn.Conv2d(1, 2, 3), **heads)
    model, _ = compiled(network, 1, 6, 6)
    assert kinds(model).count("mask") == 1 and kinds(model).count("truncate") == 0


def test_divisors_of_average_pools():
    conv, pool, head = nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 2)
    model, _ = compiled(nn.Sequential(conv, nn.ReLU(), pool, nn.Flatten(), head), 1, 8, 8)  # into the weights of the head
    assert kinds(model) == ["input", "conv", "relu", "sum_pool", "mask", "conv", "output"]
    model, _ = compiled(nn.Sequential(conv, nn.ReLU(), nn.AvgPool2d(3)), 1, 8, 8)  # into the convolution before it
    assert kinds(model) == ["input", "conv", "relu", "sum_pool", "output"]
    model, _ = compiled(nn.Sequential(conv, nn.ReLU6(), nn.AvgPool2d(2)), 1, 8, 8)  # the point moves by two bits
    assert model.program.ops[-2].attributes == {"factor": 1, "bits": 2}
    model, _ = compiled(nn.Sequential(conv, nn.ReLU6(), nn.AvgPool2d(3)), 1, 8, 8)  # a clipped value can't be scaled before
    assert model.program.ops[-2].attributes["factor"] == round(2 ** model.program.ops[-2].attributes["bits"] / 9)


# Formats and ranges.


def test_weights_are_short_and_no_wider_than_useful():
    network, images = warmed("resnet9", "batch", "max", 32)
    model = compile_private(network, images)
    for op in model.program.ops:
        assert (op.kind in PRIVATE) == (op.name in model.weights)
        if op.kind in PRIVATE:
            weights, bias = model.weights[op.name]
            assert weights.dtype == bias.dtype == np.int64 and np.abs(weights).max() < 2**15
            assert np.abs(weights).max() >= 2**9 and bias.shape == (op.shape[2],)
    assert compile_private(network, images, precision=11).program.bits < model.program.bits


def test_one_large_weight_doesn_t_starve_the_others():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))
    with torch.no_grad():
        network[0].weight[0, 0, 1, 1] = 30.0
        network[2].weight[:, 0] *= 1e-3
    images = torch.randn(4, 8, 9, 9)
    errors = {}
    for split in (4, 99):
        model = compile_private(network, images, split=split)
        names = [op.name for op in model.program.ops if op.kind == "conv"]
        assert names == ["0", "0.fine", "2"] if split == 4 else names == ["0", "2"]
        run = run_clear(model.program, model.weights, images, rounding=np.random.default_rng(0))
        with torch.no_grad():
            errors[split] = np.abs(run.outputs - network(images).numpy()).max()
    assert errors[4] < 6e-4 and errors[4] < errors[99] / 3


@pytest.mark.slow
def test_trained_weights_and_photographs():
    from sklearn.datasets import load_sample_images

    photographs = [torch.tensor(image).permute(2, 0, 1).float() for image in load_sample_images().images]
    corners = [(row, column) for row in (0, 150, 290) for column in (0, 160, 320, 500)]
    images = torch.stack([p[:, r : r + 128, c : c + 128] for p in photographs for r, c in corners])
    images = (images - 127) / 128
    network = ARCHITECTURES["efficientnet_lite0"](1000, in_channels=3)
    network.load_state_dict(imagenet_weights("efficientnet_lite0"))
    network.eval()
    model = compile_private(network, images[::2])
    run = run_clear(model.program, model.weights, images[1::2], rounding=np.random.default_rng(0))
    with torch.no_grad():
        logits = network(images[1::2]).numpy()
    errors = run.outputs - logits
    assert np.abs(logits).max() > 8 and np.abs(errors).max() < 0.02 and errors.std() < 0.003


def test_larger_values_get_fewer_fraction_bits():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    images = torch.randn(4, 1, 8, 8)
    for factor, margin in ((1, 2), (100, 2), (100, 8), (3000, 2)):
        with torch.no_grad():
            top = network[0](images * factor).abs().max().item()
        model = compile_private(network, images * factor, margin=margin)
        relu = model.program.ops[-2]
        most = np.floor(np.log2(2**20 / (margin * top)))
        assert relu.fraction_bits == min(13, most)
        assert model.headroom[relu.name] == pytest.approx(2 ** (20 - relu.fraction_bits) / top)
        assert run_clear(model.program, model.weights, images * factor).outputs.shape == (4, 2, 6, 6)


def test_relu6_keeps_room_for_the_six_that_it_subtracts():
    network, images = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU6()), torch.ones(1, 1, 2, 2)
    for weight, bits in ((-120.0, 13), (-124.0, 12)):
        nn.init.constant_(network[0].weight, weight)
        model = compile_private(network, images, margin=1)
        assert model.program.ops[-2].fraction_bits == bits and model.headroom["1"] >= 1
        assert run_clear(model.program, model.weights, images).used["1"] <= 1


def test_weights_just_below_a_power_of_two_round_to_less_than_2_to_the_15():
    conv = nn.Conv2d(1, 1, 1)
    nn.init.constant_(conv.weight, 1 - 2.0**-20)
    images = 30 * torch.randn(2, 1, 4, 4)
    model = compile_private(nn.Sequential(conv, nn.ReLU()), images, precision=16, split=99)
    assert 2**13 < model.weights["0"][0].max() < 2**15
    run_clear(model.program, model.weights, images)


def test_values_that_are_compared_with_each_other_keep_to_half_the_window():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2))
    images = 200 * torch.randn(4, 1, 8, 8)
    model = compile_private(network, images, margin=1)
    run = run_clear(model.program, model.weights, images)
    assert 0.5 < run.used["1"] <= 1 and 0.25 < run.used["0.truncate"] <= 0.5


def test_values_outside_their_window_are_told():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU6())
    images = 30 * torch.randn(4, 1, 8, 8)
    model = compile_private(network, images)
    run_clear(model.program, model.weights, images)
    with pytest.raises(KitError, match=r"^[13]: values reach .* larger margin"):
        run_clear(model.program, model.weights, 16 * images)
    run = run_clear(model.program, model.weights, 16 * images, strict=False)
    assert run.overflows["1"] > 0 and max(run.used.values()) > 1


def by_hand(shift):
    """A program that only truncates an image of one pixel."""
    ops = (
        Op("image", "input", (), (1, 1, 1), shift),
        Op("cut", "truncate", ("image",), (1, 1, 1), 0, {"shift": shift}),
        Op("output", "output", ("cut",), (1, 1, 1), 0, {"reveal": "logits"}),
    )
    return Program(38, ops)


def test_the_top_value_is_outside_where_shares_may_round_it_up():
    top = np.full((1, 1, 1, 1), 2.0**20 - 1)
    with pytest.raises(KitError, match=r"^cut: values reach 1 times"):
        run_clear(by_hand(4), {}, top)
    assert run_clear(by_hand(4), {}, top, strict=False).overflows == {"cut": 1}
    for program, image in ((by_hand(0), top), (by_hand(4), top - 1), (by_hand(4), -top - 1)):
        assert run_clear(program, {}, image).outputs.item() == image.item()
    assert run_clear(by_hand(4), {}, top, rounding=np.random.default_rng(0), strict=False).used["cut"] <= 1


def test_truncation_draws_as_shares_do():
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU())
    nn.init.constant_(network[0].weight, 0.75)
    images = torch.full((1, 1, 100, 100), 3 * 2.0**-13)  # times 0.75: 2.25 of the last bit
    model = compile_private(network, images)
    floor = run_clear(model.program, model.weights, images).outputs * 2**13
    drawn = run_clear(model.program, model.weights, images, rounding=np.random.default_rng(0)).outputs * 2**13
    above = 2.0 ** -model.program.ops[-2].attributes["shift"]
    assert (floor == 2).all() and set(np.unique(drawn)) == {2, 3} and abs(drawn.mean() - 2.25 - above) < 0.03


# Ends.


def trained(**changes):
    spec = ModelSpec(**{
        "architecture": "resnet9", "classes": ("a", "b", "c"), "norm": "batch", "pool": "max", "size": 32, "geometry": "pad",
        "pixel_mean": 0.4, "pixel_std": 0.2, **changes,
    })  # fmt: skip
    network, _ = warmed("resnet9", "batch", "max", 32)
    return TrainedModel(spec, network.state_dict())


def test_a_trained_model_is_fed_pixels():
    model, pixels = trained(), torch.rand(8, 1, 32, 32)
    done = compile_private(model, pixels)
    assert done.program.classes == ("a", "b", "c") and (done.program.pixel_mean, done.program.pixel_std) == (0.4, 0.2)
    assert Program.from_json(done.program.to_json()) == done.program
    with torch.no_grad():
        logits = model.network()(model.spec.normalise(pixels)).numpy()
    assert np.abs(run_clear(done.program, done.weights, pixels).outputs - logits).max() < 2e-3


def test_what_is_revealed():
    model, pixels = trained(), torch.rand(8, 1, 32, 32)
    runs = {}
    for reveal in ("logits", "probabilities", "label"):
        done = compile_private(model, pixels, reveal=reveal)
        runs[reveal] = run_clear(done.program, done.weights, pixels).outputs
    shifted = np.exp(runs["logits"])
    np.testing.assert_allclose(runs["probabilities"], shifted / shifted.sum(1, keepdims=True), atol=1e-3)
    assert (runs["label"] == runs["logits"].argmax(1)).all() and runs["label"].dtype == np.int64


def test_probabilities_ignore_a_number_added_to_all_channels():
    done = compile_private(trained(), torch.rand(4, 1, 32, 32), reveal="probabilities")
    words = np.array([[[[5, 9000, 1]]]], np.uint64) << np.uint64(15)
    half = np.uint64((1 << done.program.bits - 1) - (100 << 15))  # the second word passes from positive to negative
    np.testing.assert_array_equal(decode_outputs(done.program, words), decode_outputs(done.program, words + half))


def test_images_are_encoded_as_the_program_says():
    done = compile_private(trained(), torch.rand(4, 1, 32, 32))
    pixels = torch.rand(2, 1, 32, 32)
    words = encode_images(done.program, pixels)
    assert words.dtype == np.uint64 and words.shape == (2, 32, 32, 1) and words.max() < 1 << done.program.bits
    assert words[1, 3, 4, 0] == round((float(pixels[1, 0, 3, 4]) - 0.4) / 0.2 * 2**13) % 2**done.program.bits
    with pytest.raises(KitError, match=r"takes images \[N, 1, 32, 32\], not \[2, 1, 16, 16\]"):
        encode_images(done.program, pixels[:, :, :16, :16])
    with pytest.raises(KitError, match="normalised pixel"):
        encode_images(done.program, pixels * float("nan"))


def test_the_table_tells_every_operation_and_the_sums():
    done = compile_private(trained(), torch.rand(4, 1, 32, 32))
    lines = str(done).splitlines()
    assert len(lines) == len(done.program.ops) + 4
    assert all(lines[2 + i].startswith(op.name) and op.kind in lines[2 + i] for i, op in enumerate(done.program.ops))
    whole = total(costs(done.program))
    assert f"ring of {done.program.bits} bits" in lines[-1] and all(
        f"{n:,}" in lines[-1] for n in (whole.comparisons, whole.to_data)
    )


def test_masks_and_openings_are_counted_in_bits():
    model, _ = compiled(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU6(), nn.Conv2d(3, 2, 1)), 1, 5, 5, reveal="label")
    ring, parts = model.program.bits, {cost.name: cost for cost in costs(model.program)}

    def words(count, bits):
        return -(-count * bits // 64) * 8

    opened = words(54, 22) + words(54, 8) + words(54, 1)
    assert parts["input_1"].to_model == words(25, ring) and parts["1.mask"].to_model == words(27, ring)
    assert parts["1"].comparisons == 54 and parts["1"].to_model == parts["1"].to_data == opened
    assert parts["2.truncate"].truncations == 18 and parts["2.truncate"].to_data == words(18, 22)
    assert parts["output"].comparisons == 9 * 1 + 18
    assert total(list(parts.values())).exchanges == Dialogue(model.program, 1).exchanges


def test_clear_needs_the_weights():
    model, images = compiled(nn.Sequential(nn.Conv2d(1, 2, 3)), 1, 6, 6)
    with pytest.raises(KitError, match=r"No weights for 0"):
        run_clear(model.program, {}, images)


def test_a_program_says_how_pixels_are_normalised():
    model, _ = compiled(nn.Sequential(nn.Conv2d(1, 2, 3)), 1, 6, 6)
    for bad in ({"pixel_std": 0.0}, {"pixel_mean": float("nan")}):
        with pytest.raises(KitError, match="normalised"):
            replace(model.program, **bad)
    text = model.program.to_json()
    assert '"pixel_mean":0.0' in text
    with pytest.raises(KitError, match="normalised"):
        Program.from_json(text.replace('"pixel_mean":0.0', '"pixel_mean":1e999'))
