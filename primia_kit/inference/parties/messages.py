"""Control messages: JSON objects with a `type`, each with exactly the fields that this table gives it.

A peer's message is data from outside: `parse` accepts nothing but what the table describes, within bounds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ...errors import KitError
from ..certificates import IDENTITY
from .channel import Channel, Refusal

VERSION = 2
MAX_BATCH = 256
MAX_COUNT = 64  # ids in one call
MAX_OWNERS = 256  # data owners in one call

_HEX = frozenset("0123456789abcdef")


def _digits(count: int):
    def check(value) -> bool:
        return isinstance(value, str) and len(value) == count and _HEX.issuperset(value)

    return check


def _whole(low: int, high: int):
    def check(value) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return check


def _list(of):
    def check(value) -> bool:
        return isinstance(value, list) and len(value) <= MAX_COUNT and all(map(of, value))

    return check


def _identity(value) -> bool:
    return isinstance(value, str) and IDENTITY.fullmatch(value) is not None


def _shares(value) -> bool:
    """Bytes by data owner."""
    return isinstance(value, dict) and len(value) <= MAX_OWNERS and all(map(_identity, value)) and all(map(_SIZE, value.values()))


_ID, _SEED, _SHA256, _SIZE = _digits(32), _digits(64), _digits(64), _whole(0, 1 << 50)
_BATCH = _whole(1, MAX_BATCH)

# type -> fields. Who sends what to whom, and when, stands in `provider`, `model`, `data` and `server`.
MESSAGES: dict[str, dict[str, Any]] = {
    "hello": {"version": _whole(0, 1 << 31)},
    # model owner -> provider
    "register": {"model": _ID, "sha256": _SHA256, "mask_seed": _SEED, "servers": _list(_SHA256), "bytes": _SIZE},
    "registered": {},
    "fetch": {"model": _ID, "room": _SIZE, "shares": _shares},
    "nothing": {"needed": _SIZE},  # needed: bytes of the smallest that waits, if none fits the room; else 0
    "material": {"id": _ID, "batch": _BATCH, "data_owner": _identity, "seed": _SEED, "bytes": _SIZE},
    # data owner -> model owner
    "describe": {},
    "description": {"model": _ID, "sha256": _SHA256, "budget": _whole(-1, 1 << 50)},
    "get_program": {},
    "get_delta": {},
    "content": {"bytes": _SIZE},
    "list": {"batch": _BATCH, "ids": _list(_ID)},
    "ids": {"ids": _list(_ID)},
    "prepare": {"id": _ID},
    "prepared": {},
    "start": {"id": _ID},
    "done": {},
    # data owner -> provider
    "deal": {"model": _ID, "sha256": _SHA256, "batch": _BATCH, "count": _whole(1, MAX_COUNT)},
    "dealt": {"ids": _list(_ID), "seeds": _list(_SEED)},
    # outsourced; see `server`. Model owner -> servers
    "share": {"model": _ID, "sha256": _SHA256, "other": _SHA256, "bytes": _SIZE},
    "shared": {},
    # data owner -> servers, beside `describe` and `get_program`
    "reserve": {"batch": _BATCH},
    "reserved": {"id": _ID},
    "ask": {"id": _ID, "bytes": _SIZE},
    # server 0 -> server 1, beside `list` and `start`; server 0 -> provider: `deal`; server 1 -> provider: `fetch`
    "pair": {"id": _ID, "data_owner": _identity},
}


def send(channel: Channel, type: str, **fields) -> None:
    body = {"type": type, **fields}
    _check(body)
    channel.send_control(json.dumps(body, separators=(",", ":")).encode(), type)


def receive(channel: Channel, *types: str, timeout: float | None = None) -> dict[str, Any]:
    """The next message, of one of `types`. Raises: KitError for anything else."""
    found = parse(channel.receive_control(timeout))
    channel.transcript[-1].what = found["type"]
    if found["type"] not in types:
        raise Refusal(f"A message {found['type']!r} came where {' or '.join(map(repr, types))} was due.")
    return found


def send_content(channel: Channel, content, what: str) -> None:
    """Announce a large body, and send it."""
    content = memoryview(content).cast("B")
    send(channel, "content", bytes=len(content))
    channel.send_bytes(content, what)


def receive_content(channel: Channel, limit: int, what: str) -> bytes:
    """The peer's `send_content`, of at most `limit` bytes. Raises: KitError if it announces more."""
    with channel.allowing(bytes=limit):
        size = receive(channel, "content")["bytes"]
        if size > limit:
            raise KitError(f"A {what} of {size} bytes was announced by {channel.peer}; at most {limit} fit its program.")
        return bytes(channel.receive_bytes(size, what))


def parse(body: bytes) -> dict[str, Any]:
    """Raises: KitError for what isn't in the table."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal("A control message isn't JSON: the parties don't run the same version.") from error
    _check(found)
    return found


def _check(found) -> None:
    if not isinstance(found, dict) or not isinstance(found.get("type"), str) or found["type"] not in MESSAGES:
        raise Refusal("A control message is of no known type: the parties don't run the same version.")
    fields = MESSAGES[found["type"]]
    if set(found) != {"type", *fields}:
        raise Refusal(f"A message {found['type']!r} has the fields {sorted(fields)}, and no others.")
    for name, holds in fields.items():
        if not holds(found[name]):
            raise Refusal(f"A message {found['type']!r} has a field {name!r} out of its range.")


def greet(channel: Channel) -> None:
    """Both sides say which version of the protocol they speak. Raises: KitError if they differ."""
    send(channel, "hello", version=VERSION)
    version = receive(channel, "hello")["version"]
    if version != VERSION:
        raise Refusal(f"{channel.peer} speaks version {version} of the protocol, this party {VERSION}: install the same release.")


def serve(channel: Channel, calls: dict[str, Callable[[dict[str, Any]], None]], idle: float) -> None:
    """Answer a peer's calls until it hangs up: calls[type](message). Ends the connection on the first error.

    Raises: KitError, which says why it ended, unless the peer closed between two calls.
    """
    try:
        greet(channel)
        while True:
            try:
                message = receive(channel, *calls, timeout=idle)
            except KitError:
                if channel.hung_up:
                    return
                raise
            calls[message["type"]](message)
    except Refusal as error:
        channel.abort(str(error))
        raise
    except KitError:
        channel.abort("It met a trouble of its own; its log says which.")
        raise
    finally:
        channel.close()
