"""ReLU with truncation on additive shares, by look-up tables: what each party computes between two messages.

A value z in Z_2^k' with f more fraction bits than wanted is shared as z = z_0 + z_1 (party 0: data owner, party 1: model
owner). v = trunc(z, f) must lie in the window [-2^20, 2^20): 13 fraction bits and |x| < 128. Wanted: shares of
max(v, 0) in Z_2^k. m = 22 is the window with its two guard bits; k' >= m + f, k > m.

The provider deals for each comparison, from uniform and independent r_0, r_1 in Z_2^m, bytes q_0, q_1, bits s_0, s_1:
with r = r_0 + r_1 mod 2^m, q = q_0 ^ q_1, s = s_0 ^ s_1

    digits      XOR shares of T_j[a] = [a < r_j] for a = 0..14: thermometer codes of r's 4-bit digits r_0 .. r_3
    products    XOR shares of T_4 for digit r_4, of the 37 products of q's bits that step 3 needs, and of r's bit 20
    wrap, top   additive shares modulo 2^(k-m) of [r_0 + r_1 >= 2^m] and of r's bit 21
    s, rs       additive shares modulo 2^k of s and r s;  top_s  modulo 2^(k-m) of top s

Online, each party says c_i, p_i and t_i (`dialogue` has the order: three flights):

    1. `mask_value`   c_i = (z_i >> f) + r_i mod 2^m; party 0 adds 2^20, and 1 if f > 0.
                      Open c = c_0 + c_1 mod 2^m (22 bits). c is uniform, whatever v is.
    2. `mask_digits`  With c's 4-bit digits c_j: l_j = [c_j < r_j] = T_j[c_j] and e_j = [c_j = r_j] = T_j[c_j - 1] ^ T_j[c_j]
                      are look-ups. p_i = (e_4, e_3, e_2, e_1, l_3, l_2, l_1, l_0)_i ^ q_i.
                      Open p = p_0 ^ p_1 (8 bits). p is uniform.
    3. `mask_sign`    The borrow of c - r below bit 20 is l_4 ^ e_4 (l_3 ^ e_3 (l_2 ^ e_2 (l_1 ^ e_1 l_0))). With every bit
                      written as p_b ^ q_b it is linear in products of q's bits, `tables` says which for each p. The sign is
                      b = [v >= 0] = c's bit 20 ^ r's bit 20 ^ borrow; t_i = b_i ^ s_i.
                      Open t = t_0 ^ t_1 (1 bit). t is uniform.
    4. `relu`         As integers v = c - 2^20 - r + 2^m [c's bit 21 = 0] top and r = r_0 + r_1 - 2^m wrap, so v has shares
                      v_i = (c - 2^20) - r_i + 2^m (wrap_i + [c's bit 21 = 0] top_i), and s v has shares
                      u_i = (c - 2^20) s_i - rs_i + 2^m [c's bit 21 = 0] top_s_i; b v is t ? v - s v : s v.
                      (The term c - 2^20 of v is party 0's.) Reduced modulo 2^k.

`lift` is step 4's v_i alone: truncation without a ReLU, one message. max(a, b) = b + relu(a - b), with f = 0.

Truncation is of shares: v is floor(z / 2^f) or one more, at random, on average
2^-f above z / 2^f; shifting before reducing to m bits leaves no
chance of a large error. A v outside the window gives a wrong result that nobody notices: bound the values. c is masked by
r, p by q, t by s, each uniform and used once: nothing opened depends on z. That is the whole argument for a party that
follows the protocol; nothing here detects one that doesn't. A tuple used twice gives z differences away.

Why each step is right, and what each party sees: `docs/protocol.md`.

Sources: tables with masked look-ups, TinyTable (Damgård, Nielsen, Nielsen, Ranellucci 2017) and Ishai et al. 2013 ("On
the power of correlated randomness"); opening a masked value for a comparison and truncation, edaBits (Escudero et al.
2020); a public masked value with shares of its mask, Turbospeedz (Ben-Efraim et al. 2019), ABY2.0 (Patra et al. 2021).
"""

from .steps import lift, mask_digits, mask_sign, mask_value, open_value, relu
from .tables import WINDOW
from .tuples import CompareTuples, LiftTuples

__all__ = [
    "WINDOW",
    "CompareTuples",
    "LiftTuples",
    "lift",
    "mask_digits",
    "mask_sign",
    "mask_value",
    "open_value",
    "relu",
]
