"""Every operator that encrypted inference carries, against torch: functions, methods and modules."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from primia_kit.inference import compile_private, run_clear

# Values of size 1 with 13 fraction bits: what rounding may add up to over two or three layers. Without a layer, or with
# another stride, answers differ by 0.1 and more.
CLOSE = 4e-3


class Net(nn.Module):
    """A forward written as a function of (self, x); keywords become submodules."""

    def __init__(self, forward, **modules):
        super().__init__()
        self._forward = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self._forward(self, x)


def compiled(network, *shape, reveal="logits", **options):
    torch.manual_seed(7)
    images = torch.randn(3, *shape)
    for module in network.modules():
        if getattr(module, "bias", None) is not None:
            nn.init.uniform_(module.bias, 0.2, 1)
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.weight.data *= torch.randn_like(module.weight).sign() * module.weight[0].numel() ** -0.5
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 2), nn.init.normal_(module.running_mean)
    network.eval()
    return compile_private(network, images, reveal=reveal, **options), images


def check(network, *shape, close=CLOSE, **options):
    model, images = compiled(network, *shape, **options)
    run = run_clear(model.program, model.weights, images, backend="torch")
    with torch.no_grad():
        expected = network(images).numpy()
    assert np.abs(expected).max() > 10 * close
    np.testing.assert_allclose(run.outputs, expected.reshape(run.outputs.shape), rtol=0, atol=close)
    return model


def kinds(model):
    return [op.kind for op in model.program.ops]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_convolutions(data):
    def draw(*choices):
        return data.draw(st.sampled_from(choices))

    groups, transposed = draw(1, 1, 2, 4), draw(False, True)
    inputs, outputs = groups * draw(1, 2), groups * draw(1, 3)
    pairs = {name: (draw(*choices), draw(*choices)) for name, choices in
             {"kernel_size": (1, 2, 3), "stride": (1, 2, 3), "padding": (0, 1, 2), "dilation": (1, 2)}.items()}  # fmt: skip
    if transposed:
        pairs["padding"] = tuple(
            min(p, d * (k - 1)) for p, d, k in zip(*(pairs[n] for n in ("padding", "dilation", "kernel_size")))
        )
        pairs["output_padding"] = tuple(draw(*range(max(s, d))) for s, d in zip(pairs["stride"], pairs["dilation"]))
    module = nn.ConvTranspose2d if transposed else nn.Conv2d
    torch.manual_seed(data.draw(st.integers(0, 99)))
    conv = module(inputs, outputs, groups=groups, bias=draw(True, False), **pairs)
    layers = [conv, *([nn.BatchNorm2d(outputs)] if draw(True, False) else [])]
    model = check(nn.Sequential(*layers), inputs, 7, 6)
    assert kinds(model) == ["input", "conv_transposed" if transposed else "conv", "output"]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_pools(data):
    def draw(*choices):
        return data.draw(st.sampled_from(choices))

    kernel, stride = (draw(1, 2, 3), draw(2, 3)), draw(1, 2, (2, 1), None)
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    pool = draw(F.max_pool2d, F.avg_pool2d)
    after = draw(lambda x: x, F.relu, F.relu6)
    check(Net(lambda s, x: pool(after(s.conv(x)), kernel, stride, padding), conv=nn.Conv2d(2, 3, 3)), 2, 9, 10)
    # A pool whose input is masked, and one of an image.
    check(Net(lambda s, x: s.conv(pool(x, kernel, stride, padding)), conv=nn.Conv2d(2, 3, 2)), 2, 9, 10)


RESIZES = [
    nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=(1, 3)), nn.Upsample(size=(7, 5)),
    nn.Upsample(scale_factor=2, mode="bilinear"), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    nn.Upsample(size=(9, 4), mode="bilinear", align_corners=False), nn.UpsamplingBilinear2d(scale_factor=3),
    nn.UpsamplingNearest2d(scale_factor=2), nn.Upsample(scale_factor=1.7, mode="bilinear"),
    nn.AdaptiveAvgPool2d(2), nn.AdaptiveAvgPool2d((3, 5)), nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((None, 2)),
    nn.AdaptiveAvgPool2d(12), nn.AvgPool2d(2, divisor_override=3), nn.AvgPool2d(4),
]  # fmt: skip


@pytest.mark.parametrize("resize", RESIZES, ids=str)
def test_resizing(resize):
    check(nn.Sequential(nn.Conv2d(2, 3, 1), resize), 2, 6, 4)
    check(nn.Sequential(resize, nn.Conv2d(2, 3, 1), nn.ReLU()), 2, 6, 4)
    check(nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), resize, nn.ReLU(), nn.Conv2d(3, 2, 1)), 2, 6, 4)


def block():
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))


FORWARDS = {
    "residual": lambda s, x: F.relu(s.a(F.relu(x)) + x),
    "residual without activation": lambda s, x: s.b(x + s.a(x)),
    "in place": lambda s, x: s.b(s.a(x).relu_().add_(x)),
    "sum of convolutions": lambda s, x: torch.relu(torch.add(s.a(x), s.b(x))),
    "three in a sum": lambda s, x: s.a(x) + s.b(x) + x,
    "twice the same": lambda s, x: s.a(s.a(x)) + x,
    "doubled": lambda s, x: (lambda y: y + y)(s.a(x)),
    "concatenation": lambda s, x: s.wide(torch.cat([x, s.a(x), F.relu(s.b(x))], 1)),
    "concatenation with ReLU": lambda s, x: s.wide(F.relu(torch.cat([x, s.a(x), F.relu6(s.b(x))], dim=1))),
    "concatenation as answer": lambda s, x: torch.cat([s.a(x), x], -3),
    "norm after concatenation": lambda s, x: s.wide(F.relu(s.norm(torch.cat([x, s.a(x), s.b(x)], 1)))),
    "norm of an image": lambda s, x: s.a(s.small_norm(x)),
    "numbers": lambda s, x: s.a((x - 0.5) / 0.25 * 0.3 + 0.1),
    "a number after a convolution": lambda s, x: F.relu(0.37 * s.a(x) + 0.2),
    "ReLU6 by its bounds": lambda s, x: torch.clamp(3 * s.a(x), 0, 6) + F.hardtanh(x, 0.0, 6.0),
    "clamp as ReLU": lambda s, x: s.a(x).clamp(min=0),
    "activation of an image": lambda s, x: s.a(F.relu(x)),
    "two activations": lambda s, x: s.a(F.relu6(F.relu(s.b(x)))),
    "activation with two readers": lambda s, x: (lambda y: F.max_pool2d(y, 3, 1, 1) + s.b(y))(F.relu(s.a(x))),
    "pool with two readers": lambda s, x: (lambda y: y + s.b(y))(F.avg_pool2d(F.relu(s.a(x)), 3, 1, 1)),
    "average before a sum": lambda s, x: F.avg_pool2d(s.a(x), 3) + F.avg_pool2d(x, 3),
    "max of averages": lambda s, x: F.max_pool2d(F.avg_pool2d(F.relu6(s.a(x)), 3, 1), 2),
    "uneven padding": lambda s, x: s.strided(F.pad(F.relu(s.a(x)), (1, 2, 0, 1))),
    "uneven padding, more before": lambda s, x: s.strided(F.pad(x, (2, 1, 3, 0))),
    "even padding": lambda s, x: s.a(F.pad(x, (1, 1))),
    "same padding": lambda s, x: s.same(x),
    "flattened": lambda s, x: s.fc(F.relu(s.a(x)).flatten(1)),
    "viewed": lambda s, x: s.fc2(F.relu6(s.fc(s.a(x).view(x.size(0), -1)))),
    "viewed by shape": lambda s, x: s.fc(torch.reshape(s.a(x), (x.shape[0], 3 * x.shape[2] * 6))),
    "flattened, then norm, ReLU and sum": lambda s, x: s.fc(
        s.norm1d(F.relu(torch.flatten(s.a(x), 1)) + s.b(x).flatten(1))),
    "flattened and concatenated": lambda s, x: s.fc3(
        torch.cat([F.avg_pool2d(s.a(x), 6).flatten(1), s.b(x).flatten(1), x.mean((2, 3))], 1)),
    "linear layers alone": lambda s, x: s.fc2(F.relu(s.fc(x.flatten(1)))),
    "a layer read twice": lambda s, x: s.a(F.relu(s.a(x))),
    "nothing but an activation": lambda s, x: F.relu(x),
    "mean": lambda s, x: s.fc2(torch.mean(s.head(x), dim=[-2, -1])),
    "mean, kept": lambda s, x: s.head2(s.head(x).mean((2, 3), keepdim=True)).flatten(1),
    "functional convolution": lambda s, x: F.conv2d(x, s.a[0].weight, None, padding=1),
    "dropout": lambda s, x: F.dropout(s.drop(s.a(x)), 0.3, s.training),
}  # fmt: skip


@pytest.mark.parametrize("name", FORWARDS)
def test_forwards(name):
    torch.manual_seed(1)
    network = Net(
        FORWARDS[name], a=block(), b=block(), wide=nn.Conv2d(9, 2, 3), norm=nn.BatchNorm2d(9), small_norm=nn.BatchNorm2d(3),
        strided=nn.Conv2d(3, 4, 3, 2), same=nn.Conv2d(3, 4, (2, 3), padding="same", dilation=(1, 2)), fc=nn.Linear(108, 10),
        fc2=nn.Linear(10, 4), norm1d=nn.BatchNorm1d(108), fc3=nn.Linear(114, 4), head=nn.Conv2d(3, 10, 1),
        head2=nn.Conv2d(10, 2, 1), drop=nn.Dropout(0.5),
    )  # fmt: skip
    check(network, 3, 6, 6)
