"""Ledgers for tests, and a look at what they say when they refuse."""

from primia_kit.privacy import Ledger, SampledGaussian

STEP = SampledGaussian(0.05, 1.1)


def begin(path, budget=None, site="A", delta=1e-4):
    return Ledger.create(path, site=site, delta=delta, budget=budget, patients=800)


def sentence(error) -> str:
    """The message, which is to be short, name the ledger or the numbers, and end like a sentence."""
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 420
    return text
