"""Who listens sees noise; a test that couldn't see a mask missing would fail here, too."""

import numpy as np
import pytest
from scipy.stats import chi2

from primia_kit.secagg import Server
from primia_kit.secagg import client as client_module
from primia_kit.secagg.messages import (
    TAG_BYTES,
    Phase,
    body_of,
)
from primia_kit.secagg.vectors import add_masks

from .secagg_rounds import agree, clients_of, relay


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
