"""What identifies: every string of an original that must not be found in what is given away."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePath

from ...errors import KitError
from .dates import Date
from .profile import is_number, is_standard_uid, table, values_of

_COMMON = {  # parts of institutions and addresses that name nobody
    "center", "centre", "chest", "children", "childrens", "clinic", "community", "department", "general", "health",
    "hospital", "imaging", "institute", "medical", "medicine", "pediatric", "portable", "radiology", "road", "saint",
    "street", "suite", "synthetic", "thorax", "university",
}  # fmt: skip
_NAMES_PLACES = {  # texts taken apart: each part identifies
    "AccessionNumber", "DeviceSerialNumber", "InstitutionAddress", "InstitutionName", "InstitutionalDepartmentName",
    "OtherPatientIDs", "PatientAddress", "PatientID", "PatientTelephoneNumbers", "StationName", "StudyID",
}  # fmt: skip
_IN_NAMES = r"[-'’`´‐‑–]+"
_SHORTEST_NUMBER = 5
_LONGEST = 256  # characters of a text: whoever copies it, copies its beginning
_MOST_STRINGS = 2000  # each is looked for in megabytes
_NO_DATE = "00010101"  # what de-identifiers write
_DUMMIES = {"anonymized", "removed", "none", "unknown", "000000", "00000000"}


@dataclass
class Identity:
    """The strings to search for, in lower case.

    strong: names and their parts, numbers, dates, addresses, UIDs: found anywhere, they are a leak.
    weak: whole descriptions, private texts and parts of file names, which may be ordinary words: they are
        no leak where the output says the same in a coded term ("CHEST" as the body part).
    stored: names and texts as the original's bytes had them, whatever its character set.
    dates: days, compared with every date that a text may be read as.
    numbers: digits of identifiers, without punctuation and leading zeros, compared with those in a text.
    """

    strong: set[str] = field(default_factory=set)
    weak: set[str] = field(default_factory=set)
    stored: set[bytes] = field(default_factory=set)
    dates: set[Date] = field(default_factory=set)
    numbers: set[str] = field(default_factory=set)

    def add(self, other: Identity) -> None:
        self.strong |= other.strong
        self.weak |= other.weak
        self.stored |= other.stored
        self.dates |= other.dates
        self.numbers |= other.numbers


def identity_of(
    dataset, path: PurePath | None = None, labels: frozenset[str] = frozenset(), texts: Iterable[str] = ()
) -> Identity:
    """Collect what identifies a film.

    Args:
        dataset: the untouched pydicom Dataset with its file meta information, or None for another picture.
        path: its place relative to the folder that was given; its parts count, except label and split folders.
        labels: folder names that are labels, in lower case.
        texts: what else was written beside the pixels.

    Raises: KitError if there is more than can be searched for.
    """
    found = Identity()
    if dataset is not None:
        _of_elements(dataset, found)
        for element in dataset.file_meta:
            if element.VR == "AE" or element.tag == 0x00020003:
                _add_text(str(element.value), found, apart=False)
            elif element.tag == 0x00020102:
                _add_weak(_printable(element.value), found)
        if preamble := _printable(getattr(dataset, "preamble", b"") or b""):
            _add_weak(preamble, found)
    for text in texts:
        _add_weak(text, found)
    for part in (path.with_suffix("") if path else PurePath()).parts:
        if part.lower() in labels:
            continue
        for word in {part, *re.split(r"[\W_]+", part)}:
            _add_weak(word, found)
    if len(found.strong) + len(found.weak) > _MOST_STRINGS:
        raise KitError(f"it holds more than {_MOST_STRINGS:,} texts that may identify; no film's header does")
    found.strong -= _DUMMIES
    found.weak -= _DUMMIES | found.strong | _COMMON | labels
    return found


def _of_elements(item, found: Identity) -> None:
    for element in item:
        tag = element.tag
        if element.VR == "SQ":
            for part in element.value:
                _of_elements(part, found)
            continue
        listed = tag in table()
        for value in values_of(element):
            if value == "":
                continue
            if element.VR == "UI":
                if not is_standard_uid(value):
                    found.strong.add(str(value))
            elif element.VR == "PN":
                _add_name(value, found)
            elif element.VR in ("DA", "DT", "TM"):
                _add_time(str(value), element.VR, found)
            elif isinstance(value, bytes):
                if (tag.is_private and tag.element >= 0x1000) or listed or tag.group & 0xFF00 in (0x5000, 0x6000):
                    for text in _printable(value).split("\\"):
                        _add_weak(text, found)
            elif isinstance(value, str) and (listed or (tag.is_private and tag.element >= 0x1000)):
                if element.keyword in _NAMES_PLACES or element.keyword.endswith(("PersonName", "Address", "TelephoneNumbers")):
                    _add_text(value, found, apart=True)
                elif element.VR == "CS" or element.VR == "AS":
                    continue  # sex and age: searched for in `profile`'s own test, not as strings
                else:
                    _add_weak(value, found)


def _add_name(value, found: Identity) -> None:
    stored = getattr(value, "original_string", b"") or b""
    if isinstance(stored, bytes):
        found.stored.update(part for part in re.split(rb"[\^= ]+", stored) if any(b > 127 for b in part) and len(part) >= 4)
    text = str(value)[: 4 * _LONGEST]
    found.strong.add(text.lower())
    for part in re.split(r"[\^=\s,.]+", text):
        _add_part(part, found, shortest=2)
        if len(pieces := re.split(_IN_NAMES, part)) > 1:  # Smith-Jones is Smith, Jones and SmithJones
            for piece in (*pieces, "".join(pieces)):
                _add_part(piece, found, shortest=2)


def _add_text(value: str, found: Identity, apart: bool) -> None:
    value = value.strip()[: 4 * _LONGEST]
    if len(value) < 2:
        return
    found.strong.add(value.lower())
    if not apart:
        return
    for part in re.split(r"[\s,;:^/\\]+", value):
        _add_part(part, found, shortest=5)
    joined = re.sub(r"[\W_]+", "", value)
    if any(map(str.isdigit, joined)) and len(joined) >= _SHORTEST_NUMBER:  # 12-345-678 is 12345678, too
        found.strong.add(joined.lower())
    digits = {row.lstrip("0") for text in (value, joined) for row in re.findall(r"[0-9]+", text)}
    found.numbers |= {row for row in digits if len(row) >= _SHORTEST_NUMBER}


def _add_part(part: str, found: Identity, shortest: int) -> None:
    part = part.strip("()[].-'\"").lower()
    plain = unicodedata.normalize("NFKD", part).encode("ascii", "ignore").decode()  # Muller for Müller
    for form in {part, plain}:
        enough = len(form) >= shortest or any(ord(c) > 127 for c in form)
        if enough and (shortest == 2 or form not in _COMMON):  # Street is a surname, too
            found.strong.add(form)


def _add_time(value: str, vr: str, found: Identity) -> None:
    digits = re.sub(r"\D", "", value.split(".")[0].split("+")[0])
    if len(digits.strip("0")) < 3:
        return
    if vr != "TM" and len(digits) >= 8:
        year, month, day = digits[:4], digits[4:6], digits[6:8]
        if digits[:8] == _NO_DATE:
            return
        found.dates.add((int(year), int(month), int(day)))
        found.strong.update({digits[:8], f"{year}-{month}-{day}"})
        found.strong.update(f"{a}{sign}{b}{sign}{year}" for a, b in ((day, month), (month, day)) for sign in "./-")
    if vr != "DA" and len(digits) >= 6:
        found.weak.add(digits)


def _add_weak(value: str, found: Identity) -> None:
    value = value.strip().lower()[:_LONGEST]
    if len(value) >= (6 if value.isdigit() else 4) and (value.isdigit() or not is_number(value)):
        found.weak.add(value)


def _printable(value: bytes) -> str:
    """The text of bytes that are mostly text, else ''."""
    text = bytes(value)[:4096].rstrip(b"\0 ").decode("latin-1")
    return text if text.isprintable() else ""
