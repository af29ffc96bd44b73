"""The model owner, party 1: knows the weights, and learns nothing."""

from __future__ import annotations

import numpy as np

from . import wire
from .channel import Channel
from .dealt import Dealt
from .dialogue import MODEL_OWNER, pieces
from .evaluation import Evaluation, OnOp
from .layers import Weights, checked, pack_layer
from .material import Material, Prepared
from .party import Party
from .program import PRIVATE, Program


class ModelOwner(Party):
    """The server's half of the protocol.

    In an inference it holds x_1 = x - x_0 of masked values and computes private layers with its weights in clear, as
    short as they are:  z_1 = conv(x_1, W) + bias + h_1.  With the data owner's z_0 = conv(x_0, δ) + h_0, δ = W - b and
    h_0 + h_1 = conv(x_0, b), that makes z_0 + z_1 = conv(x, W) + bias.

    Args:
        program: public.
        weights: name of each private layer -> (int64 weights, int64 bias); see `layers.Weights`.

    Raises: KitError for weights that aren't the program's, or a program that can't be run.
    """

    def __init__(self, program: Program, weights: Weights):
        super().__init__(program)
        weights = checked(program, weights)
        private = [op for op in program.ops if op.kind in PRIVATE]
        self._layers = {op.name: pack_layer(op, weights[op.name][0], program.bits, short=True) for op in private}
        self._bias = {op.name: weights[op.name][1].view(np.uint64) for op in private}

    def prepare(self, model_seed: bytes, dealt, batch: int = 1) -> Prepared:
        """Unpack what the provider has dealt.

        Args:
            model_seed: 32 bytes of this inference alone, which the provider alone knows too.
            dealt: `Provider.deal`'s bytes; free again when this returns.
            batch: images.

        Raises: KitError for another number of bytes.
        """
        dealt, bits = Dealt(self.program, batch, dealt), self.program.bits
        material, dialogue = Material(batch, self._spare.take()), self.dialogue(batch)
        for op in self.program.ops:
            material.unpack(op, dialogue.rounds[op.name], bits, model_seed, dealt)
            if op.kind in PRIVATE:
                product = dealt.product(op, material.rooms.take((batch, *op.shape), np.uint64))
                product += self._bias[op.name]
                material.products[op.name] = product
        return Prepared(material)

    def infer(self, prepared: Prepared, channel: Channel, on_op: OnOp | None = None) -> None:
        """One inference, together with the data owner's `infer`. Nothing is returned: the model owner learns nothing.

        Raises: KitError for a preparation that was used, or a peer that is out of step or gone.
        """
        material = prepared.use()
        _Inference(self.program, self.dialogue(prepared.batch), material, channel, self._layers, on_op).run()
        self._spare.give_back(material.rooms)


class _Inference(Evaluation):
    def __init__(self, program, dialogue, material, channel, layers, on_op):
        super().__init__(MODEL_OWNER, program, dialogue, material, channel, on_op)
        self._layers = layers

    def input(self, op):
        return self._hear(op, None)

    def mask(self, op, y):
        return self._hear(op, y)

    def _hear(self, op, y):
        """x_1 = y_1 + (y_0 - x_0)."""
        x = self.material.rooms.take((self.material.batch, *op.shape), np.uint64)
        flat = x.reshape(-1)
        y = np.zeros_like(flat) if y is None else y.reshape(-1)  # of an image the model owner has no share
        for piece in pieces(flat.size):
            heard = self.talk.hear_packed(piece.stop - piece.start, self.ring.bits)
            wire.unmask(heard, self.ring.bits, y[piece], flat[piece])
        return x

    def conv(self, op, x):
        z = self._layers[op.name].conv(np.ascontiguousarray(x))
        z += self.material.products[op.name]
        return z

    def output(self, op, z):
        z = self.revealed(op, z)
        self.talk.say(z, self.ring.bits)
        return z
