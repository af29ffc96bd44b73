"""One party's side of a dialogue: words into messages, and back."""

from __future__ import annotations

import numpy as np

from ..errors import KitError
from .channel import Channel
from .dialogue import Dialogue, field_size
from .packing import pack_words, packed_size, unpack_words


class Talk:
    """Collects what a party says until the message that the dialogue foresees is whole, and takes the other's apart.

    Not one bit above a word's declared width is sent.
    """

    def __init__(self, channel: Channel, dialogue: Dialogue, party: int):
        self._channel = channel
        self._outgoing, self._incoming = (iter(dialogue.messages[who]) for who in (party, 1 - party))
        self._said: list[np.ndarray] = []
        self._missing = next(self._outgoing, 0)  # bytes of the message that is being collected
        self._message, self._at = memoryview(b""), 0

    def say(self, words: np.ndarray, bits: int) -> None:
        """Send words of `bits` bits, any shape, in C order; at once if that makes a message whole."""
        self.say_packed(pack(words, bits))

    def say_packed(self, packed: np.ndarray) -> None:
        """The same for what `pack` or `wire` has made; it must stay as it is until the message is whole."""
        self._said.append(packed)
        self._missing -= packed.nbytes
        if self._missing < 0:
            raise KitError("This party would say more than the program foresees: the kit's parties have got out of step.")
        if not self._missing:
            self._channel.send(*self._said)
            self._said, self._missing = [], next(self._outgoing, 0)

    def hear(self, count: int, bits: int, dtype=np.uint8) -> np.ndarray:
        """The next `count` words, each below 2^bits; they hold until more is heard."""
        packed = self._next(field_size(count, bits))
        if bits == 8:
            return np.frombuffer(packed, np.uint8, count)
        if bits == 1:
            return np.unpackbits(np.frombuffer(packed, np.uint8), count=count, bitorder="little")
        return unpack_words(packed[: packed_size(count, bits)], bits, count, dtype)

    def hear_packed(self, count: int, bits: int) -> np.ndarray:
        """The same as `pack_words` made them, in whole uint64; they hold until more is heard."""
        words = np.frombuffer(self._next(field_size(count, bits)), "<u8").astype(np.uint64, copy=False)
        return words if words.flags.aligned else words.copy()

    def _next(self, size: int) -> memoryview:
        if self._at == len(self._message):
            self._message, self._at = self._channel.receive(next(self._incoming)), 0
        start, self._at = self._at, self._at + size
        return self._message[start : self._at]

    def end(self) -> None:
        """Raises KitError if anything is left to be said or heard."""
        if self._said or self._missing or self._at != len(self._message) or next(self._incoming, None) is not None:
            raise KitError("The dialogue isn't at its end: the kit's parties have got out of step.")


def pack(words: np.ndarray, bits: int) -> np.ndarray:
    """Contiguous words as `pack_words` makes them, in uint8 [field_size]; the unused bits at the end are zero.

    Args:
        words: any shape. 8 and 1 bits are of uint8, whose other bits are dropped too: 8 have none, and of 1 numpy's
            `packbits` would take any number for 1, so it's cut first.
    """
    if bits == 8 and words.size % 8 == 0:
        return words
    packed = np.zeros(field_size(words.size, bits), np.uint8)
    if bits == 1:
        some = np.packbits(words.reshape(-1) & np.uint8(1), bitorder="little")
        packed[: some.size] = some
    else:
        pack_words(words, bits, packed.view(np.uint64))
    return packed
