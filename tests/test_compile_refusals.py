"""What can't be computed under encryption is refused in a sentence that names the layer and what to use instead."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from primia_kit.errors import KitError
from primia_kit.inference import compile_private
from primia_kit.models import ARCHITECTURES

from .test_compile_operators import Net

REFUSED = [
    (nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4)), r"1: GroupNorm normalises by statistics .* BatchNorm2d"),
    (nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4)), r"1: InstanceNorm2d .* BatchNorm2d"),
    (nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU()), r"1: SiLU .* use ReLU"),
    (Net(lambda s, x: F.gelu(s.c(x)), c=nn.Conv2d(1, 2, 3)), r"gelu: gelu .* use ReLU"),
    (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softmax(1)), r"1: Softmax .* leave it out.*reveal='probabilities'"),
    (Net(lambda s, x: torch.sigmoid(s.c(x)), c=nn.Conv2d(1, 2, 3)), r"sigmoid .* leave it out, take reveal='logits'"),
    (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sigmoid()), r"1: Sigmoid .* reveal='logits'"),
    (Net(lambda s, x: s.c(x) * s.c(x), c=nn.Conv2d(1, 2, 3)), r"mul multiplies .* positive number"),
    (Net(lambda s, x: s.c(x) - x, c=nn.Conv2d(1, 1, 1)), r"sub subtracts two values"),
    (Net(lambda s, x: s.c(x) + s.c.bias.reshape(1, 2, 1, 1), c=nn.Conv2d(1, 2, 3)), r"add adds .* tensor of the model"),
    (Net(lambda s, x: s.c(x)[:, :, 1:], c=nn.Conv2d(1, 2, 3)), r"getitem has no encrypted form. .* carries"),
    (Net(lambda s, x: s.c(x).permute(0, 2, 3, 1), c=nn.Conv2d(1, 2, 3)), r"permute has no encrypted form"),
    (Net(lambda s, x: s.c(x).reshape(x.shape[0], 2, 2, -1), c=nn.Conv2d(1, 2, 3)), r"reshape makes .* only flattening"),
    (Net(lambda s, x: s.c(x).reshape(x.shape[0], 1, 2, 6, 6), c=nn.Conv2d(1, 2, 3)), r"gives 5 axes"),
    (Net(lambda s, x: s.c(x).flatten(1), c=nn.Conv2d(1, 2, 3)), r"flattened map"),
    (Net(lambda s, x: (x, s.c(x)), c=nn.Conv2d(1, 2, 3)), r"returns one map"),
    (Net(lambda s, x: s.c(x).chunk(2, 1)[0], c=nn.Conv2d(1, 2, 3)), r"chunk gives tuple"),
    (Net(lambda s, x: s.c(x) if x.sum() > 0 else x, c=nn.Conv2d(1, 2, 3)), r"can't trace .* without if"),
    (Net(lambda s, x: F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 2)), r"pad: zeros are padded before max_pool2d, a max_pool"),
    (Net(lambda s, x: F.dropout(s.c(x)), c=nn.Conv2d(1, 2, 3)), r"dropout .* training=self.training"),
    (Net(lambda s, x: s.c(x).add_(torch.randn(1)), c=nn.Conv2d(1, 2, 3)), r"add adds"),
    (Net(lambda s, x: (lambda y: F.relu(y, inplace=True) + y)(s.c(x)), c=nn.Conv2d(1, 2, 3)), r"computes something else"),
    (Net(lambda s, x: torch.cat([s.c(x), torch.ones(2, 1, 8, 8)], 1), c=nn.Conv2d(1, 2, 1)), r"cat concatenates with a constant"),
    (Net(lambda s, x: F.relu(s.c(x)).to(torch.float64), c=nn.Conv2d(1, 2, 3)), r"to has no encrypted form"),
    (nn.Sequential(nn.MaxPool2d(3, ceil_mode=True)), r"0: max_pool2d rounds a side"),
    (nn.Sequential(nn.MaxPool2d(2, dilation=2)), r"0: max_pool2d .* dilation=1"),
    (nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False)), r"count_include_pad=True"),
    (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect")), r"0: conv2d pads .* use zeros"),
    (nn.Sequential(nn.Upsample(scale_factor=2, mode="bicubic")), r"0: interpolate .* nearest or bilinear"),
    (nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False)), r"track_running_stats=True"),
    (nn.Sequential(nn.Linear(8, 2)), r"0: linear is linear along the last axis .* flatten"),
    (nn.Sequential(nn.Conv2d(3, 2, 1)), r"Sequential fails on images \[2, 1, 8, 8\].* channels"),
]  # fmt: skip


@pytest.mark.parametrize(("network", "sentence"), REFUSED, ids=[sentence[:30] for _, sentence in REFUSED])
def test_what_has_no_encrypted_form_is_told(network, sentence):
    with pytest.raises(KitError, match=sentence):
        compile_private(network.eval(), torch.randn(2, 1, 8, 8))


def test_every_group_norm_network_is_refused():
    with pytest.raises(KitError, match=r"^bn1: GroupNorm .* use BatchNorm2d"):
        compile_private(ARCHITECTURES["resnet9"](3, "group").eval(), torch.randn(2, 1, 32, 32))


def test_ranges_and_options_that_fit_nothing_are_told():
    network, images = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).eval(), torch.randn(2, 1, 8, 8)
    for change, sentence in (
        ({"images": images * 1e6}, r"^input_1|^input: values reach .* fraction bits"),
        ({"images": images * float("inf")}, r"aren't finite"),
        ({"images": images[0]}, r"tensor \[N, C, H, W\]"),
        ({"reveal": "logit"}, r"did you mean 'logits'"),
        ({"margin": 0.5}, r"margin is 0.5"),
        ({"margin": float("nan")}, r"margin is nan"),
        ({"precision": 30}, r"precision is 30"),
        ({"classes": ("a", "b", "c")}, r"3 classes are named, .* 2 channels"),
    ):
        options = {"images": images, **change}
        with pytest.raises(KitError, match=sentence):
            compile_private(network, options.pop("images"), **options)
    with torch.no_grad():
        network[0].weight.mul_(1e5)
    with pytest.raises(KitError, match=r"^0: a weight reaches|^1: values reach"):
        compile_private(network, images)


@pytest.mark.parametrize("reveal", ["label", "probabilities"])
def test_one_channel_has_neither_a_label_nor_a_softmax(reveal):
    network, images = nn.Sequential(nn.Conv2d(1, 1, 3)).eval(), torch.randn(2, 1, 8, 8)
    with pytest.raises(KitError, match=rf"^0: this answer has one channel, and reveal='{reveal}' .* reveal='logits'"):
        compile_private(network, images, reveal=reveal)
    assert compile_private(network, images, reveal="logits").program.ops[-1].shape == (6, 6, 1)
