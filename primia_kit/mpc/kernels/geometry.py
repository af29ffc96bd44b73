"""Sizes of a convolution."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import KitError

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """What torch.nn.Conv2d knows besides its weights; pairs are (height, width)."""

    inputs: int
    outputs: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def __post_init__(self):
        if self.groups < 1 or self.inputs % self.groups or self.outputs % self.groups:
            raise KitError(f"{self.inputs} channels in and {self.outputs} out can't be shared among {self.groups} groups.")
        if min(self.stride + self.dilation) < 1 or min(self.padding) < 0 or min(self.kernel) < 1:
            raise KitError(
                f"Kernel {self.kernel}, stride {self.stride} and dilation {self.dilation} are at least 1, "
                f"padding {self.padding} at least 0."
            )

    @property
    def terms(self) -> int:
        """Products that are added for one output, K."""
        return self.inputs // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def depthwise(self) -> bool:
        return self.groups == self.inputs > 1

    def macs(self, height: int, width: int) -> int:
        """Multiplications for one input of this size."""
        rows, columns = self.out_size(height, width)
        return rows * columns * self.outputs * self.terms

    def padded(self, height: int, width: int) -> Pair:
        return height + 2 * self.padding[0], width + 2 * self.padding[1]

    def out_size(self, height: int, width: int) -> Pair:
        """(OH, OW); raises KitError if the kernel is larger than the padded input."""
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel)]
        room = self.padded(height, width)
        if room[0] < reach[0] or room[1] < reach[1]:
            raise KitError(
                f"A kernel that reaches over {reach[0]} × {reach[1]} doesn't fit an input of {height} × {width} "
                f"with padding {self.padding}."
            )
        return (room[0] - reach[0]) // self.stride[0] + 1, (room[1] - reach[1]) // self.stride[1] + 1


def pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
