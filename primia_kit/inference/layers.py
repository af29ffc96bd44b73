"""A network between torch and a program: layers in order, weights in float, every value a map [n, C, H, W].

A flattened map is a [n, H * W * C, 1, 1] map, in the order of a program's `reshape`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

# kind -> attributes; pairs are (height, width). `conv`, `conv_transposed` and `affine` have weight and bias.
KINDS: dict[str, tuple[str, ...]] = {
    "input": (),
    "conv": ("stride", "padding", "dilation", "groups"),  # weight as torch.nn.Conv2d's; a linear layer is a 1 x 1 kernel
    "conv_transposed": ("stride", "padding", "output_padding", "dilation", "groups"),  # as torch.nn.ConvTranspose2d's
    "affine": (),  # weight[c] * x + bias[c]: BatchNorm in evaluation
    "scale": ("factor",),  # by a public number: an average pool's divisor
    "pad": ("sides",),  # (left, right, top, bottom) zeros: only until it's folded into convolutions
    "relu": (),
    "relu6": (),
    "max_pool": ("kernel", "stride", "padding"),
    "sum_pool": ("kernel", "stride", "padding"),
    "add": (),
    "concat": (),
    "reshape": (),
    "upsample_nearest": ("scale",),
    "upsample_linear": ("rows", "columns"),  # float64 [OH, H] and [OW, W]
}
PRIVATE = ("conv", "conv_transposed")
ACTIVATIONS = ("relu", "relu6")


@dataclass
class Layer:
    """One operation on float maps.

    name: of the traced layer, unique
    kind: of `KINDS`
    inputs: names of layers before it
    shape: (H, W, C) of its value
    weight, bias: float32, if the kind has them
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, int, int]
    attributes: dict[str, Any] = field(default_factory=dict)
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    def __call__(self, *values: torch.Tensor) -> torch.Tensor:
        """The float value [n, C, H, W] of the layer's inputs' values."""
        return _EVALUATE[self.kind](self, *values)


class Layers(dict[str, Layer]):
    """A network: layers by name, in an order in which they can be computed; the last is its answer."""

    def add(self, layer: Layer) -> Layer:
        while layer.name in self:
            layer.name += "_"
        self[layer.name] = layer
        return layer

    @property
    def last(self) -> Layer:
        return self[next(reversed(self))]

    def users(self, name: str) -> list[Layer]:
        return [layer for layer in self.values() if name in layer.inputs]

    def remove(self, name: str) -> None:
        """Take a layer with one input out: its users read what it read."""
        (before,) = self[name].inputs
        for user in self.users(name):
            user.inputs = tuple(before if given == name else given for given in user.inputs)
        del self[name]

    def run(self, images: torch.Tensor, watch: Callable[[Layer, torch.Tensor], None] | None = None) -> torch.Tensor:
        """The answer for images [n, C, H, W] in float; `watch` is shown each layer's value."""
        values: dict[str, torch.Tensor] = {}
        last_use = {given: layer.name for layer in self.values() for given in layer.inputs}
        for layer in self.values():
            value = images if layer.kind == "input" else layer(*(values[given] for given in layer.inputs))
            values[layer.name] = value
            if watch:
                watch(layer, value)
            for given in set(layer.inputs):
                if last_use[given] == layer.name:
                    del values[given]
        return value


def _upsample_linear(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    rows, columns = (torch.as_tensor(layer.attributes[axis], dtype=x.dtype) for axis in ("rows", "columns"))
    return torch.einsum("ih,nchw,jw->ncij", rows, x, columns)


def _call(function, layer: Layer, x: torch.Tensor) -> torch.Tensor:
    return function(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype), **layer.attributes)


_EVALUATE: Mapping[str, Callable[..., torch.Tensor]] = {
    "conv": lambda layer, x: _call(F.conv2d, layer, x),
    "conv_transposed": lambda layer, x: _call(F.conv_transpose2d, layer, x),
    "affine": lambda layer, x: layer.weight[:, None, None].to(x.dtype) * x + layer.bias[:, None, None].to(x.dtype),
    "scale": lambda layer, x: x * layer.attributes["factor"],
    "pad": lambda layer, x: F.pad(x, layer.attributes["sides"]),
    "relu": lambda layer, x: F.relu(x),
    "relu6": lambda layer, x: F.relu6(x),
    "max_pool": lambda layer, x: F.max_pool2d(x, *(layer.attributes[name] for name in KINDS["max_pool"])),
    "sum_pool": lambda layer, x: F.avg_pool2d(x, *(layer.attributes[name] for name in KINDS["sum_pool"]), divisor_override=1),
    "add": lambda layer, *x: sum(x[1:], x[0]),
    "concat": lambda layer, *x: torch.cat(x, 1),
    "reshape": lambda layer, x: x.permute(0, 2, 3, 1).reshape(len(x), -1, 1, 1),
    "upsample_nearest": lambda layer, x: x.repeat_interleave(layer.attributes["scale"][0], 2).repeat_interleave(
        layer.attributes["scale"][1], 3
    ),
    "upsample_linear": _upsample_linear,
}
