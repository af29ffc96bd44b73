"""The data owner of the outsourced mode: shares its images between two servers, and adds up their answers.

It needs no provider, no store and no δ: its only secret is the image, and its shares are drawn afresh each time. The steps
stand in `server`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import KitError
from ...mpc import open_answer, pack_words, packed_size, share_images, unpack_words
from ...mpc.outsourced import answer_shape
from ..certificates import Credentials
from . import messages
from .channel import Channel, Message
from .data import learn_program, ring_elements
from .tls import connect


class OutsourcedSession:
    """A data owner's connections to servers 0 and 1: `open_outsourced` makes one.

    Args:
        servers: channels to server 0 and server 1.
        sha256: the program that is expected; None takes the one that both servers name.

    Attributes:
        program: the public program
        budget: images that may still be asked about, when the session began; -1 for no limit
        open: whether inferences can be run; any that stops half-way closes the session

    Raises: KitError if the servers don't have the same model, or not the expected program.
    """

    def __init__(self, servers: Sequence[Channel], *, sha256: str | None = None):
        self._servers, self.open = tuple(servers), True
        self._reserved: tuple[str, int] | None = None
        try:
            if [channel.peer.role for channel in self._servers] != ["server0", "server1"]:
                raise KitError("A session has channels to server 0 and to server 1, in this order.")
            found = []
            for channel in self._servers:
                messages.greet(channel)
                messages.send(channel, "describe")
                found.append(messages.receive(channel, "description"))
            one, other = found
            if (one["model"], one["sha256"]) != (other["model"], other["sha256"]):
                raise KitError("The two servers don't have shares of the same model: its owner must share it again.")
            if sha256 not in (None, one["sha256"]):
                raise KitError(f"The servers' program has the SHA-256 {one['sha256']}, not {sha256} as expected.")
            limits = [description["budget"] for description in found if description["budget"] >= 0]
            self.budget = min(limits, default=-1)
            self.program = learn_program(self._servers[0], one["sha256"])
        except BaseException:
            self.close("it has broken off")
            raise

    @property
    def transcript(self) -> list[Message]:
        """What this party sent and received: first with server 0, then with server 1."""
        return [message for channel in self._servers for message in channel.transcript]

    def prepare(self, batch: int = 1) -> None:
        """Have the servers do all that needs no image. Raises: KitError if they can't, or the budget is spent."""
        self._check_open()
        if self._reserved is None or self._reserved[1] != batch:
            first, _ = self._servers
            try:
                messages.send(first, "reserve", batch=batch)
                self._reserved = messages.receive(first, "reserved", timeout=300.0)["id"], batch
            except BaseException:
                self.close("it has broken off")
                raise

    def infer(self, images) -> np.ndarray:
        """The answer.

        Args:
            images: [C, H, W] or [N, C, H, W], pixels as the model was compiled for; or uint64 ring elements [N, H, W, C].

        Returns: as `mpc.DataOwner.infer`.
        Raises: KitError for another shape, numbers that don't fit, or a server that is gone or refuses; the session has
            ended, then.
        """
        words, bits = ring_elements(self.program, images), self.program.bits
        self.prepare(len(words))
        (id, batch), self._reserved = self._reserved, None
        shape = answer_shape(self.program, batch)
        size = packed_size(int(np.prod(shape)), bits)
        try:
            for channel, share in zip(self._servers, share_images(words, bits), strict=True):
                packed = pack_words(share, bits)
                messages.send(channel, "ask", id=id, bytes=packed.nbytes)
                channel.send_bytes(packed, "share of the images")
            answers = []
            for channel in self._servers:
                packed = messages.receive_content(channel, size, "share of the answer")
                answers.append(unpack_words(packed, bits, int(np.prod(shape))).reshape(shape))
        except BaseException:
            self.close("it has broken off")
            raise
        return open_answer(self.program, tuple(answers))

    def close(self, why: str = "") -> None:
        """End the session; with a reason, the servers are told that it ends before its time."""
        self.open = False
        for channel in self._servers:
            channel.abort("The data owner has ended the session.") if why else channel.close()

    def __enter__(self) -> OutsourcedSession:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def _check_open(self) -> None:
        if not self.open:
            raise KitError("This session has ended: connect again. Ids that were begun stay used.")


def open_outsourced(
    servers: Sequence[str],
    certificates: str | Path,
    *,
    sha256: str | None = None,
    timeout: float = 60.0,
    patience: float = 0.0,
    pins: tuple[str | None, str | None] = (None, None),
) -> OutsourcedSession:
    """Connect a data owner to servers 0 and 1 ("HOST:PORT" each) over TLS; other arguments as `open_session`.

    Args:
        pins: the one server 0 and the one server 1 wanted, as `connect` takes them.

    Raises: KitError if a server doesn't answer, isn't who it should be, or they don't have the same model.
    """
    mine = Credentials(certificates, "data")
    first = connect(servers[0], mine, "server0", timeout, patience, pins[0])
    try:
        second = connect(servers[1], mine, "server1", timeout, patience, pins[1])
    except KitError:
        first.close()
        raise
    return OutsourcedSession((first, second), sha256=sha256)
