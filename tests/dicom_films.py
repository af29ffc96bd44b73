"""Small DICOM films made for a test: an array of stored values in, the bytes of a file out."""

import io

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from primia_kit.data.dicom.checks import CR

RAMP = np.arange(256).reshape(16, 16)


def film(stored=RAMP, bits=8, signed=False, **changes) -> Dataset:
    """A CR film of these stored values; `changes` set elements by keyword, or delete those that are None."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CR
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid(entropy_srcs=["film"])
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition, ds.BurnedInAnnotation = "CR", "CHEST", "PA", "NO"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = np.shape(stored)
    ds.BitsAllocated = 8 if bits <= 8 else 16
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits - 1, int(signed)
    codes = np.asarray(stored).astype(np.int64) & (2**bits - 1)
    ds.PixelData = codes.astype(f"<u{ds.BitsAllocated // 8}").tobytes()
    ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def saved(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def film_bytes(*args, **changes) -> bytes:
    return saved(film(*args, **changes))


def sequence(**elements) -> list[Dataset]:
    """One item."""
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return [item]


def lut(first: int, bits: int, entries, representation="OW") -> list[Dataset]:
    """A LUT sequence's one item; `first` may be negative."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) & 0xFFFF, first & 0xFFFF, bits])
    item.add_new("LUTData", representation, entries if isinstance(entries, bytes) else np.asarray(entries, "<u2").tobytes())
    return [item]
