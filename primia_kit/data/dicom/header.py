"""A DICOM header, parsed within bounds, whose elements are asked for by keyword and answer with a value or a sentence."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterable

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_sequence
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from ...errors import KitError
from .guards import CountedStream, dataset_offset, inflate

_QUIET = threading.RLock()  # Python's filter of warnings is one for all threads


def tag_name(keyword: str) -> str:
    """'ViewPosition (0018,5101)'."""
    tag = tag_for_keyword(keyword)
    return f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def said(value: object) -> str:
    """A header's value for a sentence: quoted, on one line, short."""
    text = repr(str(value))
    return text if len(text) <= 60 else text[:57] + "…'"


def reason(error: BaseException) -> str:
    """What a parser or decoder complained about: one line, short."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.rstrip(".") if len(text) <= 160 else text[:159] + "…"


class Header:
    """The elements of a data set, or of a sequence's item, that were asked for when it was read.

    Every method raises KitError, naming the tag, if the element is there but damaged.
    """

    def __init__(self, dataset: Dataset, syntax: UID, keywords: Iterable[str] | None = None):
        self.syntax = syntax
        self._dataset = dataset
        self._keywords = None if keywords is None else frozenset(keywords)
        self._known: dict[str, list] = {}  # several checks ask for the same element

    def __contains__(self, keyword: str) -> bool:
        return self._tag(keyword) in self._dataset

    def texts(self, keyword: str) -> list[str]:
        """The values as words without blanks around them; [] if the element is absent or empty."""
        return [text for value in self._values(keyword) if (text := str(value).strip(" \0\t\r\n"))]

    def text(self, keyword: str) -> str:
        """The first value, or ''."""
        return (self.texts(keyword) or [""])[0]

    def numbers(self, keyword: str) -> list[float]:
        """The values as finite numbers; [] if the element is absent or empty."""
        values = [value for value in self._values(keyword) if str(value).strip(" \0")]
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError, OverflowError):
            numbers = [math.nan]
        if not all(map(math.isfinite, numbers)):
            raise KitError(f"{tag_name(keyword)} is {said(values)}, which is no number.")
        return numbers

    def whole(self, keyword: str, default: int | None = None) -> int:
        """The one whole number of an element. Raises: KitError also if it's absent and there's no default."""
        numbers = self.numbers(keyword)
        if not numbers and default is not None:
            return default
        if len(numbers) != 1 or numbers[0] != int(numbers[0]):
            raise KitError(
                f"{tag_name(keyword)} is {said(numbers) if numbers else 'missing'}; a film has one whole number there."
            )
        return int(numbers[0])

    def items(self, keyword: str) -> list[Header]:
        """A sequence's items; [] if it's absent or empty."""
        element = self._element(keyword)
        if element is None or not element.value:
            return []
        sequence = element.value
        if isinstance(element, RawDataElement):
            if element.VR not in (None, "SQ", "UN"):
                raise KitError(f"{tag_name(keyword)} is no sequence but has the value representation {said(element.VR)}.")
            implicit = element.is_implicit_VR or element.VR == "UN"  # PS3.5 6.2.2
            with _Parsing(tag_name(keyword)):
                sequence = read_sequence(
                    CountedStream(sequence),
                    implicit,
                    element.is_little_endian,
                    len(sequence),
                    self._dataset.original_character_set or "iso8859",
                )
        return [Header(item, self.syntax) for item in sequence]

    def codes(self, keyword: str) -> list[tuple[str, str]]:
        """(code value, meaning) of each item of a code sequence (PS3.3 8.8)."""
        return [(item.text("CodeValue") or item.text("LongCodeValue"), item.text("CodeMeaning")) for item in self.items(keyword)]

    def raw(self, keyword: str) -> tuple[bytes, str]:
        """An element's bytes as they stand in the file, and its value representation ('' where the file has none)."""
        element = self._element(keyword)
        if element is None or not element.value:
            return b"", ""
        if not isinstance(element.value, bytes):
            raise KitError(f"{tag_name(keyword)} can't be read: it is no plain value.")
        return element.value, element.VR or ""

    def _tag(self, keyword: str) -> int:
        if self._keywords is not None and keyword not in self._keywords:
            raise AssertionError(f"{keyword} was not asked for when the header was read")
        return tag_for_keyword(keyword)

    def _element(self, keyword: str):
        tag = self._tag(keyword)
        return self._dataset.get_item(tag) if tag in self._dataset else None

    def _values(self, keyword: str) -> list:
        if keyword not in self._known:
            self._known[keyword] = self._parsed(keyword)
        return self._known[keyword]

    def _parsed(self, keyword: str) -> list:
        if keyword not in self:
            return []
        with _Parsing(tag_name(keyword)):
            value = self._dataset[self._tag(keyword)].value
            if value is None:
                return []
            return list(value) if hasattr(value, "__iter__") and not isinstance(value, str | bytes) else [value]


class _Parsing:
    """Around pydicom's parser: no warnings on the screen, and whatever it raises becomes a sentence.

    On damaged bytes it raises anything from struct.error to RecursionError.
    """

    def __init__(self, what: str):
        self.what = what

    def __enter__(self):
        _QUIET.acquire()
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, kind, error, trace):
        self._warnings.__exit__(kind, error, trace)
        _QUIET.release()
        if isinstance(error, RecursionError):
            raise KitError(f"{self.what} has sequences in sequences deeper than any film's.") from error
        if isinstance(error, Exception) and not isinstance(error, KitError):
            raise KitError(f"{self.what} is damaged ({reason(error)}).") from error


def parse(data: bytes, keywords: Iterable[str]) -> Header:
    """Read a file's header and pixel data; elements other than `keywords` are passed over.

    pydicom's `dcmread` isn't used: it inflates deflated files without a bound.
    Raises: KitError
    """
    start = dataset_offset(data)
    if start is None:
        raise KitError("this is not a DICOM file: it has neither DICOM's magic word nor a file meta group.")
    stream = CountedStream(data)
    stream.seek(start)
    with _Parsing("the file meta group (0002,xxxx)"):
        meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        syntax = UID(Header(meta, UID("")).text("TransferSyntaxUID"))  # inside: an illegal one is warned about
    if not syntax:
        raise KitError("TransferSyntaxUID (0002,0010) is missing, so how the film is stored can't be told; export it again.")
    if not syntax.is_transfer_syntax:
        raise KitError(f"TransferSyntaxUID (0002,0010) is {said(syntax)}, which is no transfer syntax.")
    if syntax == DeflatedExplicitVRLittleEndian:
        stream = CountedStream(inflate(stream.getvalue()[stream.tell() :]))
    keywords = frozenset(keywords)
    with _Parsing("its header"):
        dataset = read_dataset(
            stream, syntax.is_implicit_VR, syntax.is_little_endian, specific_tags=[tag_for_keyword(k) for k in keywords]
        )
    return Header(dataset, syntax, keywords)
