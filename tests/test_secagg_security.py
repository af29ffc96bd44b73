"""Who listens sees noise, and who meddles gets no sum; tests that can't see a mask or share missing would fail here, too."""

import contextlib
import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from primia_kit.errors import KitError
from primia_kit.secagg import AggregationAborted, Client, Identity, MessageRefused, Server, keys
from primia_kit.secagg import client as client_module
from primia_kit.secagg.messages import (
    SERVER,
    TAG_BYTES,
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
from primia_kit.secagg.vectors import add_masks

from .secagg_rounds import IDENTITIES, agree, clients_of, forgetful, relay, true_sum, vector

SITES = range(5)


def test_an_undisturbed_round():
    server = Server(agree())
    relay(server, clients_of(server.agreement))
    assert np.array_equal(server.result(), true_sum(SITES)) and server.survivors == tuple("ABCDE")


# Noise


def byte_p_value(words: np.ndarray) -> float:
    """Chi-square test: how likely uniform bytes are spread at least as unevenly as these."""
    counts = np.bincount(np.ascontiguousarray(words).view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return chi2.sf(((counts - expected) ** 2 / expected).sum(), 255)


WORDS = 1 << 15


def servers_view(monkeypatch, mutant=add_masks) -> dict[str, float]:
    """What the server can form from site A's masked vector in two rounds with the same input, all zeros, as p-values.

    Args:
        mutant: called by the clients in place of add_masks(words, masks).
    """
    masked, masks_of = [], []

    def masking(words, masks):
        masks_of.append(masks)
        mutant(words, masks)

    for purpose in ("round 1 update", "round 2 update"):
        masks_of.clear()
        agreement, seen = agree(words=WORDS, purpose=purpose), {}
        monkeypatch.setattr(client_module, "add_masks", masking)
        relay(
            Server(agreement),
            clients_of(agreement, [np.zeros(WORDS, np.uint32)] * 5),
            up=lambda phase, site, message, seen=seen: seen.update({(phase, site): bytes(message)}) or [message],
        )
        masked.append(np.frombuffer(body_of(seen[Phase.MASKED_INPUT, "A"])[:-TAG_BYTES], "<u4"))
    self_mask, *pair_masks = masks_of[0]  # A comes first

    def taken_off(masks):
        rest = masked[1].copy()
        add_masks(rest, [(key, -sign) for key, sign in masks])
        return rest

    views = {
        "first": masked[0],
        "second": masked[1],
        "difference": masked[0] - masked[1],
        "without self mask": taken_off([self_mask]),  # which the survivors' shares open
        "without pair masks": taken_off(pair_masks),  # which it could have opened by saying that A dropped out
    }
    return {name: byte_p_value(view) for name, view in views.items()}


FALSE_ALARM = 1e-9


def test_a_masked_vector_is_noise_to_the_server(monkeypatch):
    """Also when it has taken off every mask that its shares open, and between rounds of the same input."""
    assert min(servers_view(monkeypatch).values()) > FALSE_ALARM


def no_masks(words, masks):
    pass


def no_self_mask(words, masks):
    add_masks(words, masks[1:])


def no_pair_masks(words, masks):
    add_masks(words, masks[:1])


class MasksOfTheFirstRound:
    """Each client derives its masks rightly once, and keeps them for the next round."""

    def __init__(self):
        self.kept, self.calls = [], 0

    def __call__(self, words, masks):
        self.kept.append(masks)
        add_masks(words, self.kept[self.calls % 5])
        self.calls += 1


@pytest.mark.parametrize(
    ("mutant", "caught_by"),
    [
        (no_masks, {"first", "second", "difference"}),
        (no_self_mask, {"without pair masks"}),
        (no_pair_masks, {"without self mask"}),
        (MasksOfTheFirstRound(), {"difference"}),
    ],
)
def test_the_test_of_noise_catches_mutants(monkeypatch, mutant, caught_by):
    p_values = servers_view(monkeypatch, mutant)
    assert {name for name, p in p_values.items() if p < FALSE_ALARM} >= caught_by


def test_the_noise_is_told_from_an_uneven_byte():
    """1 in 20 words with a zero byte is far from uniform."""
    words = np.random.default_rng(0).integers(0, 2**32, WORDS, dtype=np.uint32)
    assert byte_p_value(words) > FALSE_ALARM
    words[::20] &= 0xFFFFFF00
    assert byte_p_value(words) < FALSE_ALARM


def test_masks_are_aes_ctr():
    """The masks' definition, from the one-shot interface: blocks and threads change nothing."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    length = 33 * (1 << 16) + 5
    stream = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).encryptor().update(bytes(4 * length))
    words = np.ones(length, np.uint32)
    add_masks(words, [(bytes(32), 1), (bytes(31) + b"1", 1), (bytes(31) + b"1", -1)])
    assert np.array_equal(words, np.frombuffer(stream, "<u4") + np.uint32(1))


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


# Meddling with bytes


def meddle(phase, upward, position, value, site="B", sites=5):
    """Flip bits of one byte of one message, and return what the server gets."""

    def change(message):
        changed = np.frombuffer(bytes(message), np.uint8).copy()
        changed[position % len(changed)] ^= value
        return changed.tobytes()

    server = Server(agree(sites))
    relay(
        server,
        clients_of(server.agreement),
        up=lambda p, s, m: [change(m)] if upward and (p, s) == (phase, site) else [m],
        down=lambda p, s, m: change(m) if not upward and (p, s) == (phase, site) else m,
    )
    return server.result()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(Phase), st.booleans(), st.integers(0, 2000), st.integers(1, 255))
def test_one_changed_byte_anywhere_ends_the_round(phase, upward, position, value):
    if phase is Phase.UNMASKING and not upward:
        return  # there is no such message
    with pytest.raises(AggregationAborted):
        meddle(phase, upward, position, value)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(Phase), st.integers(0, 400))
def test_cut_off_messages_are_refused_and_leave_no_trace(phase, length):
    """The server may wait for the right one: the sum is right then."""
    server, refused = Server(agree()), []

    def up(p, site, message):
        if (p, site) == (phase, "C"):
            with pytest.raises(MessageRefused):
                server.receive(bytes(message)[: length % len(message)])
            refused.append(site)
        return [message]

    relay(server, clients_of(server.agreement), up=up)
    assert refused and np.array_equal(server.result(), true_sum(SITES))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(Phase), st.binary(max_size=400), st.booleans())
def test_random_bytes_are_refused(phase, noise, with_header):
    agreement = agree()
    server = Server(agreement)

    def up(p, site, message):
        if (p, site) == (phase, "C"):
            with pytest.raises(MessageRefused):
                server.receive(header(agreement, phase, 2) + noise if with_header else noise)
        return [message]

    relay(server, clients_of(agreement), up=up)
    assert np.array_equal(server.result(), true_sum(SITES))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([Phase.KEYS, Phase.SHARES, Phase.MASKED_INPUT, Phase.CONSISTENCY]), st.binary(max_size=400))
def test_a_server_that_sends_noise_gets_nothing(phase, noise):
    agreement = agree()
    with pytest.raises(AggregationAborted):
        relay(
            Server(agreement),
            clients_of(agreement),
            down=lambda p, s, m: unsigned_message(agreement, phase, noise) if (p, s) == (phase, "C") else m,
        )


@pytest.mark.parametrize("phase", Phase)
def test_a_message_counts_once(phase):
    server = Server(agree())

    def up(p, site, message):
        if (p, site) == (phase, "C"):
            server.receive(message)
            with pytest.raises(MessageRefused, match="site C sent a second message"):
                server.receive(message)
            return []
        return [message]

    relay(server, clients_of(server.agreement), up=up)
    assert np.array_equal(server.result(), true_sum(SITES))


# Replays


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize(
    "terms", [{"purpose": "round 2 update"}, {"run": bytes(16)}, {"min_survivors": 4}, {"attempt": b"1" * 16}]
)
def test_a_message_of_another_round_run_or_agreement_is_refused(phase, terms):
    seen, server = {}, Server(agree(**terms))
    relay(Server(agree()), clients_of(agree()), up=lambda p, s, m: seen.update({(p, s): bytes(m)}) or [m])

    def up(p, site, message):
        if (p, site) == (phase, "C"):
            with pytest.raises(MessageRefused, match="belongs to another run, round, phase or agreement"):
                server.receive(seen[phase, "C"])
        return [message]

    relay(server, clients_of(server.agreement), up=up)
    assert np.array_equal(server.result(), true_sum(SITES))


def test_keys_of_an_earlier_attempt_at_the_same_round_open_nothing():
    """Replayed by the server to the others: their site finds that they aren't its own."""
    agreement, first = agree(), {}
    relay(Server(agreement), clients_of(agreement), up=lambda p, s, m: first.update({(p, s): m}) or [m], until=Phase.SHARES)
    server, clients = Server(agreement), clients_of(agreement)
    relay(server, clients, up=lambda p, s, m: [first[p, s] if (p, s) == (Phase.KEYS, "C") else m], until=Phase.SHARES)
    told = unsigned_message(agreement, Phase.KEYS, bytes(32) + server._forwarded(server._keys))
    clients["A"].answer(told)
    with pytest.raises(AggregationAborted, match="other keys in this site's name"):
        clients["C"].answer(told)


def test_a_late_message_is_refused():
    server, kept = Server(agree()), []
    relay(
        server,
        clients_of(server.agreement),
        up=lambda p, s, m: kept.append(m) or [] if (p, s) == (Phase.MASKED_INPUT, "E") else [m],
    )
    with pytest.raises(MessageRefused, match="after the end"):
        server.receive(kept[0])
    assert np.array_equal(server.result(), true_sum(range(4)))


def test_who_was_counted_out_stays_out():
    server = Server(agree())
    clients = clients_of(server.agreement)
    relay(server, clients, up=lambda p, s, m: [] if s == "E" else [m], until=Phase.MASKED_INPUT)
    late = signed_message(server.agreement, Phase.MASKED_INPUT, 4, vector(4).tobytes(), forgetful(IDENTITIES[4]))
    with pytest.raises(MessageRefused, match="site E was counted as dropped out before"):
        server.receive(late)


# Identities


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
