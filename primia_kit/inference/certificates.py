"""Who a party is: a small private certificate authority, a key and a certificate for each party, TLS 1.3 both ways.

A certificate names its party's role and name in a URI, `primia:ROLE:NAME`, so that a data owner's can't play the provider.
Only the federation's own authority is trusted, none of the system's. Host names aren't compared: a hospital's machine may
move, its role may not. Keys are Ed25519; they and the certificates are made by pyca/cryptography.
"""

from __future__ import annotations

import datetime
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import KitError
from ..storage import write_atomically
from .store import write_private

ROLES = {
    "provider": "crypto provider",
    "model": "model owner",
    "data": "data owner",
    "server0": "computing server 0",
    "server1": "computing server 1",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
IDENTITY = re.compile(rf"(?:{'|'.join(ROLES)}):{_NAME.pattern}")
_URI = "primia:"
CA_KEY, CA, KEY, CERTIFICATE = "ca.key", "ca.pem", "key.pem", "cert.pem"


@dataclass(frozen=True)
class Peer:
    """A party as its certificate names it.

    role: of `ROLES`
    name: e.g. "hospital-a"
    fingerprint: SHA-256 of the certificate, 64 hexadecimal digits
    """

    role: str
    name: str
    fingerprint: str

    @property
    def identity(self) -> str:
        """ "ROLE:NAME": what is kept for a party is kept under it, so that a renewed certificate changes nothing."""
        return f"{self.role}:{self.name}"

    @classmethod
    def of(cls, identity: str) -> Peer:
        """Who an identity, checked against `IDENTITY`, stands for: without a certificate."""
        return cls(*identity.split(":", 1), fingerprint="")

    def fits(self, pin: str) -> bool:
        """Whether a pin is this party: a name, or a certificate's fingerprint (colons and case don't count)."""
        return pin == self.name or pin.replace(":", "").lower() == self.fingerprint

    def __str__(self) -> str:
        title = f"the {ROLES[self.role]}"
        return title if self.name == self.role else f"{title} {self.name}"


def make_certificates(folder: str | Path, parties: Sequence[str], days: int = 365) -> list[Path]:
    """Make a folder with key and certificate for each party, FOLDER/NAME, and on first use the authority itself.

    Args:
        folder: holds ca.key and ca.pem. Whoever has ca.key can make parties: keep it off the parties' machines.
        parties: "provider", "model", "data", "server0", "server1", or with a name of its own "data:hospital-a".
        days: how long the certificates hold.

    Returns: the parties' folders, each with key.pem (mode 0600), cert.pem and ca.pem: what a party takes to its machine.
    Raises: KitError for an unknown role, or a party that has a folder already.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509.oid import ExtendedKeyUsageOID

    folder, wanted = Path(folder), [_role_and_name(party) for party in parties]
    names = [name for _, name in wanted]
    for name in names:
        if (folder / name).exists() or names.count(name) > 1:
            raise KitError(f"{folder / name} is there already: give each party a name of its own, for example data:hospital-b.")
    if (folder / CA_KEY).exists():
        try:
            ca_key = load_pem_private_key((folder / CA_KEY).read_bytes(), None)
            ca = x509.load_pem_x509_certificate((folder / CA).read_bytes())
        except (OSError, ValueError) as error:
            raise KitError(f"{folder}: the authority's {CA_KEY} and {CA} can't be read ({error}).") from error
    else:
        ca_key = Ed25519PrivateKey.generate()
        title = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "PriMIA Kit federation")])
        ca = _certificate(title, title, ca_key.public_key(), ca_key, days * 10, [(x509.BasicConstraints(True, 0), True)])
        write_private(folder / CA_KEY, _pem(ca_key))
        write_atomically(folder / CA, _pem(ca))
    made = []
    for role, name in wanted:
        key = Ed25519PrivateKey.generate()
        certificate = _certificate(
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]),
            ca.subject,
            key.public_key(),
            ca_key,
            days,
            [
                (x509.BasicConstraints(False, None), True),
                (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"{_URI}{role}:{name}")]), False),
                (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), False),
            ],
        )
        write_private(folder / name / KEY, _pem(key))
        write_atomically(folder / name / CERTIFICATE, _pem(certificate))
        write_atomically(folder / name / CA, _pem(ca))
        made.append(folder / name)
    return made


class Credentials:
    """A party's own folder: key.pem, cert.pem, ca.pem.

    Raises: KitError if the folder isn't one, the key lies open to others, or the certificate isn't of `role`.
    """

    def __init__(self, folder: str | Path, role: str):
        self.folder = Path(folder)
        for name in (KEY, CERTIFICATE, CA):
            if not (self.folder / name).is_file():
                raise KitError(f"{self.folder} holds no {name}: make it with `primia certificates FOLDER {role}`.")
        if (self.folder / KEY).stat().st_mode & 0o077:
            raise KitError(f"{self.folder / KEY} can be read by others: chmod 600 {self.folder / KEY}")
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding

        try:
            found = x509.load_pem_x509_certificate((self.folder / CERTIFICATE).read_bytes())
        except ValueError as error:
            raise KitError(f"{self.folder / CERTIFICATE} is no certificate ({error}).") from error
        self.me = peer_of(found.public_bytes(Encoding.DER))
        if self.me.role != role:
            raise KitError(f"{self.folder} is of {self.me}, not of a {ROLES[role]}.")

    def context(self, server: bool) -> ssl.SSLContext:
        """TLS 1.3 alone, a certificate of the federation demanded from the other side, no session tickets."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the role is checked instead
        context.verify_mode = ssl.CERT_REQUIRED
        if server:
            context.num_tickets = 0  # nobody resumes; an unread ticket would turn a close into a reset
        try:
            context.load_verify_locations(self.folder / CA)
            context.load_cert_chain(self.folder / CERTIFICATE, self.folder / KEY)
        except (ssl.SSLError, OSError) as error:
            raise KitError(f"{self.folder}: key, certificate and authority don't fit together ({error}).") from error
        return context


def fingerprint_of(folder: Path) -> str:
    """SHA-256 of a party's certificate, 64 hexadecimal digits."""
    return peer_of(ssl.PEM_cert_to_DER_cert((folder / CERTIFICATE).read_text())).fingerprint


def peer_of(der: bytes) -> Peer:
    """The party that a certificate (DER), whose signature TLS has checked, names. Raises: KitError if it names none."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        (uri,) = [uri for uri in uris if uri.startswith(_URI)]
        role, name = _role_and_name(uri.removeprefix(_URI))
    except (ValueError, x509.ExtensionNotFound, KitError) as error:
        raise KitError("A certificate names no party: make certificates with `primia certificates`.") from error
    return Peer(role, name, certificate.fingerprint(SHA256()).hex())


def _role_and_name(text: str) -> tuple[str, str]:
    role, _, name = text.partition(":")
    name = name or role
    if role not in ROLES:
        raise KitError(f"{text!r}: a party is one of {', '.join(ROLES)}, with a name if there are several (data:hospital-a).")
    if not _NAME.fullmatch(name):
        raise KitError(f"{text!r}: a party's name has letters, digits, '.', '_' and '-', at most 64, and begins with no sign.")
    return role, name


def _certificate(subject, issuer, key, ca_key, days, extensions):
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=12))  # clocks of hospitals differ
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False)
    )
    authority = subject == issuer
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    builder = builder.add_extension(
        x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **usage), True
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(ca_key, None)


def _pem(thing) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    if hasattr(thing, "private_bytes"):
        return thing.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return thing.public_bytes(Encoding.PEM)
