"""One DICOM film: de-identified, with pixels that decode to the same values."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from pydicom import __version_info__
from pydicom.dataset import FileMetaDataset
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID

from ...errors import KitError
from ..dicom.guards import dataset_offset, read_bounded
from .identity import Identity
from .key import Pseudonyms
from .pixels import clean_pixels
from .profile import Change, apply_profile, is_standard_uid, record_method, shown
from .search import scrub

IMPLEMENTATION = f"PYDICOM {'.'.join(__version_info__)}"[:16]  # what writes the files


def deidentify_dataset(
    dataset, pseudonyms: Pseudonyms, patient: str, content: bytes, identity: Identity
) -> tuple[bytes, list[Change]]:
    """De-identify a data set (changed in place) and write it.

    1. Pixel data lose comments, application data and whatever follows them, not their values.
    2. The data set goes through the profile.
    3. Kept texts and numbers that hold something that identifies go too.
    4. The method is recorded, after the search: its words are the kit's own.
    5. File meta information is made anew: no application titles, no private information, a preamble of zeros.

    Args:
        patient: the patient's pseudonym.
        content: the original file; its pseudonym stands in for a SOP Instance UID that is missing.
        identity: what `identity_of` found in the original.

    Returns: (the new file, what was changed).
    """
    changes = clean_pixels(dataset)
    if dataset_offset(content) and content[:128].strip(b"\0"):
        changes.append(Change("preamble", "", "kit", "128 bytes that may hold anything (PS3.10 7.1)"))
    old, kept = dataset.file_meta, {0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010}
    for element in old:
        if element.tag not in kept:
            changes.append(
                Change(shown(element.tag), element.keyword, "kit", "file meta information that names where the file came from")
            )
    if "SOPInstanceUID" not in dataset:
        dataset.SOPInstanceUID = old.get("MediaStorageSOPInstanceUID") or pseudonyms.film(content)
    changes += apply_profile(dataset, pseudonyms, patient)
    changes += scrub(dataset, identity)
    record_method(dataset)
    changes.append(Change("(0002,0003)", "MediaStorageSOPInstanceUID", "U", "the same UID as SOPInstanceUID"))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID") or _class_of(old, pseudonyms)
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = old.TransferSyntaxUID
    meta.ImplementationClassUID, meta.ImplementationVersionName = PYDICOM_IMPLEMENTATION_UID, IMPLEMENTATION
    dataset.file_meta, dataset.preamble = meta, bytes(128)
    stream = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.save_as(stream, enforce_file_format=True)
    except Exception as error:  # a value that pydicom could read but can't write
        raise KitError(f"it can't be written as DICOM again ({type(error).__name__})") from error
    return stream.getvalue(), sorted(changes)


def _class_of(meta, pseudonyms: Pseudonyms) -> str:
    uid = str(meta.MediaStorageSOPClassUID)
    return uid if is_standard_uid(uid) else pseudonyms.uid(uid)


def read_bytes(path: Path) -> bytes:
    """A file's content, refused unread if it is larger than any film."""
    try:
        return read_bounded(path)
    except OSError as error:
        raise KitError(f"it can't be read ({error.strerror})") from error
