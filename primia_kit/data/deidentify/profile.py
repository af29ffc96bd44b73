"""What becomes of each attribute: PS3.15 Annex E, Basic Application Level Confidentiality Profile.

Table E.1-1 names the attributes that go; `dicom-anonymizer` holds it as data and knows dummy values for each
VR. Left to itself it reaches the top level alone, draws UIDs at random, turns removed dates into dummies, and
keeps every text that the table doesn't name. So the kit walks into every sequence, derives UIDs from the
hospital's key, and keeps, of what the table doesn't name, only what has no room for free text: numbers, defined
terms, codes of the standard's context groups; and, as texts, the equipment's make and model (E.1.1 allows to
remove more than the table asks for).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from pydicom.tag import Tag

from .codes import CODE_TAGS, standard_meaning
from .key import Pseudonyms
from .terms import is_defined_term

TABLE_EDITION = "2026c"
METHOD = ("PS3.15 Annex E Basic Application Level Confidentiality Profile", f"PriMIA Kit with Table E.1-1 of {TABLE_EDITION}")

KEPT_TEXTS = {  # not in Table E.1-1, needed to read or to tell equipment apart
    0x00080005: "SpecificCharacterSet", 0x00080070: "Manufacturer", 0x00081090: "ManufacturerModelName",
    0x00080100: "CodeValue", 0x00080102: "CodingSchemeDesignator", 0x00080104: "CodeMeaning",
    0x00281054: "RescaleType", 0x00283004: "ModalityLUTType",
}  # fmt: skip
TERMS_IN_TEXTS = {0x00281054, 0x00283004}  # of these texts, only defined terms
KEPT_BINARY = {0x00283006, 0x7FE00010} | {0x00281201 + i for i in (0, 1, 2, 32, 33, 34)}  # LUTs, pixels
ALSO_REMOVED = {0x0018A001: "names the devices and places that the film went through"}  # ContributingEquipmentSequence

_CODE_MEANING = Tag(0x00080104)
_TEXT = {"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
_NUMBER = re.compile(r" *([+-]?[0-9]*\.?[0-9]*([eE][+-]?[0-9]+)?)?[ \0]*")
_TIME = {"AS", "DA", "DT", "TM"}
_BINARY = {"OB", "OD", "OF", "OL", "OV", "OW", "UN", "OB or OW", "US or OW", "US or SS or OW"}


@dataclass(frozen=True, order=True)
class Change:
    """One attribute that was removed, emptied or replaced; never what it held.

    tag: "(0008,1030)", inside sequences "(0040,0275)[0].(0040,0007)".
    keyword: the standard's, "" for private and unknown ones.
    action: the profile's letter (X removed, Z emptied, D dummy, U new UID) or "kit", and the reason.
    """

    tag: str
    keyword: str
    action: str
    reason: str


@lru_cache(maxsize=1)
def table() -> dict[int, str]:
    """Table E.1-1: the profile's action for each tag, without the repeating groups (see `_whole_group`)."""
    from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector

    categories = dicom_anonymization_database_selector(f"dicomfields_{TABLE_EDITION}")
    letters = {
        "D_TAGS": "D", "Z_TAGS": "Z", "X_TAGS": "X", "U_TAGS": "U", "Z_D_TAGS": "Z/D", "X_Z_TAGS": "X/Z", "X_D_TAGS": "X/D",
        "X_Z_D_TAGS": "X/Z/D", "X_Z_U_STAR_TAGS": "X/Z/U*",
    }  # fmt: skip
    return {
        tag[0] << 16 | tag[1]: letter
        for category, letter in letters.items()
        for tag in categories[category]
        if len(tag) == 2 and tag[0] != 0x0002
    }


def apply_profile(dataset, pseudonyms: Pseudonyms, patient: str) -> list[Change]:
    """De-identify a data set in place (PS3.15 E.1.1), file meta information and pixel data apart.

    1. In every sequence item, deepest first: private groups, curves, overlays, command groups and group lengths go.
    2. The attributes that Table E.1-1 names get its action, by `dicom-anonymizer`.
    3. Of the others, texts, times and binary values that no reader needs go, coded strings that aren't defined terms,
       and codes that no context group of the standard has.
    4. Every UID that isn't in the standard's list of UIDs becomes one derived from it with the key.
    5. The patient becomes a pseudonym.

    Args:
        dataset: pydicom Dataset, changed in place.
        patient: the pseudonym for (0010,0010) and (0010,0020).

    Returns: what was changed, in the order of tags.
    """
    changes = list(_clean_item(dataset, pseudonyms, ""))
    dataset.PatientName = dataset.PatientID = patient
    return sorted(changes)


def _clean_item(item, pseudonyms: Pseudonyms, where: str) -> Iterator[Change]:
    for tag in list(item.keys()):
        if reason := _whole_group(tag):
            yield _change(tag, where, "X", reason)
            del item[tag]
    for tag in list(item.keys()):
        element = item[tag]
        if element.VR == "SQ":
            action = table().get(tag)
            if tag in ALSO_REMOVED:
                yield _change(tag, where, "kit", ALSO_REMOVED[tag])
                del item[tag]
            elif action not in (None, "X/Z/U*"):
                yield _change(tag, where, "X", f"Table E.1-1: {action}, a sequence")
                del item[tag]
            elif any(standard_meaning(part) is None for part in element.value):
                yield _change(tag, where, "kit", "a code that the standard's context groups don't have: it may be any text")
                del item[tag]
            else:
                for index, part in enumerate(element.value):
                    if (meaning := standard_meaning(part)) and part.get("CodeMeaning") != meaning:
                        part.CodeMeaning = meaning
                        inside = f"{where}{shown(tag)}[{index}]."
                        yield _change(_CODE_MEANING, inside, "kit", "a code's meaning, put as the standard has it")
                    yield from _clean_item(part, pseudonyms, f"{where}{shown(tag)}[{index}].")
    yield from _apply_table(item, pseudonyms, where)
    for tag in list(item.keys()):
        element = item[tag]
        if tag in table() or element.VR == "SQ":
            continue
        if reason := _not_kept(tag, element, nested=bool(where)):
            yield _change(tag, where, "kit", reason)
            del item[tag]
        elif (element.VR == "CS" or tag in TERMS_IN_TEXTS) and _keep_terms(element):
            yield _change(tag, where, "kit", "not a defined term")
            if element.is_empty:
                del item[tag]
        elif element.VR == "UI" and _replace_uids(element, pseudonyms):
            yield _change(tag, where, "U", "a UID that isn't the standard's own")


def _whole_group(tag) -> str:
    if tag.is_private:
        return "private"
    if tag.group & 0xFF00 == 0x5000:
        return "Table E.1-1: X, curve"
    if tag.group & 0xFF00 == 0x6000:
        return "Table E.1-1: X, overlay"
    if tag.group < 0x0008 or tag.element == 0:
        return "no part of a stored image"
    return ""


def _apply_table(item, pseudonyms: Pseudonyms, where: str) -> Iterator[Change]:
    from dicomanonymizer.simpledicomanonymizer import anonymize_dataset, replace_element

    def remove(dataset, tag):
        del dataset[tag]  # the library's own turns a removed date into a dummy

    def empty(dataset, tag):
        dataset[tag].clear()  # the library's own writes dummies for dates and zeros for numbers

    def new_uid(dataset, tag):
        _replace_uids(dataset[tag], pseudonyms)  # the library's own are drawn at random, anew in each process

    def dummy(dataset, tag):
        element = dataset[tag]
        if element.VR == "UI":
            _replace_uids(element, pseudonyms)
            return
        try:
            replace_element(element)
        except NotImplementedError:  # a VR for which it knows no dummy
            del dataset[tag]

    functions = {"X": remove, "Z": empty, "X/Z": empty, "U": new_uid, "D": dummy, "Z/D": dummy, "X/D": dummy, "X/Z/D": dummy}
    rules = {}
    for tag in list(item.keys()):
        action = table().get(tag)
        if action and item[tag].VR != "SQ":
            if not item[tag].is_empty:
                yield _change(tag, where, action, f"Table E.1-1: {action}")
            function = new_uid if action == "X/Z/U*" else functions[action]
            if item[tag].VR == "UI" and action in ("Z", "X/Z"):
                function = remove
            rules[tag.group, tag.element] = function
    anonymize_dataset(item, delete_private_tags=False, base_rules_gen=lambda: rules)


def _not_kept(tag, element, nested: bool) -> str:
    """Why an attribute that Table E.1-1 doesn't name goes all the same; "" if it stays."""
    if element.VR in _TEXT and tag not in KEPT_TEXTS:
        return "a text that no reader needs"
    if element.VR in _TIME:
        return "a date, time or age"
    if tag.group == 0x7FE0 and nested:
        return "a picture beside the picture"
    if element.VR in _BINARY and tag not in KEPT_BINARY:
        return "binary data that no reader needs"
    if element.VR in ("DS", "IS") and not all(is_number(str(value)) for value in values_of(element)):
        return "not a number"
    if tag in CODE_TAGS and not nested:
        return "a code outside a sequence"
    return ""


def is_number(text: str) -> bool:
    """Whether a DS or IS value is what it should be; a damaged length can make one swallow the texts behind it."""
    return len(text) <= 64 and bool(_NUMBER.fullmatch(text))


def values_of(element) -> list:
    """An element's values, as a list also if there is one or none."""
    if element.value is None:
        return []
    return list(element.value) if element.VM > 1 and not isinstance(element.value, (str, bytes)) else [element.value]


def _keep_terms(element) -> bool:
    """Empty the values that aren't defined terms; whether there were any. The others keep their places."""
    old = [str(value) for value in values_of(element)]
    new = [value if is_defined_term(element.tag, value) else "" for value in old]
    if new == old:
        return False
    element.value = new if any(new) else None
    return True


def _replace_uids(element, pseudonyms: Pseudonyms) -> bool:
    if element.is_empty:
        return False
    old = [element.value] if isinstance(element.value, str) else list(element.value)
    new = [uid if is_standard_uid(uid) else pseudonyms.uid(str(uid)) for uid in old if uid]
    element.value = new[0] if len(new) == 1 else new
    return new != old


def is_standard_uid(uid: str) -> bool:
    """Whether PS3.6 annex A lists a UID; one under the standard's root that it doesn't list may hold any number."""
    from pydicom.uid import UID_dictionary

    return str(uid) in UID_dictionary


def record_method(dataset) -> None:
    """Say in the data set what was done, and add what must be there, empty (type 2)."""
    from pydicom.dataset import Dataset

    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = list(METHOD)
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "113100", "DCM"
    code.CodeMeaning = "Basic Application Confidentiality Profile"
    dataset.DeidentificationMethodCodeSequence = [code]
    dataset.LongitudinalTemporalInformationModified = "REMOVED"
    for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"):
        if keyword not in dataset:  # type 2: must be there, may be empty
            setattr(dataset, keyword, None)


@lru_cache(maxsize=4096)  # thousands of films share their changes
def _change(tag, where: str, action: str, reason: str) -> Change:
    from pydicom.datadict import keyword_for_tag

    return Change(where + shown(tag), "" if tag.is_private else keyword_for_tag(tag), action, reason)


def shown(tag) -> str:
    return f"({tag.group:04X},{tag.element:04X})"
