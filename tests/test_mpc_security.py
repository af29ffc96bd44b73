"""What is sent and dealt doesn't depend on secrets, masks serve once, and one party alone learns the answer."""

import secrets
from itertools import combinations

import numpy as np
import pytest

from primia_kit.mpc import DATA_OWNER, MODEL_OWNER, Ring, evaluation, layers

from .mpc_checks import BITS, assert_uniform, cases, check_dealt, check_messages, check_uses, program
from .mpc_programs import Parties, random_weights


def all_parties():
    p = program()
    return [(Parties(p, weights), images) for images, weights in cases(p)]


def test_messages_are_uniform_whatever_images_and_weights_are():
    for parties, images in all_parties():
        check_messages(parties, images)


@pytest.mark.parametrize("reveal", ["probabilities", "label"])
def test_messages_are_uniform_for_every_reveal(reveal):
    p = program(reveal)
    for images, weights in cases(p)[::3]:
        check_messages(Parties(p, weights), images)


def test_what_is_dealt_is_uniform_whatever_the_weights_are():
    for parties, _ in all_parties():
        check_dealt(parties)


def test_delta_is_uniform_whatever_the_weights_are():
    for extreme in (0, 1, -1):
        p = program()
        parties_delta = layers.delta(p, random_weights(p, extreme=extreme), secrets.token_bytes(32))
        words = np.concatenate([words.reshape(-1) for words in layers.unpack_delta(p, parties_delta).values()])
        assert_uniform(words, BITS, "delta")


@pytest.mark.parametrize("reveal", ["logits", "label"])
def test_every_mask_is_expanded_once(reveal, monkeypatch):
    check_uses(monkeypatch, program(reveal))


# -- who learns the answer


@pytest.mark.parametrize("reveal", ["logits", "probabilities", "label"])
def test_only_the_data_owner_is_told_the_answer(reveal):
    dialogue = Parties(p := program(reveal), random_weights(p)).data.dialogue(2)
    last = dialogue.fields[-1]
    assert (last.sender, last.part) == (MODEL_OWNER, "output")
    assert last.count == 2 * p.ops[-2].size // (4 if reveal == "label" else 1)
    assert [field.part for field in dialogue.fields].count("output") == 1
    assert {field.part for field in dialogue.fields if field.sender == DATA_OWNER} == {"masked", "c", "p", "t"}


def opened(parties, images):
    """The ring words that the data owner has at the end, before they are made into an answer."""
    words = []
    parties.data._decode = lambda answer: words.append(Ring(BITS).reduce(answer)) or answer
    parties.infer(images)
    return words[0]


def test_probabilities_tell_differences_of_logits_and_no_more():
    p = program("probabilities")
    weights = random_weights(p)
    parties, images = Parties(p, weights), np.zeros((8, 8, 8, 1), np.uint64)
    some = [opened(parties, images) for _ in range(4)]
    for words in some:
        for channel in range(4):
            assert_uniform(words[..., channel].reshape(-1), BITS, "a revealed logit")
    for one, other in combinations(some, 2):
        assert_uniform((one - other)[..., 0].reshape(-1), BITS, "two inferences of the same image")
        steps = Ring(BITS).signed((one - one[..., :1]) - (other - other[..., :1]))
        assert np.abs(steps).max() <= 64  # truncations apart, the differences are the same


def test_logits_without_the_random_number_are_noticed(monkeypatch):
    monkeypatch.setattr(evaluation.os, "urandom", bytes)
    p = program("probabilities")
    words = opened(Parties(p, random_weights(p)), np.zeros((8, 8, 8, 1), np.uint64))
    with pytest.raises(AssertionError, match="standard deviations"):
        assert_uniform(words[..., 0].reshape(-1), BITS, "a revealed logit")


def test_a_label_is_all_that_is_opened():
    p = program("label")
    words = opened(Parties(p, random_weights(p)), np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint64))
    assert words.shape == (8, 9, 9, 1) and words.max() <= 3 and len(np.unique(words)) > 1
