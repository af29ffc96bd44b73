"""The model owner of the outsourced mode: shares its model between two servers, and isn't needed again.

    1. M -> P    register: a fresh id and seed of b, the program, the certificates of both servers
    2. M -> S_i  share: δ = W - b, W_i and bias_i, with W_0 + W_1 = W and bias_0 + bias_1 = bias; the other's certificate

Each sharing has an id, a seed and shares of its own, and M keeps none of them. If one is broken off, share again: what was
dealt for the last one is of no use any more, and is wiped.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import KitError
from ...mpc import share_model
from ...mpc.program import Program
from ..certificates import Credentials
from ..store import ID_BYTES
from . import messages
from .channel import Channel
from .dealing import register
from .provider import SEED_BYTES
from .tls import connect


def share_between(program: Program, weights: Mapping[str, Any], provider: Channel, servers: Sequence[Channel]) -> str:
    """Share a model, over channels that are closed at the end.

    Args:
        program, weights: of `compile_private`.
        provider, servers: channels to the provider and to servers 0 and 1.

    Returns: the model's new id.
    Raises: KitError if one of them refuses, or isn't what its place says.
    """
    channels = (provider, *servers)
    try:
        if [channel.peer.role for channel in channels] != ["provider", "server0", "server1"]:
            raise KitError("A model is shared over channels to the provider, server 0 and server 1, in this order.")
        model, mask_seed = secrets.token_bytes(ID_BYTES).hex(), secrets.token_bytes(SEED_BYTES)
        shares = share_model(program, weights, mask_seed)
        certificates = [channel.peer.fingerprint for channel in servers]
        register(provider, program, model, mask_seed, certificates)
        text = program.to_json().encode()
        for channel, share, other in zip(servers, shares, reversed(certificates), strict=True):
            messages.greet(channel)
            messages.send(channel, "share", model=model, sha256=program.sha256, other=other, bytes=len(text))
            channel.send_bytes(text, "program")
            messages.send_content(channel, share, "share")
            messages.receive(channel, "shared")
    except BaseException as error:
        for channel in channels:
            channel.abort("The model owner has broken off.")
        raise error
    for channel in channels:
        channel.close()
    return model


def share_over_tls(
    program: Program,
    weights: Mapping[str, Any],
    provider: str,
    servers: Sequence[str],
    certificates: str | Path,
    timeout: float = 60.0,
    pins: Sequence[str | None] = (None, None, None),
) -> str:
    """`share_between` parties at "HOST:PORT" addresses, with the model owner's folder of `primia certificates`.

    Args:
        pins: the one provider, server 0 and server 1 wanted, as `connect` takes them.
    """
    mine = Credentials(certificates, "model")
    channels: list[Channel] = []
    try:
        roles = "provider", "server0", "server1"
        for address, role, pin in zip((provider, *servers), roles, pins, strict=True):
            channels.append(connect(address, mine, role, timeout, pin=pin))
    except KitError:
        for channel in channels:
            channel.close()
        raise
    return share_between(program, weights, channels[0], channels[1:])
