"""Both parties and the provider in one process, over the kernels of the comparison."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia_kit.errors import KitError
from primia_kit.mpc import Ring, expand, pack_words, unpack_words
from primia_kit.mpc.comparison import (
    WINDOW,
    CompareTuples,
    LiftTuples,
    lift,
    mask_digits,
    mask_sign,
    mask_value,
    open_value,
    relu,
    tables,
)

SEEDS = bytes(32), bytes(range(32))
LIMIT = 1 << 20


def sent(words, bits):
    """What arrives at the other party: only the declared bits."""
    return unpack_words(pack_words(words, bits).tobytes(), bits, words.size, words.dtype)


def shared(z, bits, seed=bytes(31) + b"s"):
    """Shares of signed integers modulo 2^bits, with rubbish above, as a kernel that doesn't reduce would leave it."""
    z0 = expand(np.empty(z.size, np.uint64), seed, "share")
    return z0, z.view(np.uint64) - z0 + (z0 << np.uint64(bits) if bits < 64 else np.uint64(0))


def truncated(z0, z1, shift):
    """v: what truncating shares gives, floor(z / 2^shift) or one more."""
    v = (z0 >> np.uint64(shift)) + (z1 >> np.uint64(shift)) + np.uint64(shift > 0)
    return Ring(WINDOW).signed(v)


def run(z0, z1, shift, bits, purpose, kind=CompareTuples):
    """Signed results of the protocol, and all that was opened."""
    n = z0.size
    dealt = kind.deal(n, bits, *SEEDS, *purpose)
    assert dealt.size == kind.packed_size(n, bits)
    parties = (kind.expand(n, bits, SEEDS[0], *purpose), kind.unpack(dealt.tobytes(), n, bits, SEEDS[1], *purpose))
    c = open_value(*(sent(mask_value(z, own, shift, i), WINDOW) for i, (z, own) in enumerate(zip((z0, z1), parties))))
    if kind is LiftTuples:
        results = [lift(c, own, i) for i, own in enumerate(parties)]
        opened = (c,)
    else:
        p = np.bitwise_xor(*(sent(mask_digits(c, own, i), 8) for i, own in enumerate(parties)))
        t = np.bitwise_xor(*(sent(mask_sign(p, c, own, i), 1) for i, own in enumerate(parties)))
        results = [relu(t, c, own, i) for i, own in enumerate(parties)]
        opened = c, p, t
    assert all((result <= Ring(bits).mask).all() for result in results)  # a wire may be sent as it is
    return Ring(bits).signed(results[0] + results[1]), opened


@pytest.fixture(params=["numba", "numpy"])
def loops(request, monkeypatch):
    monkeypatch.setenv("PRIMIA_KERNELS", "torch" if request.param == "numpy" else "auto")


def test_every_value_of_the_window_without_truncation():
    z = np.arange(-LIMIT, LIMIT, dtype=np.int64)
    for number in range(2):
        got, _ = run(*shared(z, WINDOW), 0, 38, ("all", number))
        assert (got == np.maximum(z, 0)).all()


@pytest.mark.parametrize("bits, shift", [(38, 16), (32, 10), (52, 13), (23, 1)])
def test_every_value_of_the_window_with_truncation(bits, shift):
    """One z for each v, at random places between two multiples of 2^shift."""
    within = expand(np.empty(2 * LIMIT - 2, np.uint64), bytes(32), "low", shift).view(np.int64) & ((1 << shift) - 1)
    z = (np.arange(-LIMIT, LIMIT - 2, dtype=np.int64) << shift) + within
    z0, z1 = shared(z, WINDOW + shift)
    v = truncated(z0, z1, shift)
    assert set(np.unique(v - (z >> shift))) == {0, 1} and abs((v - z / 2**shift).mean() - 2.0**-shift) < 0.01
    got, _ = run(z0, z1, shift, bits, ("truncated", bits))
    assert (got == np.maximum(v, 0)).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(23, 52), st.integers(0, 30), st.lists(st.integers(-LIMIT, LIMIT - 2), min_size=1, max_size=70), st.integers())
def test_any_masks_rings_and_shifts(bits, shift, values, purpose):
    z = np.array(values, np.int64) << shift
    z0, z1 = shared(z, WINDOW + shift)
    v = truncated(z0, z1, shift)
    for kind, expected in ((CompareTuples, np.maximum(v, 0)), (LiftTuples, v)):
        got, _ = run(z0, z1, shift, bits, (purpose,), kind)
        assert (got == expected).all() and (np.abs(v - values) <= 1).all()


def test_numpy_gives_the_same_words(monkeypatch):
    z = np.arange(-LIMIT, LIMIT, 301, dtype=np.int64)
    z0, z1 = shared(z << 16, 38)
    results = []
    for way in ("auto", "torch"):
        monkeypatch.setenv("PRIMIA_KERNELS", way)
        words = []
        for kind in (LiftTuples, CompareTuples):
            result, opened = run(z0, z1, 16, 38, ("x",), kind)
            words += [kind.deal(z.size, 38, *SEEDS, "x"), result, *opened]
        results.append(words)
    assert all((a == b).all() for a, b in zip(*results))


def test_the_largest_of_two_by_their_difference(loops):
    rng = np.random.default_rng(3)
    a, b = rng.integers(-LIMIT // 2, LIMIT // 2, (2, 5000))
    (a0, a1), (b0, b1) = shared(a, 38), shared(b, 38, bytes(31) + b"t")
    got, _ = run(a0 - b0, a1 - b1, 0, 38, ("max",))
    assert (b + got == np.maximum(a, b)).all()


def test_a_borrow_for_every_pattern_of_digits():
    """The polynomial and its tables against the comparison that they stand for, for all masks."""
    for q in range(256):
        known = sum(1 << place for subset, place in tables.PLACE.items() if all(q >> bit & 1 for bit in subset))
        assert known & 255 == q and known >> 8 == tables.PRODUCTS[q]
        for value in range(256):
            if value >> 1 & value >> 4 & 7:  # no digit is both equal (bits 1 to 3) and less (4 to 6)
                continue
            e4, e3, e2, e1, l3, l2, l1, l0 = (value >> bit & 1 for bit in range(8))
            expected = e4 & (l3 | e3 & (l2 | e2 & (l1 | e1 & l0)))
            opened = value ^ q
            got = bin(known & int(tables.SELECT[opened])).count("1") + int(tables.CONSTANT[opened])
            assert got & 1 == expected


def test_what_is_opened_does_not_depend_on_the_values():
    """Every opened word is uniform: means of each bit lie within six standard deviations, for extreme values too."""
    n = 40_000
    for number, value in enumerate((-LIMIT, -1, 0, 1, LIMIT - 2)):
        z = np.full(n, value << 10, np.int64)
        _, opened = run(*shared(z, 32), 10, 38, ("uniform", number))
        for words, bits in zip(opened, (WINDOW, 8, 1)):
            for bit in range(bits):
                assert abs((words >> bit & 1).mean() - 0.5) < 3 / n**0.5
            assert (words < 1 << bits).all()


@pytest.mark.parametrize("bits, size", [(38, 30), (52, 39), (23, 21)])
def test_a_comparison_is_dealt_in_few_bytes(bits, size):
    n = 100_000
    assert CompareTuples.packed_size(n, bits) <= n * size
    assert LiftTuples.packed_size(n, bits) <= n * (bits - WINDOW) * 2 / 8 + 16


def test_party_0_is_dealt_nothing_and_both_differ():
    zero = CompareTuples.expand(1000, 38, SEEDS[0], 1)
    one = CompareTuples.unpack(CompareTuples.deal(1000, 38, *SEEDS, 1), 1000, 38, SEEDS[1], 1)
    r = (zero.masks + one.masks) & (1 << WINDOW) - 1
    s = (zero.masks ^ one.masks) >> 30 & 1
    kept = Ring(38)
    assert (kept.reduce(zero.s + one.s) == s).all() and (kept.reduce(zero.rs + one.rs) == r * np.uint64(1) * s).all()
    assert ((zero.top + one.top) % (1 << 16) == r >> 21).all() and ((zero.top_s + one.top_s) % (1 << 16) == (r >> 21 & s)).all()
    for i in range(4):
        code = (zero.digits ^ one.digits) >> np.uint64(15 * i) & np.uint64(0x7FFF)
        assert (code == (1 << (r >> 4 * i & 15).astype(np.uint64)) - 1).all()


def test_room_is_reused_and_sizes_are_checked():
    n = 1000
    dealt = CompareTuples.deal(n, 38, *SEEDS, 1)
    room = np.zeros(CompareTuples.room_size(n, 38) + 64, np.uint8)
    for own in (CompareTuples.expand(n, 38, SEEDS[0], 1, room=room), CompareTuples.unpack(dealt, n, 38, SEEDS[1], 1, room=room)):
        assert np.shares_memory(own.digits, room) and len(own) == n
    again = np.empty_like(dealt)
    assert CompareTuples.deal(n, 38, *SEEDS, 1, out=again) is again and (again == dealt).all()
    with pytest.raises(KitError, match="bytes, but"):
        CompareTuples.unpack(dealt[:-1], n, 38, SEEDS[1], 1)
    with pytest.raises(KitError, match="need room"):
        CompareTuples.expand(n, 38, SEEDS[0], 1, room=room[:100])
    with pytest.raises(KitError, match="23 to 52 bits"):
        CompareTuples.deal(n, 22, *SEEDS, 1)
    own = CompareTuples.expand(n, 38, SEEDS[0], 1)
    with pytest.raises(KitError, match="1000 tuples"):
        mask_value(np.zeros(999, np.uint64), own, 3, 0)
    with pytest.raises(KitError, match="shift by 43"):
        mask_value(np.zeros(n, np.uint64), own, 43, 0)


def test_pieces_that_are_dealt_apart_fit_together():
    """Counts around the provider's chunk, whatever the number of threads."""
    from primia_kit.mpc.comparison.tuples import _CHUNK
    from primia_kit.mpc.threads import get_threads, set_threads

    before = get_threads()
    try:
        for threads, n in product((1, 2), (1, 3, 65, _CHUNK - 1, 2 * _CHUNK + 5)):
            set_threads(threads)
            z = np.linspace(-LIMIT, LIMIT - 1, n).astype(np.int64)
            got, _ = run(*shared(z, WINDOW), 0, 30, ("pieces", n))
            assert (got == np.maximum(z, 0)).all()
    finally:
        set_threads(before)
