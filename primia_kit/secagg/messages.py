"""The bytes that travel. A network adapter carries them as they are.

A message is a header, a body and, from a site, a signature of 64 bytes over header and body (of a masked
vector, over its tag alone: see `keys.vector_tag`):

    "PSA" version | phase | sender | length of purpose (u16) | run (16) | hash of the agreement (32) | purpose, zero-padded

The header's length is a multiple of 16, so that a vector behind it is aligned. The sender is the site's
index in the agreement; 255 is the server, whose messages aren't signed: sites check what it forwards.

    phase          body of a site's message                          body of the server's answer
    keys           mask key (32), channel key (32), commitment (32)   server's key (32), all sites' messages of this phase
    shares         for each other site: index, ciphertext (48)        for this site: index, ciphertext of each sender
    masked input   the vector, little-endian u32, and its tag (16)    indices of those whose vector came
    consistency    hash of what the site was told (32)                all sites' messages of this phase
    unmasking      for each peer: index, kind, share (16)             none: the server has the sum
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from enum import IntEnum

import numpy as np

from .agreement import RUN_BYTES, Agreement, MessageRefused
from .keys import SEED_BYTES, Identity, is_signed

VERSION = 1
SERVER = 255
SEALED_BYTES = 2 * SEED_BYTES + 16
TAG_BYTES = 16
SIGNATURE_BYTES = 64
_START = struct.Struct(f"<3sBBBH{RUN_BYTES}s32s")


class Phase(IntEnum):
    """The rounds of messages; `what` names a site's message in words."""

    KEYS = 1
    SHARES = 2
    MASKED_INPUT = 3
    CONSISTENCY = 4
    UNMASKING = 5

    @property
    def what(self) -> str:
        return _WHAT[self]


_WHAT = {
    Phase.KEYS: "signed public keys",
    Phase.SHARES: "encrypted shares for the other sites",
    Phase.MASKED_INPUT: "masked vectors",
    Phase.CONSISTENCY: "signatures of the survivor list",
    Phase.UNMASKING: "one share of one secret of each site",
}


class Share(IntEnum):
    """Which of a peer's two secrets a released share belongs to."""

    SELF_MASK = 1  # the peer's vector is in the sum
    MASK_KEY = 2  # the peer's vector never came


def header(agreement: Agreement, phase: Phase, sender: int) -> bytes:
    purpose = agreement.purpose.encode()
    start = _START.pack(b"PSA", VERSION, phase, sender, len(purpose), agreement.run, agreement.digest)
    return start + purpose + bytes(-(len(start) + len(purpose)) % 16)


def unsigned_message(agreement: Agreement, phase: Phase, body: bytes) -> bytes:
    """A message of the server."""
    return header(agreement, phase, SERVER) + body


def blank_message(agreement: Agreement, phase: Phase, sender: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A site's message with an unwritten body of `size` bytes, and a view of this body (uint8)."""
    head = header(agreement, phase, sender)
    message = np.empty(len(head) + size + SIGNATURE_BYTES, np.uint8)
    message[: len(head)] = np.frombuffer(head, np.uint8)
    return message, message[len(head) : len(head) + size]


def sign(message: np.ndarray, identity: Identity) -> memoryview:
    """Sign a message in place, once its body is written."""
    signature = identity.sign(_signed(message[:-SIGNATURE_BYTES].data))
    message[-SIGNATURE_BYTES:] = np.frombuffer(signature, np.uint8)
    return message.data


def _signed(unsigned: memoryview) -> bytes:
    """SHA-256 of what a site signs of its message."""
    _, _, phase, _, length, _, _ = _START.unpack_from(unsigned)
    if phase == Phase.MASKED_INPUT:
        head = _header_size(length)
        return hashlib.sha256(bytes(unsigned[:head]) + bytes(unsigned[head:][-TAG_BYTES:])).digest()
    return hashlib.sha256(unsigned).digest()


def _header_size(purpose: int) -> int:
    return _START.size + purpose + -(_START.size + purpose) % 16


def signed_message(agreement: Agreement, phase: Phase, sender: int, body: bytes, identity: Identity) -> bytes:
    message, space = blank_message(agreement, phase, sender, len(body))
    space[:] = np.frombuffer(body, np.uint8)
    return bytes(sign(message, identity))


def open_message(agreement: Agreement, phase: Phase, message) -> tuple[int, memoryview]:
    """The sender and the body of a message that belongs to this round and phase, its signature checked.

    Raises: MessageRefused for anything else.
    """
    view = memoryview(message).cast("B")
    refused = f"{agreement.purpose}: a message in phase {phase.name.lower()}"
    if len(view) < _START.size or view[:3] != b"PSA":
        raise MessageRefused(f"{refused} isn't one of secure aggregation; ask its sender to send it again.")
    if view[3] != VERSION:
        raise MessageRefused(f"{refused} has version {view[3]}, this is version {VERSION}: both ends need the same release.")
    sender = view[5]
    expected = header(agreement, phase, sender)
    if view[: len(expected)] != expected:
        raise MessageRefused(f"{refused} belongs to another run, round, phase or agreement: it is late, replayed or forged.")
    if sender == SERVER:
        return sender, view[len(expected) :]
    if sender >= len(agreement.sites) or len(view) < len(expected) + SIGNATURE_BYTES:
        raise MessageRefused(f"{refused} is cut off, or comes from a site that doesn't take part.")
    if not is_signed(agreement.identities[sender], _signed(view[:-SIGNATURE_BYTES]), bytes(view[-SIGNATURE_BYTES:])):
        raise MessageRefused(f"{refused} isn't signed by site {agreement.sites[sender]}: it was changed on its way, or forged.")
    return sender, view[len(expected) : -SIGNATURE_BYTES]


def body_of(message: bytes) -> memoryview:
    """The body of a site's genuine message, unchecked."""
    _, _, _, _, length, _, _ = _START.unpack_from(message)
    return memoryview(message)[_header_size(length) : -SIGNATURE_BYTES]


def join(messages) -> bytes:
    """Messages one after the other, each with its length before it."""
    return b"".join(struct.pack("<I", len(message)) + message for message in messages)


def parted(agreement: Agreement, body: memoryview) -> Iterator[memoryview]:
    """What `join` joined."""
    while len(body):
        size = struct.unpack_from("<I", body)[0] if len(body) >= 4 else len(body)
        if size > len(body) - 4:
            raise MessageRefused(f"{agreement.purpose}: a list of messages is cut off.")
        yield body[4 : 4 + size]
        body = body[4 + size :]


def records(agreement: Agreement, body: memoryview, size: int) -> dict[int, bytes]:
    """Site -> record, from (index, record of `size` bytes) one after the other, sites ascending."""
    if len(body) % (size + 1):
        raise MessageRefused(f"{agreement.purpose}: a list of records is cut off.")
    found = {body[at]: bytes(body[at + 1 : at + 1 + size]) for at in range(0, len(body), size + 1)}
    ascending = sorted(found)
    if list(found) != ascending or len(found) * (size + 1) != len(body) or any(i >= len(agreement.sites) for i in ascending):
        raise MessageRefused(f"{agreement.purpose}: a list of records names a site twice, out of order, or one that isn't there.")
    return found


def joined_records(found: dict[int, bytes]) -> bytes:
    return b"".join(bytes([site]) + found[site] for site in sorted(found))
