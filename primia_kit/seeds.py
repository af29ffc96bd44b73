"""Reproducible randomness: every generator derives from the plan's seed by (seed, round, site).

INSECURE by design: whoever knows the plan can repeat every draw. Use these generators for shuffling,
initial weights and synthetic films, and for nothing that has to stay secret.
"""

from __future__ import annotations

import hashlib
import json


def derive_seed(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed for one use, e.g. `derive_seed(plan.seed, round, site, "shuffle")`.

    Two different purposes give independent seeds; the same purpose gives the same seed on every
    machine. (SHA-256 over the JSON list, so that ("1", "2") and ("12",) differ.)
    """
    digest = hashlib.sha256(json.dumps([seed, *purpose]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_generator(seed: int, *purpose: int | str):
    """A `numpy.random.Generator` for one use (insecure, see this module's head)."""
    import numpy as np

    return np.random.default_rng(derive_seed(seed, *purpose))


def torch_generator(seed: int, *purpose: int | str):
    """A `torch.Generator` on the CPU for one use (insecure, see this module's head)."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
