"""Look for what identifies in the elements of a data set, and take out the texts that hold it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydicom.datadict import tag_for_keyword
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID

from .codes import standard_meaning
from .dates import dates_in
from .identity import Identity
from .profile import METHOD, Change, is_number, is_standard_uid, shown, values_of
from .terms import is_defined_term

BINARY = {  # sizes, counts, pixels: no texts, searched as bytes alone
    "AT", "FD", "FL", "OB", "OD", "OF", "OL", "OV", "OW", "SL", "SS", "SV", "UL", "UN", "US", "UV",
    "OB or OW", "US or OW", "US or SS", "US or SS or OW",
}  # fmt: skip
_NEEDED = {0x00080005, 0x00080060, 0x00100010, 0x00100020, 0x00280004}  # without them the film can't be read or told apart
_MEASURES = {  # numbers in text that the picture needs: one that equals a patient number is a coincidence
    tag_for_keyword(keyword)
    for keyword in (
        "WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope", "PixelSpacing", "ImagerPixelSpacing",
        "NominalScannedPixelSpacing", "PixelAspectRatio", "NumberOfFrames",
    )
}  # fmt: skip
_COUNTERS = {tag_for_keyword(f"{what}Number"): 4 for what in ("Series", "Acquisition", "Instance")}  # type 2 or 3
_LONG_NUMBER = 6
_CODE_VALUE, _CODE_SCHEME, _CODE_MEANING = 0x00080100, 0x00080102, 0x00080104
_OWN_TEXTS = {  # what the kit writes itself, at the top level of a data set or in its file meta information
    0x00120063: frozenset(METHOD),
    0x00020013: re.compile(r"PYDICOM [\d.]+"),
    0x00100010: re.compile(r"P[0-9a-f]{20}"),
    0x00100020: re.compile(r"P[0-9a-f]{20}"),
}
_DUMMIES = {"ANONYMIZED", "000Y", "http://anonymized.invalid", "00010101", "00010101010101.000000+0000", "000000.00"}
_PSEUDONYM_PATH = re.compile(r"(P[0-9a-f]{20})/(F[0-9a-f]{24})\.[a-z]{3}")


@dataclass(frozen=True)
class Leak:
    """Where something that identifies was found; never what.

    where: a tag such as "(0008,0070)", "name", "raw bytes", "header bytes".
    """

    where: str
    keyword: str = ""

    def __str__(self) -> str:
        return f"{self.where} {self.keyword}".rstrip()


def scrub(dataset, identity: Identity) -> list[Change]:
    """Remove texts and numbers that the profile keeps and that hold something that identifies all the same.

    A department's name in Manufacturer, a study's date as SeriesNumber: people and devices write where there is room.
    Series, acquisition and instance numbers are emptied, a sequence goes as a whole. What can't be removed stays, and
    is found by `find_leaks`.
    """
    changes = []
    for leak in leaks_in(dataset, identity):
        top = leak.where.split("[")[0]
        tag = int(top[1:5] + top[6:10], 16)
        if tag >> 16 == 0x0002 or tag in _NEEDED or tag not in dataset:
            continue
        element = dataset[tag]
        if element.VR in ("IS", "DS"):
            changes.append(Change(top, element.keyword, "kit", "it was a number that identifies"))
            if tag in _COUNTERS:
                element.clear()
            else:
                del dataset[tag]
        elif element.VR in ("SQ", "CS", "LO", "SH", "ST", "LT"):
            changes.append(Change(top, element.keyword, "kit", "its text held something that identifies"))
            del dataset[tag]
    return changes


def leaks_in(dataset, identity: Identity) -> list[Leak]:
    """The elements of a data set, nested and file meta ones too, whose value holds something that identifies.

    By value representation:

    1. Binary numbers aren't texts; `find_leaks` searches their bytes.
    2. A UID is the standard's, or under 2.25 and none of the original's.
    3. A defined term of the standard is that term, and a code of its context groups that code, whoever has the name.
    4. A number in text (DS, IS) counts from six digits, four for series, acquisition and instance; never one that the
       picture needs, such as a window.
    5. Every other text is searched (`Search.hits`), except the words that the kit writes itself.
    """
    search = Search(identity, kept_terms(dataset))
    meta = getattr(dataset, "file_meta", None) or ()
    return [
        Leak(where, element.keyword)
        for where, element, item in (*elements_of(meta), *elements_of(dataset))
        if any(_identifies(str(value), where, element, item, search, identity) for value in _texts(element))
    ]


def _texts(element) -> list:
    return [] if element.VR in BINARY or element.VR == "SQ" else values_of(element)


def _identifies(value: str, where: str, element, item, search: Search, identity: Identity) -> bool:
    tag = element.tag
    if element.VR == "UI":
        return bool(value) and not _is_own_uid(value, identity)
    if element.VR in ("DS", "IS") and is_number(value):
        return tag not in _MEASURES and search.hits_number(value, _COUNTERS.get(tag, _LONG_NUMBER))
    if element.VR == "CS" and is_defined_term(tag, value):
        return False
    if value in _DUMMIES or _is_standard_code(value, tag, item):
        return False
    own = _OWN_TEXTS.get(tag) if "[" not in where else None
    if own and (value in own if isinstance(own, frozenset) else own.fullmatch(value) and value.lower() not in identity.strong):
        return False
    return search.hits(value)


def _is_standard_code(value: str, tag: int, item) -> bool:
    if tag not in (_CODE_VALUE, _CODE_SCHEME, _CODE_MEANING):
        return False
    meaning = standard_meaning(item)
    return bool(meaning) and (tag != _CODE_MEANING or value == meaning)


def _is_own_uid(uid: str, identity: Identity) -> bool:
    return is_standard_uid(uid) or uid == PYDICOM_IMPLEMENTATION_UID or (uid.startswith("2.25.") and uid not in identity.strong)


class Search:
    """One identity, ready to be looked for in many texts. `terms` are words that may stand there all the same."""

    def __init__(self, identity: Identity, terms: Iterable[str] = ()) -> None:
        needles = identity.strong | (identity.weak - set(terms))
        self._long = [n for n in needles if (len(n) >= 5 and not n.isdigit()) or any(ord(c) > 127 for c in n)]
        words = sorted(needles - set(self._long))
        self._words = re.compile("|".join(rf"(?<![^\W_]){re.escape(n)}(?![^\W_])" for n in words)) if words else None
        self._digits = {n for n in words if n.isdigit()} | identity.numbers
        self._dates, self._numbers = identity.dates, identity.numbers

    def hits(self, text: str) -> bool:
        """Whether a text holds one of the strings.

        Those of five letters anywhere, also across punctuation and blanks (OBrien for O'Brien), shorter ones and
        numbers as whole words; numbers of identifiers however they are grouped; dates however they are written.
        """
        text = text.replace("\0", "").lower()  # words of 16 bits a character read as their letters
        joined = re.sub(r"[\W_]+", "", text)
        if any(needle in text or needle in joined for needle in self._long):
            return True
        if self._words and self._words.search(text):
            return True
        if self._numbers and not self._numbers.isdisjoint(_grouped_numbers(text)):
            return True
        return bool(self._dates) and not self._dates.isdisjoint(dates_in(text))

    def hits_number(self, text: str, shortest: int = _LONG_NUMBER) -> bool:
        """Whether digits of a number in text (VR DS, IS), so many in a row, are one of the numbers or dates."""
        rows = [row for row in re.findall(r"[0-9]+", text) if len(row) >= shortest]
        return any(
            row in self._digits or row.lstrip("0") in self._numbers or not self._dates.isdisjoint(dates_in(row)) for row in rows
        )


def is_pseudonym_path(name: str, identity: Identity) -> bool:
    """Whether a path is the kit's own, PATIENT/FILM.suffix, and made of no name of the original."""
    match = _PSEUDONYM_PATH.fullmatch(name)
    return bool(match) and not identity.strong & {part.lower() for part in match.groups()}


def _grouped_numbers(text: str) -> Iterator[str]:
    """Every number that neighbouring groups of digits make, without leading zeros: of 12-345-678, also 12345678."""
    groups = [(m.start(), m.end(), m.group()) for m in re.finditer(r"[0-9]+", text)][:64]
    for first in range(len(groups)):
        number, end = "", groups[first][0]
        for start, stop, digits in groups[first:]:
            if len(number) > 32 or any(c.isalnum() for c in text[end:start]):
                break
            number, end = number + digits, stop
            yield number.lstrip("0")


def kept_terms(dataset) -> frozenset[str]:
    """Words of the coded strings and of the equipment's make that the output keeps on purpose."""
    words = set()
    for element in dataset:
        if element.VR == "CS" or element.keyword in ("Manufacturer", "ManufacturerModelName"):
            for value in values_of(element):
                words |= {str(value).lower(), *re.split(r"[\W_]+", str(value).lower())}
    return frozenset(words)


def elements_of(item, where: str = "") -> Iterator:
    """(place, element, the data set or item that it is in) at every depth."""
    for element in item:
        place = where + shown(element.tag)
        yield place, element, item
        if element.VR == "SQ":
            for index, part in enumerate(element.value):
                yield from elements_of(part, f"{place}[{index}].")
