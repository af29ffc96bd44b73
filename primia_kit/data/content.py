"""What a film's file holds, as a digest: for finding copies, and for the cache."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from ..errors import KitError
from .fragments import NPZ_SUFFIXES, split_fragment
from .medmnist import medmnist_image
from .nifti import is_nifti


def content_digest(path: str | Path) -> bytes:
    """SHA-256 of all that decides a film's pixels: its file's bytes, or its own part of a file of many.

    Equal digests mean equal films. The file is read anew each time: sizes and dates can be kept while
    content changes, and hashing is small beside decoding.

    Raises: KitError if the file can't be read.
    """
    path, fragment = split_fragment(path)
    if path.name.lower().endswith(NPZ_SUFFIXES):
        image = medmnist_image(path, fragment)
        return hashlib.sha256(f"array {image.dtype.str} {image.shape}:".encode() + image.tobytes()).digest()
    try:
        if is_nifti(path):  # read by name, since gzip hides the content; and once for all slices of a volume
            status = path.stat()
            whole = _of_volume(path, status.st_mtime_ns, status.st_size)
            return hashlib.sha256(f"nifti {path.name.lower().endswith('.gz')} {fragment}:".encode() + whole).digest()
        return _of_file(path)
    except OSError as error:
        raise KitError(f"Can't read {path}: {error.strerror or error}.") from error


def _of_file(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


@lru_cache(maxsize=16)
def _of_volume(path: Path, modified: int, size: int) -> bytes:
    return _of_file(path)
