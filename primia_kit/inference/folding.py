"""Equal networks that cost less under encryption: nothing here changes what is computed, in real numbers.

Folding BatchNorm before rounding is Jacob et al. 2018's ("Quantization and training of neural networks").
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..errors import KitError
from .layers import ACTIVATIONS, PRIVATE, Layer, Layers


def fold(layers: Layers) -> None:
    """Rewrite in place.

    1. Zeros around a map become a convolution's padding, with zero rows in its kernel if the sides differ.
    2. BatchNorm goes into the convolution before it, or stays as a depthwise 1 x 1 convolution.
    3. An activation before a max pool comes after it, where there are fewer values: both are monotone.
    4. An average pool is a sum; its divisor goes into the weights of all convolutions after it, or, if one reads it that
       isn't a convolution, into those before it, unless it's a power of two, which only moves the point.
    """
    for layer in list(layers.values()):
        if layer.kind == "pad":
            _fold_padding(layers, layer)
    for layer in list(layers.values()):
        if layer.kind == "affine":
            _fold_affine(layers, layer)
    for layer in list(layers.values()):
        if layer.kind == "max_pool":
            _move_activation(layers, layer)
    for layer in list(layers.values()):
        if layer.kind == "scale":
            _fold_scale(layers, layer)


def _fold_padding(layers: Layers, pad: Layer) -> None:
    for conv in layers.users(pad.name):
        if conv.kind != "conv":
            raise KitError(f"{pad.name}: zeros are padded before {conv.name}, a {conv.kind}; pad before a convolution only.")
        left, right, top, bottom = pad.attributes["sides"]
        padding, extra = [], []  # extra: zero rows at the kernel's start and end
        for start, end, axis in ((top, bottom, 0), (left, right, 1)):
            own, apart = conv.attributes["padding"][axis], conv.attributes["dilation"][axis]
            taps, rest = divmod(abs(end - start), apart)
            if rest:
                raise KitError(f"{pad.name}: padding by {start} and {end} doesn't fit {conv.name}'s dilation of {apart}.")
            padding.append(max(start, end) + own)
            extra.append((taps, 0) if end > start else (0, taps))
        conv.attributes["padding"] = tuple(padding)
        conv.weight = F.pad(conv.weight, (*extra[1], *extra[0]))
    layers.remove(pad.name)


def _fold_affine(layers: Layers, affine: Layer) -> None:
    before = layers[affine.inputs[0]]
    if before.kind not in PRIVATE or len(layers.users(before.name)) > 1:
        channels = affine.shape[2]
        affine.kind, affine.weight = "conv", affine.weight.reshape(channels, 1, 1, 1)
        affine.attributes = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": channels}
        return
    scale = affine.weight.double()
    before.weight = _scale_outputs(before, scale).float()
    before.bias = (before.bias * scale + affine.bias).float()
    layers.remove(affine.name)


def _scale_outputs(layer: Layer, scale: torch.Tensor) -> torch.Tensor:
    """float64 weights of a convolution whose outputs are multiplied by `scale` [Cout]."""
    weight = layer.weight.double()
    if layer.kind == "conv":  # [Cout, Cin / groups, KH, KW]
        return weight * scale[:, None, None, None]
    inputs, outputs, *kernel = weight.shape  # [Cin, Cout / groups, KH, KW], groups along Cin
    groups = layer.attributes["groups"]
    scale = scale.reshape(groups, 1, outputs, 1, 1)
    return (weight.reshape(groups, inputs // groups, outputs, *kernel) * scale).reshape(weight.shape)


def _move_activation(layers: Layers, pool: Layer) -> None:
    while True:
        activation = layers[pool.inputs[0]]
        if activation.kind not in ACTIVATIONS or len(layers.users(activation.name)) > 1:
            return
        pool.inputs, activation.inputs = activation.inputs, (pool.name,)
        for user in layers.users(pool.name):
            if user is not activation:
                user.inputs = tuple(activation.name if name == pool.name else name for name in user.inputs)
        activation.shape = pool.shape
        _reorder(layers)


def _fold_scale(layers: Layers, scale: Layer) -> None:
    factor = scale.attributes["factor"]
    after = _convolutions_after(layers, scale)
    before = None if is_power_of_two(factor) else _convolution_before(layers, scale)
    if after:
        for conv in after:
            conv.weight = conv.weight * factor
    elif before:
        before.weight, before.bias = before.weight * factor, before.bias * factor
    else:
        return
    layers.remove(scale.name)


def is_power_of_two(factor: float) -> bool:
    return torch.frexp(torch.tensor(factor, dtype=torch.float64))[0].item() == 0.5


def _convolutions_after(layers: Layers, layer: Layer) -> list[Layer]:
    """The convolutions that read a value and its reshapings; none if something else reads it too."""
    found = []
    for user in layers.users(layer.name):
        more = [user] if user.kind in PRIVATE else _convolutions_after(layers, user) if user.kind == "reshape" else []
        if not more:
            return []
        found += more
    return found


def _convolution_before(layers: Layers, layer: Layer) -> Layer | None:
    """The convolution whose output reaches `layer` through what commutes with a positive factor, and reaches nothing else."""
    before = layers[layer.inputs[0]]
    if len(layers.users(before.name)) > 1:
        return None
    if before.kind in PRIVATE:
        return before
    commutes = ("relu", "max_pool", "sum_pool", "reshape", "upsample_nearest", "upsample_linear")
    return _convolution_before(layers, before) if before.kind in commutes else None


def _reorder(layers: Layers) -> None:
    """Each layer after its inputs again, otherwise as they were; the answer stays last."""
    waiting, done = dict(layers), {}
    while waiting:
        name = next(name for name, layer in waiting.items() if all(given in done for given in layer.inputs))
        done[name] = waiting.pop(name)
    layers.clear()
    layers.update(done)
