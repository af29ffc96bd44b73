"""Differential privacy: what is released with noise, what it costs, a hospital's ledger of it, and the noise itself.

Nothing here imports PyTorch, Opacus or dp-accounting until it is used.
"""

from .accounting import calibrate, epsilon
from .ledger import Entry, Ledger
from .mechanisms import Gaussian, Mechanism, SampledGaussian, mechanism_from_dict
from .randomness import NoiseSource

__all__ = [
    "Entry", "Gaussian", "Ledger", "Mechanism", "NoiseSource", "SampledGaussian", "calibrate", "epsilon", "mechanism_from_dict",
]  # fmt: skip
