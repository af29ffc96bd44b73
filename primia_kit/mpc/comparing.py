"""Comparisons and truncations as the parties make them together: the steps of `comparison` in the order of `dialogue`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import wire
from .comparison import WINDOW, CompareTuples, LiftTuples, lift, mask_sign, mask_value, open_value, relu
from .dialogue import pieces
from .ring import Ring
from .talk import Talk

Finish = Callable[[np.ndarray, np.ndarray, CompareTuples, int], np.ndarray]
After = Callable[[slice, np.ndarray], None]


def sign(t: np.ndarray, c: np.ndarray, tuples: CompareTuples, party: int) -> np.ndarray:
    """Instead of step 4: the party's share of b = [v >= 0] = t ^ s, uint64 [n], modulo 2^tuples.bits."""
    flipped = np.uint64(party == 0) - tuples.s
    return Ring(tuples.bits).reduce(np.where(t == 1, flipped, tuples.s))


def compare(
    talk: Talk,
    leads: bool,
    party: int,
    z: np.ndarray,
    shift: int,
    tuples: CompareTuples,
    out: np.ndarray,
    finish: Finish = relu,
    own: np.ndarray | None = None,
    said: list[np.ndarray] | None = None,
    after: After | None = None,
) -> np.ndarray:
    """Step by step, piece by piece; see `dialogue` for who waits for what.

    Args:
        talk: with the other party.
        leads: whether this party is the leader.
        z: uint64 [n], the party's share; its bits from shift + 22 on don't matter.
        tuples: of these comparisons, used here and never again.
        out: uint64 [n], to be filled with the party's share of max(v, 0).
        finish: step 4, `relu` or `sign`.
        own, said: `mask_value`'s c_i, uint32 [n], and its pieces as `talk.pack` makes them, if they are ready.
        after: called with each piece of `out` that is ready.

    Returns: the opened c, uint32 [n].
    """
    opened, signs = np.empty(out.size, np.uint32), []
    if not leads:
        own = _say_own(talk, party, z, shift, tuples, own, said)
    for piece in pieces(out.size):
        count, some = piece.stop - piece.start, tuples[piece]
        heard = talk.hear_packed(count, WINDOW)
        if leads:
            # 2. c = c_F + c_L mod 2^22 is known here first: say c_L and p_L at once.
            packed, mine = wire.lead(heard, z[piece], shift, some, party, opened[piece])
            talk.say_packed(packed)
            talk.say(mine, 8)
        else:
            # 3. c, then p = p_F ^ p_L are known: say p_F and t_F.
            p, mine = wire.follow(heard, talk.hear(count, 8), own[piece], some, party, opened[piece])
            talk.say(p, 8)
            talk.say(mine, 1)
        signs.append(mine)
    for piece, mine in zip(pieces(out.size), signs):
        count, some, c = piece.stop - piece.start, tuples[piece], opened[piece]
        if leads:
            # 4. p, then t = t_F ^ t_L: say t_L.
            mine = mask_sign(mine ^ talk.hear(count, 8), c, some, party)
            t = mine ^ talk.hear(count, 1)
            talk.say(mine, 1)
        else:
            t = mine ^ talk.hear(count, 1)
        out[piece] = finish(t, c, some, party)
        if after:
            after(piece, out[piece])
    return opened


def truncate(
    talk: Talk,
    leads: bool,
    party: int,
    z: np.ndarray,
    shift: int,
    tuples: LiftTuples,
    out: np.ndarray,
    own: np.ndarray | None = None,
    said: list[np.ndarray] | None = None,
    after: After | None = None,
) -> np.ndarray:
    """As `compare`, without a sign: `out` becomes the party's share of v."""
    opened = np.empty(out.size, np.uint32)
    if not leads:
        own = _say_own(talk, party, z, shift, tuples, own, said)
    for piece in pieces(out.size):
        some = tuples[piece]
        mine = mask_value(z[piece], some, shift, party) if own is None else own[piece]
        c = opened[piece] = open_value(mine, talk.hear(len(some), WINDOW, np.uint32))
        if leads:
            talk.say(mine, WINDOW)
        out[piece] = lift(c, some, party)
        if after:
            after(piece, out[piece])
    return opened


def _say_own(talk: Talk, party: int, z, shift: int, tuples: LiftTuples, own, said) -> np.ndarray:
    """1. The follower's c_F, uint32 [n]."""
    if said is not None:
        for packed in said:
            talk.say_packed(packed)
        return own
    own = np.empty(len(tuples), np.uint32) if own is None else own
    for piece in pieces(own.size):
        own[piece] = mask_value(z[piece], tuples[piece], shift, party)
        talk.say(own[piece], WINDOW)
    return own
