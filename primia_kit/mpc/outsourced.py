"""The outsourced mode: two servers compute, and neither of them knows image, model or answer.

    model owner     knows W, shares it between the servers once, and isn't needed again
    servers 0, 1    compute with shares of everything
    data owner      shares its image between the servers, and alone opens the answer
    provider        deals to the servers as it does to data owner and model owner in the other mode

The program is the same, and so are comparisons; a masked value and a private layer are not. Of a masked value x both servers
know e = x - a, for a mask a = a_0 + a_1 of which each server knows its part and the provider the whole. In this order, all
modulo 2^k:

    1. Once for a model, `share_model`: W = W_0 + W_1 and bias = bias_0 + bias_1, W_0 and bias_0 uniform; b from a seed that
       the provider is given, and δ = W - b. Server i gets W_i, bias_i, δ.
    2. Before each image, from a fresh seed of each server: a_0 and h_0 are server 0's, a_1 server 1's. The provider deals to
       server 1  h_1 = conv(a_0 + a_1, b) - h_0  for every private layer, and its part of the tuples of comparisons.
       Server i computes  T_i = conv(a_i, δ) + h_i + bias_i.
    3. With the image, `share_images`: x = x_0 + x_1, x_0 uniform. Server i gets x_i.
    4. `input`, `mask`: of a value with shares x_i the servers exchange e_i = x_i - a_i, and add them: e = x - a. The shares
       stay as they are.
    5. Private layers, without a message:  z_i = conv(e, W_i) + T_i.  For
           z_0 + z_1 = conv(e, W) + conv(a, δ) + conv(a, b) + bias
                     = conv(x - a, W) + conv(a, W) + bias,                                      as δ + b = W,
                     = conv(x, W) + bias.
    6. Comparisons as in `comparison`, server 0 being party 0. Public linear operations: each server on its own shares, and
       both on e, if all of a value's inputs are masked.
    7. The answer: server 0 has drawn a seed for this inference and told it to server 1. Both expand u; y_0 + u and y_1 - u go
       to the data owner, who adds them, `open_answer`.

Every message is uniform to whoever gets it: e_i is masked by a_i, which only server i and the provider know and which serves
once; what is opened in comparisons, by masks of which each server has a part; x_i and (W_i, bias_i) are one of two shares,
δ is masked by b. Step 7 makes the two shares of an answer a fresh pair: without it each would be a function of weights'
shares and masks, and provider and data owner together could solve for the weights after enough answers. With it the data
owner sees y and a uniform word, whoever helps it.

Two of provider, server 0 and server 1 together have all: provider and a server W = δ + b and x = e + a, both servers
W_0 + W_1 and a_0 + a_1. Any other parties together have what each of them has. Nobody notices a party that deviates.

Sources: Turbospeedz (Ben-Efraim et al. 2019) and ABY2.0 (Patra et al. 2021) for values that are public but for a mask whose
shares are dealt; Beaver (1991) for products of masks.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..errors import KitError
from . import linear, wire
from .channel import Channel
from .data_owner import decode_answer
from .dealt import Dealt
from .dialogue import Dialogue, Field, pieces
from .evaluation import MaskingEvaluation, OnOp
from .expansion import SEED_BYTES
from .layers import Weights, checked, delta, expand_mask, expand_product, pack_arrays, pack_layer, unpack_arrays, weight_shapes
from .material import Material, Prepared
from .packing import packed_size
from .party import Party
from .program import LINEAR, PRIVATE, Op, Program
from .provider import Provider
from .ring import Ring
from .rooms import Rooms

# -- the model owner, once


def share_model(program: Program, weights: Weights, mask_seed: bytes) -> tuple[bytes, bytes]:
    """What servers 0 and 1 get of a model: δ, W_i, bias_i, k bits a word. Either of them alone is uniform.

    Args:
        mask_seed: 32 bytes that the model owner has drawn for this sharing, and gives to the provider alone. Draw another
            one whenever weights are shared again.

    Raises: KitError for weights that aren't the program's.
    """
    weights, seed, ring = checked(program, weights), secrets.token_bytes(SEED_BYTES), Ring(program.bits)
    shares: tuple[list, list] = ([], [])
    for name in weight_shapes(program):
        for what, words in zip(("weights", "bias"), weights[name]):
            first = ring.random(words.shape, seed, name, what)
            shares[0].append(first)
            shares[1].append(words.view(np.uint64) - first)
    public = delta(program, weights, mask_seed)
    return public + pack_arrays(shares[0], program.bits), public + pack_arrays(shares[1], program.bits)


def _shapes(program: Program) -> list[tuple[int, ...]]:
    """Of the arrays that a server gets: all δ, then W_i and bias_i of each private layer."""
    shapes = weight_shapes(program)
    channels = {op.name: op.shape[2] for op in program.ops}
    return [*shapes.values(), *(shape for name in shapes for shape in (shapes[name], (channels[name],)))]


def share_size(program: Program) -> int:
    """Bytes of `share_model`'s result for one server."""
    return sum(packed_size(math.prod(shape), program.bits) for shape in _shapes(program))


# -- the provider


class OutsourcedProvider(Provider):
    """As `Provider`, for two servers: `deal(seed_0, seed_1, batch)` is for server 1, its masks are a = a_0 + a_1."""

    def _mask(self, op: Op, batch: int, seeds: tuple[bytes, bytes], rooms: Rooms) -> np.ndarray:
        a = super()._mask(op, batch, seeds, rooms)
        a += expand_mask(rooms.take(a.shape, np.uint64), seeds[1], op.name)
        return a


# -- the data owner


def share_images(images: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """x_0, from the operating system's generator, and x_1 = x - x_0 modulo 2^bits: uint64, shaped as the images."""
    ring = Ring(bits)
    first = ring.random(images.shape, secrets.token_bytes(SEED_BYTES), "image")
    return first, ring.reduce(images - first)


def open_answer(program: Program, shares: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The answer, from both servers' shares of it: as `DataOwner.infer` returns it."""
    return decode_answer(program, shares[0] + shares[1])


def answer_shape(program: Program, batch: int) -> tuple[int, int, int, int]:
    """Of the words that each server gives to the data owner."""
    output, values = program.ops[-1], {op.name: op for op in program.ops}
    *pixels, channels = values[output.inputs[0]].shape
    return batch, *pixels, 1 if output.attributes["reveal"] == "label" else channels


# -- the servers


class ServerDialogue(Dialogue):
    """What servers say to each other: as `Dialogue`, with masked values from both, and without an output.

    Who has spoken last says its share of a masked value in the same breath, and the other at once when it can, before it
    multiplies. So conv, ReLU, mask cost four flights, as in the other mode.
    """

    def _fields(self, program: Program, batch: int) -> Iterator[Field]:
        image = program.ops[0].name
        fields = [replace(f, ends=True) if f.part == "masked" else f for f in super()._fields(program, batch)]
        # Behind the words, since transcripts show how a message begins.
        last = max(i for i, field in enumerate(fields) if (field.op, field.part, field.sender) == (image, "masked", 0))
        yield from (*fields[:last], replace(fields[last], ends=False))
        yield Field(image, "seed", 0, SEED_BYTES, 8, True)
        yield from fields[last + 1 :]

    def _maskers(self, speaker: int) -> tuple[int, ...]:
        return (speaker, 1 - speaker)

    def _output(self, program: Program, batch: int) -> Iterator[Field]:
        yield from ()


class Server(Party):
    """One of the two servers: see above.

    Args:
        program: public.
        index: 0 or 1.
        model_share: `share_model`'s bytes for it.

    Raises: KitError for a program that can't be run, or a share that isn't of its size.
    """

    _kind = ServerDialogue

    def __init__(self, program: Program, index: int, model_share):
        super().__init__(program)
        self.index = index
        private = [op for op in program.ops if op.kind in PRIVATE]
        arrays = unpack_arrays(model_share, _shapes(program), program.bits, "A server's share of the model")
        deltas, weights, bias = arrays[: len(private)], arrays[len(private) :: 2], arrays[len(private) + 1 :: 2]
        self._deltas = {op.name: pack_layer(op, w, program.bits, short=False) for op, w in zip(private, deltas)}
        self._layers = {op.name: pack_layer(op, w, program.bits, short=False) for op, w in zip(private, weights)}
        self._bias = {op.name: words for op, words in zip(private, bias)}

    def prepare(self, seed: bytes, batch: int = 1, dealt=None) -> Prepared:
        """All that can be computed before the image is there: step 2.

        Args:
            seed: 32 bytes of this inference alone, which the provider alone knows too.
            batch: images.
            dealt: server 1's, of `OutsourcedProvider.deal`; free again when this returns.

        Raises: KitError for another number of dealt bytes.
        """
        dealt = Dealt(self.program, batch, dealt) if self.index else None
        material, dialogue, bits = Material(batch, self._spare.take()), self.dialogue(batch), self.program.bits
        rooms, known = material.rooms, material.known
        for op in self.program.ops:
            if self.index:
                material.unpack(op, dialogue.rounds[op.name], bits, seed, dealt)
            else:
                material.expand(op, dialogue.rounds[op.name], bits, seed)
            if op.kind in ("input", "mask"):
                known[op.name] = expand_mask(rooms.take((batch, *op.shape), np.uint64), seed, op.name)
            elif op.kind in PRIVATE:
                room = rooms.take((batch, *op.shape), np.uint64)
                product = dealt.product(op, room) if self.index else expand_product(room, seed, op.name)
                product += self._deltas[op.name].conv(np.ascontiguousarray(known[op.inputs[0]]))
                product += self._bias[op.name]
                material.products[op.name] = product
            elif op.kind in LINEAR and all(name in known for name in op.inputs):
                known[op.name] = linear.apply(op, [known[name] for name in op.inputs])
        return Prepared(material)

    def infer(self, prepared: Prepared, share: np.ndarray, channel: Channel, on_op: OnOp | None = None) -> np.ndarray:
        """One inference, together with the other server's `infer`.

        Args:
            prepared: by this server, and not used yet.
            share: uint64 [N, H, W, C], its share of the images.
            channel: to the other server.
            on_op: called after each operation; what it raises ends the inference.

        Returns: uint64 of `answer_shape`, its share of the answer, for the data owner alone.
        Raises: KitError for a share of another shape, a preparation that was used, a peer that is out of step or gone.
        """
        expected = (prepared.batch, *self.program.ops[0].shape)
        if share.dtype != np.uint64 or share.shape != expected:
            raise KitError(f"A share of the images is uint64 {list(expected)}, not {share.dtype} {list(share.shape)}.")
        material = prepared.use()
        inference = _Inference(self.index, self.program, self.dialogue(prepared.batch), material, channel, on_op)
        answer = inference.of(share, self._layers)
        self._spare.give_back(material.rooms)
        return answer


class _Inference(MaskingEvaluation):
    def of(self, share: np.ndarray, layers) -> np.ndarray:
        self._share, self._layers, self._public, self._seed = share, layers, {}, b""
        return self.run()

    def _forget(self, name):
        super()._forget(name)
        self._public.pop(name, None)

    def _compute(self, op):
        if op.kind in LINEAR and all(name in self._public for name in op.inputs):
            self._public[op.name] = linear.apply(op, [self._public[name] for name in op.inputs])
        return super()._compute(op)

    def input(self, op):
        self.say_masked(op, self._share)
        if self.party == 0:
            self._seed = secrets.token_bytes(SEED_BYTES)
            self.talk.say(np.frombuffer(self._seed, np.uint8), 8)
        share = self._hear_masked(op, self._share)
        if self.party == 1:
            self._seed = self.talk.hear(SEED_BYTES, 8).tobytes()
        return share

    def mask(self, op, y):
        self.say_masked(op, y)
        return self._hear_masked(op, y)

    def say_piece(self, op, piece, y):
        """e_i = x_i - a_i, k bits; it takes the place of a_i, which has served."""
        mask = self.material.known[op.name].reshape(-1)[piece]
        self.talk.say(np.subtract(y, mask, out=mask), self.ring.bits)

    def _hear_masked(self, op, y):
        """e = e_0 + e_1, known to both. Returns the server's share, which is what it was."""
        own = self.material.known[op.name].reshape(-1)
        e = self.material.rooms.take(own.size, np.uint64)
        for piece in pieces(own.size):
            heard = self.talk.hear_packed(piece.stop - piece.start, self.ring.bits)
            wire.unmask(heard, self.ring.bits, own[piece], e[piece])
        self._public[op.name] = e.reshape(-1, *op.shape)
        return y

    def conv(self, op, x):
        z = self._layers[op.name].conv(np.ascontiguousarray(self._public[op.inputs[0]]))
        z += self.material.products[op.name]
        return z

    def output(self, op, z):
        """A fresh share of what is revealed: y_0 + u or y_1 - u."""
        y = self.revealed(op, z)
        u = self.ring.random(y.shape, self._seed, "answer")
        return self.ring.reduce(y - u if self.party else y + u)
