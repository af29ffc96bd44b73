"""Rounds of secure aggregation with somebody in the middle."""

import numpy as np

from primia_kit.secagg import Agreement, Client, Identity, Server

RUN = bytes(range(16))
SITES = range(5)
IDENTITIES = [Identity.generate() for _ in range(12)]


def agree(sites=5, words=8, purpose="round 1 update", run=RUN, **options) -> Agreement:
    return Agreement(
        run=run,
        purpose=purpose,
        sites=tuple("ABCDEFGHIJKL"[:sites]),
        identities=tuple(identity.public for identity in IDENTITIES[:sites]),
        words=words,
        layout=bytes(32),
        **{"attempt": bytes(16), **options},
    )


def vector(site: int, words: int = 8) -> np.ndarray:
    return np.random.default_rng(site).integers(0, 2**32, words, dtype=np.uint32)


def clients_of(agreement: Agreement, inputs=None) -> dict[str, Client]:
    """A client for every site, each with an identity that remembers nothing."""
    inputs = inputs if inputs is not None else [vector(i, agreement.words) for i in range(len(agreement.sites))]
    return {
        site: Client(agreement, site, forgetful(IDENTITIES[i]), lambda words, i=i: np.copyto(words, inputs[i]))
        for i, site in enumerate(agreement.sites)
    }


def forgetful(identity: Identity) -> Identity:
    """The same key without its history: a test repeats rounds."""
    return Identity(identity._key)


def relay(server: Server, clients: dict[str, Client], up=None, down=None, until=None):
    """Run a round.

    up(phase, site, message) -> the messages that reach the server instead; down(phase, site, message) -> the
    message that reaches the site, or None for none. until: stop when the server reaches this phase.
    """
    up = up or (lambda phase, site, message: [message])
    down = down or (lambda phase, site, message: message)
    inbox = None
    while server.phase is not None and server.phase != until:
        phase, sent = server.phase, {}
        for site in clients if inbox is None else inbox:
            sent[site] = clients[site].start() if inbox is None else clients[site].answer(inbox[site])
        for site, message in sent.items():
            for reaches in up(phase, site, message):
                server.receive(reaches)
        told = {site: down(phase, site, message) for site, message in server.advance().items()}
        inbox = {site: message for site, message in told.items() if message is not None}


def true_sum(sites, words: int = 8) -> np.ndarray:
    return sum((vector(i, words) for i in sites), np.zeros(words, np.uint32))
