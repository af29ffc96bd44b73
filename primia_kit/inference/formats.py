"""Fixed-point formats: as many fraction bits as fit the window, the weights' 16 bits and the ring."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..errors import KitError
from ..mpc.comparison import WINDOW
from ..mpc.kernels.limbs import SHORT_BITS
from ..mpc.ring import MAX_BITS
from .calibration import Range
from .layers import Layer

_FEWEST = 4  # fraction bits of a value: fewer would round away what a network computes with
_MOST_WEIGHT_BITS = 24


@dataclass(frozen=True)
class Formats:
    """Chooses fraction bits.

    margin: how much larger than in calibration a value may get
    precision: fraction bits of a value at most
    """

    margin: float
    precision: int

    def __post_init__(self):
        if not (math.isfinite(self.margin) and self.margin >= 1):
            raise KitError(f"margin is {self.margin}: values may get at least as large as in calibration, choose 1 or more.")
        if not _FEWEST <= self.precision <= 16:
            raise KitError(f"precision is {self.precision} fraction bits: choose {_FEWEST} to 16.")

    def value_bits(self, name: str, seen: Range, *, half: bool = False, plus: float = 0.0) -> int:
        """Most f with (margin * largest + plus) * 2^f < 2^20, or half of it if differences of the values are compared."""
        largest = self.margin * seen.largest + plus
        room = WINDOW - 2 - half
        bits = min(self.precision, _bits_below(largest, room))
        if bits < _FEWEST:
            raise KitError(
                f"{name}: values reach {seen.largest:g} in calibration; with margin {self.margin:g} a window of ±2^{room} "
                f"leaves {bits} fraction bits, where {_FEWEST} are needed. Train with BatchNorm or smaller weights, or lower "
                "the margin."
            )
        return bits

    def weight_bits(self, layer: Layer, read: Range, made: Range) -> tuple[int, int]:
        """(most bits w with |weight| * 2^w < 2^15, and no more than are useful; how many are useful).

        Rounding the weights adds noise sqrt(terms * mean_square) * 2^-w / sqrt(12) to an output, rounding the output to f
        bits adds 2^-f / sqrt(12): w beyond equality costs ring bits and gains little.

        Args:
            read, made: ranges of the layer's input and output.
        """
        weight = layer.weight.double()
        largest = weight.abs().max().item()
        if not math.isfinite(largest):
            raise KitError(f"{layer.name}: weights aren't finite.")
        terms = weight[0].numel() if layer.kind == "conv" else weight.numel() / layer.shape[2]
        noise = 0.5 * math.log2(max(terms * read.mean_square, 2.0**-20))
        output_bits = min(self.precision, _bits_below(self.margin * made.largest, WINDOW - 2))
        useful = min(_MOST_WEIGHT_BITS, max(_FEWEST, math.ceil(output_bits + noise)))
        bits = min(useful, _bits_below(largest, SHORT_BITS - 1))
        if bits < 0:
            raise KitError(f"{layer.name}: a weight reaches {largest:g}; encrypted inference takes weights below 2^15 in size.")
        return bits, useful

    def ring_bits(self, name: str, needed: int) -> int:
        if needed > MAX_BITS:
            raise KitError(
                f"{name}: needs a ring of {needed} bits, where {MAX_BITS} is the most: choose a lower precision or margin."
            )
        return needed

    def integer_bits(self, largest: float, fraction_bits: int) -> int:
        """Bits of a signed integer that holds margin * largest with so many fraction bits, and at least these and a sign."""
        return fraction_bits - min(0, _bits_below(self.margin * largest, 0)) + 1


def _bits_below(largest: float, room: int) -> int:
    """Most b with largest * 2^b < 2^room - 1/2, so that rounding can't reach 2^room."""
    if largest == 0:
        return 1000
    bits = room - math.frexp(largest)[1]  # largest < 2^exponent
    return bits if math.ldexp(largest, bits) < 2.0**room - 0.5 else bits - 1


def encode(values: torch.Tensor, fraction_bits: int):
    """int64, rounded, halves to even."""
    return torch.round(torch.ldexp(values.double(), torch.tensor(fraction_bits))).long().numpy()
