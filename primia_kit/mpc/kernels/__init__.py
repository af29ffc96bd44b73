"""Convolutions over Z_2^k by whichever arithmetic this machine does fastest, all with the same words.

    name        how                                                     where
    "int16"     limbs of 16 bits, pairs summed in int32 (vpmaddwd)      x86 with AVX2, numba
    "ifma"      52-bit words (vpmadd52luq)                              x86 with AVX-512 IFMA, numba
    "float64"   exact float64 limbs over numpy's BLAS                   everywhere
    "torch"     torch's int64 convolution                               everywhere, slowest

Weights are packed once: `pack(weights, bits, short=True).conv(x)`. Short weights are signed 16-bit integers, as the
model owner knows them; long ones are ring elements, as the preparation multiplies with.
"""

from __future__ import annotations

import os

import numpy as np

from ...errors import KitError, nearest
from ..compiled import compiles
from ..ring import Ring
from .geometry import Geometry, Pair, pair
from .packed import PackedConv, checked_weights
from .processor import environment, has_avx2, has_ifma
from .transposed import TransposedConv

__all__ = ["Geometry", "PackedConv", "TransposedConv", "available", "choose", "environment", "pack", "pack_transposed"]

_NEEDS = {
    "int16": (lambda: has_avx2() and compiles(), "this CPU has no AVX2, or numba can't be imported"),
    "ifma": (lambda: has_ifma() and compiles(), "this CPU has no AVX-512 IFMA, or numba can't be imported"),
    "float64": (lambda: True, ""),
    "torch": (lambda: True, ""),
}
# A short product takes 2 to 4 products of int16 limbs, a long one up to 10, where IFMA takes one of either kind.
_FASTEST = {True: ("int16", "ifma", "float64", "torch"), False: ("ifma", "int16", "float64", "torch")}


def available() -> tuple[str, ...]:
    """Names of the backends that this machine can run, fastest for short weights first."""
    return tuple(name for name in _FASTEST[True] if _NEEDS[name][0]())


def choose(backend: str = "auto", short: bool = True) -> str:
    """The backend that `pack` will use: the one named, else PRIMIA_KERNELS, else the fastest for such weights.

    Raises: KitError for an unknown name, or for one that this machine can't run, with the reason.
    """
    name = backend if backend != "auto" else os.environ.get("PRIMIA_KERNELS") or "auto"
    if name == "auto":
        return next(name for name in _FASTEST[short] if _NEEDS[name][0]())
    if name not in _NEEDS:
        raise KitError(f"There's no kernel {name!r}{nearest(name, _NEEDS)}: choose auto, {', '.join(_NEEDS)}.")
    can, reason = _NEEDS[name]
    if not can():
        raise KitError(f"The {name} kernel can't run: {reason}. Choose another ({', '.join(available())}) or auto.")
    return name


def pack(
    weights: np.ndarray,
    bits: int,
    *,
    short: bool,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    backend: str = "auto",
) -> PackedConv:
    """Prepare a convolution, or a linear layer, modulo 2^bits.

    Args:
        weights: [Cout, Cin / groups, KH, KW] or [Cout, Cin]; short: int64 with |w| < 2^15; long: int64 or uint64.
        bits: k of the ring, from 2 to 52; x may be any words, outputs are reduced.
        short: whether the weights are short.
        stride, padding, dilation, groups: as torch.nn.Conv2d; padding is with zeros.
        backend: see `choose`.

    Returns: an object with conv(x uint64 [N, H, W, Cin]) -> uint64 [N, OH, OW, Cout]. A linear layer takes
        [N, 1, 1, Cin].
    Raises: KitError for weights that don't fit, sizes that don't agree, a backend that can't run.
    """
    weights = checked_weights(weights, short)
    outputs, per_group, *kernel = weights.shape
    geometry = Geometry(per_group * groups, outputs, tuple(kernel), pair(stride), pair(padding), pair(dilation), groups)
    name = choose(backend, short)
    if name != "torch" and geometry.depthwise and compiles():
        from .depthwise import DepthwiseConv as Backend
    elif name == "int16":
        from .direct import Int16Conv as Backend
    elif name == "ifma":
        from .direct import IfmaConv as Backend
    elif name == "float64":
        from .float64 import Float64Conv as Backend
    else:
        from .torch_int64 import TorchConv as Backend
    return Backend(weights, Ring(bits), short, geometry)


def pack_transposed(
    weights: np.ndarray,
    bits: int,
    *,
    short: bool,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    output_padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    backend: str = "auto",
) -> TransposedConv:
    """Prepare a transposed convolution modulo 2^bits.

    Args:
        weights: [Cin, Cout / groups, KH, KW], torch.nn.ConvTranspose2d's order; short or long as in `pack`.
        others: as in `pack` and torch.nn.ConvTranspose2d.

    Returns: an object with conv(x uint64 [N, H, W, Cin]) -> uint64 [N, OH, OW, Cout].
    Raises: KitError as `pack`.
    """
    weights = checked_weights(weights, short)
    inputs, per_group, rows, columns = weights.shape
    geometry = Geometry(inputs, per_group * groups, (rows, columns), pair(stride), pair(padding), pair(dilation), groups)
    taps = weights.reshape(groups, inputs // groups, per_group, rows, columns).transpose(0, 3, 4, 2, 1)
    taps = np.ascontiguousarray(taps.reshape(-1, inputs // groups, 1, 1))
    return TransposedConv(pack(taps, bits, short=short, groups=groups, backend=backend), geometry, pair(output_padding))
