"""Nobody speaks for another hospital, or stands between it and the server."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from primia_kit.errors import KitError
from primia_kit.secagg import AggregationAborted, Client, Identity, MessageRefused, Server, keys
from primia_kit.secagg.messages import (
    SERVER,
    TAG_BYTES,
    Phase,
    body_of,
    header,
    join,
    parted,
    signed_message,
    unsigned_message,
)

from .secagg_rounds import IDENTITIES, agree, clients_of, forgetful, relay


def keys_message(agreement, site, identity, mask_key=None, channel_key=None):
    mask_key = mask_key or keys.public_bytes(X25519PrivateKey.generate())
    channel_key = channel_key or keys.public_bytes(X25519PrivateKey.generate())
    return signed_message(agreement, Phase.KEYS, site, mask_key + channel_key + bytes(32), identity)


def test_a_forged_identity_is_refused_by_server_and_sites():
    agreement = agree()
    forged = keys_message(agreement, 1, Identity.generate())
    with pytest.raises(MessageRefused, match="isn't signed by site B"):
        Server(agreement).receive(forged)

    def swap(phase, site, message):
        """The server puts its own keys in B's place, to read A's shares for B."""
        if (phase, site) != (Phase.KEYS, "A"):
            return message
        body = memoryview(message)[len(header(agreement, phase, SERVER)) :]
        others = list(parted(agreement, body[32:]))
        return unsigned_message(agreement, phase, bytes(body[:32]) + join([others[0], forged, *others[2:]]))

    with pytest.raises(MessageRefused, match="isn't signed by site B"):
        relay(Server(agreement), clients_of(agreement), down=swap)


def test_a_site_cant_speak_for_another():
    agreement = agree()
    with pytest.raises(MessageRefused, match="isn't signed by site B"):
        Server(agreement).receive(keys_message(agreement, 1, forgetful(IDENTITIES[0])))
    with pytest.raises(KitError, match="knows site B by another identity"):
        Client(agreement, "B", forgetful(IDENTITIES[0]), lambda words: None)
    with pytest.raises(KitError, match="site Z isn't part"):
        Client(agreement, "Z", forgetful(IDENTITIES[0]), lambda words: None)


@pytest.mark.parametrize("which", ["mask_key", "channel_key"])
def test_a_public_key_of_low_order_ends_the_round(which):
    agreement = agree()
    clients = clients_of(agreement)
    bad = keys_message(agreement, 1, forgetful(IDENTITIES[1]), **{which: bytes(32)})

    def up(phase, site, message):
        if (phase, site) != (Phase.KEYS, "B"):
            return [message]
        clients["B"]._own_keys = bytes(body_of(bad))  # B means it
        return [bad]

    with pytest.raises(AggregationAborted, match="site B sent a bad public key"):
        relay(Server(agreement), clients, up=up)


def test_a_copied_key_ends_the_round():
    agreement, first = agree(), []

    def up(phase, site, message):
        if phase is Phase.KEYS and site == "A":
            first.append(bytes(body_of(message))[:32])
        if phase is Phase.KEYS and site == "B":
            return [keys_message(agreement, 1, forgetful(IDENTITIES[1]), mask_key=first[0])]
        return [message]

    with pytest.raises(AggregationAborted, match="two sites have the same keys"):
        relay(Server(agreement), clients_of(agreement), up=up)


def in_the_middle(swap_key):
    """Somebody between C and the server, who alters C's vector, and may put a key of her own in the server's place."""
    agreement, hers = agree(), X25519PrivateKey.generate()

    def down(phase, site, message):
        if not swap_key or (phase, site) != (Phase.KEYS, "C"):
            return message
        head = len(header(agreement, phase, SERVER))
        return bytes(message[:head]) + keys.public_bytes(hers) + bytes(message[head + 32 :])

    def up(phase, site, message):
        if (phase, site) != (Phase.MASKED_INPUT, "C"):
            return [message]
        changed = np.frombuffer(bytes(message), np.uint8).copy()
        changed[-64 - TAG_BYTES - 1] ^= 1  # the vector's last byte
        return [changed.tobytes()]

    relay(Server(agreement), clients_of(agreement), up=up, down=down)


@pytest.mark.parametrize("swap_key", [False, True])
def test_a_vector_altered_on_its_way_is_refused(swap_key):
    """The tag is signed, and only the site and the server can make it: not even a false server key helps."""
    with pytest.raises(MessageRefused, match="site C sent a vector that was changed on its way"):
        in_the_middle(swap_key)


def test_a_false_server_key_makes_no_vector_that_counts():
    """Though nothing else was altered: the server finds that the tag isn't for it."""
    agreement = agree()

    def down(phase, site, message):
        head = len(header(agreement, phase, SERVER))
        other = keys.public_bytes(X25519PrivateKey.generate())
        return bytes(message[:head]) + other + bytes(message[head + 32 :]) if phase is Phase.KEYS else message

    with pytest.raises(MessageRefused, match="changed on its way"):
        relay(Server(agreement), clients_of(agreement), down=down)
