"""A synthetic exposure as a DICOM object: Computed Radiography (PS3.3 A.2) or Digital X-Ray (A.26).

The identities are invented, so that de-identification has something to find; every file says that it is
synthetic. Object identifiers are 2.25 UUIDs derived from what they name, so files are reproducible.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from .equipment import Equipment, Exposure


@dataclass(frozen=True)
class Visit:
    """Who was filmed and when: what a hospital would write into the header."""

    patient: str
    age_years: int
    sex: str
    number: int  # 1 for the child's first film
    date: str  # YYYYMMDD


def dicom_film(exposure: Exposure, equipment: Equipment, visit: Visit, entropy: str = "") -> Dataset:
    """The complete data set, ready for `save_as(..., enforce_file_format=True)`.

    Args:
        entropy: tells the identifiers of this study from those of another with the same patient numbers.
    """
    digital = equipment.modality == "DX"
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation if digital else ComputedRadiographyImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = _uid("instance", entropy, visit.patient, visit.number)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = _uid("PriMIA Kit")

    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID = _uid("study", entropy, visit.patient, visit.number)
    ds.SeriesInstanceUID = _uid("series", entropy, visit.patient, visit.number)
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""] if digital else ["ORIGINAL", "PRIMARY"]
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = visit.date
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = "120000"
    ds.AccessionNumber = f"{visit.patient}.{visit.number}"
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = str(visit.number), 1, 1
    ds.Modality = equipment.modality
    ds.Manufacturer, ds.ManufacturerModelName = equipment.manufacturer, equipment.model
    ds.InstitutionName = equipment.institution
    ds.ReferringPhysicianName = "Synthetic^Physician"
    ds.StudyDescription = "Chest, one view (synthetic film)"
    ds.PatientName = f"Synthetic^Child {visit.patient}"
    ds.PatientID = visit.patient
    ds.PatientSex = visit.sex
    ds.PatientAge = f"{visit.age_years:03d}Y"
    ds.PatientBirthDate = f"{int(visit.date[:4]) - visit.age_years}0101"
    ds.BodyPartExamined = "CHEST"
    ds.ViewPosition = "AP"
    ds.PatientOrientation = ["L", "F"]
    ds.BurnedInAnnotation = "NO"
    ds.ImageComments = "Synthetic film made by PriMIA Kit; no patient."
    if digital:
        ds.PresentationIntentType = "FOR PRESENTATION"
        ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", 1
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
        ds.PresentationLUTShape = "IDENTITY"
        ds.LossyImageCompression = "00"
        ds.ImageLaterality = "U"
        ds.DetectorType = "SCINTILLATOR"
    else:
        ds.PlateType, ds.CassetteOrientation = "PHOSPHOR", "PORTRAIT"

    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, equipment.photometric
    ds.Rows, ds.Columns = exposure.stored.shape
    ds.ImagerPixelSpacing = [1.0, 1.0]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, equipment.bits_stored, equipment.bits_stored - 1
    ds.PixelRepresentation = 0
    ds.WindowCenter, ds.WindowWidth = exposure.window_center, exposure.window_width
    ds.PixelData = exposure.stored.astype("<u2").tobytes()
    return ds


def _uid(*named: object) -> str:
    digest = hashlib.sha256(":".join(map(str, named)).encode()).digest()[:16]
    return f"2.25.{uuid.UUID(bytes=digest, version=4).int}"
