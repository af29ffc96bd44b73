"""Bytes that are changed, cut, made up, or sent again: no sum, or the right one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia_kit.secagg import AggregationAborted, MessageRefused, Server
from primia_kit.secagg.messages import (
    Phase,
    header,
    signed_message,
    unsigned_message,
)

from .secagg_rounds import IDENTITIES, SITES, agree, clients_of, forgetful, relay, true_sum, vector


def test_an_undisturbed_round():
    server = Server(agree())
    relay(server, clients_of(server.agreement))
    assert np.array_equal(server.result(), true_sum(SITES)) and server.survivors == tuple("ABCDE")


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
