"""Encrypted inference: two parties that share every value, and a provider of correlated randomness.

    program, shapes                     what is computed, publicly known
    provider, data_owner, model_owner   the three parties, as objects that compute and talk over a `Channel`
    outsourced                          the other mode: two servers that know neither image nor model
    party, evaluation, material         what computing parties have in common
    dialogue, talk                      who sends what when
    comparing, pooling, linear          operations on shares, over the kernels below
    ring, expansion, packing, kernels, comparison, wire   arithmetic that each party does on its own words

A value x is x_0 + x_1 mod 2^k, data owner's share and model owner's. It's masked if x_0 is uniform and known to the
provider, from the data owner's seed. In this order:

    1. Once for a model: the model owner draws a seed of b, gives it to the provider, and δ = W - b to the data owner.
    2. Before each image: two fresh seeds, the data owner's and the model owner's, go to the provider, which deals to the
       model owner c_1 = conv(x_0, b) - c_0 for every private layer, and its part of the tuples of comparisons. The data
       owner computes z_0 = conv(x_0, δ) + c_0.
    3. With the image: the data owner sends x - x_0. A private layer costs no message, z_1 = conv(x_1, W) + bias + c_1; a
       comparison those of `comparison`; and where a shared result y meets private weights, the data owner sends y_0 - x_0.
    4. The model owner sends its share of the output. Only the data owner learns it.

All that is sent is masked by words that are uniform and used once, so for parties that follow the protocol and don't
collude it could be drawn at random: whatever is sent to the model owner, and to the data owner all but the last message,
which is the answer less the data owner's share of it. Provider and data owner together have the model, provider and model
owner every image. A party that deviates isn't noticed.

Sources: MiniONN (Liu et al. 2017) and Delphi (Mishra et al. 2020) for a client and a server that keeps its weights;
Turbospeedz (Ben-Efraim et al. 2019) and ABY2.0 (Patra et al. 2021) for masked values. Of comparisons: see there.

numba is imported where it is first needed, never by importing this package, so that a party's process can set
`NUMBA_CPU_FEATURES` first.
"""

from .channel import Channel, local_channels
from .data_owner import DataOwner
from .dialogue import DATA_OWNER, MODEL_OWNER, Dialogue
from .evaluation import OnOp, View
from .expansion import expand
from .layers import Weights, delta, model_masks, weight_shapes
from .material import Prepared
from .model_owner import ModelOwner
from .outsourced import OutsourcedProvider, Server, open_answer, share_images, share_model
from .packing import pack_words, packed_size, unpack_words
from .program import Op, Program
from .provider import Provider
from .ring import Ring

__all__ = [
    "DATA_OWNER",
    "MODEL_OWNER",
    "Channel",
    "DataOwner",
    "Dialogue",
    "ModelOwner",
    "OnOp",
    "Op",
    "OutsourcedProvider",
    "Prepared",
    "Program",
    "Provider",
    "Ring",
    "Server",
    "View",
    "Weights",
    "delta",
    "expand",
    "local_channels",
    "model_masks",
    "open_answer",
    "pack_words",
    "packed_size",
    "share_images",
    "share_model",
    "unpack_words",
    "weight_shapes",
]
