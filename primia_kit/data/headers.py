"""What a DICOM header tells a manifest: whose film, where it was taken, under which identifier. No pixels are read."""

from __future__ import annotations

import io
import re
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataelem import RawDataElement
from pydicom.uid import UID

from ..errors import KitError
from .dicom.guards import CountedFile, CountedStream

_DIRECTORY = "1.2.840.10008.1.3.10"  # Media Storage Directory: a DICOMDIR
_DEFLATED = "1.2.840.10008.1.2.1.99"
_TAGS = [
    "SOPInstanceUID", "StudyInstanceUID", "PatientID", "IssuerOfPatientID", "InstitutionName", "StationName", "Manufacturer",
    "ManufacturerModelName", "Rows", "Columns",
]  # fmt: skip
_LONGEST = 65536  # bytes of an element; longer ones are left on the disk
_HEAD = 2**20  # bytes of an inflated header that are looked at
_PIXELS = 0x7FE00008  # from here on (PS3.6) a data set holds pixels


@dataclass(frozen=True)
class Header:
    """What a film's header says; texts are "" where it says nothing.

    instance: SOPInstanceUID (0008,0018).
    patient_id: PatientID (0010,0020), "" where there is none.
    namespace: within which equal PatientIDs mean one patient, see `read_header`.
    study: StudyInstanceUID (0020,000D).
    acquired: where the film was taken, "" where the header doesn't say.
    acquired_by: the attribute that said so.
    """

    instance: str
    patient_id: str
    namespace: str
    study: str
    acquired: str
    acquired_by: str

    @property
    def patient(self) -> str:
        """`namespace/PatientID`, "" without a PatientID."""
        return f"{self.namespace}/{self.patient_id}" if self.namespace and self.patient_id else self.patient_id


def read_header(path: Path) -> Header | None:
    """Read a film's header.

    Equal PatientIDs are one patient within one name space: that of IssuerOfPatientID (0010,0021), else of
    InstitutionName (0008,0080), upper and lower case and punctuation disregarded; else all files without
    either form one.

    Returns: None for a DICOMDIR and for objects without an image (reports, presentation states).
    Raises: KitError, a sentence that names the file, whatever the parser raises.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # values that break their rules are common, and none of the manifest's business
            return _header(_dataset(path))
    except Exception as error:  # parsers raise anything from struct.error to RecursionError on a damaged file
        raise KitError(f"{path} can't be read as a DICOM file: {str(error).rstrip('.')}.") from error


def _dataset(path: Path):
    import pydicom
    from pydicom.filereader import _read_file_meta_info, read_dataset, read_preamble

    with CountedFile(io.FileIO(path)) as stream:
        read_preamble(stream, force=True)  # it may be lost, see `guards.dataset_offset`
        meta = _read_file_meta_info(stream)
        if meta.get("TransferSyntaxUID") != _DEFLATED:
            stream.seek(0)
            dataset = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=_TAGS, force=True, defer_size=_LONGEST)
            dataset.file_meta = meta
            return dataset
        # pydicom would inflate the whole file first, and a small one can be made to inflate without end.
        head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(_HEAD), _HEAD)
    dataset = read_dataset(CountedStream(head), False, True, stop_when=lambda tag, *_: tag >= _PIXELS, specific_tags=None)
    dataset.file_meta = meta
    return dataset


def _header(dataset) -> Header | None:
    kind = dataset.file_meta.get("MediaStorageSOPClassUID") or UID("")
    if kind == _DIRECTORY:
        return None
    if "Rows" not in dataset or "Columns" not in dataset:
        if kind.name.endswith("Storage") and "Image" not in kind.name:
            return None
        raise ValueError("it has no Rows (0028,0010) and Columns (0028,0011), or ends before them")

    def text(keyword: str) -> str:
        raw = dataset.get_item(keyword, keep_deferred=True)
        if isinstance(raw, RawDataElement) and raw.length > _LONGEST:
            raise ValueError(f"{keyword} has {raw.length} bytes")
        value = dataset.get(keyword)
        return re.sub(r"\s+", " ", str(value).replace("\0", " ")).strip() if value is not None else ""

    names = {
        "InstitutionName (0008,0080)": text("InstitutionName"),
        "StationName (0008,1010)": text("StationName"),
        "Manufacturer (0008,0070) and model (0008,1090)": f"{text('Manufacturer')} {text('ManufacturerModelName')}".strip(),
    }
    acquired_by, acquired = next(((by, name) for by, name in names.items() if name), ("", ""))
    namespace = re.sub(r"[\W_]+", " ", text("IssuerOfPatientID") or text("InstitutionName")).strip().casefold()
    return Header(text("SOPInstanceUID"), text("PatientID"), namespace, text("StudyInstanceUID"), acquired, acquired_by)
