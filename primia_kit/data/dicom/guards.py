"""Bounds on what a file may make the kit read, inflate, parse and allocate, checked before it is done.

A chest film of 43 x 43 cm in pixels of 0.1 mm has 18.5 million pixels of two bytes; every bound is some times that.
"""

from __future__ import annotations

import io
import stat
import zlib
from pathlib import Path

from ...errors import KitError

MAX_PIXELS = 2**25  # 33.5 million
MAX_BYTES = 2**27  # 134 MB, of a file and of what a deflated file becomes
MAX_READS = 50_000  # of a header; each element or sequence item takes one to three
MAX_SQUEEZE = 2000  # pixels a byte of a codestream, once it claims more than a million pixels
MAGIC_AT, MAGIC = 128, b"DICM"
META_GROUP = b"\x02\x00\x00\x00UL\x04\x00"  # (0002,0000) UL, 4 bytes: how the file meta group starts


def dataset_offset(head: bytes) -> int | None:
    """Where the file meta group starts (PS3.10 7.1), or None if the bytes aren't a DICOM file.

    A file that lost its preamble is accepted if it starts with the meta group's length; one without meta group is
    not: its transfer syntax would be a guess, and almost any bytes would pass for it.
    """
    if head[MAGIC_AT : MAGIC_AT + 4] == MAGIC:
        return MAGIC_AT + 4
    return 0 if head.startswith(META_GROUP) else None


def is_dicom(path: str | Path) -> bool:
    """Whether a file is DICOM by its content, whatever its name: see `dataset_offset`. Reads 132 bytes.

    Anything but a regular file (a pipe, a device) is not.
    Raises: OSError if there's no such file, it's a folder, or it may not be read.
    """
    path = Path(path)
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe would wait for ever
        return False
    with path.open("rb") as stream:
        return dataset_offset(stream.read(MAGIC_AT + 4)) is not None


def read_bounded(source: str | Path | bytes) -> bytes:
    """A source's bytes. Raises: KitError if there are more than any film has; OSError."""
    if isinstance(source, bytes | bytearray | memoryview):
        size, data = len(source), source
    else:
        path = Path(source)
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise KitError("this is a folder; name one of its files.")
        if not stat.S_ISREG(status.st_mode):
            raise KitError("this is not a regular file (a pipe or a device?).")
        size, data = status.st_size, None
    if size <= MAX_BYTES and data is None:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)  # it may have grown
        size = len(data)
    if size > MAX_BYTES:
        raise KitError(f"it has {size:,} bytes, more than any film ({MAX_BYTES:,}); it was not read.")
    return bytes(data)


def inflate(data: bytes) -> bytes:
    """The data set of a deflated file (PS3.5 A.5). Raises: KitError beyond MAX_BYTES, or if it's damaged."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, MAX_BYTES + 1)
    except zlib.error as error:
        raise KitError(f"its deflated data set is damaged ({error}); export the film again.") from error
    if len(inflated) > MAX_BYTES:
        raise KitError(f"its {len(data):,} deflated bytes inflate to more than {MAX_BYTES:,}; no film does.")
    if not inflater.eof:
        raise KitError("its deflated data set is cut off; copy or export the film again.")
    return inflated


class _Counted:
    """Reads for the parser that end in a sentence when a header has more elements than any film's."""

    _left = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise KitError(
                f"its header has tens of thousands of elements or sequence items, more than {MAX_READS:,} reads; no film's has."
            )
        return super().read(size)


class CountedStream(_Counted, io.BytesIO):
    """Bytes of a header, read within bounds."""


class CountedFile(_Counted, io.BufferedReader):
    """A file of which the header alone is wanted, read within bounds: `CountedFile(io.FileIO(path))`."""


def check_codestream_size(pixels: int, length: int) -> None:
    """Raises: KitError if a codestream claims more pixels than so few bytes hold of any picture."""
    if pixels > 2**20 and pixels > MAX_SQUEEZE * length:
        raise KitError(f"PixelData (7FE0,0010) has {length:,} bytes for {pixels:,} pixels; no film compresses so far.")
