"""The server's side of secure aggregation: it passes messages on, adds masked vectors and unmasks their sum."""

from __future__ import annotations

import hashlib

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from . import keys
from .agreement import AggregationAborted, Agreement, MessageRefused
from .client import KEYS_BYTES, enough, view_digest
from .keys import SEED_BYTES
from .messages import (
    SEALED_BYTES,
    SERVER,
    TAG_BYTES,
    Phase,
    Share,
    join,
    joined_records,
    open_message,
    records,
    unsigned_message,
)
from .transcript import CLEAR, OPAQUE, PUBLIC, Transcript
from .vectors import add_masks


class Server:
    """The server in one round, see `Client` for the steps.

    `receive` takes the sites' messages of the running phase in any order; `advance` ends the phase, counts
    who is missing as dropped out, and returns what to send to whom. After the unmasking, `result` has the sum:

        z = sum of y_u over U3 - sum of PRG(b_u) over U3 ∓ the pair masks between U3 and those who left (U2 \\ U3)
    """

    def __init__(self, agreement: Agreement, transcript: Transcript | None = None):
        self.agreement = agreement
        self.transcript = transcript if transcript is not None else Transcript()
        self.phase: Phase | None = Phase.KEYS
        self.survivors: tuple[str, ...] = ()  # whose vectors are in the sum
        self._key = X25519PrivateKey.generate()  # to check that masked vectors come as they were sent
        self._keys: dict[int, bytes] = {}  # U1: site -> its whole message
        self._public: dict[int, bytes] = {}
        self._sealed: dict[int, dict[int, bytes]] = {}  # U2: sender -> receiver -> ciphertext
        self._inputs: set[int] = set()  # U3
        self._sum = np.zeros(agreement.words, "<u4")
        self._confirmed: dict[int, bytes] = {}  # U4: site -> its whole message
        self._released: dict[int, dict[int, bytes]] = {}  # U5: site -> peer -> share
        if agreement.unsafe_two_survivors:
            told = "UNSAFE: two survivors are allowed here, and each of two learns the other's contribution"
            self.transcript.learned(agreement.purpose, told, PUBLIC)

    def receive(self, message) -> None:
        """Take a site's message.

        Raises: MessageRefused for one that is late, cut off, forged, changed or sent twice; it leaves no trace.
        """
        takes = {
            Phase.KEYS: (self._take_keys, self._keys, PUBLIC),
            Phase.SHARES: (self._take_shares, self._sealed, OPAQUE),
            Phase.MASKED_INPUT: (self._take_input, self._inputs, OPAQUE),
            Phase.CONSISTENCY: (self._take_confirmation, self._confirmed, PUBLIC),
            Phase.UNMASKING: (self._take_shares_of_secrets, self._released, CLEAR),
        }
        if self.phase is None:
            raise MessageRefused(f"{self.agreement.purpose}: a message came after the end of the round.")
        take, taken, readable = takes[self.phase]
        sender, body = open_message(self.agreement, self.phase, message)
        if sender == SERVER:
            raise MessageRefused(f"{self.agreement.purpose}: a message of the server came back to it.")
        if sender in taken:
            raise self._refused(sender, "sent a second message")
        if sender not in self._expected():
            raise self._refused(sender, "was counted as dropped out before")
        take(sender, body, message)
        self.transcript.message(self.agreement.purpose, self.agreement.sites[sender], self.phase.what, readable, message)

    def advance(self) -> dict[str, bytes]:
        """End the phase.

        Returns: site -> the message for it; empty after the last phase.
        Raises: AggregationAborted if too few sites are left.
        """
        ends = {
            Phase.KEYS: self._end_keys,
            Phase.SHARES: self._end_shares,
            Phase.MASKED_INPUT: self._end_inputs,
            Phase.CONSISTENCY: self._end_confirmations,
            Phase.UNMASKING: self._end_unmasking,
        }
        if self.phase is None:
            raise AggregationAborted(f"{self.agreement.purpose}: the round is over.")
        phase, self.phase = self.phase, None  # an exception ends the round
        bodies = ends[phase]()
        if phase is not Phase.UNMASKING:
            self.phase = Phase(phase + 1)
        return {self.agreement.sites[v]: unsigned_message(self.agreement, phase, body) for v, body in bodies.items()}

    def result(self) -> np.ndarray:
        """The sum over the survivors, modulo 2^32: uint32 [words]."""
        if not self.survivors:
            raise AggregationAborted(f"{self.agreement.purpose}: there is no sum; the round isn't over, or was given up.")
        return self._sum

    def _expected(self) -> set[int]:
        """Who may send a message in this phase."""
        everybody = set(range(len(self.agreement.sites)))
        return {
            Phase.KEYS: everybody,
            Phase.SHARES: set(self._keys),
            Phase.MASKED_INPUT: set(self._sealed),
            Phase.CONSISTENCY: self._inputs,
            Phase.UNMASKING: set(self._confirmed),
        }[self.phase]

    def _take_keys(self, sender: int, body: memoryview, message) -> None:
        if len(body) != KEYS_BYTES:
            raise self._refused(sender, "sent misshapen keys")
        self._keys[sender], self._public[sender] = bytes(message), bytes(body)

    def _end_keys(self) -> dict[int, bytes]:
        enough(self.agreement, "sent keys", set(self._keys))
        forwarded = keys.public_bytes(self._key) + self._forwarded(self._keys)
        self._keys_digest = hashlib.sha256(forwarded).digest()
        return dict.fromkeys(self._keys, forwarded)

    def _take_shares(self, sender: int, body: memoryview, message) -> None:
        sealed = records(self.agreement, body, SEALED_BYTES)
        if sealed.keys() != self._keys.keys() - {sender}:
            raise self._refused(sender, "didn't send shares for each of the others")
        self._sealed[sender] = sealed

    def _end_shares(self) -> dict[int, bytes]:
        enough(self.agreement, "sent shares", set(self._sealed))
        return {v: joined_records({u: self._sealed[u][v] for u in self._sealed if u != v}) for v in self._sealed}

    def _take_input(self, sender: int, body: memoryview, message) -> None:
        vector = body[:-TAG_BYTES]
        if len(vector) != 4 * self.agreement.words:
            raise self._refused(sender, f"sent a vector of {len(vector) // 4} words instead of {self.agreement.words}")
        try:
            tag = keys.vector_tag(vector, self._key, self._public[sender][32:64], self.agreement.digest, sender)
        except ValueError as error:
            raise self._refused(sender, "sent a bad public key") from error
        if tag != body[-TAG_BYTES:]:
            raise self._refused(sender, "sent a vector that was changed on its way")
        np.add(self._sum, np.frombuffer(vector, "<u4"), out=self._sum)
        self._inputs.add(sender)

    def _end_inputs(self) -> dict[int, bytes]:
        enough(self.agreement, "sent a vector", self._inputs)
        self._view = view_digest(self._keys_digest, self._sealed, self._inputs)
        return dict.fromkeys(self._inputs, bytes(sorted(self._inputs)))

    def _take_confirmation(self, sender: int, body: memoryview, message) -> None:
        if body != self._view:
            raise self._refused(sender, "signed another list of survivors")
        self._confirmed[sender] = bytes(message)

    def _end_confirmations(self) -> dict[int, bytes]:
        self._enough_to_open("signed the survivor list", self._confirmed)
        return dict.fromkeys(self._confirmed, self._forwarded(self._confirmed))

    def _take_shares_of_secrets(self, sender: int, body: memoryview, message) -> None:
        released = records(self.agreement, body, 1 + SEED_BYTES)
        kinds = {v: share[0] for v, share in released.items()}
        if kinds != {v: Share.SELF_MASK if v in self._inputs else Share.MASK_KEY for v in self._sealed}:
            raise self._refused(sender, "didn't release the one right share of each site")
        self._released[sender] = {v: share[1:] for v, share in released.items()}

    def _end_unmasking(self) -> dict[int, bytes]:
        self._enough_to_open("released shares", self._released)
        context, masks = self.agreement.digest, []
        for u in sorted(self._sealed):
            seed = keys.rebuild({v: shares[u] for v, shares in self._released.items()}, self.agreement.threshold)
            if u in self._inputs:
                genuine = keys.commitment(seed, context, u) == self._public[u][64:96]
                masks.append((keys.self_mask_key(seed, context, u), -1))
            else:
                own = keys.mask_private_key(seed, context, u)
                genuine = keys.public_bytes(own) == self._public[u][:32]
                if genuine:
                    masks += [self._pair_mask(own, u, v) for v in self._inputs]
            if not genuine:
                raise AggregationAborted(
                    f"{self.agreement.purpose}: a secret of site {self.agreement.sites[u]} can't be rebuilt: one of the shares "
                    "of it is false. The sum may have been opened all the same: don't repeat the round with other sites."
                )
        add_masks(self._sum, masks)
        self.survivors = tuple(self.agreement.sites[u] for u in sorted(self._inputs))
        self._tell()
        return {}

    def _pair_mask(self, own, u: int, v: int) -> tuple[bytes, int]:
        """What takes the mask between a site u that left and a survivor v out of the sum."""
        return keys.pair_mask_key(own, self._public[v][:32], self.agreement.digest, u, v), -1 if v < u else 1

    def _tell(self) -> None:
        purpose, names = self.agreement.purpose, self.agreement.names
        left = set(range(len(self.agreement.sites))) - self._inputs
        self.transcript.learned(purpose, f"who left before: {names(left)}")
        self.transcript.learned(purpose, f"the sum of the vectors of {names(self._inputs)}")

    def _forwarded(self, messages: dict[int, bytes]) -> bytes:
        return join(messages[v] for v in sorted(messages))

    def _enough_to_open(self, did: str, sites) -> None:
        if len(sites) < self.agreement.threshold:
            raise AggregationAborted(
                f"{self.agreement.purpose}: the secure sum can't be opened: {len(sites)} of {len(self.agreement.sites)} sites "
                f"{did} ({self.agreement.names(sites)}), and {self.agreement.threshold} are needed."
            )

    def _refused(self, sender: int, why: str) -> MessageRefused:
        return MessageRefused(f"{self.agreement.purpose}: site {self.agreement.sites[sender]} {why}.")
