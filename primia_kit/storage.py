"""Files that are whole or not there: written beside their place, synced, then renamed."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from .errors import KitError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_atomically(path: str | Path, content: bytes | str | Callable[[Path], object], *, mode: int | None = None) -> Path:
    """Write a file so that a reader, a crash or a full disk never leaves half of it.

    Args:
        path: where the file shall be; missing folders are made.
        content: bytes, text (UTF-8), or a function that writes the file at the path it is given.
        mode: who may read and write it, e.g. 0o600; default what the user's umask says.

    Returns:
        `path`. What stood there before is replaced only once the new content is on the disk.

    Raises:
        KitError: the disk is full or the place can't be written to; an earlier file is untouched.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        temporary = Path(name)
        os.fchmod(handle, 0o666 & ~_umask() if mode is None else mode)  # mkstemp's files are for their owner alone
        with os.fdopen(handle, "wb") as stream:
            if isinstance(content, str):
                stream.write(content.encode("utf-8"))
            elif isinstance(content, bytes):
                stream.write(content)
            else:
                content(temporary)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def disk_error(error: OSError, path: str | Path) -> KitError:
    """The sentence for an operating-system error met while writing `path`."""
    if error.errno in _NO_SPACE:
        return KitError(
            f"No space left while writing {path}. Free some space or choose another folder, then run "
            "the same command again: what was finished before is kept."
        )
    return KitError(f"Can't write {path}: {error.strerror or error}. Choose a folder that you may write to.")


def cache_folder() -> Path:
    """Where the kit keeps what it can make again: $PRIMIA_CACHE, else the user's cache folder."""
    if named := os.environ.get("PRIMIA_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "primia-kit"


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def sync_folder(folder: Path) -> None:
    """Have the disk hold what was made, renamed or removed in a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
