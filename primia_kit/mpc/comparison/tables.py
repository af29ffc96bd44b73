"""The public tables of a comparison: products of mask bits, and which of them each opened byte needs.

Step 3 wants the borrow  l4 ^ e4 l3 ^ e4 e3 l2 ^ e4 e3 e2 l1 ^ e4 e3 e2 e1 l0  (e_j l_j is never 1, so ^ is "or").
l4 is at hand as a share; the other eight bits are known as v_b = p_b ^ q_b with p public and q shared. A term over the
set B of bits is

    prod_{b in B} (p_b ^ q_b)  =  XOR over S subset of B of  prod_{b in B - S} p_b  *  prod_{b in S} q_b,

so for a given p it is an XOR of products of q's bits over those S whose complement's p_b are all 1. Over the four terms
37 different S of two bits or more occur: their products are dealt. `SELECT[p]` has a 1 for each that p needs, and
`CONSTANT[p]` is the part without q. A party ANDs its shares with SELECT[p] and takes the parity.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

WINDOW = 22  # m: bits of an opened value
DIGITS_BITS = 60  # four thermometers of 15 bits
PRODUCTS_BITS = 53  # one thermometer, 37 products, a bit of r

E4, E3, E2, E1, L3, L2, L1, L0 = range(8)  # the bits of the opened byte
TERMS = ((E4, L3), (E4, E3, L2), (E4, E3, E2, L1), (E4, E3, E2, E1, L0))


def _subsets(bits: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [subset for size in range(len(bits) + 1) for subset in combinations(bits, size)]


# Where a party's share of prod_{b in S} q_b stands in the word that SELECT is ANDed with: the eight bits of q itself,
# then the products, then bit 20 of r, which is always needed.
PLACE = {(bit,): bit for bit in range(8)}
for _term in TERMS:
    for _subset in _subsets(_term):
        if _subset:
            PLACE.setdefault(_subset, len(PLACE))
PRODUCT_COUNT = len(PLACE) - 8
_ALWAYS = 1 << len(PLACE)


def _select(opened: int) -> tuple[int, int]:
    chosen, constant = _ALWAYS, 0
    for term in TERMS:
        for subset in _subsets(term):
            if all(opened >> bit & 1 for bit in term if bit not in subset):
                if subset:
                    chosen ^= 1 << PLACE[subset]
                else:
                    constant ^= 1
    return chosen, constant


def _products(mask: int) -> int:
    return sum(1 << place - 8 for subset, place in PLACE.items() if place >= 8 and all(mask >> bit & 1 for bit in subset))


SELECT = np.array([_select(opened)[0] for opened in range(256)], np.uint64)
CONSTANT = np.array([_select(opened)[1] for opened in range(256)], np.uint8)
PRODUCTS = np.array([_products(mask) for mask in range(256)], np.uint64)  # of all q: bit i is the product of place 8 + i
assert PRODUCT_COUNT == 37 and PRODUCTS_BITS == 15 + PRODUCT_COUNT + 1
