"""Encrypted inference: two parties that share every value, and a provider of correlated randomness.

    program, shapes                     what is computed, publicly known
    provider, data_owner, model_owner   the three parties, as objects that compute and talk over a `Channel`
    dialogue, talk                      who sends what when
    comparing, pooling, linear          operations on shares, over the kernels below
    ring, expansion, packing, kernels, comparison   arithmetic that each party does on its own words

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
    "Prepared",
    "Program",
    "Provider",
    "Ring",
    "View",
    "Weights",
    "delta",
    "expand",
    "local_channels",
    "model_masks",
    "pack_words",
    "packed_size",
    "unpack_words",
    "weight_shapes",
]
