"""Convolutions over the ring: every backend gives the words of integer arithmetic."""

import ctypes
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from primia_kit.errors import KitError
from primia_kit.mpc import kernels
from primia_kit.mpc.kernels.geometry import Geometry
from primia_kit.mpc.kernels.limbs import float64_limbs, int16_products, signed_limbs
from primia_kit.mpc.kernels.packed import checked_weights
from primia_kit.mpc.kernels.processor import features, has_ifma
from primia_kit.mpc.ring import Ring
from primia_kit.mpc.threads import get_threads, set_threads

from .conftest import ROOT

FULL = 2**64 - 1


def words(shape, seed=0, filled=False):
    if filled:
        return np.full(shape, FULL, np.uint64)
    return np.random.default_rng(seed).integers(0, FULL, shape, np.uint64, endpoint=True)


def short_weights(shape, seed=0, extreme=0):
    if extreme:
        return np.full(shape, extreme * (2**15 - 1), np.int64)
    return np.random.default_rng(seed).integers(-(2**15) + 1, 2**15, shape)


def weights_of(short, shape, seed=0, extreme=0):
    if short:
        return short_weights(shape, seed, extreme)
    return words(shape, seed, filled=bool(extreme)).view(np.int64)


def by_torch(x, w, bits, stride=1, padding=0, dilation=1, groups=1):
    image = torch.from_numpy(x.view(np.int64)).permute(0, 3, 1, 2)
    y = F.conv2d(image, torch.from_numpy(np.asarray(w).view(np.int64)), None, stride, padding, dilation, groups)
    return np.ascontiguousarray(y.permute(0, 2, 3, 1).numpy()).view(np.uint64) & np.uint64(2**bits - 1)


def by_integers(x, w, bits, stride, padding, dilation, groups):
    """Python's integers, loop by loop."""
    images, height, width, _ = x.shape
    outputs, channels, rows, columns = w.shape
    geometry = Geometry(channels * groups, outputs, (rows, columns), stride, padding, dilation, groups)
    y = np.zeros((images, *geometry.out_size(height, width), outputs), object)
    for n, i, j, o in np.ndindex(*y.shape):
        for c, r, s in np.ndindex(channels, rows, columns):
            a, b = i * stride[0] + r * dilation[0] - padding[0], j * stride[1] + s * dilation[1] - padding[1]
            if 0 <= a < height and 0 <= b < width:
                y[n, i, j, o] += int(x[n, a, b, o // (outputs // groups) * channels + c]) * int(w[o, c, r, s])
    return (y % 2**bits).astype(np.uint64)


def direct_ifma(w, bits, short, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    """The "ifma" backend where the instruction is missing: general IR in its place, all else the same."""
    from primia_kit.mpc.kernels.direct import IfmaConv

    geometry = Geometry(w.shape[1] * groups, w.shape[0], w.shape[2:], stride, padding, dilation, groups)
    return IfmaConv(checked_weights(w, short), Ring(bits), short, geometry)


def pack_as(name, w, bits, short, **options):
    if name == "ifma without the instruction":
        return direct_ifma(w, bits, short, **options)
    return kernels.pack(w, bits, short=short, backend=name, **options)


BACKENDS = [name for name in kernels.available() if name != "ifma"]
BACKENDS += ["ifma" if has_ifma() else "ifma without the instruction"]
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(BACKENDS), st.integers(2, 52), st.booleans())
def test_convolutions_are_integer_arithmetic(data, backend, bits, short):
    kernel, stride, dilation = data.draw(pairs), data.draw(pairs), data.draw(pairs)
    padding = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    groups, per_group, multiplier = data.draw(st.sampled_from([(1, 1, 1), (1, 3, 5), (2, 2, 1), (3, 1, 2), (4, 1, 1)]))
    shape = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(1, 6)))
    assume(all(size + 2 * p >= d * (k - 1) + 1 for size, p, d, k in zip(shape[1:], padding, dilation, kernel)))
    extreme, seed = data.draw(st.sampled_from([0, 0, 1, -1])), data.draw(st.integers(0, 9))
    x = words((*shape, per_group * groups), seed, extreme != 0)
    w = weights_of(short, (multiplier * groups, per_group, *kernel), seed, extreme)
    options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    y = pack_as(backend, w, bits, short, **options).conv(x)
    assert y.dtype == np.uint64 and y.flags.c_contiguous
    assert (y == by_integers(x, w, bits, **options)).all()


LAYERS = [  # Cin, Cout, kernel, stride, padding, groups, side: of networks, and around what tiles and panels hold
    (1, 64, 7, 2, 3, 1, 33),
    (64, 64, 3, 1, 1, 1, 14),
    (64, 33, 3, 2, 1, 1, 15),
    (512, 17, 3, 1, 1, 1, 3),
    (128, 80, 1, 1, 0, 1, 9),
    (3000, 5, 1, 1, 0, 1, 1),
    (32, 32, 3, 1, 1, 4, 8),
    (40, 40, 5, 2, 2, 40, 13),
]


@pytest.mark.parametrize("short", [True, False], ids=["short", "long"])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_backends_agree_on_layers_of_networks(layer, short):
    inputs, outputs, kernel, stride, padding, groups, side = layer
    for bits in (30, 32, 33, 38, 43, 52):
        for extreme in (0, 1, -1) if bits in (38, 52) else (0,):
            x = words((2, side, side, inputs), bits, extreme != 0)
            w = weights_of(short, (outputs, inputs // groups, kernel, kernel), bits, extreme)
            expected = by_torch(x, w, bits, stride, padding, 1, groups)
            for backend in BACKENDS:
                options = dict(stride=(stride, stride), padding=(padding, padding), groups=groups)
                assert (pack_as(backend, w, bits, short, **options).conv(x) == expected).all(), (backend, bits, extreme)


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from(BACKENDS[:-1]), st.integers(30, 52), st.booleans())
def test_transposed_convolutions_are_torchs(data, backend, bits, short):
    kernel, stride, dilation = data.draw(pairs), data.draw(pairs), data.draw(pairs)
    groups = data.draw(st.sampled_from([1, 2]))
    inputs, outputs = groups * data.draw(st.integers(1, 4)), groups * data.draw(st.integers(1, 4))
    extra = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation))
    padding = data.draw(st.tuples(st.integers(0, 1), st.integers(0, 1)))
    sides = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    full = [(n - 1) * s + d * (k - 1) + 1 + e for n, s, d, k, e in zip(sides, stride, dilation, kernel, extra)]
    assume(all(size > 2 * p for size, p in zip(full, padding)))
    x, w = words((2, *sides, inputs)), weights_of(short, (inputs, outputs // groups, *kernel))
    packed = kernels.pack_transposed(
        w,
        bits,
        short=short,
        stride=stride,
        padding=padding,
        output_padding=extra,
        dilation=dilation,
        groups=groups,
        backend=backend,
    )
    image = torch.from_numpy(x.view(np.int64)).permute(0, 3, 1, 2)
    y = F.conv_transpose2d(image, torch.from_numpy(w), None, stride, padding, extra, groups, dilation)
    assert (packed.conv(x) == y.permute(0, 2, 3, 1).numpy().view(np.uint64) & np.uint64(2**bits - 1)).all()


@pytest.mark.parametrize("backend", BACKENDS[:-1])
def test_a_linear_layer_is_a_matrix_product(backend):
    x, w = words((3, 1, 1, 50)), short_weights((7, 50))
    expected = (x.reshape(3, 50).astype(object) @ w.T.astype(object)) % 2**38
    assert (kernels.pack(w, 38, short=True, backend=backend).conv(x).reshape(3, 7) == expected.astype(np.uint64)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_images_and_earlier_images_change_nothing(backend):
    """Workspaces are reused: what an image leaves there must not reach the next one, nor another thread's."""
    w = short_weights((48, 16, 3, 3))
    packed = pack_as(backend, w, 38, True, padding=(1, 1), stride=(1, 1))
    images = [words((n, side, 20, 16), seed) for seed, (n, side) in enumerate([(1, 20), (2, 9), (1, 20), (1, 30)])]
    expected = [by_torch(x, w, 38, 1, 1) for x in images]
    before = get_threads()
    try:
        for threads in (1, 2, 3):
            set_threads(threads)
            assert all((packed.conv(x) == y).all() for x, y in zip(images, expected))
        wrong = []

        def repeat(x, y):
            wrong.extend(i for i in range(20) if not (packed.conv(x) == y).all())

        threads = [threading.Thread(target=repeat, args=both) for both in zip(images, expected)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not wrong
    finally:
        set_threads(before)
    assert packed.conv(np.empty((0, 20, 20, 16), np.uint64)).shape == (0, 20, 20, 48)


@settings(deadline=None)
@given(st.integers(2, 52), st.booleans(), st.integers(0, FULL), st.integers(0, FULL))
def test_int16_products_add_up_to_the_product(bits, short, x, w):
    products = int16_products(bits, short)
    w = w % 2**16 - 2**15 if short else w
    weight = np.array([w % 2**64], np.uint64)
    total = 0
    for product in products:
        assert product.weight.width <= 16 and 1 <= len(product.x) <= 3
        factor = (
            w if short else int(signed_limbs(weight, weights_limbs(products))[weights_limbs(products).index(product.weight)][0])
        )
        for limb, digit in zip(x_limbs(products), signed_limbs(np.array([x], np.uint64), x_limbs(products))):
            if limb not in product.x:
                continue
            place = limb.shift + product.weight.shift
            assert -(2 ** (limb.width - 1)) <= digit[0] < 2 ** (limb.width - 1) and place < bits
            if bits - place > 32:  # an int32 sum that may not wrap: as many terms as are added at once, all the largest
                assert product.longest * 2 ** (limb.width - 1) * 2 ** (product.weight.width - 1) < 2**31
                assert product.longest >= 64
            total += int(digit[0]) * factor << place
    assert (total - x * w) % 2**bits == 0


def x_limbs(products):
    return tuple(sorted({limb for product in products for limb in product.x}, key=lambda limb: limb.shift))


def weights_limbs(products):
    return tuple(dict.fromkeys(product.weight for product in products))


@given(st.integers(2, 52), st.booleans(), st.integers(1, 10**7))
def test_float64_limbs_are_exact_and_no_more_than_needed(bits, short, terms):
    limbs = float64_limbs(bits, short, terms)
    assert [limb.shift for limb in limbs] == [sum(before.width for before in limbs[:i]) for i in range(len(limbs))]
    assert sum(limb.width for limb in limbs) == bits
    largest = max(limb.width for limb in limbs) - 1
    assert terms * (2 ** (largest + 15) if short else len(limbs) * 2 ** (2 * largest)) <= 2**53
    if bits == 38 and terms <= 4608:
        assert len(limbs) == 2


def test_more_terms_take_more_limbs():
    assert [len(float64_limbs(38, True, terms)) for terms in (4608, 2**20, 2**30)] == [2, 2, 5]
    assert [len(float64_limbs(52, False, terms)) for terms in (8, 4608, 2**20)] == [3, 3, 4]


def test_weights_and_sizes_that_do_not_fit_are_named():
    for wrong, message in (
        (lambda: kernels.pack(np.full((2, 3, 1, 1), 2**15), 38, short=True), r"weight at \(0, 0, 0, 0\) is 32768"),
        (lambda: kernels.pack(np.full((2, 3, 1, 1), -(2**15)), 38, short=True), "is -32768"),
        (lambda: kernels.pack(np.zeros((2, 3, 1, 1)), 38, short=True), "float64"),
        (lambda: kernels.pack(np.zeros((2, 3, 1, 1), int), 53, short=True), "ring of 53"),
        (lambda: kernels.pack(np.zeros((3, 2, 1, 1), int), 38, short=True, groups=2), "3 out"),
        (lambda: kernels.pack(np.zeros((3, 2, 1, 1), int), 38, short=True, stride=0), "at least 1"),
        (lambda: kernels.pack(np.zeros((3, 2, 3, 3), int), 38, short=True).conv(words((1, 2, 5, 2))), "3 × 3 doesn't fit"),
        (lambda: kernels.pack(np.zeros((3, 2, 3, 3), int), 38, short=True).conv(words((1, 5, 5, 3))), "2 channels"),
        (lambda: kernels.pack(np.zeros((3, 2, 1, 1), int), 38, short=True).conv(words((1, 5, 5, 4))[..., ::2]), "contiguous"),
        (lambda: kernels.pack_transposed(np.zeros((3, 2, 1, 1), int), 38, short=True, output_padding=1), "Output padding"),
    ):
        with pytest.raises(KitError, match=message):
            wrong()


def test_the_choice_of_a_backend(monkeypatch):
    monkeypatch.delenv("PRIMIA_KERNELS", raising=False)
    assert kernels.choose() == kernels.available()[0] and kernels.available()[-2:] == ("float64", "torch")
    monkeypatch.setenv("PRIMIA_KERNELS", "float64")
    w = short_weights((4, 4, 1, 1))
    assert kernels.pack(w, 38, short=True).name == "float64"
    assert kernels.pack(w, 38, short=True, backend="torch").name == "torch"
    with pytest.raises(KitError, match="did you mean 'float64'"):
        kernels.choose("float46")
    monkeypatch.setenv("PRIMIA_KERNELS", "torch")  # nothing compiled
    assert kernels.available() == ("float64", "torch")
    assert kernels.pack(short_weights((4, 1, 3, 3)), 38, short=True, groups=4).name == "torch"


@pytest.mark.skipif(has_ifma(), reason="this CPU has AVX-512 IFMA")
def test_ifma_is_refused_where_it_is_missing():
    with pytest.raises(KitError, match="this CPU has no AVX-512 IFMA"):
        kernels.choose("ifma")
    assert kernels.environment() == {}


@pytest.mark.skipif(not has_ifma(), reason="this CPU has no AVX-512 IFMA")
def test_ifma_in_a_partys_process():
    code = """
import numpy as np, torch
from primia_kit.mpc import kernels
rng = np.random.default_rng(0)
x, w = rng.integers(0, 2**63, (1, 14, 14, 64), np.uint64), rng.integers(0, 2**63, (64, 64, 3, 3))
results = [kernels.pack(w, 52, short=False, padding=1, backend=name).conv(x) for name in ("ifma", "torch")]
assert (results[0] == results[1]).all()
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | kernels.environment(), check=True)


def microkernel_module(flavour, limbs):
    """A module with one function, the microkernel, as numba would embed it."""
    from llvmlite import ir

    from primia_kit.mpc.kernels.microkernel import emit

    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 10), "microkernel")
    builder = ir.IRBuilder(function.append_basic_block())
    emit(builder, function.args, flavour, limbs)
    builder.ret_void()
    return str(module)


def machine(cpu, features):
    from llvmlite import binding

    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple("x86_64-unknown-linux-gnu")
    return target.create_target_machine(cpu=cpu, features=features, opt=3)


def test_the_instructions_that_are_meant_are_in_the_code():
    """Cross-compiled, since a processor without an instruction can't say more about it."""
    from llvmlite import binding

    from primia_kit.mpc.kernels.microkernel import ROWS, ifma_flavour, int16_flavour

    flavour = ifma_flavour(native=True)
    code = machine("icelake-server", "-prefer-256-bit").emit_assembly(binding.parse_assembly(microkernel_module(flavour, 1)))
    assert code.count("vpmadd52luq") == ROWS * flavour.vectors and "zmm" in code and "call" not in code
    for limbs in (1, 2, 3):
        flavour = int16_flavour(native=True)
        code = machine("haswell", "").emit_assembly(binding.parse_assembly(microkernel_module(flavour, limbs)))
        inner = code.count("vpmaddwd")
        assert inner == ROWS * flavour.vectors * flavour.unroll and "zmm" not in code and "call" not in code


@pytest.mark.skipif("avx2" not in features(), reason="this CPU has no AVX2")
@pytest.mark.parametrize("limbs", [1, 2, 3])
def test_general_code_does_what_the_instruction_does(limbs):
    """The int16 microkernel with and without vpmaddwd, called on the same memory, extremes included."""
    from llvmlite import binding

    from primia_kit.mpc.kernels.direct import aligned
    from primia_kit.mpc.kernels.microkernel import ROWS, int16_flavour

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    rng = np.random.default_rng(limbs)
    runs, steps, panel = 3, 10, 16
    x = rng.integers(-(2**15), 2**15, 2000).astype(np.int16)
    x[:300] = -(2**15)
    w = aligned((runs, steps, panel, 2), np.dtype(np.int16))
    w[...] = rng.integers(-(2**15), 2**15, w.shape)
    w[0] = -(2**15)
    starts = x.ctypes.data + rng.integers(0, 900, ROWS) * 2
    starts[0] = x.ctypes.data
    offsets, shifts = np.array([0, 200, 900]), np.array([0, 16, 32])[:limbs].copy()
    results = []
    for native in (True, False):
        module = binding.parse_assembly(microkernel_module(int16_flavour(native), limbs))
        target = binding.Target.from_default_triple().create_target_machine(cpu=binding.get_host_cpu_name())
        with binding.create_mcjit_compiler(module, target) as engine:
            engine.finalize_object()
            call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 10)(engine.get_function_address("microkernel"))
            out = np.full((ROWS // limbs, panel + 4), 5, np.uint64)
            for add in (0, 1):
                call(
                    starts.ctypes.data, offsets.ctypes.data, runs, steps, w.ctypes.data, out.ctypes.data,
                    out.strides[0], shifts.ctypes.data, 2**38 - 1, add,
                )  # fmt: skip
        results.append(out)
    sums = np.zeros((ROWS, panel), object)
    for m, run, k, two in np.ndindex(ROWS, runs, steps, 2):
        at = (int(starts[m]) - x.ctypes.data + int(offsets[run])) // 2 + 2 * k + two
        sums[m] += int(x[at]) * w[run, k, :, two].astype(object)
    wrapped = (sums + 2**31) % 2**32 - 2**31
    expected = sum(wrapped[limb::limbs] << int(shifts[limb]) for limb in range(limbs)) * 2 % 2**38
    for out in results:
        assert (out[:, :panel] == expected.astype(np.uint64)).all() and (out[:, panel:] == 5).all()


def test_counts_of_multiplications():
    geometry = Geometry(64, 128, (3, 3), (2, 2), (1, 1))
    assert geometry.macs(56, 56) == 28 * 28 * 128 * 64 * 9 and geometry.terms == 576
