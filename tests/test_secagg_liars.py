"""A server and sites that sign what they shouldn't, alone and together."""

import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from primia_kit.secagg import AggregationAborted, MessageRefused, Server, keys
from primia_kit.secagg import client as client_module
from primia_kit.secagg.messages import (
    SERVER,
    Phase,
    Share,
    body_of,
    header,
    join,
    joined_records,
    parted,
    records,
    signed_message,
    unsigned_message,
)

from .secagg_rounds import IDENTITIES, agree, clients_of, forgetful, relay

# A lying server


def camps(sites: int, colluders: int, **options) -> dict[Share, dict[int, bytes]]:
    """The shares of site A's two secrets that a lying server and its last `colluders` sites collect at best.

    It tells one camp of honest sites that A stayed, as many as it needs for that list, and the rest that A left. Its
    own sites sign both lists, and hand over both of their shares.
    """
    agreement = agree(sites, **options)
    clients, honest = clients_of(agreement), sites - colluders
    relay(Server(agreement), clients, until=Phase.CONSISTENCY)
    needed = max(1, agreement.threshold - colluders)
    lists = {
        Share.SELF_MASK: (range(sites), range(min(needed, honest))),
        Share.MASK_KEY: (range(1, sites), range(min(needed, honest), honest)),
    }
    found = {kind: {} for kind in lists}
    for kind, (survivors, camp) in lists.items():
        signed = {}
        for i, site in enumerate(agreement.sites):
            client = clients[site]
            if i in camp:
                with contextlib.suppress(AggregationAborted):
                    signed[i] = client.answer(unsigned_message(agreement, Phase.MASKED_INPUT, bytes(survivors)))
            elif i >= honest:
                view = client_module.view_digest(client._keys_digest, range(sites), survivors)
                signed[i] = signed_message(agreement, Phase.CONSISTENCY, i, view, forgetful(IDENTITIES[i]))
                both = client._opened()[0]
                found[kind][i] = both[:16] if kind is Share.SELF_MASK else both[16:]
        told = unsigned_message(agreement, Phase.CONSISTENCY, join(signed[i] for i in sorted(signed)))
        for i in camp:
            with contextlib.suppress(AggregationAborted):
                released = records(agreement, body_of(bytes(clients[agreement.sites[i]].answer(told))), 17)[0]
                assert released[0] == kind
                found[kind][i] = released[1:]
    return found


@pytest.mark.parametrize(
    ("sites", "colluders", "opens"),
    [(4, 1, False), (4, 2, True), (5, 2, False), (5, 3, True), (10, 3, False), (10, 4, True)],
)
def test_how_many_hospitals_a_lying_server_needs(sites, colluders, opens):
    """n + c < 2t is where it can't have both of a site's secrets, as the threat model says; not one more."""
    threshold = agree(sites).threshold
    assert opens == (sites + colluders >= 2 * threshold)
    assert all(len(shares) >= threshold for shares in camps(sites, colluders).values()) == opens


def test_three_hospitals_hold_against_a_lying_server_with_one_of_them_unless_two_survivors_are_allowed():
    """Where all three must be in the sum, nobody signs a list without A."""
    unsafe = {"min_survivors": 2, "unsafe_two_survivors": True}
    assert len(camps(3, 1)[Share.MASK_KEY]) == 1
    assert all(len(shares) >= 2 for shares in camps(3, 1, **unsafe).values())
    assert not all(len(shares) >= 2 for shares in camps(3, 0, **unsafe).values())


@pytest.mark.parametrize("phase", [Phase.SHARES, Phase.MASKED_INPUT])
def test_a_server_that_tells_different_lists_gets_nothing(phase):
    """It says to A alone that E dropped out, so that A would release the share of E's mask key."""
    agreement = agree()

    def lie(p, site, message):
        if site != "A" or p not in (phase, Phase.MASKED_INPUT):
            return message
        body = memoryview(message)[len(header(agreement, p, SERVER)) :]
        if p is Phase.MASKED_INPUT:
            return unsigned_message(agreement, p, bytes(body)[:-1])
        sealed = records(agreement, body, 48)
        del sealed[4]
        return unsigned_message(agreement, p, joined_records(sealed))

    def up(p, site, message):
        """The server is in the plot: it takes A's other signature in place of none."""
        if (p, site) == (Phase.CONSISTENCY, "A"):
            server._confirmed[0] = bytes(message)
            return []
        return [message]

    server = Server(agreement)
    with pytest.raises(AggregationAborted, match="was told other keys or other survivors"):
        relay(server, clients_of(agreement), up=up, down=lie)


def test_a_server_that_hides_the_disagreement_has_too_few_signatures():
    """Split in two camps, neither of which has t = 4 of 5 sites."""
    agreement = agree()
    camps = {site: frozenset("ABC") if site in "ABC" else frozenset("DE") for site in "ABCDE"}

    def down(phase, site, message):
        if phase is not Phase.CONSISTENCY:
            return message
        messages = list(parted(agreement, memoryview(message)[len(header(agreement, phase, SERVER)) :]))
        return unsigned_message(agreement, phase, join(m for m in messages if agreement.sites[m[5]] in camps[site]))

    with pytest.raises(AggregationAborted, match="3 sites signed the survivor list, 4 are needed"):
        relay(Server(agreement), clients_of(agreement), down=down)


@pytest.mark.parametrize(
    ("survivors", "sentence"),
    [
        ([0, 1, 2], "3 of 5 sites sent a vector .* 4 are needed"),
        ([1, 2, 3, 4], "this site's vector didn't come"),
        ([0, 1, 2, 3, 9], "isn't a list of sites that sent shares"),
        ([0, 1, 1, 2, 3, 4], "isn't a list of sites"),
        ([4, 3, 2, 1, 0], "isn't a list of sites"),
        ([], "this site's vector didn't come"),
    ],
)
def test_a_list_of_survivors_that_cant_be_is_refused(survivors, sentence):
    agreement = agree()
    with pytest.raises(AggregationAborted, match=sentence):
        relay(
            Server(agreement),
            clients_of(agreement),
            down=lambda p, s, m: unsigned_message(agreement, p, bytes(survivors)) if (p, s) == (Phase.MASKED_INPUT, "A") else m,
        )


def test_min_survivors_is_kept_by_the_sites_not_only_by_the_server():
    agreement = agree(sites=3)
    with pytest.raises(AggregationAborted, match="2 of 3 sites sent a vector"):
        relay(
            Server(agreement),
            clients_of(agreement),
            down=lambda p, s, m: unsigned_message(agreement, p, bytes([0, 1])) if p is Phase.MASKED_INPUT else m,
        )


def test_a_server_message_that_belongs_to_the_other_end_is_refused():
    agreement = agree()
    clients = clients_of(agreement)
    own = clients["A"].start()
    with pytest.raises(AggregationAborted):
        clients["A"].answer(own)
    with pytest.raises(AggregationAborted, match="no message is expected"):  # and the round is over for it
        clients["A"].answer(own)
    with pytest.raises(MessageRefused, match="a message of the server"):
        Server(agreement).receive(unsigned_message(agreement, Phase.KEYS, b""))


# A lying site


@pytest.mark.parametrize("peer", ["A", "E"])  # a survivor's self-mask share, a dropout's mask-key share
def test_a_false_share_is_found(peer):
    """Signed by its site, and wrong: the rebuilt seed doesn't fit its commitment, or the mask key it stands for."""
    agreement = agree()

    def up(phase, site, message):
        if site == "E" and phase >= Phase.MASKED_INPUT:
            return []
        if (phase, site) != (Phase.UNMASKING, "B"):
            return [message]
        released = records(agreement, body_of(bytes(message)), 17)
        index = agreement.sites.index(peer)
        released[index] = released[index][:1] + bytes(b ^ 1 for b in released[index][1:])
        return [signed_message(agreement, phase, 1, joined_records(released), forgetful(IDENTITIES[1]))]

    with pytest.raises(AggregationAborted, match=f"a secret of site {peer} can't be rebuilt"):
        relay(Server(agreement), clients_of(agreement), up=up)


def test_a_share_of_the_other_kind_is_refused():
    agreement = agree()

    def up(phase, site, message):
        if (phase, site) != (Phase.UNMASKING, "B"):
            return [message]
        released = records(agreement, body_of(bytes(message)), 17)
        released[0] = bytes([Share.MASK_KEY]) + released[0][1:]
        return [signed_message(agreement, phase, 1, joined_records(released), forgetful(IDENTITIES[1]))]

    with pytest.raises(MessageRefused, match="didn't release the one right share"):
        relay(Server(agreement), clients_of(agreement), up=up)


def test_shares_sealed_for_one_pair_open_for_no_other():
    one, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    context = bytes(32)
    sealed = keys.seal(b"x" * 32, one, keys.public_bytes(other), context, 0, 1)
    assert keys.unseal(sealed, other, keys.public_bytes(one), context, 0, 1) == b"x" * 32
    for context_, sender, receiver in ((b"1" * 32, 0, 1), (context, 1, 0), (context, 0, 2)):
        assert keys.unseal(sealed, other, keys.public_bytes(one), context_, sender, receiver) is None
