"""How the server learns a sum over hospitals: the interface, the plain sum that hides nothing, and the secure one."""

from .aggregation import Aggregator, PlainSum
from .agreement import AggregationAborted, Agreement, MessageRefused, default_threshold
from .client import Client
from .fields import Field, Layout
from .keys import Identity
from .secure_sum import SecureSum, run_round
from .server import Server
from .transcript import Transcript

__all__ = [
    "AggregationAborted", "Aggregator", "Agreement", "Client", "Field", "Identity", "Layout", "MessageRefused", "PlainSum",
    "SecureSum", "Server", "Transcript", "default_threshold", "run_round",
]  # fmt: skip
