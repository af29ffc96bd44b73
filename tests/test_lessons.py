"""Exercises that check themselves: right answers are right, and each usual mistake is told."""

import secrets

import numpy as np
import pytest

from primia_kit import lessons
from primia_kit.mpc import Ring

RING = Ring(32)


def uniform(values):
    return RING.random(values.shape, secrets.token_bytes(32), "test")


def rightly(values):
    one, two = uniform(values), uniform(values)
    return one, two, RING.reduce(values - one - two)


@pytest.mark.parametrize(
    ("split", "answer"),
    [
        (lambda values: None, "Not tried"),
        (rightly, "Right"),
        (lambda values: rightly(values)[:2], "three arrays"),
        (lambda values: (*rightly(values)[:2], values), "don't add up"),
        (lambda values: (uniform(values), np.zeros_like(values), None), "three arrays"),
        (lambda values: (r := uniform(values), np.zeros_like(values), RING.reduce(values - r)), "tells something"),
        (lambda values: (r := uniform(values), RING.reduce(np.uint64(5) - r), values - np.uint64(5)), "something of the secret"),
    ],
)
def test_three_shares(split, answer):
    assert answer in lessons.check_three_shares(split, RING)


@pytest.mark.parametrize(
    ("share", "answer"),
    [
        (lambda a, b, c, d, e: None, "Not tried"),
        (lambda a, b, c, d, e: c + d * b + e * a, "Right"),
        (lambda a, b, c, d, e: c + d * b + e * a + d * e, "Nearly"),
        (lambda a, b, c, d, e: c + d * a + e * b, "Not yet"),
        (lambda a, b, c, d, e: 7, "Not yet"),
    ],
)
def test_product_share(share, answer):
    assert answer in lessons.check_product_share(share, RING)


@pytest.mark.parametrize(("bits", "answer"), [(None, "Not tried"), (41, "Right"), (40, "Too few"), (64, "fewer will do")])
def test_bits(bits, answer):
    assert answer in lessons.check_bits(bits)


@pytest.mark.parametrize(
    ("larger", "answer"),
    [
        (lambda a, b, relu: None, "Not tried"),
        (lambda a, b, relu: b + relu(a - b), "Right!"),
        (lambda a, b, relu: max(a, b), "use relu once"),
        (lambda a, b, relu: relu(a - b), "Not yet"),
    ],
)
def test_maximum(larger, answer):
    assert answer in lessons.check_maximum(larger)
