"""Connections between parties: TLS 1.3, both sides with a certificate of the federation, the other side's role checked."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection

from ...errors import KitError
from ..certificates import ROLES, Credentials, peer_of
from .channel import Channel

MAX_CONNECTIONS = 32
HANDSHAKE_SECONDS = 10.0


def address_of(text: str) -> tuple[str, int]:
    """("host", port) of "HOST:PORT", or of "[::1]:PORT". Raises: KitError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not int(port) < 65536 or not host.strip("[]"):
        raise KitError(f"{text!r}: write an address as HOST:PORT, for example 192.168.1.20:7001.")
    return host.strip("[]"), int(port)


def connect(
    address: str,
    credentials: Credentials,
    role: str,
    timeout: float = 60.0,
    patience: float = 0.0,
    pin: str | None = None,
) -> Channel:
    """A channel to the party of `role` that listens at `address`.

    Args:
        address: "HOST:PORT".
        credentials: this party's own.
        timeout: seconds that any wait may last, on the channel too.
        patience: seconds in which a refused connection is tried again: the other party may start later.
        pin: the one party wanted, by its certificate's name or fingerprint; None takes any of `role`.

    Raises: KitError if nobody answers, or somebody without a certificate of this federation and `role`, or not the pinned.
    """
    host, port = address_of(address)
    context, give_up = credentials.context(server=False), time.monotonic() + patience
    while True:
        try:
            plain = socket.create_connection((host, port), min(timeout, HANDSHAKE_SECONDS))
            break
        except OSError as error:
            if isinstance(error, ConnectionRefusedError | TimeoutError) and time.monotonic() < give_up:
                time.sleep(0.2)
                continue
            raise KitError(
                f"The {ROLES[role]} at {address} doesn't answer ({error.strerror or error}): is it running?"
            ) from error
    return _secured(plain, context, False, {role}, timeout, f"The {ROLES[role]} at {address}", pin)


def _secured(
    plain, context: ssl.SSLContext, server: bool, roles: Collection[str], timeout: float, who: str, pin: str | None = None
) -> Channel:
    """Shake hands in a bounded time, and check the other side's role and, if there's a pin, who it is."""
    secured = None
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # Socket buffers are left to the kernel: a size set by hand switches off their growth to several MB.
        secured = context.wrap_socket(plain, server_side=server, do_handshake_on_connect=False)
        _handshake(secured, time.monotonic() + min(timeout, HANDSHAKE_SECONDS))
        peer = peer_of(secured.getpeercert(binary_form=True) or b"")
        if peer.role not in roles:
            wanted = " or ".join(ROLES[role] for role in sorted(roles))
            raise KitError(f"{who} shows the certificate of {peer}; here a {wanted} is wanted.")
        if pin is not None and not peer.fits(pin):
            raise KitError(
                f"{who} is {peer.name!r} with the fingerprint {peer.fingerprint}, not {pin!r} as pinned: ask which is right."
            )
    except (OSError, KitError) as error:
        with contextlib.suppress(OSError):
            (secured or plain).close()
        if isinstance(error, KitError):
            raise
        reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or error
        raise KitError(f"{who} is no party of this federation, or left while shaking hands ({reason}).") from error
    return Channel(secured, peer, timeout)


def _handshake(secured: ssl.SSLSocket, end: float) -> None:
    """A socket's own time-out holds for each read: bytes that trickle in one by one would stretch it for ever."""
    import select

    secured.setblocking(False)
    while True:
        try:
            return secured.do_handshake()
        except ssl.SSLWantReadError:
            wanted = [secured], [], []
        except ssl.SSLWantWriteError:
            wanted = [], [secured], []
        left = end - time.monotonic()
        if left <= 0 or not any(select.select(*wanted, left)):
            raise TimeoutError("it took too long")


class Listener:
    """Accepts connections and gives each a thread of its own; a bad one ends alone.

    Args:
        address: "HOST:PORT" to listen at; port 0 takes a free one, see `.address`.
        credentials: this party's own.
        roles: whom to accept.
        serve: called with the channel, in its thread; closes it before it returns. A KitError ends the connection.
        tell: called with a sentence for each connection that ends in trouble.
    """

    def __init__(
        self,
        address: str,
        credentials: Credentials,
        roles: Collection[str],
        serve: Callable[[Channel], None],
        tell: Callable[[str], None],
        timeout: float = 60.0,
    ):
        host, port = address_of(address)
        self._context, self._roles, self._serve = credentials.context(server=True), roles, serve
        self._tell, self._timeout = tell, timeout
        self._open: set[Channel] = set()
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=16)
        except OSError as error:
            raise KitError(f"Can't listen at {address} ({error.strerror or error}): choose another port.") from error
        found = self._socket.getsockname()
        self.address = f"[{found[0]}]:{found[1]}" if ":" in found[0] else f"{found[0]}:{found[1]}"
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="listener", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Accept no more, and end the connections that there are."""
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for channel in list(self._open):
            channel.cancel.set()
        self._thread.join(5)

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                plain, source = self._socket.accept()
            except OSError:
                if not self._stopped.is_set():
                    time.sleep(0.05)  # out of file descriptors, say: the next one may fare better
                continue
            if not self._slots.acquire(blocking=False):
                self._tell(f"{source[0]}: turned away, {MAX_CONNECTIONS} connections are open.")
                plain.close()
                continue
            try:
                threading.Thread(target=self._one, args=(plain, source[0]), name=f"from {source[0]}", daemon=True).start()
            except RuntimeError:  # no more threads: this connection isn't served, the next one may be
                plain.close()
                self._slots.release()

    def _one(self, plain: socket.socket, source: str) -> None:
        channel = None
        try:
            channel = _secured(plain, self._context, True, self._roles, self._timeout, f"Somebody at {source}")
            self._open.add(channel)
            self._serve(channel)
        except KitError as error:
            self._tell(str(error))
        except Exception as error:  # a defect of the kit: this connection ends, the service goes on
            import traceback

            self._tell(f"A defect of the kit ended a connection ({error!r}):\n{traceback.format_exc()}")
        finally:
            if channel is not None:
                self._open.discard(channel)
                channel.abort("It has ended this connection.")
            self._slots.release()
