"""Films that were decoded once, as the model sees them, so that a second run needn't decode them again.

THE CACHE HOLDS PIXELS OF FILMS, and what they were warned about. It lies on this machine, in a folder that
its owner alone may enter; `load_films(cache=False)` or PRIMIA_NO_CACHE=1 leave it out, and deleting the
folder loses nothing but time.

A film is found by its content, not by its name: a new partition of the same films finds all of them. One
folder holds the films of one size, geometry and version of the decoders; in it lie packs, each written
whole or not at all:

    magic, count, length of the notes | count x key (32 bytes) | count x CRC-32 | count x pixels (float32 [size, size])
    | notes: a JSON list of what each film was warned about, in order of the keys | CRC-32 of the notes

Whatever in it can't be read or doesn't check is a film that isn't there. A full disk, or a folder that may
not be written to, loses the cache and not the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import struct
import threading
import time
import zlib
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from ..errors import KitError
from ..storage import cache_folder, write_atomically

BOUND = 4 * 2**30  # bytes of all packs together; beyond it the packs used longest ago are deleted
_FREE = 2**30  # bytes that are left to others on the disk
_PACKS = 256  # packs of one size, geometry and version: each costs a file to open
_PACK_BYTES = 64 * 2**20  # of pixels; a stopped run loses less than one pack
_STALE = 3600  # seconds after which a half-written pack has no writer any more
_MAGIC = b"PKFILMS2"
_HEAD = struct.Struct("<8sQQ")
_DECODERS = (
    "numpy",
    "pillow",
    "pydicom",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "pylibjpeg-rle",
    "pyjpegls",
    "python-gdcm",
    "nibabel",
)
_log = logging.getLogger(__name__)


class FilmCache:
    """The decoded films of one size and geometry.

    Args:
        size, geometry: see `images.resize`.
        folder: default `films` in the kit's cache.
        bound: bytes on the disk, over all sizes and geometries.
    """

    def __init__(self, size: int, geometry: str, *, folder: Path | None = None, bound: int = BOUND) -> None:
        self.folder = folder or cache_folder() / "films"
        self.bound = bound
        self._size = size
        self._packs = self.folder / f"{geometry}-{size}-{decoder_version()}"
        self._bytes = 4 * size * size
        self._places: dict[bytes, tuple[Path, int, int, tuple[str, ...]]] = {}  # key: pack, offset, CRC-32, notes
        self._used: set[Path] = set()
        self._waiting: dict[bytes, tuple[np.ndarray, tuple[str, ...]]] = {}
        self._lock = threading.Lock()
        self._works = self._open()

    def get(self, key: bytes) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """The film float32 [size, size] that was put under a key, bit for bit, and its notes; or None."""
        if (place := self._places.get(key)) is None:
            return None
        pack, offset, checksum, notes = place
        try:
            with pack.open("rb") as stream:  # not mapped: a pack that another process cut short would kill this one
                stream.seek(offset)
                pixels = stream.read(self._bytes)
        except OSError:
            return None
        if len(pixels) != self._bytes or zlib.crc32(pixels, zlib.crc32(key)) != checksum:
            pack.unlink(missing_ok=True)  # the disk, or somebody, has damaged it: all its films are decoded again
            return None
        self._mark_used(pack)
        return np.frombuffer(pixels, "<f4").reshape(self._size, self._size), notes

    def _mark_used(self, pack: Path) -> None:
        """A pack's date is that of its last use."""
        if pack not in self._used:
            self._used.add(pack)
            with contextlib.suppress(OSError):
                os.utime(pack)

    def put(self, key: bytes, film: np.ndarray, notes: tuple[str, ...] = ()) -> None:
        """Keep a film and what it was warned about; it is on the disk after `flush` at the latest."""
        if not self._works:
            return
        with self._lock:
            self._waiting[key] = film, notes
            full = len(self._waiting) * self._bytes >= _PACK_BYTES
        if full:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting, and delete the packs used longest ago if there are too many."""
        with self._lock:
            films, self._waiting = self._waiting, {}
        if not films or not self._works:
            return
        try:
            needed = len(films) * (self._bytes + 36)
            if needed > self.bound or shutil.disk_usage(self.folder).free < needed + _FREE:
                raise KitError("The disk has too little room for decoded films.")
            name = hashlib.sha256(b"".join(films)).hexdigest()[:16]
            write_atomically(self._packs / f"{name}.films", lambda path: _write(path, films))
            self._evict()
        except (KitError, OSError) as error:
            self._works = False
            _log.warning("Decoded films aren't kept for the next run: %s", error)

    def _open(self) -> bool:
        """Read the indexes of all packs; False if the folder is no place for films."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.folder.is_symlink() or self.folder.stat().st_uid != os.getuid():
                raise PermissionError(f"{self.folder} belongs to another user")  # who could put false films there
            self.folder.chmod(0o700)
            self._packs.mkdir(exist_ok=True, mode=0o700)
            for pack in self._packs.glob("*.films"):
                self._index(pack)
        except OSError as error:
            _log.warning("Decoded films aren't kept for the next run: %s", error)
            return False
        return True

    def _index(self, pack: Path) -> None:
        try:
            with pack.open("rb") as stream:
                magic, count, length = _HEAD.unpack(stream.read(_HEAD.size))
                start = _HEAD.size + 36 * count
                if magic != _MAGIC or pack.stat().st_size != start + count * self._bytes + length + 4:
                    raise ValueError
                keys, checksums = stream.read(32 * count), np.frombuffer(stream.read(4 * count), "<u4")
                stream.seek(start + count * self._bytes)
                text, checksum = stream.read(length), stream.read(4)
                if struct.pack("<I", zlib.crc32(text)) != checksum:
                    raise ValueError
                notes = [tuple(map(str, sentences)) for sentences in json.loads(text)]
            for i, sentences in zip(range(count), notes, strict=True):
                self._places[keys[32 * i : 32 * i + 32]] = (pack, start + i * self._bytes, int(checksums[i]), sentences)
        except (OSError, ValueError, TypeError, struct.error, MemoryError):  # half a pack, or none of ours
            pack.unlink(missing_ok=True)

    def _evict(self) -> None:
        packs = []
        for pack in self.folder.glob("*/*.films"):
            try:
                status = pack.stat()
            except FileNotFoundError:  # another process has just deleted it
                continue
            packs.append((status.st_mtime_ns, status.st_size, pack))
        packs.sort(reverse=True)
        total, here = 0, 0
        for _, size, pack in packs:
            total += size
            here += pack.parent == self._packs
            if total > self.bound or (pack.parent == self._packs and here > _PACKS):
                pack.unlink(missing_ok=True)
        for part in self.folder.glob("*/.*.part"):  # of a process that was killed while it wrote
            if part.stat().st_mtime < time.time() - _STALE:
                part.unlink(missing_ok=True)


def open_cache(size: int, geometry: str) -> FilmCache | None:
    """The cache, unless PRIMIA_NO_CACHE is set to anything but 0."""
    return None if os.environ.get("PRIMIA_NO_CACHE", "0") not in ("", "0") else FilmCache(size, geometry)


@lru_cache(maxsize=1)
def decoder_version() -> str:
    """Eight hex digits that change with the kit's code that makes pixels, and with the decoders' versions."""
    here = Path(__file__).parent
    code = (path.read_bytes() for path in sorted(here.rglob("*.py")) if "synthetic" not in path.relative_to(here).parts)
    return hashlib.sha256(b"".join(code) + "".join(map(_version, _DECODERS)).encode()).hexdigest()[:8]


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)} "
    except PackageNotFoundError:
        return ""


def _write(path: Path, films: dict[bytes, tuple[np.ndarray, tuple[str, ...]]]) -> None:
    pixels = [np.ascontiguousarray(film, "<f4").tobytes() for film, _ in films.values()]
    notes = json.dumps([sentences for _, sentences in films.values()]).encode()
    with path.open("wb") as stream:
        stream.write(_HEAD.pack(_MAGIC, len(films), len(notes)))
        stream.write(b"".join(films))
        stream.write(np.array([zlib.crc32(p, zlib.crc32(k)) for k, p in zip(films, pixels, strict=True)], "<u4").tobytes())
        stream.writelines(pixels)
        stream.write(notes + struct.pack("<I", zlib.crc32(notes)))
