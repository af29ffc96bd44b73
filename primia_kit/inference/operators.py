"""What encrypted inference can carry: one method for each torch operator, with the arguments of torch's function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from ..mpc.kernels import Geometry, pair
from .layers import Layer, Layers

_ELEMENTWISE = ("relu", "relu6", "scale", "affine", "add")


class Unsupported(Exception):
    """What an operator can't do under encryption, as the end of a sentence."""


class Operators:
    """Makes the layers of one traced call.

    Args:
        layers: to add to.
        orders: of flattened values: `order[i]` is torch's index of the value's i-th channel. torch flattens
            (C, H, W), programs (H, W, C).
        name: for the new layer.
        value: what torch gave, for its shape.
    """

    def __init__(self, layers: Layers, orders: dict[str, np.ndarray], name: str, value: torch.Tensor):
        self._layers, self._orders, self._name = layers, orders, name
        if value.ndim not in (2, 4):
            raise Unsupported(f"gives {value.ndim} axes, where maps [n, C, H, W] and vectors [n, C] can be carried")
        channels, *sides = value.shape[1:]
        self._axes = value.ndim
        self._shape = (*(sides or (1, 1)), channels)

    def _new(self, kind: str, *inputs: Layer, suffix: str = "", shape=None, weight=None, bias=None, **attributes) -> Layer:
        if not all(isinstance(given, Layer) for given in inputs):
            raise Unsupported(f"{kind} works on values that depend on the image, not on constants")
        layer = Layer(self._name + suffix, kind, tuple(x.name for x in inputs), shape or self._shape, attributes)
        layer.weight, layer.bias = (None if t is None else t.detach().float().cpu() for t in (weight, bias))
        orders = [self._order(given) for given in inputs if given.name in self._orders]
        if orders:
            if kind not in _ELEMENTWISE or any(not np.array_equal(self._order(given), orders[0]) for given in inputs):
                raise Unsupported(f"{kind} follows a flattening, after which only linear layers can be carried")
            self._orders[layer.name] = orders[0]
        return self._layers.add(layer)

    def _order(self, x: Layer) -> np.ndarray:
        return self._orders.get(x.name, np.arange(x.shape[2]))

    # Private weights.

    def conv2d(self, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, padding_mode="zeros"):
        if padding_mode != "zeros":
            raise Unsupported(f"pads with padding_mode={padding_mode!r}; use zeros")
        stride, dilation = pair(stride), pair(dilation)
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:])]
            (top, left), (bottom, right) = ([t // 2 for t in total], [t - t // 2 for t in total])
            if (top, left) != (bottom, right):
                height, width, channels = x.shape
                padded = (height + total[0], width + total[1], channels)
                x = self._new("pad", x, suffix=".padding", shape=padded, sides=(left, right, top, bottom))
                top = left = 0
            padding = (top, left)
        padding = (0, 0) if padding == "valid" else pair(padding)
        bias = torch.zeros(len(weight)) if bias is None else bias
        return self._new(
            "conv", x, weight=weight, bias=bias, stride=stride, padding=padding, dilation=dilation, groups=groups
        )  # fmt: skip

    def conv_transpose2d(self, x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
        bias = torch.zeros(weight.shape[1] * groups) if bias is None else bias
        return self._new(
            "conv_transposed", x, weight=weight, bias=bias, stride=pair(stride), padding=pair(padding),
            output_padding=pair(output_padding), dilation=pair(dilation), groups=groups,
        )  # fmt: skip

    def linear(self, x, weight, bias=None):
        if x.shape != (1, 1, weight.shape[1]):
            raise Unsupported(f"is linear along the last axis of a map {x.shape}; flatten before it, or use a convolution")
        order, self._orders = self._order(x), {}  # the output is in no flattened order
        weight = weight.detach()[:, order][:, :, None, None]
        return self.conv2d(x, weight, bias)

    def batch_norm(self, x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
        if running_mean is None or training:
            raise Unsupported("is a BatchNorm without running statistics; train with track_running_stats=True")
        scale = (running_var.double() + eps).rsqrt() * (1 if weight is None else weight.detach().double())
        shift = (0 if bias is None else bias.detach().double()) - running_mean.double() * scale
        order = self._order(x)
        return self._new("affine", x, weight=scale[order], bias=shift[order])

    # Comparisons.

    def relu(self, x, inplace=False):
        return self._new("relu", x)

    def relu6(self, x, inplace=False):
        return self._new("relu6", x)

    def hardtanh(self, x, min_val=-1.0, max_val=1.0, inplace=False):
        if min_val != 0 or max_val not in (6, None):
            raise Unsupported(f"clips to {min_val} .. {max_val}; use ReLU or ReLU6")
        return self.relu(x) if max_val is None else self.relu6(x)

    def clamp(self, x, min=None, max=None):
        return self.hardtanh(x, min, max)

    def max_pool2d(self, x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        if pair(dilation) != (1, 1):
            raise Unsupported("is a max pool with dilation; use dilation=1")
        return self._new("max_pool", x, **self._windows(x, kernel_size, stride, padding))

    def _windows(self, x: Layer, kernel, stride, padding) -> dict:
        kernel, padding = pair(kernel), pair(padding)
        stride = kernel if stride is None or stride == [] else pair(stride)
        geometry = Geometry(x.shape[2], x.shape[2], kernel, stride, padding)
        if geometry.out_size(*x.shape[:2]) != self._shape[:2]:
            raise Unsupported(f"rounds a side of {x.shape[0]} x {x.shape[1]} up; use ceil_mode=False, or another input size")
        return {"kernel": kernel, "stride": stride, "padding": padding}

    # Linear and public.

    def avg_pool2d(
        self, x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    ):  # fmt: skip
        windows = self._windows(x, kernel_size, stride, padding)
        if windows["padding"] != (0, 0) and not (count_include_pad or divisor_override):
            raise Unsupported("divides by different numbers at the border; use count_include_pad=True")
        divisor = divisor_override or windows["kernel"][0] * windows["kernel"][1]
        total = self._new("sum_pool", x, **windows)
        return self._new("scale", total, suffix=".divisor", factor=1 / divisor)

    def adaptive_avg_pool2d(self, x, output_size):
        (height, width, _), (rows, columns, _) = x.shape, self._shape
        if height % rows or width % columns:
            return self._separable(x, lambda image, sides: F.adaptive_avg_pool2d(image, sides))
        if (height, width) == (rows, columns):
            return x
        return self.avg_pool2d(x, (height // rows, width // columns))

    def mean(self, x, dim=None, keepdim=False):
        if sorted(d % 4 for d in (dim if isinstance(dim, (tuple, list)) else [dim or 0])) != [2, 3] or x.name in self._orders:
            raise Unsupported("takes the mean over other axes than both height and width")
        return self.avg_pool2d(x, x.shape[:2])

    def interpolate(
        self, x, size=None, scale_factor=None, mode="nearest", align_corners=None, recompute_scale_factor=None, antialias=False
    ):  # fmt: skip
        if mode not in ("nearest", "nearest-exact", "bilinear") or antialias:
            raise Unsupported(f"interpolates with mode={mode!r}{' and antialias' * antialias}; use nearest or bilinear")
        (height, width, _), (rows, columns, _) = x.shape, self._shape
        if mode == "nearest" and not rows % height and not columns % width:
            return self._new("upsample_nearest", x, scale=(rows // height, columns // width))
        factors = None if scale_factor is None or recompute_scale_factor else pair_of_floats(scale_factor)

        def one_axis(image: torch.Tensor, sides: tuple[int, int]) -> torch.Tensor:
            axis = 0 if image.shape[2] > 1 else 1
            options = (
                {"mode": mode} if align_corners is None or "bi" not in mode else {"mode": mode, "align_corners": align_corners}
            )
            if factors is None:
                return F.interpolate(image, size=sides, **options)
            return F.interpolate(image, scale_factor=tuple(f if a == axis else 1.0 for a, f in enumerate(factors)), **options)

        return self._separable(x, one_axis)

    upsample = interpolate

    def _separable(self, x: Layer, resample: Callable[[torch.Tensor, tuple[int, int]], torch.Tensor]) -> Layer:
        """Linear in rows and in columns: what it makes of each unit vector is a column of its matrix."""
        (height, width, _), (rows, columns, _) = x.shape, self._shape
        unit = torch.eye(height, dtype=torch.float64)
        matrix = resample(unit[:, None, :, None], (rows, 1))[:, 0, :, 0].T if height > 1 else torch.ones(rows, 1)
        across = torch.eye(width, dtype=torch.float64)
        other = resample(across[:, None, None, :], (1, columns))[:, 0, 0].T if width > 1 else torch.ones(columns, 1)
        return self._new("upsample_linear", x, rows=matrix.numpy().astype(float), columns=other.numpy().astype(float))

    def pad(self, x, pad, mode="constant", value=None):
        sides = (pad,) * 4 if isinstance(pad, int) else (*pad, *(0,) * (4 - len(pad)))
        if mode != "constant" or value or len(sides) != 4 or min(sides) < 0:
            raise Unsupported("pads with other than zeros, crops, or pads channels; use zeros around a map")
        return self._new("pad", x, sides=sides)

    def add(self, x, other, alpha=1):
        if isinstance(x, (int, float)):
            x, other = other, x
        if isinstance(other, (int, float)):
            channels = x.shape[2]
            return self._new("affine", x, weight=torch.ones(channels), bias=torch.full((channels,), float(other * alpha)))
        if not isinstance(other, Layer) or other.shape != x.shape or alpha != 1:
            raise Unsupported("adds values of different shapes, or a tensor of the model; add maps of one shape, or a number")
        return self._new("add", x, other)

    iadd = add

    def sub(self, x, other):
        if not isinstance(x, Layer) or not isinstance(other, (int, float)):
            raise Unsupported("subtracts two values; let a convolution learn the sign, and add")
        return self.add(x, -other)

    isub = sub

    def mul(self, x, other):
        if isinstance(x, (int, float)):
            x, other = other, x
        if not isinstance(other, (int, float)) or not other > 0:
            raise Unsupported("multiplies by other than a positive number; use a 1 x 1 convolution")
        return self._new("scale", x, factor=float(other))

    imul = mul

    def truediv(self, x, other):
        if not isinstance(other, (int, float)) or not other > 0:
            raise Unsupported("divides by other than a positive number; use a 1 x 1 convolution")
        return self.mul(x, 1 / other)

    div = itruediv = truediv

    def cat(self, tensors, dim=0):
        if not all(isinstance(given, Layer) for given in tensors):
            raise Unsupported("concatenates with a constant; let a convolution's bias make it")
        if dim % self._axes != 1:
            raise Unsupported(f"concatenates along axis {dim}; use the channels, axis 1")
        orders = [self._order(x) for x in tensors]
        starts = np.cumsum([0, *(len(order) for order in orders)])
        flattened = any(x.name in self._orders for x in tensors)
        given, self._orders = self._orders, {}
        layer = self._new("concat", *tensors)
        if flattened:
            given[layer.name] = np.concatenate([order + start for order, start in zip(orders, starts)])
        return layer

    concat = concatenate = cat

    # The same numbers in another shape, or the same altogether.

    def reshape(self, x, *_, **__):
        if self._shape == x.shape:
            return x
        height, width, channels = x.shape
        if self._shape != (1, 1, height * width * channels):
            raise Unsupported(f"makes {self._shape} of {x.shape} (height, width, channels); only flattening can be carried")
        layer = self._new("reshape", x)
        torch_index = np.arange(channels * height * width).reshape(channels, height, width)
        self._orders[layer.name] = torch_index.transpose(1, 2, 0).ravel()
        return layer

    view = flatten = squeeze = unsqueeze = reshape

    def identity(self, x, *_, **__):
        return x

    contiguous = clone = identity

    def dropout(self, x, p=0.5, training=True, inplace=False):
        if training:
            raise Unsupported("is a dropout that evaluation doesn't turn off; pass training=self.training")
        return x

    dropout2d = dropout


def pair_of_floats(value) -> tuple[float, float]:
    return (float(value), float(value)) if isinstance(value, (int, float)) else (float(value[0]), float(value[1]))
