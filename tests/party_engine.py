"""An engine with the kit's interface and trivial arithmetic, so that the parties' tests are about messages alone.

Its linear layers multiply by one number; masks, shares, deltas and message sizes are real, so material that is lost, mixed
up or used with another seed gives a wrong answer.
"""

import time
from types import SimpleNamespace

import numpy as np

from primia_kit.mpc.evaluation import View
from primia_kit.mpc.program import Op, Program
from primia_kit.mpc.ring import Ring

_CONV = {"kernel": [1, 1], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1, "weight_bits": 4}
PROGRAM = Program(
    32,
    (
        Op("image", "input", (), (4, 4, 1), 8),
        Op("one", "conv", ("image",), (4, 4, 1), 12, _CONV),
        Op("mask", "mask", ("one",), (4, 4, 1), 12),
        Op("two", "conv", ("mask",), (4, 4, 1), 16, _CONV),
        Op("logits", "output", ("two",), (4, 4, 1), 16, {"reveal": "logits"}),
    ),
    ("a",),
)
WEIGHTS = {"one": (np.full((1, 1, 1, 1), 3), np.zeros(1)), "two": (np.full((1, 1, 1, 1), -2), np.zeros(1))}
RING = Ring(32)
OTHER = Program(33, PROGRAM.ops, PROGRAM.classes)


def expected(images: np.ndarray) -> np.ndarray:
    """Exact: the images' fixed point times 3 times -2."""
    return RING.signed(RING.encode(images, 8) * np.uint64((-6) % (1 << 32)))


def _convs(program):
    return [op for op in program.ops if op.kind == "conv"]


def _b(program, mask_seed):
    return {op.name: RING.random(1, mask_seed, "b", op.name)[0] for op in _convs(program)}


def _r(seed, batch, name):
    return RING.random((batch, 4, 4, 1), seed, "r", name)


def _c0(seed, batch, name):
    return RING.random((batch, 4, 4, 1), seed, "c", name)


def delta(program, weights, mask_seed):
    b = _b(program, mask_seed)
    return b"".join(((int(weights[n][0].item()) - int(b[n])) % (1 << 32)).to_bytes(8, "little") for n in b)


class Provider:
    def __init__(self, program, mask_seed):
        self.program, self.b = program, _b(program, mask_seed)

    def size(self, batch=1):
        return 8 * (2 + 2 * 16 * batch)

    def deal(self, data_seed, model_seed, batch=1, out=None):
        masks = {"one": "image", "two": "mask"}
        pad = RING.random(2, model_seed, "unused")  # the model owner checks that it was given its own seed
        dealt = [_r(data_seed, batch, masks[n]) * self.b[n] - _c0(data_seed, batch, n) for n in self.b]
        out.view(np.uint64)[:] = np.concatenate([pad, *[RING.reduce(d).ravel() for d in dealt]])
        return out


class DataOwner:
    def __init__(self, program, delta):
        self.program, self.delta = program, dict(zip([op.name for op in _convs(program)], np.frombuffer(delta, "<u8")))

    def dialogue(self, batch):
        return SimpleNamespace(messages=([128 * batch], [128 * batch]))

    def prepare(self, seed, batch):
        masks = {"one": "image", "two": "mask"}
        z0 = {n: RING.reduce(-(_r(seed, batch, masks[n]) * d + _c0(seed, batch, n))) for n, d in self.delta.items()}
        return seed, batch, z0

    def infer(self, prepared, images, channel, on_op=None):
        seed, batch, z0 = prepared
        out = None
        for op in self.program.ops:
            t, s, r = time.perf_counter(), channel.sent_bytes, channel.received_bytes
            view = z0.get(op.name, images)
            if op.kind == "input":
                channel.send(RING.reduce(images + _r(seed, batch, "image")))
            elif op.kind == "mask":
                channel.send(RING.reduce(z0["one"] + _r(seed, batch, "mask")))
            elif op.kind == "output":
                theirs = np.frombuffer(channel.receive(batch * 16 * 8), np.uint64).reshape(batch, 4, 4, 1)
                view = out = RING.signed(z0["two"] + theirs)
            if on_op:
                on_op(op, time.perf_counter() - t, channel.sent_bytes - s, channel.received_bytes - r, View(view, ()))
        return out


class ModelOwner:
    def __init__(self, program, weights):
        self.program = program
        self.weights = {n: np.uint64(int(w[0].item()) % (1 << 32)) for n, w in weights.items()}

    dialogue = DataOwner.dialogue

    def prepare(self, model_seed, dealt, batch):
        words = np.frombuffer(dealt, np.uint64)
        assert (words[:2] == RING.random(2, model_seed, "unused")).all()
        return batch, dict(zip(self.weights, words[2:].reshape(-1, batch, 4, 4, 1)))

    def infer(self, prepared, channel, on_op=None):
        batch, c1 = prepared
        z, e = None, None
        for op in self.program.ops:
            t, s, r = time.perf_counter(), channel.sent_bytes, channel.received_bytes
            if op.kind in ("input", "mask"):
                e = np.frombuffer(channel.receive(batch * 16 * 8), np.uint64).reshape(batch, 4, 4, 1).copy()
                e = e if op.kind == "input" else e + z
            elif op.kind == "conv":
                z = RING.reduce(e * self.weights[op.name] - c1[op.name])
            else:
                channel.send(z)
            if on_op:
                on_op(
                    op,
                    time.perf_counter() - t,
                    channel.sent_bytes - s,
                    channel.received_bytes - r,
                    View(e if z is None else z, ()),
                )
