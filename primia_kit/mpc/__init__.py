"""Arithmetic of encrypted inference: the ring, seed expansion, convolutions over the ring, the comparison's steps.

Nothing here talks to anybody: these are the computations that each party does on its own words. numba is imported
where it is first needed, never by importing this package, so that a party's process can set `NUMBA_CPU_FEATURES` first.
"""

from .expansion import expand
from .packing import pack_words, packed_size, unpack_words
from .ring import Ring

__all__ = ["Ring", "expand", "pack_words", "packed_size", "unpack_words"]
