"""One DICOM film: read within bounds, de-identified, with pixels that decode to the same values."""

from __future__ import annotations

import io
import warnings
import zlib
from pathlib import Path

import numpy as np

from ...errors import KitError
from .identity import Identity
from .jpeg import strip_jpeg, strip_jpeg2000
from .key import Pseudonyms
from .profile import Change, apply_profile
from .search import scrub

LARGEST_FILE = 512 << 20  # bytes of a file, and of a deflated one after inflation
LARGEST_PICTURE = 1 << 28  # samples of all frames together

_JPEG = {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81)}
_JPEG_2000 = {f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203)}
_RLE = "1.2.840.10008.1.2.5"
_NATIVE = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"}
_DEFLATED = "1.2.840.10008.1.2.1.99"


def read_dataset(content: bytes):
    """A pydicom Dataset with every element parsed, from a file's bytes.

    Raises: KitError if it is no image, or can't be read; the sentence doesn't name the file.
    """
    import pydicom

    if len(content) > LARGEST_FILE:
        raise KitError(f"it has {len(content) >> 20} MB, more than any film ({LARGEST_FILE >> 20} MB)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # values that break a VR's rules: the profile decides about them
            if transfer_syntax(content) == _DEFLATED:
                inflated(content)  # pydicom would inflate without a bound
            dataset = pydicom.dcmread(io.BytesIO(content))
            for _ in dataset.iterall():
                pass
    except KitError:
        raise
    except Exception as error:  # a parser on a damaged file: struct.error, RecursionError, OverflowError, anything
        raise KitError(f"it can't be read as DICOM ({type(error).__name__})") from error
    if dataset.file_meta.get("MediaStorageSOPClassUID") == "1.2.840.10008.1.3.10":
        raise KitError("it is a DICOMDIR, a list of other files")
    if "PixelData" not in dataset:
        raise KitError("it holds no PixelData (7FE0,0010); only images are de-identified, not reports or documents")
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    if syntax not in _JPEG | _JPEG_2000 | _NATIVE | {_RLE}:
        raise KitError("its transfer syntax (0002,0010) is none that the kit can look into")
    return dataset


def transfer_syntax(content: bytes) -> str:
    """(0002,0010) of a file, "" if it has none."""
    import pydicom

    stream = io.BytesIO(content)
    stream.seek(132)
    return str(pydicom.filereader._read_file_meta_info(stream).get("TransferSyntaxUID", ""))


def inflated(content: bytes) -> bytes:
    """A deflated file (PS3.5 A.5) with its data set inflated; refused beyond `LARGEST_FILE`."""
    import pydicom

    stream = io.BytesIO(content)
    stream.seek(132)
    pydicom.filereader._read_file_meta_info(stream)
    start = stream.tell()
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    body = engine.decompress(content[start:], LARGEST_FILE)
    if engine.unconsumed_tail:
        raise KitError(f"it inflates to more than {LARGEST_FILE >> 20} MB")
    return content[:start] + body


def decode(dataset) -> np.ndarray:
    """The stored values of all frames.

    Raises: KitError if the header claims more than any film has, or the data can't be decoded.
    """
    try:
        samples = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("SamplesPerPixel") or 1)
        frames = int(dataset.get("NumberOfFrames") or 1)
        if not 0 < samples * frames <= LARGEST_PICTURE:
            raise KitError(f"Rows × Columns × frames is {samples * frames}; a film has at most {LARGEST_PICTURE}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dataset.pixel_array
    except KitError:
        raise
    except Exception as error:  # decoders raise anything on damaged data
        raise KitError(f"its pixel data can't be decoded ({type(error).__name__})") from error


def deidentify_dataset(
    dataset, pseudonyms: Pseudonyms, patient: str, content: bytes, identity: Identity
) -> tuple[bytes, list[Change]]:
    """De-identify a data set (changed in place) and write it.

    1. Pixel data lose comments, application data and whatever follows them, not their values.
    2. The data set goes through the profile.
    3. Kept texts that hold something that identifies go too.
    4. File meta information is made anew: no application titles, no private information, a preamble of zeros.

    Args:
        patient: the patient's pseudonym.
        content: the original file; its pseudonym stands in for a SOP Instance UID that is missing.
        identity: what `identity_of` found in the original.

    Returns: (the new file, what was changed).
    """
    from pydicom.dataset import FileMetaDataset

    changes = _clean_pixels(dataset)
    if content[:128].strip(b"\0"):
        changes.append(Change("preamble", "", "kit", "128 bytes that may hold anything (PS3.10 7.1)"))
    old, kept = dataset.file_meta, {0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010}
    for element in old:
        if element.tag not in kept:
            tag = f"({element.tag.group:04X},{element.tag.element:04X})"
            changes.append(Change(tag, element.keyword, "kit", "file meta information that names where the file came from"))
    if "SOPInstanceUID" not in dataset:
        dataset.SOPInstanceUID = old.get("MediaStorageSOPInstanceUID") or pseudonyms.film(content)
    changes += apply_profile(dataset, pseudonyms, patient)
    changes += scrub(dataset, identity)
    changes.append(Change("(0002,0003)", "MediaStorageSOPInstanceUID", "U", "the same UID as SOPInstanceUID"))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID") or old.MediaStorageSOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = old.TransferSyntaxUID
    dataset.file_meta, dataset.preamble = meta, bytes(128)
    stream = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.save_as(stream, enforce_file_format=True)
    except Exception as error:  # a value that pydicom could read but can't write
        raise KitError(f"it can't be written as DICOM again ({type(error).__name__})") from error
    return stream.getvalue(), sorted(changes)


def _clean_pixels(dataset) -> list[Change]:
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if syntax in _NATIVE:
        gone = _trim_native(dataset)
    elif syntax == _RLE:
        gone = []
        _refuse_embedded_overlay(dataset)
    else:
        _refuse_embedded_overlay(dataset)
        gone = _strip_frames(dataset, strip_jpeg if syntax in _JPEG else strip_jpeg2000)
    return [Change("(7FE0,0010)", "PixelData", "kit", f"{what}; the image is unchanged") for what in gone]


def _strip_frames(dataset, strip) -> list[str]:
    from pydicom.encaps import encapsulate, generate_frames

    try:
        frames = list(generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1)))
    except Exception as error:
        raise KitError(f"its encapsulated frames can't be told apart ({type(error).__name__})") from error
    stripped = [strip(frame) for frame in frames]
    gone = sorted({what for _, names in stripped for what in names})
    if gone:
        dataset.PixelData = encapsulate([frame for frame, _ in stripped])
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):  # told where the old frames were
            if keyword in dataset:
                del dataset[keyword]
    return [f"JPEG segment {what}" if what.startswith(("APP", "COM")) else what for what in gone]


def _trim_native(dataset) -> list[str]:
    """Cut what follows the last pixel, and clear bits outside the stored ones: old overlays lie there (PS3.5 8.1.1)."""
    from pydicom.pixels.utils import get_expected_length

    gone = []
    try:
        length = get_expected_length(dataset, "bytes")
        allocated, stored, high = int(dataset.BitsAllocated), int(dataset.BitsStored), int(dataset.HighBit)
        signed = int(dataset.PixelRepresentation)
    except Exception as error:
        raise KitError("its image attributes (group 0028) are incomplete") from error
    data = dataset.PixelData
    if len(data) < length:
        raise KitError(f"its pixel data has {len(data)} bytes, but Rows × Columns ask for {length}")
    if len(data) > length:
        if data[length:].strip(b"\0"):
            gone.append("data after the last pixel")
        data = data[:length] + b"\0" * (length % 2)
    if allocated in (8, 16, 32) and 0 < stored <= high + 1 <= allocated:
        order = ">" if dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.2" else "<"
        words = np.frombuffer(data[:length], f"{order}{'i' if signed else 'u'}{allocated // 8}")
        up, down = allocated - 1 - high, allocated - stored
        values = (words << up) >> down  # a signed shift repeats the sign
        clean = values << (high + 1 - stored)
        if not np.array_equal(clean, words):
            gone.append("bits outside the stored ones")
            data = clean.astype(words.dtype).tobytes() + data[length:]
    if len(data) != len(dataset.PixelData) or gone:
        dataset.PixelData = data
    return gone


def _refuse_embedded_overlay(dataset) -> None:
    """Old overlays lie in bits of the pixels that decoders mask away; in compressed pixels they can't be cleared."""
    sentence = "an overlay lies in unused bits of its compressed pixels; store the film uncompressed first"
    if any(element.tag.group & 0xFF00 == 0x6000 and element.tag.element == 0x0102 and element.value for element in dataset):
        raise KitError(sentence)
    if dataset.file_meta.TransferSyntaxUID != _RLE or dataset.PixelRepresentation:
        return
    from pydicom.encaps import generate_frames
    from pydicom.pixels.decoders.rle import _rle_decode_frame

    stored = (1 << int(dataset.BitsStored)) - 1 << int(dataset.HighBit) + 1 - int(dataset.BitsStored)
    shape = (int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel") or 1), int(dataset.BitsAllocated))
    for frame in generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1)):
        words = np.frombuffer(bytes(_rle_decode_frame(frame, *shape)), f"<u{shape[3] // 8}")
        if (words & ~words.dtype.type(stored)).any():
            raise KitError(sentence)


def read_bytes(path: Path) -> bytes:
    """A file's content, refused unread if it is larger than any film."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise KitError(f"it has {path.stat().st_size >> 20} MB, more than any film ({LARGEST_FILE >> 20} MB)")
        return path.read_bytes()
    except OSError as error:
        raise KitError(f"it can't be read ({error.strerror})") from error
