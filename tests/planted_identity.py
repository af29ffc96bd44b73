"""A film with an invented identity in every place that people and devices write to, and what tests of it share."""

import io
from copy import deepcopy
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from primia_kit.data.deidentify import deidentify_folder

NAMES = ("Quillfeather", "Thaddeus", "Ambrosia", "Wexcombe", "Nightingale-Oxley")
SECRETS = (
    *NAMES, "QX-4471902", "ACC77310055", "20190317", "20120229", "093847", "+44 7700 900123", "Larkspur Lane",
    "Mossgate Infirmary", "MOSSGATE_PACS", "WX_MODALITY", "SN-88120-77", "2.25.314159265358979323846264338327950288", 
    "1.3.6.1.4.1.99999.7.12345",
)  # fmt: skip
NOTHING_LEFT = [
    form for s in SECRETS for form in (s.lower().encode(), s.lower().encode("utf-16-le"), s.lower().encode("utf-16-be"))
]


def planted_film(source: Dataset, number: int = 1) -> Dataset:
    """A synthetic film with an invented identity in every kind of place that people and devices write to."""
    ds = deepcopy(source)
    ds.PatientName, ds.PatientID, ds.OtherPatientIDs = "Quillfeather^Thaddeus", "QX-4471902", "QX-4471902-B"
    ds.PatientBirthDate, ds.StudyDate, ds.StudyTime, ds.PatientAge = "20120229", "20190317", "093847", "007Y"
    ds.ContributionDateTime, ds.AcquisitionDateTime = "20190317093847", "20190317093847.120+0100"
    ds.AccessionNumber, ds.PatientAddress, ds.PatientTelephoneNumbers = "ACC77310055", "4 Larkspur Lane, Ely", "+44 7700 900123"
    ds.InstitutionName, ds.InstitutionAddress, ds.StationName = "Mossgate Infirmary", "Larkspur Lane", "MOSSGATE_PACS"
    ds.ReferringPhysicianName, ds.OperatorsName = "Wexcombe^Ambrosia", ["Wexcombe^Ambrosia", "Nightingale-Oxley^A"]
    ds.StudyDescription = "CHEST for Thaddeus Quillfeather"
    ds.SeriesDescription, ds.ImageComments, ds.ProtocolName = (
        "seen by Wexcombe",
        "mother: Ambrosia",
        "Mossgate Infirmary paediatric",
    )
    ds.DeviceSerialNumber, ds.SoftwareVersions, ds.FilterType = "SN-88120-77", "licensed to Mossgate Infirmary", "Quillfeather"
    ds.Manufacturer, ds.BodyPartExamined = "Mossgate Infirmary workshop", "CHEST"
    ds.add_new(0x00280303, "CS", "UNMODIFIED")
    ds.SOPInstanceUID = f"1.3.6.1.4.1.99999.7.12345.{number}"
    ds.StudyInstanceUID = ds.FrameOfReferenceUID = "2.25.314159265358979323846264338327950288"
    ds.IrradiationEventUID = ["1.3.6.1.4.1.99999.7.12345.8", "1.3.6.1.4.1.99999.7.12345.9"]

    deep = Dataset()
    deep.PersonName, deep.CodeMeaning, deep.CodingSchemeDesignator = "Quillfeather^Thaddeus", "Thaddeus", "99MOSS"
    deep.add_new(0x00291010, "LO", "Quillfeather")
    middle = Dataset()
    middle.ReferencedSOPClassUID, middle.ReferencedSOPInstanceUID = ds.SOPClassUID, "1.3.6.1.4.1.99999.7.12345.1"
    middle.ViewCodeSequence, middle.TextValue = Sequence([deep]), "Quillfeather"
    middle.RequestedProcedureDescription = "for Thaddeus"
    ds.ReferencedImageSequence = ds.ViewCodeSequence = Sequence([middle])
    equipment = Dataset()
    equipment.InstitutionName, equipment.ContributionDateTime = "Mossgate Infirmary", "20190317093847"
    ds.ContributingEquipmentSequence = Sequence([equipment])
    icon = Dataset()
    icon.Rows, icon.Columns, icon.BitsAllocated, icon.SamplesPerPixel = 4, 4, 8, 1
    icon.PixelData = b"Quillfeather\0\0\0\0"
    ds.IconImageSequence = Sequence([icon])
    ds.SourceImageSequence = Sequence([icon])

    private = ds.private_block(0x0029, "Mossgate Infirmary", create=True)
    private.add_new(0x10, "LO", "Quillfeather^Thaddeus")
    private.add_new(0x11, "UN", b"Thaddeus Quillfeather 20120229")
    ds.add_new(0x60000010, "US", 8)
    ds.add_new(0x60000011, "US", 8)
    ds.add_new(0x60000022, "LO", "Quillfeather")
    ds.add_new(0x60003000, "OW", b"Thaddeus")
    ds.add_new(0x50003000, "OW", b"Wexcombe")
    ds.add_new(0xFFFCFFFC, "OB", b"Quillfeather")
    meta = ds.file_meta
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.SourceApplicationEntityTitle, meta.SendingApplicationEntityTitle = "MOSSGATE_PACS", "WX_MODALITY"
    meta.ReceivingApplicationEntityTitle = "MOSSGATE_PACS"
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = "1.3.6.1.4.1.99999.7.12345", b"Quillfeather"
    ds.preamble = b"Thaddeus Quillfeather, Larkspur Lane".ljust(128, b" ")
    return ds


def save(ds: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def deidentify(source: Path, **options):
    return deidentify_folder(source, source.parent / "out", key=source.parent / "key", look_for_text=False, **options)


def outputs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def assert_no_trace(out: Path) -> None:
    for path in outputs(out):
        data = path.read_bytes()
        for form in NOTHING_LEFT:
            assert form not in data.lower(), f"{path.name} holds {form}"
            assert form not in path.relative_to(out).as_posix().lower().encode()
        if path.suffix == ".dcm":
            for element in pydicom.dcmread(path).iterall():
                assert not any(s.lower() in str(element.value).lower() for s in SECRETS), element.tag


def jpeg_bytes(pixels: np.ndarray) -> bytes:
    """A JPEG that carries a comment, EXIF, and bytes behind its end."""
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E], exif[0x9286] = "Thaddeus Quillfeather", "Wexcombe"
    Image.fromarray(pixels).save(stream, "JPEG", comment=b"Quillfeather^Thaddeus", exif=exif)
    return stream.getvalue() + b"Wexcombe"


def with_tags(plain, **tags) -> Dataset:
    ds = deepcopy(plain)
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    return ds


def with_private(plain, vr: str, value: str, **tags) -> Dataset:
    ds = with_tags(plain, **tags)
    ds.private_block(0x0019, "ACME", create=True).add_new(1, vr, value)
    return ds


def copy_of(ds: Dataset, tmp_path, name: str = "x") -> Dataset:
    """The de-identified copy of a film, which must not be refused."""
    save(ds, tmp_path / "in" / name)
    report = deidentify(tmp_path / "in")
    assert not report.refused
    return pydicom.dcmread(tmp_path / "out" / report.films[0].path)


def code(value: str, scheme: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning, item.CodingSchemeVersion = value, scheme, meaning, "Jane Doe"
    return Sequence([item])
