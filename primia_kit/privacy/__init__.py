"""Differential privacy: what is released with noise, what it costs, a hospital's ledger of it, and the noise itself.

None of this imports PyTorch, Opacus or dp-accounting until it is used; `privacy.statistics` does.
"""

from .accounting import calibrate, epsilon
from .chain import Account, Entry
from .distributed import DistributedNoise
from .ledger import Ledger
from .meaning import found_by_best_test, most_found, surest
from .mechanisms import Gaussian, Mechanism, RepeatAndSelect, SampledDiscreteGaussian, SampledGaussian, mechanism_from_dict
from .randomness import NoiseSource
from .shuffling import shuffled_epsilon_at_least

__all__ = [
    "Account", "DistributedNoise", "Entry", "Gaussian", "Ledger", "Mechanism", "NoiseSource", "RepeatAndSelect",
    "SampledDiscreteGaussian", "SampledGaussian", "calibrate", "epsilon", "found_by_best_test", "mechanism_from_dict",
    "most_found", "shuffled_epsilon_at_least", "surest",
]  # fmt: skip
