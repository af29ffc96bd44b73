"""How the server learns a sum over hospitals: the interface, and the plain sum that hides nothing."""

from .aggregation import Aggregator, PlainSum

__all__ = ["Aggregator", "PlainSum"]
