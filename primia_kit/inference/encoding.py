"""The data owner's two ends: pixels to ring words, and the opened answer to numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import KitError
from ..mpc.program import Program
from ..mpc.ring import Ring

if TYPE_CHECKING:  # a data owner needs no torch
    import torch


def encode_images(program: Program, images: torch.Tensor | np.ndarray) -> np.ndarray:
    """Normalise, and write in fixed point.

    Normalisation is done here, in clear: mean and deviation are public, and the network pads the normalised image with
    zeros, so that they couldn't go into its first convolution exactly.

    Args:
        images: float [N, C, H, W], pixels as the network's training got them before normalisation.

    Returns: uint64 [N, H, W, C], reduced modulo 2^program.bits.
    Raises: KitError for another shape, or a pixel outside what the input's format can hold.
    """
    images = np.asarray(images, np.float64)
    given = program.ops[0]
    height, width, channels = given.shape
    if images.ndim != 4 or images.shape[1:] != (channels, height, width):
        raise KitError(f"The program takes images [N, {channels}, {height}, {width}], not {list(images.shape)}.")
    normalised = (images - program.pixel_mean) / program.pixel_std
    words = Ring(program.bits).encode(normalised, given.fraction_bits, "the normalised pixel")
    return np.ascontiguousarray(words.transpose(0, 2, 3, 1))


def decode_outputs(program: Program, words: np.ndarray) -> np.ndarray:
    """What the data owner learns.

    Args:
        words: uint64 [N, H, W, C], the opened output; C is 1 for reveal="label", the channel.

    Returns: for reveal="logits" float64 [N, C, H, W]; "probabilities" the same after a softmax over C, from differences
        of the words alone; "label" int64 [N, H, W]. Without H and W if both are 1.
    """
    output, ring = program.ops[-1], Ring(program.bits)
    reveal = output.attributes["reveal"]
    if reveal == "label":
        answer = ring.signed(words[..., 0])
        return answer[:, 0, 0] if answer.shape[1:] == (1, 1) else answer
    if reveal == "probabilities":
        words = words - words[..., :1]
    values = ring.decode(words, output.fraction_bits).transpose(0, 3, 1, 2)
    if reveal == "probabilities":
        values = np.exp(values - values.max(1, keepdims=True))
        values /= values.sum(1, keepdims=True)
    return values[:, :, 0, 0] if values.shape[2:] == (1, 1) else values
