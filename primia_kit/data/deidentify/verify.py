"""Read what was written again and search it for every identifying string of its original."""

from __future__ import annotations

import io
import re
import warnings

from ...errors import KitError
from .films import inflated, transfer_syntax
from .identity import Identity
from .search import Leak, Search, kept_terms, leaks_in

_IN_ANY_BYTES = 6  # shorter strings turn up in megabytes of pixels by chance
_IN_HEADER = 4  # in bytes outside the pixel data


def find_leaks(content: bytes, name: str, identity: Identity) -> list[Leak]:
    """Search a finished file.

    1. Its new path: every string, short ones as whole words.
    2. If it is DICOM, every element at every depth, file meta information included.
    3. Every byte: strings of 6 characters or more anywhere, of 4 or more outside the pixel data, in UTF-8,
       Latin-1 and UTF-16 and without regard to case; numbers only where no digit stands beside them.

    Raises: KitError if a DICOM file can't be read again.
    """
    leaks = []
    if Search(identity).hits(name):
        leaks.append(Leak("name"))
    header = content
    if content[128:132] == b"DICM":
        try:
            if transfer_syntax(content) == "1.2.840.10008.1.2.1.99":
                content = inflated(content)  # raw bytes are searched as they read, not as they are packed
                header = content
                dataset = _read(content, inflate=True)
            else:
                dataset = _read(content)
            leaks += leaks_in(dataset, identity)
        except KitError:
            raise
        except Exception as error:
            raise KitError(f"what was written can't be read again ({type(error).__name__})") from error
        pixels = dataset.get("PixelData") or b""
        header = content.replace(pixels, b"", 1) if pixels else content
        terms = kept_terms(dataset)
    else:
        terms = frozenset()
    for data, shortest, where in ((content, _IN_ANY_BYTES, "raw bytes"), (header, _IN_HEADER, "header bytes")):
        if _in_bytes(data.lower(), identity, shortest, terms):
            leaks.append(Leak(where))
            break
    return leaks


def _in_bytes(data: bytes, identity: Identity, shortest: int, terms) -> bool:
    if any(stored.lower() in data for stored in identity.stored):
        return True
    for needle in identity.strong | (identity.weak - terms):
        if len(needle) < shortest:
            continue
        for form in {needle.encode(code, "replace") for code in ("utf-8", "latin-1", "utf-16-le", "utf-16-be")}:
            if form.strip(b"?\0") and _stands_in(form, data, needle, shortest):
                return True
    return False


def _stands_in(form: bytes, data: bytes, needle: str, shortest: int) -> bool:
    bounded = needle.isdigit() or len(needle) < _IN_ANY_BYTES
    at = data.find(form)
    while at >= 0:
        around = data[max(at - 1, 0) : at] + data[at + len(form) : at + len(form) + 1]
        if not bounded or not re.search(rb"[0-9]" if needle.isdigit() else rb"[a-z0-9]", around):
            return True
        at = data.find(form, at + 1)
    return False


def _read(content: bytes, inflate: bool = False):
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if inflate:  # the data set alone, in the explicit little endian that was packed
            stream = io.BytesIO(content)
            stream.seek(132)
            meta = pydicom.filereader._read_file_meta_info(stream)
            dataset = pydicom.filereader.read_dataset(stream, is_implicit_VR=False, is_little_endian=True)
            dataset.file_meta = meta
            return dataset
        return pydicom.dcmread(io.BytesIO(content))
