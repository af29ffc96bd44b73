"""The data owner, party 0: knows the image, prepares before it is taken, and alone learns the answer."""

from __future__ import annotations

import numpy as np

from ..errors import KitError
from . import linear
from .channel import Channel
from .dialogue import DATA_OWNER, MODEL_OWNER, output_count
from .evaluation import MaskingEvaluation, OnOp, one_round, speak_ahead
from .layers import expand_mask, expand_product, pack_layer, unpack_delta
from .material import Material, Prepared
from .party import Party
from .program import LINEAR, PRIVATE, Program
from .ring import Ring


class DataOwner(Party):
    """The client's half of the protocol, for one model.

    In preparation, for each image and before it is there, from its seed with the provider:

        1. x_0 of every masked value is expanded, and follows the public linear operations.
        2. h_0 of every private layer is expanded: z_0 = conv(x_0, δ) + h_0.
        3. Tuples of comparisons are expanded, and c_0 of the comparisons whose z_0 is known.

    In an inference it sends x - x_0 for the image and for each `mask`, and takes its part in comparisons.

    Args:
        program: public.
        delta_bytes: what `delta` made, from the model owner.

    Raises: KitError for a program that can't be run, or a δ that isn't of its size.
    """

    def __init__(self, program: Program, delta_bytes):
        super().__init__(program)
        deltas = unpack_delta(program, delta_bytes)
        private = [op for op in program.ops if op.kind in PRIVATE]
        self._layers = {op.name: pack_layer(op, deltas[op.name], program.bits, short=False) for op in private}

    def prepare(self, data_seed: bytes, batch: int = 1) -> Prepared:
        """All that can be computed before the images are there.

        Args:
            data_seed: 32 bytes of this inference alone, which the provider alone knows too.
            batch: images.
        """
        material, dialogue = Material(batch, self._spare.take()), self.dialogue(batch)
        rooms, known = material.rooms, material.known
        for op in self.program.ops:
            material.expand(op, dialogue.rounds[op.name], self.program.bits, data_seed)
            if op.kind in ("input", "mask"):
                known[op.name] = expand_mask(rooms.take((batch, *op.shape), np.uint64), data_seed, op.name)
            elif op.kind in PRIVATE:
                z = self._layers[op.name].conv(np.ascontiguousarray(known[op.inputs[0]]))
                z += expand_product(rooms.take(z.shape, np.uint64), data_seed, op.name)
                known[op.name] = z
            elif op.kind in LINEAR and all(name in known for name in op.inputs):
                known[op.name] = linear.apply(op, [known[name] for name in op.inputs])
            elif one_round(op) and op.inputs[0] in known and dialogue.leaders[op.name, 0] == MODEL_OWNER:
                material.said[op.name] = speak_ahead(op, known[op.inputs[0]], material.tuples[op.name, 0])
        return Prepared(material)

    def infer(self, prepared: Prepared, images: np.ndarray, channel: Channel, on_op: OnOp | None = None) -> np.ndarray:
        """One inference, together with the model owner's `infer`.

        Args:
            prepared: by this data owner, and not used yet.
            images: uint64 [N, H, W, C], as `Ring.encode` makes them with the input's fraction bits.
            channel: to the model owner.
            on_op: called after each operation; what it raises ends the inference.

        Returns: for the program's reveal "logits" and "probabilities" float64 [N, H, W, C], for "label" int64
            [N, H, W, 1].
        Raises: KitError for images of another shape, a preparation that was used, a peer that is out of step or gone.
        """
        expected = (prepared.batch, *self.program.ops[0].shape)
        if images.dtype != np.uint64 or images.shape != expected:
            raise KitError(
                f"The images are uint64 {list(expected)}, not {images.dtype} {list(images.shape)}: prepare for that many."
            )
        material = prepared.use()
        answer = _Inference(self.program, self.dialogue(prepared.batch), material, channel, images, on_op).run()
        self._spare.give_back(material.rooms)
        return self._decode(answer)

    def _decode(self, words: np.ndarray) -> np.ndarray:
        return decode_answer(self.program, words)


def decode_answer(program: Program, words: np.ndarray) -> np.ndarray:
    """The answer that ring words [N, H, W, C] stand for, by the program's reveal: see `DataOwner.infer`."""
    output, ring = program.ops[-1], Ring(program.bits)
    reveal = output.attributes["reveal"]
    if reveal == "label":
        return ring.signed(words)
    if reveal == "logits":
        return ring.decode(words, output.fraction_bits)
    return softmax(ring.decode(words - words[..., :1], output.fraction_bits))


def softmax(logits: np.ndarray) -> np.ndarray:
    """float64, over the last axis; only differences of logits count."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


class _Inference(MaskingEvaluation):
    def __init__(self, program, dialogue, material, channel, images, on_op):
        super().__init__(DATA_OWNER, program, dialogue, material, channel, on_op)
        self._images = images

    def _compute(self, op):
        if op.name in self.material.known and op.kind not in ("input", "mask"):
            return self.material.known[op.name]
        return super()._compute(op)

    def input(self, op):
        return self.mask(op, self._images)  # of an image the data owner has the whole

    def mask(self, op, y):
        """The data owner's share of a masked value is x_0 itself."""
        self.say_masked(op, y)
        return self.material.known[op.name]

    def say_piece(self, op, piece, y):
        """y_0 - x_0, k bits."""
        self.talk.say(y - self.material.known[op.name].reshape(-1)[piece], self.ring.bits)

    def output(self, op, z):
        if op.attributes["reveal"] == "label":
            z = self.label(op, z)
        count = output_count(self.program, self.material.batch)
        return z + self.talk.hear(count, self.ring.bits, np.uint64).reshape(z.shape)
