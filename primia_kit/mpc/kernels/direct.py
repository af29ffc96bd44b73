"""Direct convolution by microkernels: no im2col matrix, outputs of a tile in registers. Backends "int16" and "ifma"."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from ..threads import get_threads, spread
from .cutting import cut
from .geometry import Geometry
from .limbs import Limb, Product, int16_products, signed_limbs
from .microkernel import ROWS, Flavour, ifma_flavour, int16_flavour, walk_ifma, walk_int16
from .packed import PackedConv
from .processor import has_avx2, has_ifma

_BLOCK_BYTES = 24 << 10  # of a panel's weights: they stay in the first-level cache while a tile's pixels pass
TILE = 192  # pixels whose outputs stay in the second-level cache while all panels of weights pass


class DirectConv(PackedConv):
    """What "int16" and "ifma" share: the reduction as runs, weights in panels, a workspace for each thread.

    A subclass says which products of limbs are summed (`_products`), how weights are cut into limbs (`_digits`), and
    brings the two compiled loops `_fill` and `_walk`.
    """

    flavour: Flavour
    dtype: np.dtype  # of a limb

    def _pack(self, weights: np.ndarray) -> None:
        self._local = threading.local()
        self._sums = self._products()
        self._runs = [Runs.of(self.geometry, product.longest, self.flavour, self.dtype) for product in self._sums]
        self._weights = [self._panels(digit, runs) for digit, runs in zip(self._digits(weights), self._runs)]
        self._panel_count = self._weights[0].shape[1]

    def _panels(self, weights: np.ndarray, runs: Runs) -> np.ndarray:
        """[Cout, Cin / groups, KH, KW] -> aligned [groups, panels, runs, steps, panel, elements a step]."""
        geometry, panel = self.geometry, self.flavour.panel
        per_group = geometry.outputs // geometry.groups
        panels = -(-per_group // panel)
        lines = weights.transpose(0, 2, 3, 1).reshape(geometry.groups, per_group, runs.lines, -1)
        full = np.zeros((geometry.groups, panels * panel, runs.lines, runs.pieces * runs.length), self.dtype)
        full[:, :per_group, :, : lines.shape[3]] = lines
        per_step = self.flavour.step_bytes // self.dtype.itemsize
        full = full.reshape(geometry.groups, panels, panel, runs.count, runs.length // per_step, per_step)
        full = full.transpose(0, 1, 3, 4, 2, 5)
        packed = aligned(full.shape, self.dtype)
        packed[...] = full
        return packed

    def _conv(self, x: np.ndarray, rows: int, columns: int) -> np.ndarray:
        space = getattr(self._local, "space", None)
        if space is None or space.shape != x.shape:
            space = self._local.space = Workspace.of(self, x.shape, rows, columns)
        self._fill(x, space)
        groups, width = self.geometry.groups, self._panel_count * self.flavour.panel
        group_bytes = self.geometry.inputs // groups * self.dtype.itemsize
        out = np.empty((space.pixels.size, groups * width), np.uint64)

        def walk(pixels: slice, first: int, last: int) -> None:
            for number, (product, runs) in enumerate(zip(self._sums, self._runs)):
                for group in range(groups):
                    self._walk(
                        space.starts(product) + group * group_bytes,
                        space.pixels[pixels],
                        space.offsets[number],
                        runs.blocks(),
                        runs.length * self.dtype.itemsize // self.flavour.step_bytes,
                        self._weights[number][group],
                        np.array([limb.shift + product.weight.shift for limb in product.x], np.int64),
                        int(self.ring.mask),
                        out[pixels],
                        group * width,
                        (first, last),
                        TILE,
                        number > 0,
                    )

        if self._panel_count >= 2 * get_threads():
            spread(lambda first, last: walk(slice(None), first, last), self._panel_count)
        else:
            spread(lambda start, stop: walk(slice(start, stop), 0, self._panel_count), space.pixels.size, TILE)
        count, per_group = x.shape[0] * rows * columns, self.geometry.outputs // groups
        kept = out[:count]
        if per_group != width:
            kept = np.ascontiguousarray(kept.reshape(count, groups, width)[:, :, :per_group])
        return kept.reshape(x.shape[0], rows, columns, self.geometry.outputs)

    def limbs(self) -> tuple[Limb, ...]:
        """The limbs of x, lowest first."""
        return tuple(sorted({limb for product in self._sums for limb in product.x}, key=lambda limb: limb.shift))

    def _products(self) -> list[Product]:
        raise NotImplementedError

    def _digits(self, weights: np.ndarray) -> list[np.ndarray]:
        """The weights' limb of each product."""
        raise NotImplementedError

    def _fill(self, x: np.ndarray, space: Workspace) -> None:
        """Cut x into the limbs' planes, inside the padding."""
        raise NotImplementedError

    def _walk(self, *arguments) -> None:
        raise NotImplementedError


class Int16Conv(DirectConv):
    """Limbs of at most 16 bits, products added in pairs into int32 (vpmaddwd). See `int16_products`."""

    name = "int16"
    flavour = int16_flavour(has_avx2())
    dtype = np.dtype(np.int16)

    def _products(self):
        return int16_products(self.ring.bits, self.short)

    def _digits(self, weights):
        if self.short:
            return [weights] * len(self._sums)
        limbs = tuple(dict.fromkeys(product.weight for product in self._sums))
        digits = dict(zip(limbs, signed_limbs(weights.view(np.uint64), limbs)))
        return [digits[product.weight] for product in self._sums]

    def _fill(self, x, space):
        shifts, widths = np.array([(limb.shift, limb.width) for limb in self.limbs()], np.int64).T.copy()
        corner, padded = self.geometry.padding, space.inside.shape[2:4]
        spread(lambda a, b: cut(x, space.planes, corner, padded, shifts, widths, a, b), x.shape[0] * x.shape[1], 16)

    def _walk(self, *arguments):
        walk_int16(*arguments)


class IfmaConv(DirectConv):
    """Whole words in the low 52 bits of a 64-bit lane (vpmadd52luq): rings of at most 52 bits, short or long alike."""

    name = "ifma"
    flavour = ifma_flavour(has_ifma())
    dtype = np.dtype(np.uint64)

    def _products(self):
        return [Product(Limb(0, 52), (Limb(0, 52),), 1 << 30)]

    def _digits(self, weights):
        return [weights.view(np.uint64)]  # the instruction looks at 52 bits

    def _fill(self, x, space):
        top, left = self.geometry.padding
        space.inside[0, :, top : top + x.shape[1], left : left + x.shape[2]] = x

    def _walk(self, *arguments):
        walk_ifma(*arguments)


@dataclass(frozen=True)
class Runs:
    """The reduction as `lines` of memory, each cut into `pieces` of `length` elements.

    Without groups and dilation a line is a row of the kernel, KW * Cin neighbours; otherwise a tap's channels. `length`
    is rounded up to the microkernel's steps: elements beyond a line meet weights of zero.
    """

    lines: int
    pieces: int
    length: int
    per_block: int  # pieces that one call of the microkernel adds up

    @staticmethod
    def of(geometry: Geometry, longest: int, flavour: Flavour, dtype: np.dtype) -> Runs:
        """`longest`: terms that sum exactly."""
        rows, columns = geometry.kernel
        line = geometry.inputs // geometry.groups
        joined = Runs.joined(geometry)
        if joined:
            line *= columns
        multiple = flavour.unroll * flavour.step_bytes // dtype.itemsize
        limit = min(longest, _BLOCK_BYTES // (flavour.panel * dtype.itemsize)) // multiple * multiple
        pieces = -(-line // limit)
        length = -(-line // (pieces * multiple)) * multiple
        return Runs(rows if joined else rows * columns, pieces, length, limit // length)

    @staticmethod
    def joined(geometry: Geometry) -> bool:
        return geometry.groups == 1 and geometry.dilation[1] == 1

    @property
    def count(self) -> int:
        return self.lines * self.pieces

    def offsets(self, geometry: Geometry, row: int) -> np.ndarray:
        """Where the runs start, in elements after a pixel's start, for padded rows of `row` elements."""
        rows, columns = geometry.kernel
        down, across = geometry.dilation
        taps = range(1 if self.joined(geometry) else columns)
        starts = [down * r * row + across * c * geometry.inputs for r in range(rows) for c in taps]
        return np.array([start + self.length * piece for start in starts for piece in range(self.pieces)], np.int64)

    def blocks(self) -> np.ndarray:
        """The runs at which blocks of the reduction start, and the number of runs."""
        return np.append(np.arange(0, self.count, self.per_block, dtype=np.int64), self.count)


@dataclass(frozen=True)
class Workspace:
    """Room and addresses for inputs of one shape; what lies around the planes' insides stays zero."""

    shape: tuple[int, ...]
    limbs: tuple[Limb, ...]
    planes: np.ndarray  # [limbs, images * height * width * channels and a run more]
    inside: np.ndarray  # the same memory [limbs, images, height, width, channels], padded
    pixels: np.ndarray  # bytes from a plane's start to each output's first element; a multiple of ROWS
    offsets: list[np.ndarray]  # bytes, for each product

    @staticmethod
    def of(conv: DirectConv, shape, rows: int, columns: int) -> Workspace:
        geometry, limbs, size = conv.geometry, conv.limbs(), conv.dtype.itemsize
        images, height, width, channels = shape
        high, wide = geometry.padded(height, width)
        count = images * high * wide * channels
        # A run rounded up may read beyond the last pixel; a plane's start is kept aligned.
        room = -(-(count + max(runs.length for runs in conv._runs)) // 64) * 64
        planes = aligned((len(limbs), room), conv.dtype)
        n, y, c = np.ogrid[:images, :rows, :columns]
        down, across = geometry.stride
        pixels = (((n * high + y * down) * wide + c * across) * channels * size).reshape(-1).astype(np.int64)
        return Workspace(
            shape,
            limbs,
            planes,
            planes[:, :count].reshape(len(limbs), images, high, wide, channels),
            np.append(pixels, np.repeat(pixels[-1:], -pixels.size % ROWS)),
            [runs.offsets(geometry, wide * channels) * size for runs in conv._runs],
        )

    def starts(self, product: Product) -> np.ndarray:
        """Addresses of the planes of the product's limbs."""
        plane_bytes = self.planes.strides[0]
        return np.array([self.planes.ctypes.data + self.limbs.index(limb) * plane_bytes for limb in product.x], np.int64)


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros that start at a multiple of 64 bytes."""
    count = int(np.prod(shape)) * dtype.itemsize
    room = np.zeros(count + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + count].view(dtype).reshape(shape)
