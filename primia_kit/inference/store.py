"""Correlated randomness on disk, each piece used once: a crash leaves an id unused or used, never usable twice.

    FOLDER/ready/ID   what may be used: a length (4 bytes), metadata (JSON), material; mode 0600
    FOLDER/used/ID    what never may be again: an empty file

`take` goes through these steps, and returns nothing before the last:

    1. rename ready/ID to used/ID       atomic: ID is in one of the two folders at any moment
    2. fsync used/, fsync ready/        from here on not even a power cut brings ready/ID back
    3. read the material into memory
    4. overwrite used/ID with zeros, fsync, cut it to length 0, fsync

A crash between 1 and 4 leaves material in used/ID, which nobody reads again; the next `Store` wipes it. Overwriting is best
effort: a disk with spare blocks or a file system that copies on write may keep an older copy. The marker of a used id stays
for ever: 16 random bytes, an empty file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import KitError
from ..storage import disk_error, sync_folder, write_atomically

ID_BYTES = 16
_LENGTH = struct.Struct(">I")
_ID = re.compile(r"[0-9a-f]{32}")
_META_LIMIT = 1 << 16
_ZEROS = bytes(1 << 20)
_REMOVED = ".removed"


class Store:
    """Single-use material under random ids of 16 bytes. One process at a time; its threads may share it.

    Args:
        folder: made if missing, mode 0700.
        limit: bytes that the material may take on the disk.

    Raises: KitError if another process uses the folder, or it can't be written to.
    """

    def __init__(self, folder: str | Path, limit: int):
        self.folder, self.limit = Path(folder), limit
        self._ready, self._used, self._lock = self.folder / "ready", self.folder / "used", threading.Lock()
        self._handle: int | None = None
        try:
            for place in (self.folder, self._ready, self._used):
                place.mkdir(parents=True, exist_ok=True)
                os.chmod(place, 0o700)
            self._handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise KitError(f"{self.folder} is in use by another process: stop it, or name another folder.") from None
            self._index = self._opened()
            self._sizes = {id: (self._ready / id.hex()).stat().st_size for id in self._index}
        except OSError as error:
            raise disk_error(error, self.folder) from error
        except KitError:
            self.close()
            raise

    @property
    def room(self) -> int:
        """Bytes of material that may still be put."""
        return max(self.limit - sum(list(self._sizes.values())), 0)

    def held_by(self, field: str) -> dict[str, int]:
        """Bytes of material that may be taken, by the value of a field of its metadata."""
        with self._lock:
            held: dict[str, int] = {}
            for id, meta in self._index.items():
                held[meta[field]] = held.get(meta[field], 0) + self._sizes[id]
            return held

    def ready(self) -> dict[bytes, Mapping[str, Any]]:
        """Ids that may be taken, with their metadata."""
        with self._lock:
            return dict(self._index)

    def put(self, id: bytes, meta: Mapping[str, Any], *material) -> None:
        """Keep material (buffers, joined) under an id that was never here; it's on the disk when this returns.

        Raises: KitError for an id that is or was here, for more than the limit, for a full disk.
        """
        head = json.dumps(meta).encode()
        head = _LENGTH.pack(len(head)) + head
        parts = [memoryview(head), *(view.cast("B") for view in map(memoryview, material) if view.nbytes)]
        size = sum(map(len, parts))
        with self._lock:
            if id in self._index or self.is_used(id):
                raise KitError(f"{id.hex()} is or was in {self.folder}: an id serves once.")
            if size > self.room:
                raise KitError(
                    f"{self.folder} may hold {self.limit:,} bytes, {self.room:,} are left and {size:,} would come: use some "
                    "of it up, or allow it more disk."
                )

            def write(temporary: Path) -> None:
                os.chmod(temporary, 0o600)  # before there is anything in it
                with temporary.open("wb") as file:
                    file.writelines(parts)

            write_atomically(self._ready / id.hex(), write)
            sync_folder(self._ready)
            self._index[id], self._sizes[id] = dict(meta), size

    def take(self, id: bytes) -> tuple[Mapping[str, Any], bytearray]:
        """(metadata, material) of an id that is from now on used, on the disk as well.

        Raises: KitError for an id that was used before or never was here, or whose file is damaged (it's used, then).
        """
        name = id.hex()
        with self._lock:
            if self.is_used(id):
                raise KitError(f"{name} was used before: correlated randomness serves once, or it gives secrets away.")
            if id not in self._index:
                raise KitError(f"{name} isn't in {self.folder}: nothing was dealt under this id.")
            meta, size = self._index.pop(id), self._sizes.pop(id)  # whatever happens, not again in this process
            try:
                os.rename(self._ready / name, self._used / name)
                sync_folder(self._used)
                sync_folder(self._ready)
                content = bytearray(size)
                with (self._used / name).open("rb") as file:
                    count = file.readinto(content)
                    damaged = count != size or file.read(1) != b""
                wipe(self._used / name)
            except OSError as error:
                raise disk_error(error, self._used / name) from error
        if damaged:
            raise KitError(f"{self.folder}: the material of {name} was damaged; take another id.")
        del content[: _LENGTH.size + _LENGTH.unpack_from(content)[0]]
        return meta, content

    def discard(self, id: bytes) -> None:
        """Mark an id as used without using it."""
        self.take(id)

    def is_used(self, id: bytes) -> bool:
        return (self._used / id.hex()).exists()

    def _opened(self) -> dict[bytes, Mapping[str, Any]]:
        """Clear away what a crash has left, and see what is ready."""
        for path in self._ready.iterdir():
            if not _ID.fullmatch(path.name):  # a write that was never finished
                path.unlink()
        for path in self._used.iterdir():
            if path.stat().st_size:
                wipe(path)
        return {bytes.fromhex(path.name): _read_meta(path) for path in sorted(self._ready.iterdir())}

    def close(self) -> None:
        """Let another process use the folder."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def write_private(path: Path, content: bytes) -> None:
    """Write a small file of mode 0600 whole, and its folder's entry too."""

    def write(temporary: Path) -> None:
        os.chmod(temporary, 0o600)
        temporary.write_bytes(content)

    write_atomically(path, write)
    sync_folder(path.parent)


def remove_private(path: Path) -> None:
    """Overwrite and delete a file of `write_private`, if it's there; a crash leaves it whole, or to `remove_left`.

    It's renamed first, so that nobody reads a file of which half is overwritten.
    """
    if path.exists():
        os.rename(path, path.with_name(f".{path.name}{_REMOVED}"))
        sync_folder(path.parent)
    remove_left(path.parent)


def remove_left(folder: Path) -> None:
    """Overwrite and delete what a crash in `remove_private` has left in a folder."""
    for left in folder.glob(f".*{_REMOVED}"):
        wipe(left)
        left.unlink()


def wipe(path: Path) -> None:
    """Overwrite with zeros, and cut to length 0; best effort, as said above."""
    with path.open("r+b") as file:
        for at in range(0, path.stat().st_size, len(_ZEROS)):
            file.write(_ZEROS[: min(len(_ZEROS), path.stat().st_size - at)])
        file.flush()
        os.fsync(file.fileno())
        file.truncate(0)
        file.flush()
        os.fsync(file.fileno())


def _read_meta(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as file, contextlib.suppress(ValueError, struct.error):
        (size,) = _LENGTH.unpack(file.read(_LENGTH.size))
        if size <= _META_LIMIT and isinstance(meta := json.loads(file.read(size)), dict):
            return meta
    raise KitError(f"{path} is no file of a store: delete it.")
