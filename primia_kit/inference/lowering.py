"""Folded layers and their ranges -> the public program, and the weights that stay with the model owner."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from ..errors import KitError
from ..mpc.comparison import WINDOW
from ..mpc.program import LINEAR, Op, Program
from .calibration import Range
from .formats import Formats, encode
from .layers import PRIVATE, Layer, Layers

_SLACK = 6  # fraction bits beyond the precision that a private layer's input may have without a truncation before it
_POINT_BITS = 14  # of a public factor that's no power of two
_AXIS_BITS = 12  # of an interpolation weight that's no dyadic fraction
_ANSWER_BITS = 4  # how many the last layer's weights may have less than is useful within

Weights = dict[str, tuple[np.ndarray, np.ndarray]]


class Lowering:
    """Emits operations for one layer after the other.

    A private layer's output has the weights' fraction bits on top of its input's. A ReLU's comparison drops them; where
    none follows, a `truncate` does, as late as sums allow: one for both branches of a residual. Private layers read
    masked values: a `mask` once for each value that they need.
    """

    def __init__(self, layers: Layers, ranges: Mapping[str, Range], formats: Formats, reveal: str, split: int):
        self._layers, self._ranges, self._formats, self._reveal = layers, ranges, formats, reveal
        self._split = split
        self.ops: dict[str, Op] = {}
        self.weights: Weights = {}
        self.layer_of: dict[str, str] = {}  # op name -> layer whose value it holds
        self._holds: dict[str, str] = {}  # layer name -> op that holds its value best: truncated, masked
        self._masked: set[str] = set()
        self._needed: dict[str, int] = {}  # op name -> ring bits

    def program(self, classes: tuple[str, ...], **pixels: float) -> Program:
        for layer in self._layers.values():
            getattr(self, f"_{layer.kind}")(layer)
        self._output(self._layers.last)
        widest = max(self._needed, key=self._needed.__getitem__)
        bits = self._formats.ring_bits(widest, max(WINDOW + 1, self._needed[widest]))
        return Program(bits, tuple(self.ops.values()), classes, **pixels)

    # Emission.

    def _emit(
        self, layer: Layer, kind: str, inputs: tuple[str, ...], fraction_bits: int, suffix: str = "", *, needs: int = 0,
        **attributes,
    ) -> Op:  # fmt: skip
        """Add an operation that makes the layer's value; `needs` are the ring bits that it can't do without."""
        name = self._unique(layer.name + suffix) if suffix else layer.name
        pairs = {key: list(value) if isinstance(value, tuple) else value for key, value in attributes.items()}
        op = Op(name, kind, inputs, layer.shape, fraction_bits, pairs)
        self.ops[name], self.layer_of[name] = op, layer.name
        if kind in ("input", "mask") or (kind in LINEAR and self._masked.issuperset(inputs)):
            self._masked.add(name)
        self._holds[layer.name] = name
        self._needed[name] = max(needs, fraction_bits + 1)
        return op

    def _value(self, name: str) -> Op:
        return self.ops[self._holds[name]]

    def _narrow(self, layer: Layer, most: int) -> Op:
        """The layer's value with at most `most` fraction bits: truncated to what fits its window if there are more."""
        op = self._value(layer.name)
        if op.fraction_bits <= most:
            return op
        bits = min(most, self._fraction(layer))
        shift = op.fraction_bits - bits
        return self._emit(layer, "truncate", (op.name,), bits, ".truncate", needs=WINDOW + shift, shift=shift)

    def _fraction(self, layer: Layer) -> int:
        return self._formats.value_bits(layer.name, self._ranges[layer.name], half=self._compared(layer))

    def _compared(self, layer: Layer) -> bool:
        """Whether differences of these values are compared."""
        if self._reveal == "label" and layer is self._layers.last:
            return True
        return any(user.kind == "max_pool" for user in self._layers.users(layer.name))

    def _maskable(self, layer: Layer) -> Op:
        """The layer's value, masked: truncated first if it has fraction bits in excess."""
        op = self._narrow(layer, self._formats.precision + _SLACK)
        return op if op.name in self._masked else self._emit(layer, "mask", (op.name,), op.fraction_bits, ".mask")

    def _read_privately(self, layer: Layer) -> bool:
        """Whether a private layer reads the value, or what is made of it by copying and placing alone."""
        passes = ("concat", "reshape", "upsample_nearest", "upsample_linear")
        users = self._layers.users(layer.name)
        return any(u.kind in PRIVATE or (u.kind in passes and self._read_privately(u)) for u in users)

    def _best(self, name: str) -> Op:
        """The value of an input of a linear operation: masked now if a private layer will want it so anyway."""
        layer = self._layers[name]
        excess = self._value(name).fraction_bits > self._formats.precision + _SLACK
        return self._maskable(layer) if self._read_privately(layer) and not excess else self._value(name)

    # Layers.

    def _input(self, layer: Layer) -> None:
        self._emit(layer, "input", (), self._fraction(layer))

    def _conv(self, layer: Layer) -> None:
        source = self._maskable(self._layers[layer.inputs[0]])
        bits, useful = self._formats.weight_bits(layer, self._ranges[layer.inputs[0]], self._ranges[layer.name])
        if layer is self._layers.last and self._reveal != "label":
            # Logits are as large as the rest's ring allows: their last bits aren't worth a wider one.
            spare = max(self._needed.values()) - self._answer_bits(layer, source.fraction_bits + bits)
            bits += max(-_ANSWER_BITS, min(0, spare))
        elif useful - bits >= self._split:
            return self._conv_in_two(layer, source, bits, useful)
        self._private(layer, source, bits, layer.weight, layer.bias)

    _conv_transposed = _conv

    def _conv_in_two(self, layer: Layer, source: Op, bits: int, useful: int) -> None:
        """A few large weights leave too few fraction bits for the others: what rounding loses is a second convolution."""
        coarse = torch.round(layer.weight.double() * 2**bits) / 2**bits
        high = self._private(layer, source, bits, coarse, torch.zeros_like(layer.bias))
        low = self._private(layer, source, useful, layer.weight.double() - coarse, layer.bias, ".fine")
        inputs, shifts = (high.name, low.name), (useful - bits, 0)
        self._emit(layer, "add", inputs, low.fraction_bits, ".sum", shifts=shifts)

    def _private(self, layer: Layer, source: Op, bits: int, weight: torch.Tensor, bias: torch.Tensor, suffix: str = "") -> Op:
        total = source.fraction_bits + bits
        op = self._emit(
            layer, layer.kind, (source.name,), total, suffix, kernel=tuple(weight.shape[2:]), weight_bits=bits,
            **layer.attributes,
        )  # fmt: skip
        self.weights[op.name] = encode(weight, bits), encode(bias, total)
        return op

    def _relu(self, layer: Layer) -> None:
        before = self._layers[layer.inputs[0]]
        op = self._value(before.name)
        half = self._compared(layer)
        # Before it's clipped a value may be larger than after: the window holds it before.
        bits = self._formats.value_bits(
            layer.name, self._ranges[before.name], half=half, plus=6.0 if layer.kind == "relu6" else 0.0
        )  # fmt: skip
        bits = min(op.fraction_bits, bits)
        shift = op.fraction_bits - bits
        self._emit(layer, layer.kind, (op.name,), bits, needs=WINDOW + shift, shift=shift)

    _relu6 = _relu

    def _max_pool(self, layer: Layer) -> None:
        before = self._layers[layer.inputs[0]]
        op = self._narrow(before, self._fraction(before))
        self._emit(layer, "max_pool", (op.name,), op.fraction_bits, **layer.attributes)

    def _sum_pool(self, layer: Layer) -> None:
        op = self._best(layer.inputs[0])
        self._emit(layer, "sum_pool", (op.name,), op.fraction_bits, **layer.attributes)

    def _scale(self, layer: Layer) -> None:
        op, factor = self._value(layer.inputs[0]), layer.attributes["factor"]
        most = max(0, _POINT_BITS - math.frexp(factor)[1])
        bits = next(b for b in range(most + 1) if b == most or math.ldexp(factor, b).is_integer())
        whole = round(math.ldexp(factor, bits))  # 1 for a power of two: the point moves, nothing is multiplied
        self._emit(layer, "multiply", (op.name,), op.fraction_bits + bits, factor=whole, bits=bits)

    def _add(self, layer: Layer) -> None:
        self._aligned(layer, [self._best(name) for name in layer.inputs])

    def _concat(self, layer: Layer) -> None:
        private = self._read_privately(layer)
        read = [self._maskable(self._layers[name]) if private else self._value(name) for name in layer.inputs]
        self._aligned(layer, read)

    def _aligned(self, layer: Layer, read: list[Op]) -> None:
        bits = max(op.fraction_bits for op in read)
        shifts = tuple(bits - op.fraction_bits for op in read)
        self._emit(layer, layer.kind, tuple(op.name for op in read), bits, shifts=shifts)

    def _reshape(self, layer: Layer) -> None:
        op = self._best(layer.inputs[0])
        self._emit(layer, "reshape", (op.name,), op.fraction_bits)

    def _upsample_nearest(self, layer: Layer) -> None:
        op = self._before_upsampling(layer)
        self._emit(layer, "upsample_nearest", (op.name,), op.fraction_bits, **layer.attributes)

    def _upsample_linear(self, layer: Layer) -> None:
        op = self._before_upsampling(layer)
        matrices = [layer.attributes[axis] for axis in ("rows", "columns")]
        bits = next(b for b in range(_AXIS_BITS + 1) if b == _AXIS_BITS or all(_is_whole(m * 2**b) for m in matrices))
        rows, columns = (np.rint(matrix * 2**bits).astype(int).tolist() for matrix in matrices)
        self._emit(
            layer, "upsample_linear", (op.name,), op.fraction_bits + 2 * bits, rows=rows, columns=columns, bits=2 * bits
        )  # fmt: skip

    def _before_upsampling(self, layer: Layer) -> Op:
        """Truncation and mask come before, where there are fewer values."""
        before = self._layers[layer.inputs[0]]
        if self._read_privately(layer):
            return self._maskable(before)
        return self._narrow(before, self._formats.precision + _SLACK)

    def _output(self, last: Layer) -> None:
        op, shape = self._value(last.name), last.shape
        if self._reveal != "logits" and shape[2] < 2:
            raise KitError(
                f"{last.name}: this answer has one channel, and reveal={self._reveal!r} compares two or more (a softmax "
                "of one is always 1). Use reveal='logits', and apply the sigmoid yourself."
            )
        if self._reveal == "label":
            op = self._narrow(last, self._fraction(last))
        needs = self._answer_bits(last, op.fraction_bits)
        name = self._unique("output")
        shape, bits = ((*shape[:2], 1), 0) if self._reveal == "label" else (shape, op.fraction_bits)
        self.ops[name] = Op(name, "output", (op.name,), shape, bits, {"reveal": self._reveal})
        self.layer_of[name], self._needed[name] = last.name, needs

    def _answer_bits(self, last: Layer, fraction_bits: int) -> int:
        """Ring bits that the answer needs; of probabilities only differences are known, twice as large."""
        bits = self._formats.integer_bits(self._ranges[last.name].largest, fraction_bits)
        return bits + (self._reveal == "probabilities")

    def _unique(self, name: str) -> str:
        while name in self.ops or name in self._layers:
            name += "_"
        return name


def _is_whole(values: np.ndarray) -> bool:
    return bool((values == np.rint(values)).all())
