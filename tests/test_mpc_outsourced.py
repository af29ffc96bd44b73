"""Two servers compute what data owner and model owner do in the other mode, and see nothing but uniform words."""

import secrets

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia_kit.errors import KitError
from primia_kit.mpc import Provider, Ring, Server, dialogue, local_channels, outsourced, share_images, share_model
from primia_kit.mpc.layers import unpack_arrays
from primia_kit.mpc.program import REVEALS

from .mpc_checks import BITS, assert_uniform, cases, check_dealt, check_messages, check_uses, program
from .mpc_programs import OutsourcedParties, random_weights, resnet, scaled_weights, words
from .test_mpc_protocol import any_program, check, every_kind


@pytest.mark.parametrize("reveal", REVEALS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("loops", ["auto", "torch"])
def test_every_kind_of_operation(reveal, batch, loops, monkeypatch):
    monkeypatch.setenv("PRIMIA_KERNELS", loops)
    b, x = every_kind()
    weights = random_weights(p := b.program(x, reveal))
    check(p, words((batch, 12, 10, 2)), weights, OutsourcedParties(p, weights))


def test_pieces_fit_together(monkeypatch):
    monkeypatch.setattr(dialogue, "PIECE", 64)
    b, x = every_kind()
    weights = random_weights(p := b.program(x))
    check(p, words((2, 12, 10, 2)), weights, OutsourcedParties(p, weights))


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_any_program(data):
    p, images, weights = any_program(data.draw)
    check(p, images, weights, OutsourcedParties(p, weights))


def test_a_residual_network_answers_as_in_clear():
    from primia_kit.inference.clear import run_clear

    p = resnet(48, (16, 24, 32))
    weights, images = scaled_weights(p), words((1, 48, 48, 1), 0, 1 << 13)
    answer = OutsourcedParties(p, weights).infer(images)
    exact = run_clear(p, weights, Ring(38).decode(images, 13).transpose(0, 3, 1, 2)).outputs
    assert np.abs(answer.reshape(-1) - np.asarray(exact).reshape(-1)).max() < 1e-3 < np.abs(answer).max()


# -- what is sent


@pytest.mark.parametrize("reveal", REVEALS)
def test_messages_are_uniform_whatever_image_and_weights_are(reveal):
    p = program(reveal)
    for images, weights in cases(p) if reveal == "logits" else cases(p)[::3]:
        check_messages(OutsourcedParties(p, weights), images)


def test_what_is_dealt_is_uniform_whatever_the_weights_are():
    p = program()
    for _, weights in cases(p):
        check_dealt(OutsourcedParties(p, weights))


@pytest.mark.parametrize("extreme", [0, 1, -1])
def test_a_share_of_the_model_is_uniform_and_two_sharings_have_nothing_in_common(extreme):
    p = program()
    weights = random_weights(p, extreme=extreme)
    found = []
    for _ in range(2):
        for share in share_model(p, weights, secrets.token_bytes(32)):
            arrays = unpack_arrays(share, outsourced._shapes(p), BITS, "it")
            found.append(np.concatenate([array.reshape(-1) for array in arrays]))
            assert_uniform(found[-1], BITS, "a server's share")
    private = sum(w.size for w, _ in weights.values())
    for one, other in ((0, 2), (1, 3), (0, 3)):
        assert_uniform(found[one] - found[other], BITS, "two sharings")
    assert (found[0][:private] == found[1][:private]).all(), "δ is the same for both servers"


def test_a_share_of_an_image_is_uniform():
    for value in (0, (1 << BITS) - 1):
        images = np.full((4, 20, 20, 1), value, np.uint64)
        (a, b), (c, _) = share_images(images, BITS), share_images(images, BITS)
        assert (Ring(BITS).reduce(a + b) == images).all() and max(a.max(), b.max()) < 1 << BITS
        for shares in (a, b, a - c):
            assert_uniform(shares.reshape(-1), BITS, "a share of an image")


@pytest.mark.parametrize("reveal", REVEALS)
def test_an_answer_comes_in_fresh_shares(reveal, monkeypatch):
    """They don't depend on what was dealt: with everything else the same they differ by a uniform word."""
    p = program(reveal)
    parties, images = OutsourcedParties(p, random_weights(p)), np.zeros((24, 8, 8, 1), np.uint64)
    seeds = secrets.token_bytes(32), secrets.token_bytes(32)
    same = share_images(images, BITS)
    monkeypatch.setattr("tests.mpc_programs.share_images", lambda *_: same)
    one, other = ([share.reshape(-1) for share in parties.shares(images, parties.prepare(24, seeds))] for _ in range(2))
    for a, b in zip(one, other):
        assert a.max() < 1 << BITS
        assert_uniform(a, BITS, "a share of the answer")
        assert_uniform(a - b, BITS, "two shares of the same answer")
    sums = [Ring(BITS).reduce(a + b) for a, b in (one, other)]
    if reveal == "probabilities":
        assert_uniform(sums[0] - sums[1], BITS, "what is opened")
    else:
        assert (sums[0] == sums[1]).all()


@pytest.mark.parametrize("reveal", ["logits", "label"])
def test_every_mask_is_expanded_once(reveal, monkeypatch):
    check_uses(monkeypatch, program(reveal), OutsourcedParties)


def test_masks_that_serve_again_are_noticed(monkeypatch):
    """Both servers expand the same masks for every inference: e = x - a then gives differences of images away."""
    p = program()
    images, weights = cases(p)[0]
    real = outsourced.expand_mask
    monkeypatch.setattr(outsourced, "expand_mask", lambda out, seed, name: real(out, bytes(32), name))
    with pytest.raises(AssertionError, match="standard deviations"):
        check_messages(OutsourcedParties(p, weights), images)


# -- how


def test_a_preparation_serves_once_and_rooms_serve_again():
    p = program()
    parties, images = OutsourcedParties(p, random_weights(p)), np.zeros((1, 8, 8, 1), np.uint64)
    for _ in range(3):
        both = parties.prepare()
        parties.infer(images, both)
        for server, prepared in zip((parties.data, parties.model), both):
            with pytest.raises(KitError, match="has served an inference"):
                server.infer(prepared, images, local_channels()[0])
    assert len(parties.data._spare) == len(parties.model._spare) == 1


def test_a_layer_costs_four_flights_as_in_the_other_mode():
    def flights(count):
        p = resnet(32, (4,), blocks=count)
        return outsourced.ServerDialogue(p, 1).exchanges, dialogue.Dialogue(p, 1).exchanges

    (one, other), (more, others) = flights(1), flights(3)
    assert more - one == others - other == 4 * 4


def test_both_servers_say_the_same_amount_and_the_other_mode_less():
    p = resnet(64)
    sizes = [[sum(side) for side in kind(p, 1).messages] for kind in (outsourced.ServerDialogue, dialogue.Dialogue)]
    (first, second), (data, model) = sizes
    assert first == second + 32
    answer = dialogue.field_size(3, 38)
    assert first == data + 32 and second == model - answer + sum(
        dialogue.field_size(op.size, 38) for op in p.ops if op.kind in ("input", "mask")
    )


def test_shares_that_are_not_of_the_program_are_refused():
    p = program()
    weights, seed = random_weights(p), secrets.token_bytes(32)
    first, second = share_model(p, weights, seed)
    with pytest.raises(KitError, match="A server's share of the model for this program takes"):
        Server(p, 0, first[:-1])
    with pytest.raises(KitError, match="weights"):
        share_model(p, {}, seed)
    server = Server(p, 1, second)
    with pytest.raises(KitError, match="bytes are dealt, but 0 came"):
        server.prepare(seed, 1, b"")
    prepared = server.prepare(seed, 1, outsourced.OutsourcedProvider(p, seed).deal(seed, seed))
    with pytest.raises(KitError, match="share of the images is uint64"):
        server.infer(prepared, np.zeros((2, 8, 8, 1), np.uint64), local_channels()[0])


def test_material_of_the_other_mode_gives_a_wrong_answer():
    """A provider that deals for one mask of two is noticed, so this test would notice a mix-up of the modes."""
    p = program()
    weights, seed = random_weights(p), secrets.token_bytes(32)
    parties = OutsourcedParties(p, weights)
    images = words((1, 8, 8, 1), 0, 256)
    right = parties.infer(images)
    assert np.abs(parties.infer(images) - right).max() < 1
    parties.data, parties.model = (Server(p, i, share) for i, share in enumerate(share_model(p, weights, seed)))
    parties.provider = Provider(p, seed)
    assert np.abs(parties.infer(images) - right).max() > 1
