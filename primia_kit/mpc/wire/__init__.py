"""Steps of the protocol on words as they travel: unpacked, used and packed again without leaving the processor's cache.

The same as the functions of `packing` and `comparison` one after the other, of which they're made; one call instead of
five, on blocks that stay in the first-level cache.
"""

from __future__ import annotations

import numpy as np

from ..comparison import WINDOW, CompareTuples
from ..comparison.steps import value_offset
from ..comparison.tables import CONSTANT, SELECT
from ..compiled import loops
from ..threads import spread

_GRAIN = 1 << 13  # words, a multiple of 64: packed pieces start at whole 64-bit words


def lead(heard: np.ndarray, z: np.ndarray, shift: int, tuples: CompareTuples, party: int, c: np.ndarray):
    """The leader's steps 1 and 2.

    Args:
        heard: c_F as it was packed, uint64.
        z, shift, party: as in `comparison.mask_value`.
        c: uint32 [n], to be filled with the opened c.

    Returns: c_L packed, uint64, and p_L, uint8 [n].
    """
    p, packed, add = np.empty(c.size, np.uint8), np.empty(heard.size, np.uint64), value_offset(shift, party)
    own, loop = (tuples.masks, tuples.digits, tuples.products), loops(__name__).lead

    def work(start, stop):
        some = (array[start:stop] for array in (z, *own, c, p))
        loop(*(_part(array, start, stop) for array in (heard, packed)), *some, shift, add, party == 0)

    spread(work, c.size, _GRAIN)
    return packed, p


def follow(heard: np.ndarray, other: np.ndarray, own: np.ndarray, tuples: CompareTuples, party: int, c: np.ndarray):
    """The follower's steps 2 and 3.

    Args:
        heard, other: c_L as it was packed, uint64, and p_L, uint8 [n].
        own: c_F, uint32 [n].
        c: uint32 [n], to be filled with the opened c.

    Returns: p_F and t_F, uint8 [n] each.
    """
    p, t = np.empty(c.size, np.uint8), np.empty(c.size, np.uint8)
    arrays, loop = (other, own, tuples.masks, tuples.digits, tuples.products, c, p, t), loops(__name__).follow

    def work(start, stop):
        loop(_part(heard, start, stop), *(array[start:stop] for array in arrays), party == 0, SELECT, CONSTANT)

    spread(work, c.size, _GRAIN)
    return p, t


def unmask(heard: np.ndarray, bits: int, y: np.ndarray, x: np.ndarray) -> None:
    """x = heard + y: a masked value, uint64 [n], of `bits` bits and a carry, from y_0 - x_0 as it was packed and y_1."""
    loop = loops(__name__).unmask
    spread(lambda a, b: loop(_part(heard, a, b, bits), bits, y[a:b], x[a:b]), x.size, _GRAIN)


def _part(packed: np.ndarray, start: int, stop: int, bits: int = WINDOW) -> np.ndarray:
    return packed[start * bits // 64 : -(-stop * bits // 64)]
