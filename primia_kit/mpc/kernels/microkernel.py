"""The inner loops of direct convolution, as LLVM IR: multiply-accumulate on a tile of outputs held in registers.

A tile is 6 rows by `panel` output channels. Row m starts at its own address; the reduction runs over `rows` runs of
memory, each at an offset that all rows share, `steps` steps long. So no im2col matrix is ever written: for NHWC words a
run is one line of the kernel, KW * Cin neighbours.

    int16   a step is two int16 values a row (vpmaddwd: two products and their sum in int32), sums wrap modulo 2^32
    ifma    a step is one 52-bit word a row (vpmadd52luq), sums modulo 2^52

`int16` takes its rows as limbs of a pixel: with L limbs a tile is 6/L pixels, and a pixel's L sums are widened to
64 bits, shifted to their limb's place and added before they reach memory. See Goto & van de Geijn, "Anatomy of
high-performance matrix multiplication", 2008, for tiles in registers and panels in the caches.

All of it is in one file because numba's cache looks at the changes of a compiled function's own file alone.
Instructions that the processor lacks are written out in general IR: slower, the same words, and never an abort.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .processor import has_avx2, has_ifma

ROWS = 6  # 12 sums, 2 weights, 1 broadcast and 1 product fill the 16 registers of AVX2
_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_SIGNATURE = types.void(*[types.int64] * 10)  # see emit()


@dataclass(frozen=True)
class Flavour:
    """What a step multiplies.

    Args:
        name: "int16" or "ifma".
        native: the instruction may be emitted; otherwise general IR that does the same.
        lanes: sums in a vector register.
        vectors: registers across a panel; panel = lanes * vectors output channels.
        unroll: steps that one turn of the loop takes; a run's steps are a multiple of it.
    """

    name: str
    native: bool
    lanes: int
    vectors: int
    unroll: int

    @property
    def panel(self) -> int:
        return self.lanes * self.vectors

    @property
    def step_bytes(self) -> int:
        """Bytes that a step takes of each row's memory."""
        return 4 if self.name == "int16" else 8


def int16_flavour(native: bool) -> Flavour:
    # Unrolled twice, LLVM loads the second turn's weights early and keeps one of the 12 sums on the stack. Where that lies
    # across two cache lines, which depends on the callers, everything takes 2.6 times as long; in registers nothing does.
    return Flavour("int16", native, lanes=8, vectors=2, unroll=1)


def ifma_flavour(native: bool) -> Flavour:
    return Flavour("ifma", native, lanes=8, vectors=4, unroll=1)


def emit(builder: ir.IRBuilder, arguments, flavour: Flavour, limbs: int) -> None:
    """Append a microkernel to the function that `builder` writes.

    Args:
        arguments: ten int64 values
            0 starts     address of ROWS addresses: where row m's first run starts, rows ordered (pixel, limb)
            1 offsets    address of the runs' offsets in bytes, int64
            2 rows       number of runs, at least 1
            3 steps      steps a run, at least 1, a multiple of the unrolling
            4 weights    address, 32- or 64-byte aligned: [rows, steps, panel (, 2 for int16)]
            5 out        address of uint64 [pixels, panel]
            6 out_stride bytes from a pixel's outputs to the next pixel's
            7 shifts     address of `limbs` int64: the place of each limb's sum
            8 mask       which bits of an output are kept: 2^k - 1
            9 add        nonzero: add to what stands in out; zero: overwrite it
        limbs: 1, 2 or 3 rows a pixel (1 for ifma).
    """
    b = builder
    starts, offsets, rows, steps, weights, out, out_stride, shifts, mask, add = arguments
    pixels, vectors = ROWS // limbs, flavour.vectors
    sums = ir.VectorType(_I32 if flavour.name == "int16" else _I64, flavour.lanes)
    register_bytes = flavour.lanes * (4 if flavour.name == "int16" else 8)

    def number(value):
        return ir.Constant(_I64, value)

    def at(address, kind, align, offset=0):
        loaded = b.load(b.inttoptr(b.add(address, number(offset)), ir.PointerType(kind)))
        loaded.align = align
        return loaded

    base = [at(starts, _I64, 8, 8 * m) for m in range(ROWS)]
    before = b.block
    outer, inner, inner_end, end = (b.append_basic_block(name) for name in ("run", "step", "run_end", "store"))
    b.branch(outer)

    b.position_at_end(outer)
    row, weight_of_run = b.phi(_I64), b.phi(_I64)
    carried = [b.phi(sums) for _ in range(ROWS * vectors)]
    row.add_incoming(number(0), before)
    weight_of_run.add_incoming(weights, before)
    for value in carried:
        value.add_incoming(ir.Constant(sums, [0] * flavour.lanes), before)
    offset = at(b.add(offsets, b.shl(row, number(3))), _I64, 8)
    run = [b.add(address, offset) for address in base]
    b.branch(inner)

    b.position_at_end(inner)
    step, weight = b.phi(_I64), b.phi(_I64)
    entering = [b.phi(sums) for _ in range(ROWS * vectors)]
    step.add_incoming(number(0), outer)
    weight.add_incoming(weight_of_run, outer)
    for value, start in zip(entering, carried):
        value.add_incoming(start, outer)
    value = list(entering)
    for u in range(flavour.unroll):
        columns = [at(weight, sums, register_bytes, register_bytes * (u * vectors + v)) for v in range(vectors)]
        for m in range(ROWS):
            place = b.add(run[m], b.mul(step, number(flavour.step_bytes)))
            word = at(place, sums.element, flavour.step_bytes // 2, flavour.step_bytes * u)
            spread = b.insert_element(ir.Constant(sums, ir.Undefined), word, ir.Constant(_I32, 0))
            spread = b.shuffle_vector(spread, ir.Constant(sums, ir.Undefined), _indices([0] * flavour.lanes))
            for v in range(vectors):
                value[m * vectors + v] = _multiply_add(b, flavour, value[m * vectors + v], spread, columns[v])
    next_step = b.add(step, number(flavour.unroll))
    next_weight = b.add(weight, number(register_bytes * vectors * flavour.unroll))
    step.add_incoming(next_step, inner)
    weight.add_incoming(next_weight, inner)
    for phi, new in zip(entering, value):
        phi.add_incoming(new, inner)
    b.cbranch(b.icmp_signed("<", next_step, steps), inner, inner_end)

    b.position_at_end(inner_end)
    next_row = b.add(row, number(1))
    row.add_incoming(next_row, inner_end)
    weight_of_run.add_incoming(next_weight, inner_end)
    for phi, new in zip(carried, value):
        phi.add_incoming(new, inner_end)
    b.cbranch(b.icmp_signed("<", next_row, rows), outer, end)

    b.position_at_end(end)
    half = flavour.lanes // 2
    quad = ir.VectorType(_I64, half)
    kept = _splat(b, mask, half)
    places = [_splat(b, at(shifts, _I64, 8, 8 * limb), half) for limb in range(limbs)]
    # All or nothing of what stood there: a mask instead of a branch.
    old = _splat(b, b.sext(b.icmp_signed("!=", add, number(0)), _I64), half)
    for pixel in range(pixels):
        line = b.add(out, b.mul(out_stride, number(pixel)))
        for v in range(vectors):
            for part in range(2):
                total = b.and_(at(line, quad, 8, 8 * (v * flavour.lanes + part * half)), old)
                for limb in range(limbs):
                    found = value[(pixel * limbs + limb) * vectors + v]
                    lane = _indices(range(part * half, part * half + half))
                    found = b.shuffle_vector(found, ir.Constant(sums, ir.Undefined), lane)
                    if flavour.name == "int16":
                        found = b.shl(b.sext(found, quad), places[limb])
                    total = b.add(total, found)
                where = b.add(line, number(8 * (v * flavour.lanes + part * half)))
                b.store(b.and_(total, kept), b.inttoptr(where, ir.PointerType(quad))).align = 8


def _multiply_add(b: ir.IRBuilder, flavour: Flavour, total, left, right):
    if flavour.name == "int16":
        wide, pairs = total.type, ir.VectorType(_I16, 2 * flavour.lanes)
        left, right = b.bitcast(left, pairs), b.bitcast(right, pairs)
        if flavour.native:
            return b.add(total, b.call(_declare(b, "llvm.x86.avx2.pmadd.wd", wide, [pairs, pairs]), [left, right]))
        product = b.mul(b.sext(left, both := ir.VectorType(_I32, 2 * flavour.lanes)), b.sext(right, both))
        for first in (0, 1):
            picked = _indices(range(first, 2 * flavour.lanes, 2))
            total = b.add(total, b.shuffle_vector(product, ir.Constant(both, ir.Undefined), picked))
        return total
    if flavour.native:
        name, kind = "llvm.x86.avx512.vpmadd52l.uq.512", total.type
        return b.call(_declare(b, name, kind, [kind, kind, kind]), [total, left, right])
    low = ir.Constant(total.type, [(1 << 52) - 1] * flavour.lanes)
    return b.add(total, b.and_(b.mul(left, right), low))


def _declare(b: ir.IRBuilder, name: str, returns, takes):
    return b.module.globals.get(name) or ir.Function(b.module, ir.FunctionType(returns, takes), name)


def _indices(values):
    values = list(values)
    return ir.Constant(ir.VectorType(_I32, len(values)), values)


def _splat(b: ir.IRBuilder, scalar, lanes: int):
    kind = ir.VectorType(scalar.type, lanes)
    one = b.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_I32, 0))
    return b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), _indices([0] * lanes))


def _generator(flavour, limbs):
    def generate(context, builder, signature, arguments):
        emit(builder, arguments, flavour, limbs)
        return context.get_dummy_value()

    return generate


# One intrinsic each, by name: numba's cache knows compiled code by the names in a module, not by closures.
@intrinsic
def _int16_1(typing, starts, offsets, rows, steps, weights, out, out_stride, shifts, mask, add):
    return _SIGNATURE, _generator(int16_flavour(has_avx2()), 1)


@intrinsic
def _int16_2(typing, starts, offsets, rows, steps, weights, out, out_stride, shifts, mask, add):
    return _SIGNATURE, _generator(int16_flavour(has_avx2()), 2)


@intrinsic
def _int16_3(typing, starts, offsets, rows, steps, weights, out, out_stride, shifts, mask, add):
    return _SIGNATURE, _generator(int16_flavour(has_avx2()), 3)


@intrinsic
def _ifma(typing, starts, offsets, rows, steps, weights, out, out_stride, shifts, mask, add):
    return _SIGNATURE, _generator(ifma_flavour(has_ifma()), 1)


@njit(nogil=True, cache=True)
def walk_int16(planes, pixels, offsets, blocks, steps, weights, shifts, mask, out, column, panels, tile, add):
    """One product of limbs over pixels and panels of one group; see `direct.DirectConv`.

    Args:
        planes: int64 [L], address of each limb's plane, moved on to the group's first channel.
        pixels: int64 [a multiple of 6], bytes from a plane's start to the pixel's first run; `out` has as many rows.
        offsets: int64 [rows], bytes from a pixel's start to each run.
        blocks: int64 [B + 1], the runs at which a block of the reduction starts, and their number.
        weights: int16 [panels, rows, steps, 16, 2].
        shifts: int64 [L].
        out: uint64 [pixels, columns]; panel p fills columns [column + 16 p, column + 16 (p + 1)).
        panels: (first, last) to do.
        tile: pixels whose outputs stay in the second-level cache while all panels of weights pass.
        add: to what stands in out, else overwrite.
    """
    limbs = planes.size
    held = ROWS // limbs
    starts = np.empty(ROWS, np.int64)
    width = 16
    run_bytes = steps * width * 4
    panel_bytes = offsets.size * run_bytes
    out_stride = out.shape[1] * 8
    for near in range(0, pixels.size, tile):
        for panel in range(panels[0], panels[1]):
            for block in range(blocks.size - 1):
                run = blocks[block]
                rows = blocks[block + 1] - run
                at_offsets = offsets.ctypes.data + run * 8
                at_weights = weights.ctypes.data + panel * panel_bytes + run * run_bytes
                adding = 1 if add or block else 0
                for pixel in range(near, min(near + tile, pixels.size), held):
                    for i in range(held):
                        for limb in range(limbs):
                            starts[i * limbs + limb] = planes[limb] + pixels[pixel + i]
                    at = out.ctypes.data + pixel * out_stride + (column + panel * width) * 8
                    s, t = starts.ctypes.data, shifts.ctypes.data
                    if limbs == 1:
                        _int16_1(s, at_offsets, rows, steps, at_weights, at, out_stride, t, mask, adding)
                    elif limbs == 2:
                        _int16_2(s, at_offsets, rows, steps, at_weights, at, out_stride, t, mask, adding)
                    else:
                        _int16_3(s, at_offsets, rows, steps, at_weights, at, out_stride, t, mask, adding)


@njit(nogil=True, cache=True)
def walk_ifma(planes, pixels, offsets, blocks, steps, weights, shifts, mask, out, column, panels, tile, add):
    """The same for one plane of 52-bit words: weights uint64 [panels, rows, steps, 32]."""
    starts = np.empty(ROWS, np.int64)
    width = 32
    run_bytes = steps * width * 8
    panel_bytes = offsets.size * run_bytes
    out_stride = out.shape[1] * 8
    for near in range(0, pixels.size, tile):
        for panel in range(panels[0], panels[1]):
            for block in range(blocks.size - 1):
                run = blocks[block]
                rows = blocks[block + 1] - run
                at_offsets = offsets.ctypes.data + run * 8
                at_weights = weights.ctypes.data + panel * panel_bytes + run * run_bytes
                adding = 1 if add or block else 0
                for pixel in range(near, min(near + tile, pixels.size), ROWS):
                    for m in range(ROWS):
                        starts[m] = planes[0] + pixels[pixel + m]
                    at = out.ctypes.data + pixel * out_stride + (column + panel * width) * 8
                    s, t = starts.ctypes.data, shifts.ctypes.data
                    _ifma(s, at_offsets, rows, steps, at_weights, at, out_stride, t, mask, adding)
