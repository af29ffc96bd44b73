"""Whole inferences: every value, put together from both parties' shares, is what the operation means for integers."""

import hashlib
import re
import secrets
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia_kit.errors import KitError
from primia_kit.mpc import Dialogue, Ring, dialogue, local_channels
from primia_kit.mpc.program import REVEALS
from primia_kit.mpc.threads import get_threads, set_threads

from .mpc_programs import Builder, Parties, clear, random_weights, resnet, scaled_weights, words

WINDOW = 1 << 20


@pytest.fixture(params=["numba", "numpy"])
def loops(request, monkeypatch):
    monkeypatch.setenv("PRIMIA_KERNELS", "torch" if request.param == "numpy" else "auto")


@pytest.fixture
def small_pieces(monkeypatch):
    """Many pieces in a small program."""
    monkeypatch.setattr(dialogue, "PIECE", 64)


def check(program, images, weights=None, parties=None):
    """Run an inference and compare every value with its inputs; returns all values and the answer."""
    weights = random_weights(program) if weights is None else weights
    values, answer = (parties or Parties(program, weights)).values(images)
    assert (values["input"] == Ring(program.bits).signed(images)).all()
    for op in program.ops[1:-1]:
        inputs, got = [values[name] for name in op.inputs], values[op.name]
        expected = clear(op, inputs, weights, program.bits)
        if op.attributes.get("shift"):
            more = clear(op, inputs, weights, program.bits, up=1)
            assert ((got == expected) | (got == more)).all(), op
        else:
            assert got.shape == expected.shape and (got == expected).all(), op
    output, last = program.ops[-1], values[program.ops[-1].inputs[0]]
    real = np.ldexp(last.astype(float), -output.fraction_bits)
    if output.attributes["reveal"] == "logits":
        assert (answer == real).all()
    elif output.attributes["reveal"] == "label":
        assert (answer == last.argmax(-1)[..., None]).all()
    else:
        powers = np.exp(real - real.max(-1, keepdims=True))
        np.testing.assert_allclose(answer, powers / powers.sum(-1, keepdims=True), rtol=1e-12)
    return values, answer


def every_kind():
    """One program with all kinds of operations, masked and merely shared."""
    b = Builder((12, 10, 2))
    x = b.conv("input", 6, stride=2)
    x = b.same("truncate", x, shift=8)
    x = b.pool("max_pool", x, 3, 2, 1)
    x = b.same("mask", b.same("relu", x, shift=0))
    y = b.same("mask", b.same("relu6", b.conv(x, 6), shift=8))
    y = b.conv(y, 6, groups=6)
    y = b.same("relu", b.join("add", [y, x], [0, 8]), shift=8)
    y = b.join("concat", [y, x], [0, 0])
    y = b.add("upsample_nearest", y, (6, 6, 12), 8, scale=[2, 2])
    y = b.same("mask", y)
    y = b.same("relu", b.conv(y, 4, 2, 2, 0, transposed=True), shift=8)
    rows = [[3, 1] + [0] * 10, [0] * 11 + [4]]
    y = b.add("upsample_linear", y, (2, 2, 4), 12, rows=rows, columns=rows, bits=4)
    y = b.same("truncate", b.same("multiply", y, factor=-3, bits=2), shift=6)
    y = b.pool("sum_pool", y, 3, 2, 1)
    y = b.add("reshape", y, (1, 1, 4), 8)
    return b, b.same("truncate", b.conv(b.same("mask", y), 3, 1), shift=8)


@pytest.mark.parametrize("reveal", REVEALS)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_kind_of_operation(reveal, batch, loops):
    b, x = every_kind()
    check(b.program(x, reveal), words((batch, 12, 10, 2)))


def test_a_residual_network():
    program = resnet(48, (16, 24, 32))
    weights, images = scaled_weights(program), words((2, 48, 48, 1), 0, 1 << 13)
    _, answer = check(program, images, weights)
    values = {"input": Ring(38).signed(images)}
    for op in program.ops[1:]:
        values[op.name] = clear(op, [values[name] for name in op.inputs], weights, 38)
        if op.kind in ("relu", "truncate"):
            assert np.abs(values[op.name]).max() < 1 << 19, "these weights leave the window"
    exact = np.ldexp(values[program.ops[-1].name].astype(float), -program.ops[-1].fraction_bits)
    assert np.abs(answer - exact).max() < 1e-3 < np.abs(exact).max()


def test_pieces_fit_together(small_pieces):
    b, x = every_kind()
    program = b.program(x, "label")
    assert any(len(list(dialogue.pieces(op.size))) > 2 for op in program.ops)
    for batch in (1, 2):
        check(program, words((batch, 12, 10, 2)))


def test_threads_change_nothing():
    before = get_threads()
    try:
        set_threads(3)
        b, x = every_kind()
        check(b.program(x), words((2, 12, 10, 2)))
    finally:
        set_threads(before)


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_any_program(data):
    check(*any_program(data.draw))


def any_program(draw):
    """A few random operations one after the other, some with a shortcut; images; weights."""
    bits = draw(st.integers(34, 52))
    b = Builder((draw(st.integers(3, 7)), draw(st.integers(3, 7)), draw(st.integers(1, 3))), 6, bits)
    x = "input"
    for _ in range(draw(st.integers(1, 4))):
        channels = b.ops[x].shape[2]
        kind = draw(st.sampled_from(["conv", "conv", "transposed", "grouped"]))
        options = dict(stride=draw(st.integers(1, 2)), weight_bits=6)
        if kind == "transposed":
            y = b.conv(x, draw(st.integers(1, 4)), 2, padding=0, transposed=True, **options)
        elif kind == "grouped":
            y = b.conv(x, channels, 3, groups=channels, **options)
        else:
            y = b.conv(x, draw(st.integers(1, 4)), draw(st.sampled_from([1, 3])), dilation=1, **options)
        if b.ops[y].shape == b.ops[x].shape and draw(st.booleans()):
            y = b.join("add", [y, x], [0, 6])
        y = b.same(draw(st.sampled_from(["relu", "relu6", "truncate"])), y, shift=6)
        if min(b.ops[y].shape[:2]) > 3 and draw(st.booleans()):
            kernel = draw(st.integers(2, 4))
            y = b.pool("max_pool", y, kernel, draw(st.integers(1, 3)), draw(st.integers(0, kernel // 2)))
        x = b.same("mask", y)
    program = b.program(x, draw(st.sampled_from(REVEALS)))
    seed, size = draw(st.integers(0, 99)), draw(st.sampled_from([2, 16]))
    images = words((draw(st.integers(1, 2)), *b.ops["input"].shape), -100, 100, seed, bits)
    return program, images, random_weights(program, seed, size)


@pytest.mark.parametrize(
    "kind, low, high", [("truncate", -WINDOW, WINDOW - 1), ("relu", -WINDOW, WINDOW - 1), ("relu6", 1536 - WINDOW, WINDOW - 1)]
)
@pytest.mark.parametrize("shift", [0, 8])
def test_the_edges_of_the_window(kind, low, high, shift):
    b = Builder((40, 40, 1), 8 + shift)
    program = b.program(b.same(kind, "input", shift=shift))
    last = 1 if shift else 0  # a truncated value may be one more
    images = words((1, 40, 40, 1), (high - 3 - last) << shift, ((high - last) << shift) + 1)
    images[:, ::2] = words((1, 20, 40, 1), low << shift, (low + 3) << shift, 1)
    check(program, images)


def test_max_pool_of_the_largest_values_and_of_nothing_but_padding_around():
    b = Builder((5, 7, 2))
    for kernel, stride, padding in ((2, 2, 1), (3, 1, 1), (4, 3, 2), (5, 2, 2)):
        c = Builder((5, 7, 2))
        program = c.program(c.pool("max_pool", "input", kernel, stride, padding))
        images = words((2, 5, 7, 2), -(1 << 19), (1 << 19), kernel)
        images[0] = (-(1 << 19)) % (1 << 38)
        images[1, ::2] = (1 << 19) - 1
        check(program, images)
    assert b.ops["input"].fraction_bits == 8


@pytest.mark.parametrize("channels", [1, 2, 3, 10])
def test_the_label_is_the_lowest_of_the_largest_channels(channels, loops):
    b = Builder((6, 6, channels))
    program = b.program("input", "label")
    images = words((2, 6, 6, channels), -2, 2)  # many ties
    images[1, 0] = np.random.default_rng(1).choice([(1 << 19) - 1, (1 << 38) - (1 << 19)], (6, channels)).astype(np.uint64)
    _, answer = check(program, images)
    assert answer.dtype == np.int64 and answer.shape == (2, 6, 6, 1)


def test_extreme_weights():
    b = Builder((6, 6, 3), 4, 52)
    x = b.conv("input", 8, weight_bits=12)
    program = b.program(b.conv(b.same("mask", b.same("relu", x, shift=12)), 2, weight_bits=12))
    for extreme in (1, -1):
        check(program, words((1, 6, 6, 3), -16, 16, bits=52), random_weights(program, extreme=extreme))


def test_messages_are_those_of_the_dialogue():
    b, x = every_kind()
    program = b.program(x, "label")
    parties, channels = Parties(program, random_weights(program)), local_channels()
    seen = [[], []]

    def keep(which):
        return lambda op, seconds, sent, received, view: seen[which].append((op, seconds, sent, received, view.opened))

    parties.infer(words((2, 12, 10, 2)), channels=channels, on_op=(keep(0), keep(1)))
    talk = parties.data.dialogue(2)
    for party, channel in enumerate(channels):
        assert channel.sent_bytes == sum(talk.messages[party]) == channels[1 - party].received_bytes
        assert channel.sent_messages == len(talk.messages[party])
        assert [op for op, *_ in seen[party]] == list(program.ops)
        assert sum(sent for _, _, sent, _, _ in seen[party]) == channel.sent_bytes
        assert all(seconds >= 0 for _, seconds, *_ in seen[party])
    for (op, *_, ours), (_, *_, theirs) in zip(*seen):  # both open the same masked values
        assert len(ours) == len(theirs) and all((a == b).all() for a, b in zip(ours, theirs)), op
    assert talk.exchanges == sum(map(len, talk.messages))  # small enough for one message a flight


def test_a_layer_costs_four_flights_and_a_pool_three_a_comparison():
    def flights(*ops):
        b, x = Builder((8, 8, 1)), "input"
        for kind in ops:
            if kind == "conv":
                x = b.conv(x, 1)
            elif kind == "max_pool":
                x = b.pool("max_pool", x, 3, 2, 1)
            else:
                x = b.same(kind, x, **({} if kind == "mask" else {"shift": 8 if b.ops[x].fraction_bits > 8 else 0}))
        return Dialogue(b.program(x), 1).exchanges

    one = flights("conv")
    assert one == 2  # the image, the answer
    assert flights("conv", "relu", "mask", "conv") == one + 4
    assert flights("conv", "relu", "mask", "conv", "relu", "mask", "conv") == one + 8
    assert flights("conv", "truncate", "max_pool", "relu", "mask", "conv") == one + 1 + 3 * 4 + 3


def test_a_preparation_serves_once_and_rooms_serve_again():
    b = Builder((8, 8, 1))
    program = b.program(b.same("relu", b.conv("input", 4), shift=8))
    parties = Parties(program, random_weights(program))
    images = words((1, 8, 8, 1))
    for _ in range(3):
        ours, theirs = parties.prepare()
        check(program, images, parties=parties)
        parties.infer(images, (ours, theirs))
    with pytest.raises(KitError, match="has served an inference"):
        parties.data.infer(ours, images, local_channels()[0])
    with pytest.raises(KitError, match="has served an inference"):
        parties.model.infer(theirs, local_channels()[0])
    assert len(parties.data._spare) == len(parties.model._spare) == 2  # two were prepared at a time, and no more
    for batch in (3, 1, 2):
        check(program, words((batch, 8, 8, 1)), parties=parties)


def test_the_same_seeds_give_the_same_shares():
    b, x = every_kind()
    program = b.program(x)
    parties, seeds = Parties(program, random_weights(program)), (secrets.token_bytes(32), secrets.token_bytes(32))
    out = np.zeros(parties.provider.size(), np.uint8)
    dealt = parties.provider.deal(*seeds, out=out)
    assert dealt is out and (parties.provider.deal(*seeds) == out).all()
    assert (parties.provider.deal(secrets.token_bytes(32), seeds[1]) != out).mean() > 0.9


def test_on_op_can_stop_an_inference():
    b, x = every_kind()
    program = b.program(x)
    parties = Parties(program, random_weights(program))

    def stop(op, *_):
        if op.kind == "max_pool":
            raise KeyboardInterrupt

    ours, theirs = parties.prepare()
    one, other = local_channels(0.2)
    with pytest.raises(KeyboardInterrupt):  # the model owner waits in vain, but not for ever
        parties.infer(words((1, 12, 10, 2)), (ours, theirs), (stop, None), (one, other))
    with pytest.raises(KitError, match="has served"):
        parties.data.infer(ours, words((1, 12, 10, 2)), one)


def test_compiled_loops_that_call_others_are_compiled_anew_with_them():
    root = Path(dialogue.__file__).parent
    called = b"".join((root / part / "in_numba.py").read_bytes() for part in ("comparison", "packing"))
    digest = hashlib.sha256(called).hexdigest()[:16]
    found = re.search('CALLS = "(.*)"', (root / "wire" / "in_numba.py").read_text()).group(1)
    assert found == digest, f'write CALLS = "{digest}" to wire/in_numba.py: numba would go on using the loops as they were'
