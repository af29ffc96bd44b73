"""One share of a peer's two secrets, never both; and what is drawn, derived and forgotten."""

import contextlib
import hashlib

import numpy as np
import pytest

from primia_kit.secagg import AggregationAborted, Client, MessageRefused, Server, keys
from primia_kit.secagg.messages import (
    Phase,
    Share,
    body_of,
    joined_records,
)

from .secagg_rounds import agree, clients_of, relay, true_sum

# One share, never both


def released_secrets(monkeypatch=None, mutate=None, dropout="E"):
    """For every releasing site and peer: which of the site's two shares of the peer's secrets its last message holds."""
    agreement = agree()
    clients, server = clients_of(agreement), Server(agreement)
    truth, last, found = {}, {}, {}
    opened = Client._opened

    def spying(self):
        shares = opened(self)
        truth[self.index] = dict(shares)
        return shares

    if mutate:
        monkeypatch.setattr(Client, "_unmask", mutate)
    monkeypatch.setattr(Client, "_opened", spying)

    def up(phase, site, message):
        if phase is Phase.UNMASKING:
            last[site] = bytes(message)
        return [] if site == dropout and phase >= Phase.MASKED_INPUT else [message]

    with contextlib.suppress(MessageRefused):  # the server won't take what a mutant sends; what counts is that it was sent
        relay(server, clients, up=up)
    for site, message in last.items():
        own = truth[agreement.sites.index(site)]
        for peer, shares in own.items():
            held = {kind for kind, share in ((Share.SELF_MASK, shares[:16]), (Share.MASK_KEY, shares[16:])) if share in message}
            found[site, agreement.sites[peer]] = held
    return found, server


def test_never_both_shares_of_a_peer(monkeypatch):
    found, server = released_secrets(monkeypatch)
    assert len(found) == 4 * 5
    for (_, peer), held in found.items():
        assert held == ({Share.MASK_KEY} if peer == "E" else {Share.SELF_MASK})
    assert np.array_equal(server.result(), true_sum(range(4)))


def test_a_mutant_that_releases_both_is_caught(monkeypatch):
    def both(self, body):
        opened = self._opened()
        release = {v: self._released(v, shares) for v, shares in opened.items()}
        return self._message(Phase.UNMASKING, joined_records(release) + b"".join(opened.values()))

    found, server = released_secrets(monkeypatch, both)
    assert any(len(held) == 2 for held in found.values())
    with pytest.raises(AggregationAborted, match="no sum"):
        server.result()


def test_a_client_unmasks_once():
    """Not for another list of survivors, whatever the server sends afterwards."""
    agreement, told = agree(), {}
    clients = clients_of(agreement)
    relay(Server(agreement), clients, down=lambda phase, site, message: told.setdefault((phase, site), message))
    with pytest.raises(AggregationAborted, match="no message is expected"):
        clients["A"].answer(told[Phase.CONSISTENCY, "A"])
    with pytest.raises(AggregationAborted, match="begun before"):
        clients["A"].start()


# Secrets


def test_nothing_secret_is_the_same_in_two_rounds():
    """The same identities and inputs: no 16 bytes behind the headers recur."""
    bodies = []
    for _ in range(2):
        seen, agreement = [], agree()
        relay(Server(agreement), clients_of(agreement), up=lambda p, s, m, seen=seen: seen.append(bytes(body_of(m))) or [m])
        bodies.append({body[i : i + 16] for body in seen for i in range(len(body) - 15)})
    assert not bodies[0] & bodies[1]


def test_any_t_shares_rebuild_a_seed_and_fewer_dont():
    seed = keys.new_seed()
    shares = dict(enumerate(keys.split(seed, 4, 6)))
    assert keys.rebuild({i: shares[i] for i in (5, 0, 3, 2)}, 4) == seed
    assert keys.rebuild({i: shares[i] for i in (5, 0, 3)}, 3) != seed
    assert len({*shares.values(), seed}) == 7


def test_what_is_derived_from_a_seed_differs_by_purpose_site_and_context():
    seed, context = keys.new_seed(), hashlib.sha256(b"").digest()
    derived = {
        keys.commitment(seed, context, 0), keys.self_mask_key(seed, context, 0), keys.self_mask_key(seed, context, 1),
        keys.mask_private_key(seed, context, 0).private_bytes_raw(), keys.self_mask_key(seed, bytes(32), 0),
    }  # fmt: skip
    assert len(derived) == 5


def test_a_client_forgets_its_secrets():
    agreement = agree()
    clients = clients_of(agreement)
    relay(Server(agreement), clients)
    for client in clients.values():
        assert not any((client._self_mask_seed, client._mask_seed, client._own_shares, client._mask_key, client._channel_key))
