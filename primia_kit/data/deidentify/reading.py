"""A whole data set from a file's bytes, within bounds, with the place of each value in the file."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

from ...errors import KitError
from ..dicom.guards import CountedStream, dataset_offset, inflate

_DEFLATED = "1.2.840.10008.1.2.1.99"
_WIDTHS = {"US": 2, "SS": 2, "AT": 4, "FL": 4, "SL": 4, "UL": 4, "FD": 8, "SV": 8, "UV": 8}  # bytes of a number
_ONE_VALUE = {"OB", "OD", "OF", "OL", "OV", "OW", "UN", "OB or OW", "US or OW", "US or SS or OW"}
_MOST_VALUES = 2**20  # of which pydicom makes an object each; a text counts as eight
_DICOMDIR = "1.2.840.10008.1.3.10"


@dataclass
class Reading:
    """dataset: pydicom Dataset with its file_meta and preamble, every element parsed.

    content: the file's bytes as they read: a deflated data set is inflated.
    places: (start, end, VR, tag) in `content` of each value that isn't a sequence.
    """

    dataset: object
    content: bytes
    places: list[tuple[int, int, str, int]] = field(default_factory=list)
    cost: int = 0  # of the values so far, see `note`

    def note(self, start: int, value: bytes, vr: str, tag: int) -> None:
        """Remember a value's place. Raises: KitError if there are more single numbers and texts than in any film."""
        self.places.append((start, start + len(value), vr, tag))
        self.cost += len(value) // _WIDTHS[vr] if vr in _WIDTHS else 0 if vr in _ONE_VALUE else 8 * (1 + value.count(b"\\"))
        if self.cost > _MOST_VALUES:
            raise KitError("its header has more numbers and texts than any film's")


class _Nested(CountedStream):
    """The bytes of a sequence; its reads count with those of the file around it."""

    def __init__(self, data: bytes, outer: CountedStream) -> None:
        super().__init__(data)
        self._outer = outer

    def read(self, size: int | None = -1, /) -> bytes:
        self._outer.read(0)
        return super().read(size)


def read_dataset(content: bytes):
    """A pydicom Dataset with every element parsed.

    Raises: KitError if it is no image, or can't be read within `guards`' bounds; the sentence doesn't name the file.
    """
    return read_with_places(content).dataset


def read_with_places(content: bytes) -> Reading:
    """As `read_dataset`, with what was read and where.

    pydicom's `dcmread` isn't used: it inflates without a bound, and parses sequences without counting.
    """
    start = dataset_offset(content)
    if start is None:
        raise KitError("it can't be read as DICOM: it has neither DICOM's magic word (PS3.10 7.1) nor a file meta group")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # values that break a VR's rules: the profile decides about them
            found = _parse(content, start)
            for _ in found.dataset.iterall():
                pass
    except Exception as error:  # a parser on a damaged file: struct.error, RecursionError, OverflowError, anything
        if bound := _within(error):
            raise bound from error
        raise KitError(f"it can't be read as DICOM ({type(error).__name__})") from error
    if "PixelData" not in found.dataset:
        raise KitError("it holds no PixelData (7FE0,0010); only images are de-identified, not reports or documents")
    return found


def _within(error: BaseException | None) -> KitError | None:
    """The bound that was passed: pydicom turns what a stream raises into errors of its own."""
    while error is not None and not isinstance(error, KitError):
        error = error.__cause__ or error.__context__
    return error


def _parse(content: bytes, start: int) -> Reading:
    from pydicom import filereader
    from pydicom.dataset import FileMetaDataset

    from ..dicom.decode import SYNTAXES

    stream = CountedStream(content)
    stream.seek(start)
    meta = filereader.read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    found = Reading(None, content)
    _expand(meta, 0, stream, found)
    meta = FileMetaDataset(meta)
    if meta.get("MediaStorageSOPClassUID") == _DICOMDIR:
        raise KitError("it is a DICOMDIR, a list of other files")
    syntax = meta.get("TransferSyntaxUID")
    if syntax not in SYNTAXES:
        raise KitError("its transfer syntax (0002,0010) is none that the kit can look into")
    if syntax == _DEFLATED:
        at = stream.tell()
        found.content = content[:at] + inflate(content[at:])
        stream = CountedStream(found.content)
        stream.seek(at)
    dataset = filereader.read_dataset(stream, syntax.is_implicit_VR, syntax.is_little_endian)
    _expand(dataset, 0, stream, found)
    dataset.file_meta, dataset.preamble = meta, content[: max(start - 4, 0)]
    found.dataset = dataset
    return found


def _expand(item, base: int, stream: CountedStream, found: Reading) -> None:
    """Parse sequences that pydicom would parse later, out of the count's reach, and note where values lie.

    base: what to add to a place in `stream` for the place in the file.
    """
    from pydicom.dataelem import DataElement, RawDataElement
    from pydicom.filereader import read_sequence
    from pydicom.hooks import raw_element_vr

    for tag in list(item.keys()):
        element = item.get_item(tag)
        if not isinstance(element, RawDataElement):
            for part in element.value or () if element.VR == "SQ" else ():
                _expand(part, base, stream, found)
            continue
        told: dict[str, str] = {}
        raw_element_vr(element, told, ds=item)
        start, value = base + element.value_tell, element.value or b""
        if told["VR"] != "SQ":
            found.note(start, value, told["VR"], int(tag))
            continue
        nested = _Nested(value, stream)
        implicit = element.is_implicit_VR or element.VR == "UN"  # PS3.5 6.2.2
        encoding = item.original_character_set or "iso8859"
        try:
            parts = read_sequence(nested, implicit, element.is_little_endian, len(value), encoding)
        except Exception as error:
            if element.VR == "SQ" or _within(error):
                raise
            item[tag] = DataElement(tag, "UN", value)  # what an unknown or private element was taken for
            continue
        item[tag] = DataElement(tag, "SQ", parts)
        for part in parts:
            _expand(part, start, nested, found)
