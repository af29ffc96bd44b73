"""What is refused and what is warned about, by which tag: one table, `CHECKS`, that `checks_table` shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pydicom import config
from pydicom.uid import UID

from ...errors import KitError
from .guards import MAX_PIXELS
from .header import Header, said, tag_name

CR, DX, DX_RAW = (f"1.2.840.10008.5.1.4.1.1.{tail}" for tail in ("1", "1.1", "1.1.1"))
CAPTURES = tuple(f"1.2.840.10008.5.1.4.1.1.7{tail}" for tail in ("", ".2", ".3"))
FRONTAL_VIEWS = ("AP", "PA", "ANTERO-POSTERIOR", "POSTERO-ANTERIOR")
# SNOMED CT and the older SRT codes: AP, PA, frontal (CID 4010); chest, lung, chest and abdomen (CID 4031); Homo sapiens
FRONTAL_CODES = ("399348003", "R-10206", "272479007", "R-10214", "399033003", "R-10202")
CHEST_CODES = ("51185008", "816094009", "T-D3000", "39607008", "T-28000", "416550000", "R-FAB55")
HUMAN_CODES = ("337915000", "L-85003")
DESCRIPTIONS = ("AcquisitionDeviceProcessingDescription", "ProtocolName", "SeriesDescription", "StudyDescription")
_ANIMAL = re.compile(r"\b(canine|feline|equine|bovine|ovine|porcine|avian|murine|primate|veterinary|vet)\b", re.I)
_SIDEWAYS = re.compile(r"\b(lateral|lat|oblique)\b", re.I)
_FRONTAL = re.compile(r"\b(ap|pa|frontal|decubitus)\b|\band\b|[+&,/]", re.I)
_FRONTAL_WORDS = re.compile(r"\b(ap|pa)\b|antero|postero|front", re.I)
_CHEST = re.compile(r"^(?!.*spine).*(chest|thora|torax|lung)", re.I)


@dataclass(frozen=True)
class Check:
    """One row.

    what: the condition in words.
    keyword: the tag that tells it.
    action: "refuse" or "warn".
    finds: the sentence's rest after the tag's name if the condition holds, else None or ''.
    """

    what: str
    keyword: str
    action: str
    finds: Callable[[Header], str | None]


def _sop_class(header: Header) -> str | None:
    found = header.text("SOPClassUID")
    if found in (CR, DX, DX_RAW, *CAPTURES):
        return None
    name = f"is {said(UID(found, validation_mode=config.IGNORE).name)}" if found else "is missing"
    return f"{name}; the kit reads CR and DX films (and secondary captures of them)."


def _species(header: Header) -> str | None:
    strange = [meaning or value for value, meaning in header.codes("PatientSpeciesCodeSequence") if value not in HUMAN_CODES]
    return f"says {said(strange[0])}; the kit reads films of people." if strange else None


def _species_words(header: Header) -> str | None:
    found = header.text("PatientSpeciesDescription")
    return (
        f"is {said(found)}; the kit reads films of people."
        if found and not re.search("human|homo sapiens", found, re.I)
        else None
    )


def _animal_words(keyword: str) -> Callable[[Header], str | None]:
    def finds(header):
        found = _ANIMAL.search(" ".join(header.texts(keyword)))
        return f"has the word {found[0]!r}; the kit reads films of people." if found else None

    return finds


def _animal_protocol(header: Header) -> str | None:
    found = _ANIMAL.search(" ".join(meaning for _, meaning in header.codes("PerformedProtocolCodeSequence")))
    return f"has the word {found[0]!r}; the kit reads films of people." if found else None


def _filled_in(keyword: str) -> Callable[[Header], str | None]:
    return lambda header: "is filled in, as for an animal; the kit reads films of people." if keyword in header else None


def _absent(keyword: str, codes: str, then: str) -> Callable[[Header], str | None]:
    """`then` if neither the element nor the code sequence that may stand for it tells."""
    return lambda header: None if header.text(keyword) or header.items(codes) else f"is absent; {then}"


def _view(header: Header) -> str | None:
    found = header.text("ViewPosition").upper()
    return f"is {said(found)}; the kit reads frontal films (AP, PA)." if found and found not in FRONTAL_VIEWS else None


def _view_code(header: Header) -> str | None:
    for value, meaning in header.codes("ViewCodeSequence"):
        if _SIDEWAYS.search(meaning) or (value and value not in FRONTAL_CODES and not _FRONTAL_WORDS.search(meaning)):
            return f"says {said(meaning or value)}; the kit reads frontal films (AP, PA)."
    return None


def _side_words(keyword: str) -> Callable[[Header], str | None]:
    def finds(header):
        text = " ".join(header.texts(keyword))
        found = _SIDEWAYS.search(text)
        return (
            f"has the word {found[0]!r}; the kit reads frontal films (AP, PA)." if found and not _FRONTAL.search(text) else None
        )

    return finds


def _orientation(header: Header) -> str | None:
    rows = header.text("PatientOrientation").upper()
    return f"starts with {said(rows)}: rows run front to back, as in a lateral film." if rows[:1] in ("A", "P") else None


def _body_part(header: Header) -> str | None:
    found = header.text("BodyPartExamined")
    return f"is {said(found)}; the kit reads films of the chest." if found and not _CHEST.search(found) else None


def _region(header: Header) -> str | None:
    for value, meaning in header.codes("AnatomicRegionSequence"):
        if value not in CHEST_CODES and not _CHEST.search(meaning):
            return f"says {said(meaning or value)}; the kit reads films of the chest."
    return None


def _size(header: Header) -> str | None:
    rows, columns = header.whole("Rows"), header.whole("Columns")
    if rows < 1 or columns < 1:
        return f"and {tag_name('Columns')} say {rows} × {columns}; that is no picture."
    too_many = rows * columns > MAX_PIXELS
    return (
        f"and {tag_name('Columns')} say {rows:,} × {columns:,} pixels, more than any film ({MAX_PIXELS:,})." if too_many else None
    )


def _one_of(keyword: str, legal: tuple[int, ...], default: int | None = None) -> Callable[[Header], str | None]:
    def finds(header):
        found = header.whole(keyword, default)
        return None if found in legal else f"is {found}; a film has {' or '.join(map(str, legal))}."

    return finds


def _bits(header: Header) -> str | None:
    stored, allocated = header.whole("BitsStored"), header.whole("BitsAllocated")
    return None if 1 <= stored <= allocated else f"is {stored}, of {allocated} bits allocated; it is 1 to {allocated}."


def _high_bit(header: Header) -> str | None:
    stored, high = header.whole("BitsStored"), header.whole("HighBit", header.whole("BitsStored") - 1)
    return None if stored - 1 <= high < header.whole("BitsAllocated") else f"is {high}, which {stored} stored bits don't reach."


def _frames(header: Header) -> str | None:
    frames = header.whole("NumberOfFrames", 1)
    return None if frames == 1 else f"is {frames}; a film has one frame."


def _photometric(header: Header) -> str | None:
    found = header.text("PhotometricInterpretation").upper()
    return None if found in ("MONOCHROME1", "MONOCHROME2") else f"is {said(found)}; a film is MONOCHROME1 or MONOCHROME2."


def _presentation_shape(header: Header) -> str | None:
    shape, photometric = header.text("PresentationLUTShape").upper(), header.text("PhotometricInterpretation").upper()
    wanted = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}.get(photometric)
    return f"is {said(shape)} and contradicts {photometric}, which was followed." if shape and shape != wanted else None


def _oblong(keyword: str) -> Callable[[Header], str | None]:
    def finds(header):
        numbers = header.numbers(keyword)
        if len(numbers) != 2 or min(numbers) <= 0 or abs(numbers[0] / numbers[1] - 1) <= 0.01:
            return None
        return f"is {numbers[0]:g} by {numbers[1]:g}: pixels aren't square, and shapes are shown stretched."

    return finds


def _when(keyword: str, *values: str, then: str) -> Callable[[Header], str | None]:
    """`then`, with the value put in, if the element is one of `values` ('' is absent or empty)."""
    return lambda header: then.format(said(header.text(keyword))) if header.text(keyword).upper() in values else None


_NOT_XRAY = "is {}; the kit reads radiographs (CR, DX)."
_MODALITIES = ("CR", "DX", "RG", "OT", "")
CHECKS: tuple[Check, ...] = (
    Check("neither CR, DX nor secondary capture", "SOPClassUID", "refuse", _sop_class),
    Check("DX for processing", "SOPClassUID", "refuse",
          _when("SOPClassUID", DX_RAW, then="is DX for processing: raw detector values; use the film for presentation.")),
    Check("DX for processing", "PresentationIntentType", "refuse",
          _when("PresentationIntentType", "FOR PROCESSING", then="is {}: raw detector values; use the film for presentation.")),
    Check("secondary capture", "SOPClassUID", "warn",
          _when("SOPClassUID", *CAPTURES, then="is a secondary capture: the picture was converted, perhaps its gray scale too.")),
    Check("another modality", "Modality", "refuse",
          lambda h: _NOT_XRAY.format(said(h.text("Modality"))) if h.text("Modality").upper() not in _MODALITIES else None),
    Check("modality not told", "Modality", "warn",
          _when("Modality", "RG", "OT", "", then="is {}; nothing says that this is a CR or DX film.")),
    Check("colour or palette", "PhotometricInterpretation", "refuse", _photometric),
    Check("several samples a pixel", "SamplesPerPixel", "refuse", _one_of("SamplesPerPixel", (1,), 1)),
    Check("several frames", "NumberOfFrames", "refuse", _frames),
    Check("no picture, or larger than any film", "Rows", "refuse", _size),
    Check("odd sample size", "BitsAllocated", "refuse", _one_of("BitsAllocated", (8, 16))),
    Check("more bits stored than allocated", "BitsStored", "refuse", _bits),
    Check("high bit outside the sample", "HighBit", "refuse", _high_bit),
    Check("neither signed nor unsigned", "PixelRepresentation", "refuse", _one_of("PixelRepresentation", (0, 1), 0)),
    Check("an animal", "PatientSpeciesDescription", "refuse", _species_words),
    Check("an animal", "PatientSpeciesCodeSequence", "refuse", _species),
    Check("an animal", "PatientBreedDescription", "refuse", _filled_in("PatientBreedDescription")),
    Check("an animal", "PatientBreedCodeSequence", "refuse", _filled_in("PatientBreedCodeSequence")),
    *(Check("words for an animal", keyword, "refuse", _animal_words(keyword)) for keyword in DESCRIPTIONS),
    Check("words for an animal", "PerformedProtocolCodeSequence", "refuse", _animal_protocol),
    Check("lateral or oblique view", "ViewPosition", "refuse", _view),
    Check("lateral or oblique view", "ViewCodeSequence", "refuse", _view_code),
    Check("lateral view", "PatientOrientation", "refuse", _orientation),
    *(Check("words for a lateral view alone", keyword, "refuse", _side_words(keyword)) for keyword in DESCRIPTIONS[:3]),
    Check("view not told", "ViewPosition", "warn",
          _absent("ViewPosition", "ViewCodeSequence", "nothing says that this is a frontal view.")),
    Check("another part of the body", "BodyPartExamined", "refuse", _body_part),
    Check("another part of the body", "AnatomicRegionSequence", "refuse", _region),
    Check("part of the body not told", "BodyPartExamined", "warn",
          _absent("BodyPartExamined", "AnatomicRegionSequence", "nothing says that this is a chest.")),
    Check("text in the picture", "BurnedInAnnotation", "warn",
          _when("BurnedInAnnotation", "YES", then="is {}: text in the picture may name the patient.")),
    Check("text in the picture not told", "BurnedInAnnotation", "warn",
          _when("BurnedInAnnotation", "", then="is absent, which says nothing: there may be text in the picture.")),
    Check("two tags for polarity that differ", "PresentationLUTShape", "warn", _presentation_shape),
    Check("compressed with loss", "LossyImageCompression", "warn",
          _when("LossyImageCompression", "01", then="is {}: details may have been lost.")),
    *(Check("pixels that aren't square", keyword, "warn", _oblong(keyword))
      for keyword in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing")),
)  # fmt: skip
KEYWORDS = (*{check.keyword for check in CHECKS}, "Columns")


def check_header(header: Header) -> list[str]:
    """Go through the table. Returns: the warnings. Raises: KitError at the first row that refuses."""
    warnings = []
    for check in CHECKS:
        if rest := check.finds(header):
            sentence = f"{tag_name(check.keyword)} {rest}"
            if check.action == "refuse":
                raise KitError(sentence)
            warnings.append(sentence)
    return warnings


def checks_table():
    """The table as a pandas DataFrame: what, tag, action."""
    import pandas as pd

    return pd.DataFrame([(c.what, tag_name(c.keyword), c.action) for c in CHECKS], columns=["what", "tag", "action"])
