"""DICOM CR / DX films to numbers, in the standard's order (PS3.3 C.11, PS3.4 N.2).

stored values -> Modality LUT or rescale -> VOI LUT or window -> inverted once if MONOCHROME1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import KitError


def is_dicom(path: str | Path) -> bool:
    """Whether a file has DICOM's preamble and magic word (PS3.10 7.1), whatever its name."""
    with Path(path).open("rb") as stream:
        stream.seek(128)
        return stream.read(4) == b"DICM"


def read_dicom(path: str | Path) -> np.ndarray:
    """A single-frame monochrome film as a viewer would show it.

    Returns: float32 [rows, columns] in [0, 1], 1 is white.
    Raises: KitError if the file has no such film or can't be decoded.
    """
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    try:
        dataset = pydicom.dcmread(path)
        photometric = dataset.get("PhotometricInterpretation", "")
        if photometric not in ("MONOCHROME1", "MONOCHROME2"):
            raise KitError(
                f"{path}: PhotometricInterpretation (0028,0004) is {photometric!r}; a film is MONOCHROME1 or MONOCHROME2."
            )
        stored = dataset.pixel_array
        if stored.ndim != 2:
            raise KitError(f"{path}: NumberOfFrames (0028,0008) is {dataset.get('NumberOfFrames')}; a film has one frame.")
        values = apply_modality_lut(stored, dataset)
        shown = apply_voi_lut(values, dataset, index=0, prefer_lut=True).astype(np.float64)
        low, high = _display_range(dataset)
    except KitError:
        raise
    except Exception as error:  # parser and decoders raise anything from struct.error to RecursionError on a damaged file
        raise KitError(f"{path} can't be read as a DICOM film: {error}.") from error
    film = np.clip((shown - low) / (high - low), 0, 1)
    if photometric == "MONOCHROME1":
        film = 1 - film
    return film.astype(np.float32)


def _display_range(dataset) -> tuple[float, float]:
    """The output range of the VOI step: a VOI LUT's own depth, else that of the modality values."""
    if lut := dataset.get("VOILUTSequence"):
        return 0, 2 ** int(lut[0].LUTDescriptor[2]) - 1
    if lut := dataset.get("ModalityLUTSequence"):
        return 0, 2 ** int(lut[0].LUTDescriptor[2]) - 1
    bits = int(dataset.BitsStored)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    return low * slope + intercept, high * slope + intercept
