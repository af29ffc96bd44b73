"""How the server learns a sum over hospitals: the interface, the plain sum that hides nothing, and the secure one."""

from .aggregation import Aggregator, Contribution, PlainSum
from .agreement import RUN_BYTES, AggregationAborted, Agreement, MessageRefused, default_threshold
from .client import Client
from .fields import Field, Layout
from .history import History
from .keys import Identity
from .secure_sum import SecureSum, run_round
from .server import Server
from .transcript import Transcript

__all__ = [
    "RUN_BYTES", "AggregationAborted", "Aggregator", "Agreement", "Client", "Contribution", "Field", "History", "Identity",
    "Layout", "MessageRefused", "PlainSum", "SecureSum", "Server", "Transcript", "default_threshold", "run_round",
]  # fmt: skip
