"""Words of the ring, their expansion from seeds, their packing, and the threads that all kernels share."""

import os
import subprocess
import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from primia_kit.errors import KitError
from primia_kit.mpc import Ring, expand, pack_words, packed_size, unpack_words
from primia_kit.mpc.expansion import fill, stream_key
from primia_kit.mpc.threads import get_threads, set_threads, spread

from .conftest import ROOT

SEED = bytes(range(32))
rings = st.integers(2, 52).map(Ring)
words = hnp.arrays(np.uint64, st.integers(0, 40), elements=st.integers(0, 2**64 - 1))


@given(rings, words)
def test_words_are_integers_modulo_2_to_the_bits(ring, x):
    assert [int(v) for v in ring.reduce(x)] == [int(v) % 2**ring.bits for v in x]
    signed = ring.signed(x)
    assert ((signed >= -(2 ** (ring.bits - 1))) & (signed < 2 ** (ring.bits - 1))).all()
    assert [int(v) % 2**ring.bits for v in signed] == [int(v) % 2**ring.bits for v in x]


@given(rings, st.data())
def test_fixed_point_comes_back_to_half_a_step(ring, data):
    fraction = data.draw(st.integers(0, ring.bits - 1))
    limit = 2.0 ** (ring.bits - 1 - fraction)
    values = np.array(data.draw(st.lists(st.floats(-limit, limit - 2.0**-fraction), max_size=20)), np.float64)
    encoded = ring.encode(values, fraction)
    assert encoded.dtype == np.uint64 and (encoded <= ring.mask).all()
    assert np.abs(ring.decode(encoded, fraction) - values).max(initial=0) <= 2.0 ** -(fraction + 1)
    assert (ring.decode(encoded + (np.uint64(1) << np.uint64(ring.bits)), fraction) == ring.decode(encoded, fraction)).all()


def test_a_value_that_does_not_fit_is_named():
    ring = Ring(8)
    assert ring.encode([-8.0, 7.9375], 4).tolist() == [128, 127]
    with pytest.raises(KitError, match=r"weights of conv1 at \(1, 0\) is 8, outside ±2\^3"):
        ring.encode([[1.0, -8.0], [8.0, 9.0]], 4, "weights of conv1")
    with pytest.raises(KitError, match="value is nan"):
        ring.encode(float("nan"), 4)
    with pytest.raises(KitError, match="8 fraction bits"):
        ring.encode(1.0, 8)
    for bits in (1, 53, 38.0, True):
        with pytest.raises(KitError, match="ring of"):
            Ring(bits)


def test_random_words_fill_the_ring_and_depend_on_seed_and_purpose():
    ring = Ring(38)
    x = ring.random((100, 100), SEED, "wire", 1)
    assert x.shape == (100, 100) and (x <= ring.mask).all()
    share_of_ones = [(x >> np.uint64(bit) & np.uint64(1)).mean() for bit in range(38)]
    assert max(abs(share - 0.5) for share in share_of_ones) < 0.03  # six standard deviations
    assert (x == ring.random((100, 100), SEED, "wire", 1)).all()
    others = [(SEED, "wire", 2), (SEED, "wire", "1"), (SEED, "wire1"), (SEED[::-1], "wire", 1)]
    assert all(not (x == ring.random((100, 100), *other)).any() for other in others)


def test_expansion_is_aes_256_in_counter_mode():
    key = stream_key(SEED, "a purpose")
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    blocks = b"".join(counter.to_bytes(16, "big") for counter in range(20_000))
    expected = np.frombuffer(encryptor.update(blocks), "<u8")
    assert (expand(np.empty(40_000, np.uint64), SEED, "a purpose") == expected).all()
    assert (expand(np.empty(33, np.uint8), SEED, "a purpose") == expected.view(np.uint8)[:33]).all()
    assert (fill(np.empty(1000, np.uint64), key, 16 * 7) == expected[14:1014]).all()


def test_expansion_refuses_what_would_not_be_random():
    out = np.empty(8, np.uint64)
    for attempt, word in (
        (lambda: expand(out, SEED[:16], "x"), "32 bytes"),
        (lambda: expand(out, SEED), "purpose"),
        (lambda: expand(out[::2], SEED, "x"), "contiguous"),
        (lambda: expand(np.empty(8), SEED, "x"), "whole numbers"),
        (lambda: fill(out, stream_key(SEED, "x"), 8), "multiple of 16"),
    ):
        with pytest.raises(KitError, match=word):
            attempt()


def packed_by_integers(x, bits: int) -> bytes:
    total = sum((int(v) % 2**bits) << bits * i for i, v in enumerate(x))
    return total.to_bytes(packed_size(len(x), bits), "little")


@settings(deadline=None)
@given(st.data(), st.sampled_from([np.uint8, np.uint32, np.uint64]))
def test_packing_is_a_long_little_endian_integer(data, dtype):
    width = np.iinfo(dtype).bits
    bits = data.draw(st.integers(1, min(width, 63)))
    x = data.draw(hnp.arrays(dtype, st.integers(0, 200), elements=st.integers(0, 2**width - 1)))
    packed = pack_words(x, bits)
    assert packed.tobytes() == packed_by_integers(x, bits)
    unpacked = unpack_words(packed.tobytes(), bits, x.size, dtype)
    assert unpacked.dtype == dtype and (unpacked == x & dtype(2**bits - 1)).all()


@pytest.mark.parametrize("bits", [1, 8, 22, 38, 52, 63])
@pytest.mark.parametrize("threads", [1, 3])
def test_packing_is_the_same_with_and_without_numba_and_threads(bits, threads, monkeypatch):
    x = expand(np.empty(50_001, np.uint64), SEED, "x")
    before = get_threads()
    try:
        set_threads(threads)
        compiled = pack_words(x, bits)
        back = unpack_words(compiled, bits, x.size)
    finally:
        set_threads(before)
    monkeypatch.setenv("PRIMIA_KERNELS", "torch")
    assert (pack_words(x, bits) == compiled).all()
    assert (unpack_words(compiled, bits, x.size) == back).all()
    assert (back == x & np.uint64(2**bits - 1)).all()


def test_a_message_of_another_size_is_refused():
    with pytest.raises(KitError, match="10 words of 38 bits take 48 bytes, but 47 came"):
        unpack_words(bytes(47), 38, 10)
    with pytest.raises(KitError, match="don't fit uint32"):
        unpack_words(bytes(48), 38, 10, np.uint32)
    with pytest.raises(KitError, match="64 bits"):
        pack_words(np.zeros(3, np.uint64), 64)


def test_spread_covers_everything_once_also_inside_itself():
    before = get_threads()
    try:
        for threads in (1, 2, 5):
            set_threads(threads)
            seen = np.zeros(1000, int)

            def work(start, stop, seen=seen):
                def inner(a, b):
                    seen[start + a : start + b] += 1

                spread(inner, stop - start, 7)

            spread(work, seen.size, 64)
            assert (seen == 1).all()

            def fail(start, stop):
                raise ValueError(start)

            with pytest.raises(ValueError):
                spread(fail, 10)
    finally:
        set_threads(before)
    with pytest.raises(KitError):
        set_threads(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_threads_work_after_a_fork():
    code = """
import os, numpy as np
from primia_kit.mpc import pack_words
from primia_kit.mpc.threads import set_threads
set_threads(2)
x = np.arange(100_000, dtype=np.uint64)
expected = pack_words(x, 38)
child = os.fork()
same = (pack_words(x, 38) == expected).all()
if child == 0:
    os._exit(0 if same else 1)
assert same and os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_importing_the_part_imports_neither_numba_nor_torch():
    code = """
import sys
import primia_kit.mpc, primia_kit.mpc.kernels, primia_kit.mpc.comparison
print(sorted({"numba", "llvmlite", "torch", "cryptography"} & set(sys.modules)))
"""
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "[]"
