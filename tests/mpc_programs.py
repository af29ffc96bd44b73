"""Small programs, their meaning in clear integers, and whole inferences in one process."""

from __future__ import annotations

import secrets
import threading

import numpy as np
import torch
from torch.nn import functional as F

from primia_kit.mpc import (
    DataOwner,
    ModelOwner,
    Op,
    OutsourcedProvider,
    Program,
    Provider,
    Ring,
    Server,
    delta,
    local_channels,
    open_answer,
    share_images,
    share_model,
    weight_shapes,
)
from primia_kit.mpc.program import LINEAR


class Builder:
    """Operations one after the other; each method returns the new value's name."""

    def __init__(self, shape, fraction_bits=8, bits=38):
        self.bits = bits
        self.ops = {"input": Op("input", "input", (), tuple(shape), fraction_bits, {})}

    def add(self, kind, inputs, shape, fraction_bits, **attributes):
        inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        name = f"{kind}{len(self.ops)}"
        self.ops[name] = Op(name, kind, inputs, tuple(int(n) for n in shape), fraction_bits, attributes)
        return name

    def conv(self, x, outputs, kernel=3, stride=1, padding=None, groups=1, weight_bits=8, transposed=False, dilation=1, extra=0):
        source, padding = self.ops[x], kernel // 2 if padding is None else padding
        height, width, _ = source.shape
        at = dict(kernel=[kernel] * 2, stride=[stride] * 2, padding=[padding] * 2, dilation=[dilation] * 2, groups=groups)
        at["weight_bits"] = weight_bits
        reach = dilation * (kernel - 1) + 1
        if transposed:
            at["output_padding"] = [extra] * 2
            sizes = [(n - 1) * stride + reach - 2 * padding + extra for n in (height, width)]
        else:
            sizes = [(n + 2 * padding - reach) // stride + 1 for n in (height, width)]
        kind = "conv_transposed" if transposed else "conv"
        return self.add(kind, x, (*sizes, outputs), source.fraction_bits + weight_bits, **at)

    def same(self, kind, x, **attributes):
        source = self.ops[x]
        fraction = source.fraction_bits - attributes.get("shift", 0) + attributes.get("bits", 0)
        return self.add(kind, x, source.shape, fraction, **attributes)

    def pool(self, kind, x, kernel, stride, padding=0):
        source = self.ops[x]
        sizes = [(n + 2 * padding - kernel) // stride + 1 for n in source.shape[:2]]
        at = dict(kernel=[kernel] * 2, stride=[stride] * 2, padding=[padding] * 2)
        return self.add(kind, x, (*sizes, source.shape[2]), source.fraction_bits, **at)

    def join(self, kind, xs, shifts=None):
        sources, shifts = [self.ops[x] for x in xs], shifts or [0] * len(xs)
        height, width, channels = sources[0].shape
        channels = channels if kind == "add" else sum(source.shape[2] for source in sources)
        return self.add(kind, xs, (height, width, channels), sources[0].fraction_bits + shifts[0], shifts=shifts)

    def program(self, x, reveal="logits") -> Program:
        self.add("output", x, self.ops[x].shape, self.ops[x].fraction_bits, reveal=reveal)
        return Program(self.bits, tuple(self.ops.values()))


def words(shape, low=-(1 << 10), high=1 << 10, seed=0, bits=38):
    return Ring(bits).reduce(np.random.default_rng(seed).integers(low, high, shape).view(np.uint64))


def resnet(side, widths=(64, 128, 256, 512), blocks=2, bits=38, fraction=13, weight_bits=11, classes=3) -> Program:
    """As ResNet-18 after folding: relu and max-pool change places, shortcuts are added before truncation."""
    b, w = Builder((side, side, 1), fraction, bits), weight_bits
    x = b.same("truncate", b.conv("input", widths[0], 7, 2, weight_bits=w), shift=w)
    x = b.same("mask", b.same("relu", b.pool("max_pool", x, 3, 2, 1), shift=0))
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = b.same("mask", b.same("relu", b.conv(x, width, 3, stride, weight_bits=w), shift=w))
            y = b.conv(y, width, 3, weight_bits=w)
            shortcut = b.conv(x, width, 1, stride, weight_bits=w) if stride == 2 else x
            x = b.same("relu", b.join("add", [y, shortcut], [0, w * (stride == 1)]), shift=w)
            if (stage, block) != (len(widths) - 1, blocks - 1):
                x = b.same("mask", x)
    area = b.ops[x].shape[0] ** 2
    x = b.same("multiply", b.pool("sum_pool", x, b.ops[x].shape[0], 1), factor=round(2**10 / area), bits=10)
    x = b.same("mask", b.same("truncate", x, shift=10))
    return b.program(b.conv(x, classes, 1, weight_bits=w))


def scaled_weights(program: Program, seed=0, weight_bits=11):
    """Weights that keep values about as large as they are, as a trained network's."""
    rng, values = np.random.default_rng(seed), {op.name: op for op in program.ops}
    weights = {}
    for name, shape in weight_shapes(program).items():
        w = rng.normal(0, (1.2 / np.prod(shape[1:])) ** 0.5, shape) * 2**weight_bits
        weights[name] = np.rint(w).astype(np.int64), np.zeros(values[name].shape[2], np.int64)
    return weights


def random_weights(program: Program, seed=0, size=1 << 7, extreme=0):
    """Short weights below `size`, and small biases; or all of them the largest there are."""
    rng, values, weights = np.random.default_rng(seed), {op.name: op for op in program.ops}, {}
    for name, shape in weight_shapes(program).items():
        w = rng.integers(-size, size, shape) if not extreme else np.full(shape, extreme * (2**15 - 1))
        weights[name] = w, rng.integers(-(1 << 12), 1 << 12, values[name].shape[2])
    return weights


def clear(op: Op, inputs, weights, bits: int, up=0) -> np.ndarray:
    """What an operation means for signed integers [N, H, W, C]; `up`: what is added after dropping bits."""
    x, at = inputs[0], op.attributes
    image = torch.from_numpy(x).permute(0, 3, 1, 2)
    if op.kind in ("conv", "conv_transposed"):
        w, bias = (torch.from_numpy(array) for array in weights[op.name])
        options = dict(stride=at["stride"], padding=at["padding"], dilation=at["dilation"], groups=at["groups"])
        if op.kind == "conv":
            y = F.conv2d(image, w, bias, **options)
        else:
            y = F.conv_transpose2d(image.double(), w.double(), bias.double(), output_padding=at["output_padding"], **options)
        y = y.round().long().permute(0, 2, 3, 1).numpy() if op.kind != "conv" else y.permute(0, 2, 3, 1).numpy()
    elif op.kind == "max_pool":
        y = F.max_pool2d(image.double(), at["kernel"], at["stride"], at["padding"]).long().permute(0, 2, 3, 1).numpy()
    elif op.kind in ("truncate", "relu", "relu6"):
        y = (x >> at["shift"]) + up
        if op.kind != "truncate":
            y = np.clip(y, 0, 6 << op.fraction_bits if op.kind == "relu6" else None)
    elif op.kind in LINEAR:
        y = clear_linear(op, inputs)
    else:
        y = x
    return Ring(bits).signed(np.ascontiguousarray(y).view(np.uint64))


def clear_linear(op: Op, inputs) -> np.ndarray:
    """By other means than `linear`: torch, einsum, loops."""
    x, at = inputs[0], op.attributes
    if op.kind == "sum_pool":
        image, area = torch.from_numpy(x).permute(0, 3, 1, 2).double(), at["kernel"][0] * at["kernel"][1]
        y = F.avg_pool2d(image, at["kernel"], at["stride"], at["padding"]) * area
        return y.round().long().permute(0, 2, 3, 1).numpy()
    if op.kind == "multiply":
        return x * at["factor"]
    if op.kind == "add":
        return sum(value * 2**shift for value, shift in zip(inputs, at["shifts"]))
    if op.kind == "concat":
        return np.dstack([(value * 2**shift).transpose(1, 2, 3, 0) for value, shift in zip(inputs, at["shifts"])]).transpose(
            3, 0, 1, 2
        )
    if op.kind == "reshape":
        return np.stack([image.ravel().reshape(op.shape) for image in x])
    if op.kind == "upsample_nearest":
        image = torch.from_numpy(x).permute(0, 3, 1, 2).double()
        return F.interpolate(image, scale_factor=at["scale"]).long().permute(0, 2, 3, 1).numpy()
    return np.einsum("oh,nhwc,pw->nopc", np.array(at["rows"]), x, np.array(at["columns"]))


class Recorder:
    """A channel that keeps what was sent."""

    def __init__(self, channel):
        self._channel, self.messages = channel, []

    def send(self, *buffers):
        self.messages.append(b"".join(memoryview(buffer).cast("B") for buffer in buffers))
        self._channel.send(*buffers)

    def __getattr__(self, name):
        return getattr(self._channel, name)


class Parties:
    """Provider, data owner and model owner of one model; `infer` runs the two in two threads."""

    def __init__(self, program: Program, weights):
        mask_seed = secrets.token_bytes(32)
        self.program = program
        self.provider = Provider(program, mask_seed)
        self.data = DataOwner(program, delta(program, weights, mask_seed))
        self.model = ModelOwner(program, weights)

    def prepare(self, batch=1, seeds=None):
        seeds = seeds or (secrets.token_bytes(32), secrets.token_bytes(32))
        dealt = self.provider.deal(*seeds, batch)
        return self.data.prepare(seeds[0], batch), self.model.prepare(seeds[1], dealt, batch)

    def values(self, images, prepared=None):
        """Every value of an inference but the output, in signed integers, put together from both parties' views."""
        shares, ring = {}, Ring(self.program.bits)

        def keep(op, seconds, sent, received, view):
            shares.setdefault(op.name, []).append(view.share.copy())

        answer = self.infer(images, prepared, (keep, keep))
        return {name: ring.signed(one + other) for name, (one, other) in shares.items()}, answer

    def infer(self, images, prepared=None, on_op=(None, None), channels=None):
        ours, theirs = prepared or self.prepare(len(images))
        one, other = channels or local_channels()
        answer, nothing = side_by_side(
            lambda: self.data.infer(ours, images, one, on_op[0]), lambda: self.model.infer(theirs, other, on_op[1])
        )
        assert nothing is None
        return answer


class OutsourcedParties(Parties):
    """Provider and two servers, `data` and `model` of the other mode; the data owner is what `infer` does around them."""

    def __init__(self, program: Program, weights):
        mask_seed = secrets.token_bytes(32)
        self.program = program
        self.provider = OutsourcedProvider(program, mask_seed)
        self.data, self.model = (Server(program, i, share) for i, share in enumerate(share_model(program, weights, mask_seed)))

    def prepare(self, batch=1, seeds=None):
        seeds = seeds or (secrets.token_bytes(32), secrets.token_bytes(32))
        dealt = self.provider.deal(*seeds, batch)
        return self.data.prepare(seeds[0], batch), self.model.prepare(seeds[1], batch, dealt)

    def infer(self, images, prepared=None, on_op=(None, None), channels=None):
        return open_answer(self.program, self.shares(images, prepared, on_op, channels))

    def shares(self, images, prepared=None, on_op=(None, None), channels=None):
        """The servers' shares of the answer."""
        both = zip(
            (self.data, self.model),
            prepared or self.prepare(len(images)),
            share_images(images, self.program.bits),
            channels or local_channels(),
            on_op,
            strict=True,
        )
        return side_by_side(*(lambda server=server, rest=rest: server.infer(*rest) for server, *rest in both))


def side_by_side(first, second):
    """What both return, in two threads; of two failures the one that isn't waiting for the other."""
    results, failures = [], []

    def serve():
        try:
            results.append(second())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        found = first()
    except BaseException as error:
        thread.join(30)
        waited = "said nothing" in str(error) and failures  # the cause is with the other party
        raise (failures[0] if waited else error) from error
    thread.join(30)
    if failures:
        raise failures[0]
    return found, results[0]
