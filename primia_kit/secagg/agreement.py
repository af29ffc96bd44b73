"""What all parties of a round know before it begins, and how a round ends early."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..errors import KitError
from .fields import MOST_SITES

SMALLEST_ANONYMITY = 3  # with two survivors, each subtracts its own contribution and has the other's
RUN_BYTES = 16
_LONGEST_PURPOSE = 200  # bytes


class AggregationAborted(KitError):
    """A round of secure aggregation ended without a sum; nobody learned one."""


class MessageRefused(AggregationAborted):
    """A party refuses one message. The server's state is as before: it may go on as if nothing had come."""


def default_threshold(sites: int) -> int:
    """How many shares rebuild a secret: max(2, floor(2n/3) + 1), but 2 for n = 3.

    With more than 2n/3, a server that lies about who stayed can't collect both secrets of a site, even with
    2t - n - 1 hospitals on its side. n = 3 has no such margin: with 3 nobody could drop out.
    """
    return 2 if sites == 3 else max(2, 2 * sites // 3 + 1)


@dataclass(frozen=True)
class Agreement:
    """The terms of one round. Every message carries their hash, so that none passes for another round's.

    run: 16 bytes, different for each run, and the same when it's taken up again. purpose: unique in the run, e.g.
        "round 3 update". attempt: 16 bytes, drawn anew each time that the round is tried.
    sites: who takes part, in order. identities: their Ed25519 public keys (32 bytes), known ahead.
    words: length of the vector. layout: SHA-256 of the meaning of its words.
    min_survivors: with fewer contributions in the sum, the round aborts.
    unsafe_two_survivors: allow min_survivors = 2. Each of two survivors learns the other's contribution.

    Raises: KitError for terms under which a sum hides nothing.
    """

    run: bytes
    purpose: str
    sites: tuple[str, ...]
    identities: tuple[bytes, ...]
    words: int
    layout: bytes
    min_survivors: int = SMALLEST_ANONYMITY
    unsafe_two_survivors: bool = False
    attempt: bytes = field(default_factory=lambda: secrets.token_bytes(RUN_BYTES))

    def __post_init__(self) -> None:
        check_sites(self.purpose, self.sites, self.min_survivors, self.unsafe_two_survivors)
        if len(set(self.sites)) < len(self.sites) or len(set(self.identities)) < len(self.sites):
            raise KitError(f"{self.purpose}: two sites have the same name or the same identity.")
        if len(self.identities) != len(self.sites) or any(len(key) != 32 for key in self.identities):
            raise KitError(f"{self.purpose}: every site needs an Ed25519 public key of 32 bytes, known before the round.")
        if {len(self.run), len(self.attempt)} != {RUN_BYTES}:
            raise KitError(f"{self.purpose}: the ids of a run and of an attempt have {RUN_BYTES} bytes each.")
        if not 0 < len(self.purpose.encode()) <= _LONGEST_PURPOSE:
            raise KitError(f"A round's purpose has 1 to {_LONGEST_PURPOSE} bytes, this one {len(self.purpose.encode())}.")

    @property
    def threshold(self) -> int:
        """t: how many shares rebuild a secret, and how many sites must stay to the end."""
        return default_threshold(len(self.sites))

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over all terms."""
        terms = [
            self.run.hex(), self.purpose, self.sites, [key.hex() for key in self.identities], self.words, self.layout.hex(),
            self.threshold, self.min_survivors, self.attempt.hex(),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(terms).encode()).digest()

    def names(self, indices) -> str:
        """Sites in words, for sentences."""
        return ", ".join(self.sites[i] for i in sorted(indices)) or "nobody"


def check_sites(purpose: str, sites: Sequence[str], min_survivors: int, unsafe_two_survivors: bool) -> None:
    """Refuse a round whose sum would give contributions away."""
    least = 2 if unsafe_two_survivors else SMALLEST_ANONYMITY
    if min_survivors < least:
        raise KitError(
            f"min_survivors is {min_survivors}, the least is {least}: of two survivors each learns the other's contribution "
            "by subtracting its own. (unsafe_two_survivors=True allows 2, for lessons.)"
        )
    if len(sites) < min_survivors:
        instead = "PlainSum() sums in clear; SecureSum(min_survivors=2, unsafe_two_survivors=True) is for lessons"
        raise KitError(
            f"{purpose}: {len(sites)} sites contribute, and a secure sum needs {min_survivors}: in a sum of two, each learns the "
            f"other's contribution by subtracting its own. {instead}."
        )
    if len(sites) > MOST_SITES:
        raise KitError(f"{purpose}: {len(sites)} sites are too many for one secure sum; it takes up to {MOST_SITES}.")
