"""Look for what identifies in the elements of a data set, and take out the texts that hold it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .identity import Identity
from .profile import Change

_NO_TEXT = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UN"}
_NUMBERS = {"DS", "IS"}
_NEEDED = {0x00080005, 0x00080060, 0x00100010, 0x00100020, 0x00280004}  # without them the film can't be read or told apart


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
    """Remove texts and coded strings that the profile keeps and that hold something that identifies all the same.

    A department's name in Manufacturer, a patient's in BodyPartExamined: people write where there is room. A
    sequence goes as a whole. What can't be removed stays, and is found by `find_leaks`.
    """
    changes = []
    for leak in leaks_in(dataset, identity):
        top = leak.where.split("[")[0]
        tag = int(top[1:5] + top[6:10], 16)
        if tag >> 16 == 0x0002 or tag in _NEEDED or tag not in dataset:
            continue
        if dataset[tag].VR in ("SQ", "CS", "LO", "SH", "ST", "LT"):
            changes.append(Change(top, dataset[tag].keyword, "kit", "its text held something that identifies"))
            del dataset[tag]
    return changes


def leaks_in(dataset, identity: Identity) -> list[Leak]:
    """The elements of a data set, nested and file meta ones too, whose value holds something that identifies."""
    search = Search(identity, kept_terms(dataset))
    meta = getattr(dataset, "file_meta", None) or ()
    found = []
    for where, element in (*_elements(meta, ""), *_elements(dataset, "")):
        if element.VR in _NO_TEXT:
            continue
        values = element.value if element.VM > 1 else [element.value]
        if any(search.hits(str(value), numbers=element.VR in _NUMBERS) for value in values):
            found.append(Leak(where, element.keyword))
    return found


class Search:
    """One identity, ready to be looked for in many texts. `terms` are words that may stand there all the same."""

    def __init__(self, identity: Identity, terms: Iterable[str] = ()) -> None:
        needles = identity.strong | (identity.weak - set(terms))
        self._long = [n for n in needles if (len(n) >= 5 and not n.isdigit()) or any(ord(c) > 127 for c in n)]
        words = sorted(needles - set(self._long))
        self._words = re.compile("|".join(rf"(?<![^\W_]){re.escape(n)}(?![^\W_])" for n in words)) if words else None

    def hits(self, text: str, numbers: bool = False) -> bool:
        """Whether a text holds one of the strings; of a number (VR DS, IS), only strings of six or more count."""
        text = text.lower()
        if any(needle in text for needle in self._long):
            return True
        match = self._words.finditer(text) if self._words else ()
        return any(not numbers or len(m.group()) >= 6 for m in match)


def kept_terms(dataset) -> frozenset[str]:
    """Words of the coded strings and of the equipment's make that the output keeps on purpose."""
    words = set()
    for element in dataset:
        if element.VR == "CS" or element.keyword in ("Manufacturer", "ManufacturerModelName"):
            for value in element.value if element.VM > 1 else [element.value]:
                words |= {str(value).lower(), *re.split(r"[\W_]+", str(value).lower())}
    return frozenset(words)


def _elements(item, where: str) -> Iterator:
    for element in item:
        tag = f"{where}({element.tag.group:04X},{element.tag.element:04X})"
        yield tag, element
        if element.VR == "SQ":
            for index, part in enumerate(element.value):
                yield from _elements(part, f"{tag}[{index}].")
