"""The checks of `mpc_checks` fail on protocols that are broken in one place."""

import secrets

import numpy as np
import pytest

from primia_kit.errors import KitError
from primia_kit.mpc import data_owner, evaluation, layers, model_owner, pack_words, provider, talk
from primia_kit.mpc.comparison import CompareTuples, tuples

from .mpc_checks import BITS, cases, check_messages, check_uses, fields, program
from .mpc_programs import Builder, Parties, random_weights


def patched_everywhere(monkeypatch, name, function):
    for module in (layers, data_owner, provider, model_owner):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, function)


def zeros(out, *_):
    out[...] = 0
    return out


def test_a_mask_of_zeros_is_noticed(monkeypatch):
    patched_everywhere(monkeypatch, "expand_mask", zeros)
    p = program()
    with pytest.raises(AssertionError, match="standard deviations"):
        check_messages(Parties(p, random_weights(p)), cases(p)[0][0])
    with pytest.raises(AssertionError):
        check_uses(monkeypatch, p)


def test_a_product_mask_of_zeros_is_noticed(monkeypatch):
    patched_everywhere(monkeypatch, "expand_product", zeros)
    with pytest.raises(AssertionError):
        check_uses(monkeypatch, program())


def test_a_mask_that_serves_two_operations_is_noticed(monkeypatch):
    p = program()
    expand_mask = layers.expand_mask
    patched_everywhere(monkeypatch, "expand_mask", lambda out, seed, name: expand_mask(out, seed, "x"))
    images, weights = cases(p)[0]
    with pytest.raises(AssertionError, match=r"'mask\d+', 'x_1'"):
        check_messages(Parties(p, weights), images)
    with pytest.raises(AssertionError, match="twice"):
        check_uses(monkeypatch, p)


def test_seeds_that_serve_two_inferences_are_noticed(monkeypatch):
    p = program()
    images, weights = cases(p)[0]
    seeds = secrets.token_bytes(32), secrets.token_bytes(32)
    prepare = Parties.prepare
    monkeypatch.setattr(Parties, "prepare", lambda self, batch=1: prepare(self, batch, seeds))
    with pytest.raises(AssertionError, match="standard deviations"):
        check_messages(Parties(p, weights), images)


@pytest.mark.parametrize("bits", [22, 8, 1])
def test_a_comparison_without_one_of_its_masks_is_noticed(bits, monkeypatch):
    """r, q or s of both parties is zero."""
    keep = {22: 0xFFC00000, 8: 0xC03FFFFF, 1: 0xBFFFFFFF}[bits]
    over = CompareTuples._over.__func__

    def broken(cls, room, count, ring_bits):
        made = over(cls, room, count, ring_bits)
        fills.append((made.masks, keep))
        return made

    fills, deal, fill = [], tuples.spread_fill, tuples.fill
    monkeypatch.setattr(CompareTuples, "_over", classmethod(broken))

    def cut(*_, before=fill):
        result = before(*_)
        for masks, mask in fills:
            masks &= np.uint32(mask)
        return result

    monkeypatch.setattr(tuples, "fill", cut)
    monkeypatch.setattr(tuples, "spread_fill", lambda out, key: cut(out, key, before=deal))
    p = program()
    with pytest.raises(AssertionError, match="standard deviations"):
        check_messages(Parties(p, cases(p)[0][1]), cases(p)[0][0])


def test_upper_bits_that_are_sent_are_noticed(monkeypatch):
    def whole(words, bits):
        return np.ascontiguousarray(words).astype(np.uint64).reshape(-1)

    def one_more(words, bits):
        """The carry above the last word's width, where a field has bits to spare."""
        packed = np.zeros(talk.field_size(words.size, bits), np.uint8)
        pack_words(words, bits, packed.view(np.uint64))
        packed[-1] |= int(words.reshape(-1)[-1] >> words.dtype.type(bits)) << 7 & 0xFF if bits == BITS else 0
        return packed

    b = Builder((3, 3, 1))
    parties = Parties(b.program(b.same("relu", "input", shift=0)), {})
    for pack, error in ((whole, "more than the program foresees"), (one_more, "bits beyond the last word")):
        monkeypatch.setattr(talk, "pack", pack)
        monkeypatch.setattr(evaluation, "pack", pack)
        with pytest.raises((KitError, AssertionError), match=error):
            for _ in range(20):
                fields(parties, np.zeros((1, 3, 3, 1), np.uint64), timeout=1)
