"""The hospital's key, and the pseudonyms that only it can make.

Why a keyed MAC and not a hash: a patient number has six to ten digits and a study UID a known pattern, so
whoever holds SHA-256 digests tries all of them in minutes. HMAC-SHA256 (RFC 2104) can't be tried without the key.

Who holds the key can compute the pseudonym of any patient number and so find a known patient again in films
that were given away, and can re-identify all of them by trying the hospital's list of numbers. It therefore
stays at the hospital, beside the patient records, and is neither printed nor written into the output. Who
loses it can't link later films to earlier ones. It opens nothing: pseudonyms can't be decrypted.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
import tempfile
import uuid
from hashlib import sha256
from pathlib import Path

from ...errors import KitError
from ...storage import disk_error

KEY_BYTES = 32


def default_key_path() -> Path:
    """$XDG_CONFIG_HOME/primia-kit/hospital.key, by default in the user's ~/.config."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "primia-kit" / "hospital.key"


def load_or_create_key(path: str | Path | None = None) -> tuple[bytes, bool]:
    """The key in a file; a new one, drawn by the operating system, if there is no such file.

    Returns: (32 bytes, whether they are new).
    Raises: KitError if the file is not 32 bytes, others than its owner may read or write it, or it can't be written.
    """
    path = Path(path) if path else default_key_path()
    try:
        return _load(path), False
    except FileNotFoundError:
        pass
    except OSError as error:
        raise KitError(f"Can't read the key {path}: {error.strerror}.") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(secrets.token_bytes(KEY_BYTES))
                stream.flush()
                os.fsync(stream.fileno())
            os.link(name, path)  # fails if another process was quicker: then its key counts
        finally:
            os.unlink(name)
        return _load(path), True
    except FileExistsError:
        return _load(path), False
    except OSError as error:
        raise disk_error(error, path) from error


def _load(path: Path) -> bytes:
    with path.open("rb") as stream:  # the mode is asked of the open file: nobody can swap it in between
        state = os.fstat(stream.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise KitError(f"The key {path} is not a plain file.")
        if os.name == "posix" and state.st_mode & 0o077:
            raise KitError(
                f"The key {path} can be read or changed by others (mode {state.st_mode & 0o777:04o}). "
                f"If nobody has copied it, make it yours alone: chmod 600 {path}"
            )
        key = stream.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        size = f"{state.st_size} bytes"
        raise KitError(f"The key {path} has {size}; a key made by this command has {KEY_BYTES}. Name another file with --key.")
    return key


class Pseudonyms:
    """Names under one key. The same input always gets the same name; under another key, an unrelated one."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise KitError(f"A key has {KEY_BYTES} bytes, not {len(key)}.")
        self._key = key

    def _mac(self, kind: str, *parts: bytes) -> bytes:
        """HMAC over lengths and parts, so that no two lists of parts read the same; `kind` separates the uses."""
        mac = hmac.new(self._key, digestmod=sha256)
        for part in (b"primia-kit", kind.encode(), *parts):
            mac.update(len(part).to_bytes(8, "big") + part)
        return mac.digest()

    def patient(self, number: str) -> str:
        """'P' and 20 hexadecimal digits (80 bits) for a patient number (0010,0020).

        Its issuer (0010,0021) doesn't count: some devices leave it out, and one child under two pseudonyms
        could be trained on and tested on; two children under one can't.
        """
        return "P" + self._mac("patient", number.strip().encode()).hex()[:20]

    def uid(self, uid: str) -> str:
        """A UID under 2.25, the root of UUIDs (PS3.5 B.2), for an identifying one."""
        return f"2.25.{uuid.UUID(bytes=self._mac('uid', uid.encode())[:16], version=4).int}"

    def film(self, content: bytes) -> str:
        """'F' and 24 hexadecimal digits for a file: by its content, so that no name is needed and copies coincide."""
        return "F" + self._mac("film", content).hex()[:24]

    def site(self, name: str) -> str:
        """'H' and 8 hexadecimal digits for a hospital's name; '' stays ''."""
        return "H" + self._mac("site", name.encode()).hex()[:8] if name else ""
