"""How large values get: every layer's range over images that the model owner has."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..errors import KitError
from .layers import Layer, Layers

_BATCH = 16


@dataclass(frozen=True)
class Range:
    """A layer's values over all calibration images.

    largest: of their absolute values
    mean_square: of all of them
    """

    largest: float
    mean_square: float


def calibrate(layers: Layers, images: torch.Tensor) -> tuple[dict[str, Range], torch.Tensor]:
    """Run the float network on normalised images [N, C, H, W].

    Returns: ranges by layer name; the network's answers.
    Raises: KitError if a value isn't finite, naming the layer.
    """
    largest: dict[str, float] = {}
    squares: dict[str, float] = {}

    def watch(layer: Layer, value: torch.Tensor) -> None:
        top = value.abs().max().item()
        if not math.isfinite(top):
            raise KitError(f"{layer.name}: values of the calibration images aren't finite here: check images and weights.")
        largest[layer.name] = max(largest.get(layer.name, 0.0), top)
        squares[layer.name] = squares.get(layer.name, 0.0) + value.double().square().mean().item() * len(value)

    with torch.no_grad():
        answers = [layers.run(batch, watch) for batch in images.split(_BATCH)]
    return {name: Range(largest[name], squares[name] / len(images)) for name in largest}, torch.cat(answers)
