"""The private layers of a program: sizes of their weights, and their kernels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..errors import KitError
from .expansion import expand
from .kernels import pack, pack_transposed
from .kernels.limbs import SHORT_BITS
from .packing import pack_words, packed_size, unpack_words
from .program import PRIVATE, Op, Program
from .ring import Ring

# name of a private layer -> its int64 weights, |w| < 2^15, of `weight_shapes`, and its int64 bias [Cout], over
# 2^fraction_bits of the layer's value, within ±2^(k-1).
Weights = Mapping[str, tuple[np.ndarray, np.ndarray]]


def weight_shapes(program: Program) -> dict[str, tuple[int, int, int, int]]:
    """For each private layer [Cout, Cin / groups, KH, KW], transposed ones [Cin, Cout / groups, KH, KW], as torch has them."""
    values = {op.name: op for op in program.ops}
    shapes = {}
    for op in program.ops:
        if op.kind in PRIVATE:
            first, second = op.shape[2], values[op.inputs[0]].shape[2]
            if op.kind == "conv_transposed":
                first, second = second, first
            shapes[op.name] = (first, second // op.attributes["groups"], *op.attributes["kernel"])
    return shapes


def pack_layer(op: Op, weights: np.ndarray, bits: int, short: bool):
    """The layer's kernel, with conv(x uint64 [N, H, W, Cin]) -> uint64 [N, OH, OW, Cout]."""
    attributes = op.attributes
    options = {name: tuple(attributes[name]) for name in ("stride", "padding", "dilation")} | {"groups": attributes["groups"]}
    if op.kind == "conv":
        return pack(weights, bits, short=short, **options)
    return pack_transposed(weights, bits, short=short, output_padding=tuple(attributes["output_padding"]), **options)


def checked(program: Program, weights: Weights) -> Weights:
    """The weights, if they are those of the program. Raises KitError that names the layer."""
    shapes = weight_shapes(program)
    if set(weights) != set(shapes):
        odd = sorted(set(weights) ^ set(shapes))
        raise KitError(f"The weights aren't those of the program: it and they differ in {', '.join(odd)}.")
    for op in program.ops:
        if op.name in shapes:
            array, bias = weights[op.name]
            for what, found, shape in (("weights", array, shapes[op.name]), ("bias", bias, (op.shape[2],))):
                if found.shape != shape or found.dtype != np.int64:
                    raise KitError(
                        f"{op.name}: its {what}: int64 {list(shape)} are needed, not {found.dtype} {list(found.shape)}."
                    )
            if np.abs(array).max() >= 1 << SHORT_BITS - 1 or np.abs(bias).max() >= 1 << program.bits - 1:
                raise KitError(
                    f"{op.name}: weights lie below 2^{SHORT_BITS - 1} in size, biases below 2^{program.bits - 1}: "
                    "encode them with fewer fraction bits."
                )
    return weights


def model_masks(program: Program, mask_seed: bytes) -> dict[str, np.ndarray]:
    """b: uniform words of Z_2^k in the weights' shapes, for the model owner and the provider.

    Args:
        mask_seed: 32 bytes that the model owner draws once for a model, and gives to the provider alone.
    """
    ring = Ring(program.bits)
    return {name: ring.random(shape, mask_seed, name, "weights") for name, shape in weight_shapes(program).items()}


def delta(program: Program, weights: Weights, mask_seed: bytes) -> bytes:
    """δ = W - b mod 2^k for the data owner, k bits each: uniform for whoever doesn't know b.

    It serves for all images. A second δ from the same seed with other weights would give their difference away: draw a
    new seed for each version of a model.
    """
    masks = model_masks(program, mask_seed)
    weights = checked(program, weights)
    return pack_arrays([weights[name][0].view(np.uint64) - b for name, b in masks.items()], program.bits)


def unpack_delta(program: Program, packed) -> dict[str, np.ndarray]:
    """The inverse of `delta`: uint64 arrays. Raises KitError for another number of bytes."""
    shapes = weight_shapes(program)
    return dict(zip(shapes, unpack_arrays(packed, list(shapes.values()), program.bits, "The model's δ"), strict=True))


def pack_arrays(arrays: Iterable[np.ndarray], bits: int) -> bytes:
    """uint64 arrays, each packed on its own."""
    return b"".join(pack_words(array, bits).tobytes() for array in arrays)


def unpack_arrays(packed, shapes: Sequence[tuple[int, ...]], bits: int, what: str) -> list[np.ndarray]:
    """The inverse of `pack_arrays`. Raises KitError that names `what` for another number of bytes."""
    packed, at, found = np.frombuffer(packed, np.uint8), 0, []
    counts = [math.prod(shape) for shape in shapes]
    size = sum(packed_size(count, bits) for count in counts)
    if packed.size != size:
        raise KitError(f"{what} for this program takes {size} bytes, but {packed.size} came.")
    for shape, count in zip(shapes, counts):
        part = packed[at : at + packed_size(count, bits)]
        found.append(unpack_words(part, bits, count).reshape(shape))
        at += part.size
    return found


def expand_mask(out: np.ndarray, data_seed: bytes, name: str) -> np.ndarray:
    """x_0 of a masked value: the data owner's share, as the provider follows it too. Outsourced, a server's a_i."""
    return expand(out, data_seed, name, "mask")


def expand_product(out: np.ndarray, data_seed: bytes, name: str) -> np.ndarray:
    """h_0 of a private layer, the data owner's share of conv(x_0, b)."""
    return expand(out, data_seed, name, "product")
