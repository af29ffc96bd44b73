"""Messages between two parties over one connected socket: frames, time-outs, and the sentence when something ends.

A frame is kind (1 byte), depth (4), length (8), big-endian, then its body. `CONTROL` bodies are JSON (`messages`), `BYTES`
are an announced file-like body, `DATA` the engine's words, `ABORT` the sentence that a party leaves with.

*depth* counts how many one-way delays stand in a row before a message, as Lamport's clock does: a party that has received
a frame of depth d stands at d + 1 or more, and its next frame says so. It's what a network's delay is multiplied by.

One thread serves a channel: while a send waits for room in the network, it takes in what has arrived. So two parties that
send each other large messages at the same time don't wait for each other, and no TLS object is used by two threads (OpenSSL
allows none). Buffers given to `send` are free again when it returns.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import KitError
from ..certificates import Peer

CONTROL, BYTES, DATA, ABORT = 1, 2, 3, 4
KINDS = {CONTROL: "control", BYTES: "bytes", DATA: "data", ABORT: "abort"}
HEADER = struct.Struct(">BIQ")
CONTROL_LIMIT = 1 << 16
QUEUE_LIMIT = 1 << 30  # bytes of several messages that have arrived and nobody has asked for; a single one may be larger
SLOWEST = 100_000  # bytes a second: a message that trickles more slowly is a time-out
PREVIEW = 16
_LARGE = 1 << 26  # bytes from which on memory isn't rounded up, so that it serves once more
_RECORD = 16384
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Refusal(KitError):
    """A sentence that the peer may read; other errors of a party may name its files and stay with it."""


class Cancelled(Refusal):
    """The caller has stopped an inference."""


@dataclass
class Message:
    """One message in a party's transcript.

    direction: "sent" or "received"
    peer: who with, e.g. "the model owner"
    kind: of `KINDS`
    what: the call, or the operation of the program that it served
    bytes: of the body, without the 13 of its header and TLS's own
    preview: the body's first 16 bytes of an engine's message; empty for others, which may hold seeds
    """

    direction: str
    peer: str
    kind: str
    what: str
    bytes: int
    preview: bytes


class Channel:
    """Messages with one peer.

    Args:
        connection: a connected socket, TLS (after its handshake) or a plain one of `socket.socketpair`.
        peer: who is at the other end.
        timeout: seconds that any single wait may last.

    Attributes: `sent_bytes`, `received_bytes`, `sent_messages` (bodies and headers of all frames so far), `depth`,
    `transcript` (list of `Message`), `hung_up` (the peer has closed between two messages), `cancel` (an event: whoever
    sets it ends the next wait), `bytes_limit` and `data_limit`: the largest body of those kinds that may come now.
    """

    def __init__(self, connection: socket.socket, peer: Peer, timeout: float = 60.0):
        self.peer, self.timeout = peer, timeout
        self.sent_bytes = self.received_bytes = self.sent_messages = self.depth = 0
        self.bytes_limit = self.data_limit = 0
        self.transcript: list[Message] = []
        self.closed = self.hung_up = False
        self.cancel = threading.Event()
        self._socket = connection
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._frames: deque[tuple[int, int, np.ndarray]] = deque()
        self._queued = 0
        self._header, self._kind, self._body, self._got = bytearray(HEADER.size), 0, None, 0
        self._pool: list[np.ndarray] = []
        self._lent: np.ndarray | None = None
        self._broken = False  # half a frame was sent: nothing may follow it

    # -- what the engine uses

    def send(self, *buffers) -> None:
        """Send contiguous buffers as one message. Raises: KitError if the peer is gone or doesn't read in time."""
        self._send(DATA, *buffers)

    def receive(self, size: int) -> memoryview:
        """The engine's next message, `size` bytes; the view holds until the next one is received.

        Raises: KitError if the peer is gone, late, has stopped, or sends something else.
        """
        body = self._next(DATA)
        if len(body) != size:
            raise Refusal(f"{self._who()} sent {len(body)} bytes where the program asks for {size}: it runs another program.")
        return memoryview(body)

    # -- what the services use

    def send_control(self, body: bytes, what: str) -> None:
        self._send(CONTROL, body, what=what)

    def receive_control(self, timeout: float | None = None) -> bytes:
        return self._next(CONTROL, timeout).tobytes()

    def send_bytes(self, body, what: str) -> None:
        """Send one large body that a control message has announced."""
        self._send(BYTES, body, what=what)

    def receive_bytes(self, size: int, what: str) -> memoryview:
        """The announced body; the view holds until the next message is received."""
        body = self._next(BYTES)
        self.transcript[-1].what = what
        if len(body) != size:
            raise Refusal(f"{self._who()} announced {size} bytes of {what} and sent {len(body)}.")
        return memoryview(body)

    def look(self) -> None:
        """Take in what has come, without waiting. Raises: KitError if the peer is gone, or says why it leaves."""
        self._take_in()
        self._raise_abort()

    @contextlib.contextmanager
    def allowing(self, *, data: int = 0, bytes: int = 0) -> Iterator[None]:
        """Inside, bodies of these kinds may come, up to so many bytes each."""
        before = self.data_limit, self.bytes_limit
        self.data_limit, self.bytes_limit = data, bytes
        try:
            yield
        finally:
            self.data_limit, self.bytes_limit = before

    def abort(self, sentence: str) -> None:
        """Tell the peer why this party leaves, if it still listens, and close. Never raises."""
        if not self.closed and not self._broken:
            self.cancel.clear()
            self.timeout = min(self.timeout, 2.0)
            with contextlib.suppress(KitError, OSError):
                self._send(ABORT, sentence.encode()[:CONTROL_LIMIT], what="abort")
        self.close()

    def close(self) -> None:
        """Close the connection. What was sent is delivered: a socket closed over unread bytes would reset it away."""
        if self.closed:
            return
        self.closed = True
        with contextlib.suppress(OSError, ValueError):
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
            end = time.monotonic() + 0.5
            room = bytearray(_RECORD)
            while (left := end - time.monotonic()) > 0 and self._poll.poll(left * 1000):
                try:
                    if not self._socket.recv_into(room):
                        break
                except _WOULD_BLOCK:
                    continue
        with contextlib.suppress(OSError):
            self._socket.close()

    # -- frames out

    def _send(self, kind: int, *buffers, what: str = "") -> None:
        views = [view.cast("B") for view in map(memoryview, buffers) if view.nbytes]
        size = sum(map(len, views))
        end = time.monotonic() + self.timeout + size / SLOWEST
        header = HEADER.pack(kind, self.depth, size)
        preview = bytes(views[0][:PREVIEW]) if kind == DATA and views else b""
        self.transcript.append(Message("sent", str(self.peer), KINDS[kind], what, size, preview))
        self._broken = True
        if HEADER.size + size <= _RECORD:  # one record, one packet
            self._write(memoryview(b"".join([header, *views])), end)
        else:
            room = _RECORD - HEADER.size
            self._write(memoryview(header + bytes(views[0][:room])), end)
            views[0] = views[0][room:]
            for view in views:
                self._write(view, end)
        self._broken = False
        self.sent_bytes += HEADER.size + size
        self.sent_messages += 1

    def _write(self, view: memoryview, end: float) -> None:
        while len(view):
            try:
                view = view[self._socket.send(view) :]
            except _WOULD_BLOCK:
                self._wait(select.POLLIN | select.POLLOUT, end, "doesn't read what it is sent")
                self._take_in()
            except OSError as error:
                with contextlib.suppress(KitError):  # perhaps it has said why it left
                    self._take_in()
                self._raise_abort()
                raise self._lost(error) from error

    # -- frames in

    def _next(self, kind: int, timeout: float | None = None) -> np.ndarray:
        if self._lent is not None:
            self._pool.append(self._lent)
            self._lent = None
        end, header_end = None, time.monotonic() + (self.timeout if timeout is None else timeout)
        while not self._frames:
            if self._take_in(one=True):
                continue
            if self._body is not None and end is None:
                end = time.monotonic() + self.timeout + len(self._body) / SLOWEST
            self._wait(select.POLLIN, end or header_end, "has said nothing")
        self._raise_abort()
        found, depth, body = self._frames.popleft()
        self._queued -= len(body)
        self.depth = max(self.depth, depth + 1)
        self.received_bytes += HEADER.size + len(body)
        self._lent = body.base if body.base is not None else body
        preview = body[:PREVIEW].tobytes() if found == DATA else b""
        self.transcript.append(Message("received", str(self.peer), KINDS[found], "", len(body), preview))
        if found != kind:
            raise Refusal(f"{self._who()} sent a {KINDS[found]} message where a {KINDS[kind]} message was due.")
        return body

    def _take_in(self, one: bool = False) -> bool:
        """Read what has arrived, or until `one` frame is whole; whether a frame became whole."""
        whole = False
        while True:
            target = self._header if self._body is None else self._body
            try:
                if len(target) > self._got:
                    count = self._socket.recv_into(memoryview(target)[self._got :])
                    if not count:
                        self.hung_up = self._body is None and not self._got
                        raise self._lost(None)
                    self._got += count
            except _WOULD_BLOCK:
                return whole
            except OSError as error:
                raise self._lost(error) from error
            if self._got < len(target):
                continue
            if self._body is None:
                self._begin_body()
            if self._got == len(self._body):
                self._frames.append((self._kind, self._depth, self._body))
                self._body, self._got, whole = None, 0, True
                if one:
                    return True

    def _begin_body(self) -> None:
        kind, depth, size = HEADER.unpack(self._header)
        limits = {CONTROL: CONTROL_LIMIT, ABORT: CONTROL_LIMIT, BYTES: self.bytes_limit, DATA: self.data_limit}
        if kind not in limits:
            raise Refusal(f"{self._who()} sent a message of unknown kind {kind}: it isn't a party of this version.")
        if kind in (BYTES, DATA) and not limits[kind]:
            raise Refusal(f"{self._who()} sent a {KINDS[kind]} message where none was due.")
        if size > limits[kind]:
            raise Refusal(
                f"{self._who()} announced a {KINDS[kind]} message of {size} bytes; here at most {limits[kind]} may come."
            )
        if self._queued and self._queued + size > QUEUE_LIMIT:
            raise Refusal(f"{self._who()} sends more than is asked for: {self._queued + size} bytes wait here to be read.")
        self._kind, self._depth, self._got = kind, min(depth, 1 << 30), 0
        self._body = self._buffer(size)
        self._queued += size

    def _buffer(self, size: int) -> np.ndarray:
        """Memory that was used before where there is any: fresh pages cost as much as decryption."""
        for index, buffer in enumerate(self._pool):
            if size <= len(buffer) <= max(4 * size, 1 << 16):
                return self._pool.pop(index)[:size]
        if len(self._pool) > 64:
            self._pool.pop(0)
        room = size if size > _LARGE else 1 << max(size - 1, 1).bit_length()
        return np.empty(room, np.uint8)[:size]

    # -- waiting and ending

    def _wait(self, events: int, end: float, complaint: str) -> None:
        self._poll.modify(self._socket, events)
        while True:
            if self.cancel.is_set():
                raise Cancelled("The inference was cancelled.")
            left = end - time.monotonic()
            if left <= 0:
                raise KitError(f"{self._who()} {complaint} for {self.timeout:g} s: see whether it runs, then connect again.")
            if self._poll.poll(min(left, 0.1) * 1000):
                return

    def _raise_abort(self) -> None:
        for kind, _, body in self._frames:
            if kind == ABORT:
                words = body.tobytes().decode(errors="replace")
                words = "".join(letter if letter.isprintable() else " " for letter in words[:500])
                raise KitError(f"{self._who()} has stopped: {words}")

    def _lost(self, error: OSError | None) -> KitError:
        within = " in the middle of a message" if self._got or self._body is not None else ""
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
            return KitError(f"{self._who()} refuses this party's certificate ({error.reason}): is it of the same federation?")
        why = f" ({error.strerror or error})" if error else ""
        return KitError(f"{self._who()} has gone{within}{why}: start it again, and connect again.")

    def _who(self) -> str:
        text = str(self.peer)
        return text[0].upper() + text[1:]
