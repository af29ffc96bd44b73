"""A hospital's side of secure aggregation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ..errors import KitError
from . import keys
from .agreement import AggregationAborted, Agreement
from .keys import SEED_BYTES, Identity
from .messages import (
    SEALED_BYTES,
    SERVER,
    TAG_BYTES,
    Phase,
    Share,
    blank_message,
    joined_records,
    open_message,
    parted,
    records,
    sign,
    signed_message,
)
from .vectors import add_masks

KEYS_BYTES = 96


class Client:
    """One site u in one round: Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving
    machine learning", with double masking, on the complete graph, secure against a server that lies.

    0. keys. Draw the seeds b_u (self mask) and s_u, from which the X25519 key S_u of the pair masks derives,
       and a channel key C_u. Send S_u, C_u in public form and a commitment to b_u, signed by the identity.
    1. shares. Check the others' signatures. Cut b_u and s_u into t-of-n Shamir shares; send those of site v
       encrypted under the key that C_u and C_v agree on.
    2. masked input. For all v whose shares came (U2):  y_u = x_u + PRG(b_u) ± PRG(S_u, S_v)  mod 2^32,
       plus for u < v, minus for u > v.
    3. consistency. The server tells whose vectors came (U3). Sign the keys, U2 and U3 as they were told, unless
       another U3 was signed in an earlier attempt at this round.
    4. unmasking. If t others were told the same: for each v in U2 release the share of b_v if v is in U3,
       else that of s_v. Never both.

    Any message that isn't as it should be ends the round for this client, and its secrets are forgotten.

    Args:
        write_input: writes x_u into a uint32 vector [agreement.words] when step 2 is reached.
        identity: the site's own; its history refuses an attempt that it has taken part in before, and a second list of
            survivors for a round.

    Raises: KitError if the site isn't part of the agreement, or the attempt isn't new.
    """

    def __init__(self, agreement: Agreement, site: str, identity: Identity, write_input: Callable[[np.ndarray], None]):
        if site not in agreement.sites:
            raise KitError(f"{agreement.purpose}: site {site} isn't part of the agreement.")
        self.agreement, self.site, self.index = agreement, site, agreement.sites.index(site)
        if identity.public != agreement.identities[self.index]:
            raise KitError(f"{agreement.purpose}: the agreement knows site {site} by another identity.")
        identity.history.begin(agreement.run, agreement.purpose, agreement.attempt)
        self._identity, self._write_input = identity, write_input
        self._phase: Phase | None = None  # of the last message sent
        self._self_mask_seed, self._mask_seed = keys.new_seed(), keys.new_seed()
        self._mask_key = keys.mask_private_key(self._mask_seed, agreement.digest, self.index)
        self._channel_key = X25519PrivateKey.generate()
        self._public: dict[int, bytes] = {}  # U1: site -> the body of its keys message
        self._sealed: dict[int, bytes] = {}  # U2 without this site: site -> its shares for this one, encrypted
        self._own_keys = self._own_shares = b""
        self._survivors: frozenset[int] = frozenset()  # U3
        self._keys_digest = self._server_key = b""

    def start(self) -> bytes:
        """The first message to the server."""
        if self._phase is not None:
            raise self._aborted("the round has begun before")
        committed = keys.commitment(self._self_mask_seed, self.agreement.digest, self.index)
        self._own_keys = keys.public_bytes(self._mask_key) + keys.public_bytes(self._channel_key) + committed
        return self._message(Phase.KEYS, self._own_keys)

    def answer(self, message) -> bytes | memoryview:
        """The answer to the server's next message.

        Raises: AggregationAborted that says why; the client is of no use afterwards.
        """
        steps = {
            Phase.KEYS: self._share_keys,
            Phase.SHARES: self._mask_input,
            Phase.MASKED_INPUT: self._confirm,
            Phase.CONSISTENCY: self._unmask,
        }
        if self._phase not in steps:
            raise self._aborted("no message is expected")
        try:
            sender, body = open_message(self.agreement, self._phase, message)
            if sender != SERVER:
                raise self._aborted("a message for the server came to a site")
            return steps[self._phase](body)
        except Exception:
            self._forget()
            raise

    def _share_keys(self, body: memoryview) -> bytes:
        self._server_key = bytes(body[:32])
        self._public = self._genuine(Phase.KEYS, body[32:], KEYS_BYTES)
        self._enough("sent keys", self._public)
        if self._public[self.index] != self._own_keys:
            raise self._aborted("the server forwards other keys in this site's name, from an earlier attempt")
        self._keys_digest = hashlib.sha256(body).digest()
        public = [key[at : at + 32] for key in self._public.values() for at in (0, 32)]
        if len(set(public)) < len(public):
            raise self._aborted("two sites have the same keys")
        n, t = len(self.agreement.sites), self.agreement.threshold
        shares = [b + s for b, s in zip(keys.split(self._self_mask_seed, t, n), keys.split(self._mask_seed, t, n), strict=True)]
        self._own_shares = shares[self.index]
        sealed = {
            v: self._with_key_of(v, keys.seal, shares[v], self._channel_key, self._public[v][32:64], self.index, v)
            for v in self._public
            if v != self.index
        }
        return self._message(Phase.SHARES, joined_records(sealed))

    def _mask_input(self, body: memoryview) -> memoryview:
        self._sealed = records(self.agreement, body, SEALED_BYTES)
        if self.index in self._sealed or not self._sealed.keys() <= self._public.keys():
            raise self._aborted("shares came from a site that sent no keys")
        self._enough("sent shares", [self.index, *self._sealed])
        message, space = blank_message(self.agreement, Phase.MASKED_INPUT, self.index, 4 * self.agreement.words + TAG_BYTES)
        words = space[:-TAG_BYTES].view("<u4")
        self._write_input(words)
        add_masks(words, [(self._self_mask_key(), 1), *self._pair_masks()])
        try:
            tag = keys.vector_tag(words, self._channel_key, self._server_key, self.agreement.digest, self.index)
        except ValueError as error:
            raise self._aborted("the server sent a bad public key") from error
        space[-TAG_BYTES:] = np.frombuffer(tag, np.uint8)
        self._phase = Phase.MASKED_INPUT
        return sign(message, self._identity)

    def _self_mask_key(self) -> bytes:
        return keys.self_mask_key(self._self_mask_seed, self.agreement.digest, self.index)

    def _pair_masks(self) -> list[tuple[bytes, int]]:
        return [
            (
                self._with_key_of(v, keys.pair_mask_key, self._mask_key, self._public[v][:32], self.index, v),
                1 if self.index < v else -1,
            )
            for v in self._sealed
        ]

    def _confirm(self, body: memoryview) -> bytes:
        self._survivors = frozenset(body)
        if list(body) != sorted(self._survivors) or not self._survivors <= {self.index, *self._sealed}:
            raise self._aborted("the list of survivors isn't a list of sites that sent shares")
        if self.index not in self._survivors:
            raise self._aborted("the server says that this site's vector didn't come")
        self._enough("sent a vector", self._survivors)
        survivors = [self.agreement.sites[v] for v in self._survivors]
        if not self._identity.history.signs(self.agreement.run, self.agreement.purpose, survivors):
            raise self._aborted(
                "it has signed another list of survivors in an earlier attempt at this round, whose sum may be known, and two "
                "such sums give the contribution away that is in one of them only: all who were in that sum must be in this one"
            )
        return self._message(Phase.CONSISTENCY, self._view())

    def _view(self) -> bytes:
        return view_digest(self._keys_digest, [self.index, *self._sealed], self._survivors)

    def _unmask(self, body: memoryview) -> bytes:
        confirmed = self._genuine(Phase.CONSISTENCY, body, 32)
        for v, view in confirmed.items():
            if view != self._view():
                raise self._aborted(
                    f"site {self.agreement.sites[v]} was told other keys or other survivors: the server may be lying"
                )
        if not confirmed.keys() <= self._survivors:
            raise self._aborted("a site that isn't a survivor signed the survivor list")
        if len(confirmed) < self.agreement.threshold:
            raise self._aborted(
                f"{len(confirmed)} sites signed the survivor list, {self.agreement.threshold} are needed to open the sum"
            )
        released = {v: self._released(v, shares) for v, shares in self._opened().items()}
        answer = self._message(Phase.UNMASKING, joined_records(released))
        self._forget()
        return answer

    def _opened(self) -> dict[int, bytes]:
        """Peer in U2 -> this site's shares of its self-mask seed and of its mask-key seed."""
        opened = {self.index: self._own_shares}
        for v, sealed in self._sealed.items():
            shares = self._with_key_of(v, keys.unseal, sealed, self._channel_key, self._public[v][32:64], v, self.index)
            if shares is None:
                raise self._aborted(f"the shares from site {self.agreement.sites[v]} were changed on their way")
            opened[v] = shares
        return opened

    def _released(self, v: int, shares: bytes) -> bytes:
        """The one share of peer v that this site gives away."""
        if v in self._survivors:
            return bytes([Share.SELF_MASK]) + shares[:SEED_BYTES]
        return bytes([Share.MASK_KEY]) + shares[SEED_BYTES:]

    def _genuine(self, phase: Phase, body: memoryview, size: int) -> dict[int, bytes]:
        """Site -> body, from forwarded messages, each signed by its site; this site's own must be among them."""
        found: dict[int, bytes] = {}
        for message in parted(self.agreement, body):
            sender, content = open_message(self.agreement, phase, message)
            if sender in found or sender == SERVER or len(content) != size:
                raise self._aborted("the server forwarded a message twice, or a misshapen one")
            found[sender] = bytes(content)
        if self.index not in found:
            raise self._aborted("the server left out this site's own message")
        return found

    def _with_key_of(self, v: int, use, *arguments):
        """use(…, agreement, site, site) with a peer's public key, which may be a bad one."""
        *first, one, other = arguments
        try:
            return use(*first, self.agreement.digest, one, other)
        except ValueError as error:
            raise self._aborted(f"site {self.agreement.sites[v]} sent a bad public key") from error

    def _enough(self, did: str, sites: Iterable[int]) -> None:
        enough(self.agreement, did, set(sites))

    def _message(self, phase: Phase, body: bytes) -> bytes:
        self._phase = phase
        return signed_message(self.agreement, phase, self.index, body, self._identity)

    def _aborted(self, why: str) -> AggregationAborted:
        return AggregationAborted(f"{self.agreement.purpose}: site {self.site} leaves the secure sum: {why}.")

    def _forget(self) -> None:
        """No secret of this round stays reachable, and no message will be answered."""
        self._phase = Phase.UNMASKING
        self._self_mask_seed = self._mask_seed = self._own_shares = b""
        self._mask_key = self._channel_key = None
        self._write_input = None


def enough(agreement: Agreement, did: str, sites: set[int]) -> None:
    """End the round where too few sites are left to open a sum, or to hide in it."""
    needed = max(agreement.threshold, agreement.min_survivors)
    if len(sites) < needed:
        raise AggregationAborted(
            f"{agreement.purpose}: the secure sum is given up: {len(sites)} of {len(agreement.sites)} sites {did} "
            f"({agreement.names(sites)}), and {needed} are needed."
        )


def view_digest(keys_digest: bytes, sharers: Iterable[int], survivors: Iterable[int]) -> bytes:
    """SHA-256 of what a site was told: the keys (U1), U2 and U3."""
    lists = b"".join(bytes([len(part)]) + bytes(part) for part in (sorted(sharers), sorted(survivors)))
    return hashlib.sha256(keys_digest + lists).digest()
