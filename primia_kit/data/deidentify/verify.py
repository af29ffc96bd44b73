"""Read what was written again and search it for every identifying string of its original."""

from __future__ import annotations

import re

from ...errors import KitError
from ..dicom.guards import dataset_offset
from .identity import Identity
from .reading import Reading, read_with_places
from .search import BINARY, Leak, Search, is_pseudonym_path, kept_terms, leaks_in

_IN_ANY_BYTES = 6  # shorter strings turn up in megabytes of pixels by chance
_IN_HEADER = 4  # in bytes outside the pixel data
_PIXEL_DATA = 0x7FE00010


def find_leaks(content: bytes, name: str, identity: Identity) -> list[Leak]:
    """Search a finished file.

    1. Its new path: a pseudonym, or free of every string.
    2. If it is DICOM, every element at every depth, file meta information included (`leaks_in`).
    3. Every byte: names as the original had them stored, and strings outside ASCII.
    4. Every byte that isn't in a text judged in 2 (the preamble, pixels, binary numbers, what lies between and behind):
       strings of 6 characters or more anywhere, of 4 or more outside the pixel data, in UTF-8, Latin-1 and UTF-16 and
       without regard to case; numbers only where no digit stands beside them.

    Raises: KitError if a DICOM file can't be read again.
    """
    leaks = []
    if not is_pseudonym_path(name, identity) and Search(identity).hits(name):
        leaks.append(Leak("name"))
    terms, rest, header = frozenset(), content, content
    if dataset_offset(content) is not None:
        try:
            found = read_with_places(content)
            leaks += leaks_in(found.dataset, identity)
        except KitError:
            raise
        except Exception as error:
            raise KitError(f"what was written can't be read again ({type(error).__name__})") from error
        terms, content = kept_terms(found.dataset), found.content  # raw bytes are searched as they read, not as packed
        rest, header = _without(found, pixels=True), _without(found, pixels=False)
    needles = identity.strong | (identity.weak - terms)
    foreign = {needle for needle in needles if not needle.isascii()}
    for data, wanted, shortest, where in (
        (content, foreign, _IN_ANY_BYTES, "raw bytes"),
        (rest, needles, _IN_ANY_BYTES, "raw bytes"),
        (header, needles, _IN_HEADER, "header bytes"),
    ):
        data = data.lower()
        if any(stored.lower() in data for stored in identity.stored) or _in_bytes(data, wanted, shortest):
            leaks.append(Leak(where))
            break
    return leaks


def _without(found: Reading, pixels: bool) -> bytes:
    """A file's bytes without the texts that are judged as elements, and without pixels at wish; a zero byte stands for each."""
    kept, at = [], 0
    for start, end, vr, tag in sorted(found.places):
        if (vr not in BINARY or (tag == _PIXEL_DATA and not pixels)) and start >= at:
            kept.append(found.content[at:start])
            at = end
    return b"\0".join([*kept, found.content[at:]])


def _in_bytes(data: bytes, needles: set[str], shortest: int) -> bool:
    for needle in needles:
        if len(needle) < shortest:
            continue
        for form in {needle.encode(code, "replace") for code in ("utf-8", "latin-1", "utf-16-le", "utf-16-be")}:
            if form.strip(b"?\0") and _stands_in(form, data, needle):
                return True
    return False


def _stands_in(form: bytes, data: bytes, needle: str) -> bool:
    bounded = needle.isdigit() or len(needle) < _IN_ANY_BYTES
    at = data.find(form)
    while at >= 0:
        around = data[max(at - 1, 0) : at] + data[at + len(form) : at + len(form) + 1]
        if not bounded or not re.search(rb"[0-9]" if needle.isdigit() else rb"[a-z0-9]", around):
            return True
        at = data.find(form, at + 1)
    return False
