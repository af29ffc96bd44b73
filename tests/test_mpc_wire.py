"""One pass over a piece gives the words of one step after the other."""

import numpy as np
import pytest

from primia_kit.mpc import Ring, expand, pack_words, wire
from primia_kit.mpc.comparison import WINDOW, CompareTuples, mask_digits, mask_sign, mask_value, open_value
from primia_kit.mpc.talk import pack
from primia_kit.mpc.threads import get_threads, set_threads


def packed(words, bits):
    return np.frombuffer(pack(words, bits).tobytes(), np.uint64)  # read-only, as what has arrived may be


@pytest.fixture(params=["numba", "numpy"])
def loops(request, monkeypatch):
    monkeypatch.setenv("PRIMIA_KERNELS", "torch" if request.param == "numpy" else "auto")


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("n", [1, 63, 64, 1025, 20_001])
def test_steps_in_one_pass(n, threads, loops):
    before = get_threads()
    try:
        set_threads(threads)
        tuples = CompareTuples.expand(n, 38, bytes(32), "x")
        z = expand(np.empty(n, np.uint64), bytes(32), "z")
        other = expand(np.empty(n, np.uint32), bytes(32), "c") & np.uint32((1 << WINDOW) - 1)
        other_p = expand(np.empty(n, np.uint8), bytes(32), "p")
        for party in (0, 1):
            own = mask_value(z, tuples, 11, party)
            c = open_value(own, other)
            p = mask_digits(c, tuples, party)
            t = mask_sign(p ^ other_p, c, tuples, party)
            opened = np.empty(n, np.uint32)
            said, digits = wire.lead(packed(other, WINDOW), z, 11, tuples, party, opened)
            assert said.tobytes() == pack(own, WINDOW).tobytes() and (digits == p).all() and (opened == c).all()
            opened[:] = 0
            digits, sign = wire.follow(packed(other, WINDOW), other_p, own, tuples, party, opened)
            assert (digits == p).all() and (sign == t).all() and (opened == c).all()
        x = np.empty(n, np.uint64)
        wire.unmask(packed(z, 38), 38, other.astype(np.uint64), x)
        assert (x == Ring(38).reduce(z) + other).all()
    finally:
        set_threads(before)


@pytest.mark.parametrize("bits, dtype", [(1, np.uint8), (8, np.uint8), (22, np.uint32), (38, np.uint64)])
@pytest.mark.parametrize("n", [1, 7, 8, 64, 101])
def test_fields_are_packed_words_filled_up_with_zeros(n, bits, dtype):
    words = expand(np.empty(n, dtype), bytes(32), "words")  # with bits above the width
    body = pack(words, bits).tobytes()
    plain = pack_words(words, bits).tobytes()
    assert body[: len(plain)] == plain and not any(body[len(plain) :])
