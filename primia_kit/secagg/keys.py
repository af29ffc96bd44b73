"""Identities, and everything that is derived from a secret. The primitives are pyca/cryptography's and PyCryptodome's.

All secrets come from the operating system's generator. Each key below has one use: a pair of sites derives
new ones in every round, so no nonce is ever used twice under a key.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .history import History

SEED_BYTES = 16  # Shamir's scheme in PyCryptodome shares 16 bytes, over GF(2^128)
_NAME = b"PriMIA Kit secure aggregation 1: "


class Identity:
    """A hospital's Ed25519 key, and what it remembers of its rounds.

    The others must know `public` before a run, from a source that they trust: who swaps identities can stand
    between all sites.

    Args:
        key: the private key.
        history: a file that remembers the rounds, see `History`; None remembers them in this process alone, and a
            hospital that may be started again needs the file.
    """

    def __init__(self, key: Ed25519PrivateKey, history: Path | None = None):
        self._key, self.history = key, History(history)

    @classmethod
    def generate(cls, history: Path | None = None) -> Identity:
        return cls(Ed25519PrivateKey.generate(), history)

    @property
    def public(self) -> bytes:
        """32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, digest: bytes) -> bytes:
        """64 bytes: the signature of a message's digest."""
        return self._key.sign(_NAME + digest)


def is_signed(public: bytes, digest: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _NAME + digest)
    except (InvalidSignature, ValueError):
        return False
    return True


def hkdf(secret: bytes, salt: bytes, *label: str | int, size: int = 32) -> bytes:
    """HKDF-SHA256 (RFC 5869); the label says what the result is for."""
    info = _NAME + "/".join(str(part) for part in label).encode()
    return HKDF(SHA256(), size, salt, info).derive(secret)


def new_seed() -> bytes:
    return secrets.token_bytes(SEED_BYTES)


def commitment(seed: bytes, context: bytes, site: int) -> bytes:
    """32 bytes that bind a site to its self-mask seed and hide it (128 random bits can't be guessed)."""
    return hkdf(seed, context, "commitment", site)


def self_mask_key(seed: bytes, context: bytes, site: int) -> bytes:
    return hkdf(seed, context, "self mask", site)


def mask_private_key(seed: bytes, context: bytes, site: int) -> X25519PrivateKey:
    """The X25519 key that the pair masks come from; the seed is what gets shared."""
    return X25519PrivateKey.from_private_bytes(hkdf(seed, context, "mask key", site))


def public_bytes(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def pair_mask_key(own: X25519PrivateKey, public: bytes, context: bytes, one: int, other: int) -> bytes:
    """The key of the mask that two sites share; both derive the same one. ValueError for a point of low order."""
    shared = own.exchange(X25519PublicKey.from_public_bytes(public))
    return hkdf(shared, context, "pair mask", min(one, other), max(one, other))


def _channel(own: X25519PrivateKey, public: bytes, context: bytes, sender: int, receiver: int):
    shared = own.exchange(X25519PublicKey.from_public_bytes(public))
    cipher = ChaCha20Poly1305(hkdf(shared, context, "channel", sender, receiver))
    # One message a key, so a nonce of zeros; the context holds run, purpose and sites.
    return cipher, bytes(12), context + bytes([sender, receiver])


def seal(plain: bytes, own: X25519PrivateKey, public: bytes, context: bytes, sender: int, receiver: int) -> bytes:
    """Encrypt a site's only message of the round to another site: 16 bytes more than the plain text."""
    cipher, nonce, associated = _channel(own, public, context, sender, receiver)
    return cipher.encrypt(nonce, plain, associated)


def unseal(sealed: bytes, own: X25519PrivateKey, public: bytes, context: bytes, sender: int, receiver: int) -> bytes | None:
    """What `seal` encrypted, or None if it isn't genuine."""
    cipher, nonce, associated = _channel(own, public, context, sender, receiver)
    try:
        return cipher.decrypt(nonce, sealed, associated)
    except InvalidTag:
        return None


def vector_tag(vector, own: X25519PrivateKey, public: bytes, context: bytes, site: int) -> bytes:
    """16 bytes (AES-256-GMAC) that only the site and the server can make for a masked vector.

    The site signs the tag instead of the vector: five times as fast as hashing it, and whoever alters the
    vector on its way doesn't know the key.
    """
    shared = own.exchange(X25519PublicKey.from_public_bytes(public))
    return AESGCM(hkdf(shared, context, "vector tag", site)).encrypt(bytes(12), b"", memoryview(vector).cast("B"))


def split(seed: bytes, threshold: int, sites: int) -> list[bytes]:
    """Shamir shares (16 bytes each) for sites 0, 1, …; any `threshold` of them rebuild the seed."""
    return [share for _, share in Shamir.split(threshold, sites, seed)]


def rebuild(shares: dict[int, bytes], threshold: int) -> bytes:
    """The seed from the shares of `threshold` sites (more are left aside)."""
    chosen = sorted(shares.items())[:threshold]
    return Shamir.combine([(site + 1, share) for site, share in chosen])
