"""NIfTI volumes and slices (nibabel) to films.

Every volume is first brought to the nearest axes of the patient (x to the patient's right, y to the front,
z to the head: `nibabel.as_closest_canonical`). A slice lies across the third axis and is shown as
radiologists look at it: the patient's right on the left, the front on top. A flat film that ITK or MONAI
wrote as NIfTI comes out as it was.
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import KitError
from .fragments import NIFTI_SUFFIXES

LARGEST = 2**28  # voxels: 1 GiB as float32
PERCENTILES = (0.5, 99.5)
_opening = threading.Lock()


def is_nifti(path: Path) -> bool:
    """Whether the name says NIfTI; gzip hides the content."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def read_nifti(path: Path, fragment: str = "") -> np.ndarray:
    """One slice of a volume, or a flat film.

    Args:
        fragment: the slice's number across the third axis, from 0; empty for the middle one, n // 2.

    Returns: float32 [rows, columns] in [0, 1]: 0 is the volume's 0.5th percentile, 1 its 99.5th, so that all
        slices of a volume share one scale. A volume of a single value is 0.
    Raises: KitError, one sentence that names the file.
    """
    if fragment and not fragment.isdecimal():
        raise KitError(f"{path}#{fragment}: a slice is a number from 0, as in {path.name}#12.")
    if fragment:  # several slices of one volume are as a rule read after each other
        status = path.stat()
        with _opening:
            volume = _kept(path, status.st_mtime_ns, status.st_size)
    else:
        volume = _load(path)
    number = int(fragment) if fragment else volume.shape[2] // 2
    if number >= volume.shape[2]:
        raise KitError(f"{path}#{fragment}: the volume has {volume.shape[2]} slice(s), numbered from 0.")
    return np.ascontiguousarray(volume[:, :, number].T[::-1, ::-1])


@lru_cache(maxsize=1)
def _kept(path: Path, modified: int, size: int) -> np.ndarray:
    return _load(path)


def _load(path: Path) -> np.ndarray:
    """float32 [x, y, z] in [0, 1]."""
    import nibabel

    try:
        image = nibabel.load(path)
        shape = image.shape
        while len(shape) > 2 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) not in (2, 3) or min(shape) < 1 or image.get_data_dtype().fields:
            raise KitError(f"{path} has shape {image.shape}; the kit reads gray films [x, y] and volumes [x, y, z].")
        if math.prod(shape) > LARGEST:
            raise KitError(f"{path} claims {' × '.join(map(str, shape))} voxels, more than the kit opens.")
        image = image.slicer[(slice(None),) * 3 + (0,) * (image.ndim - 3)] if image.ndim > 3 else image
        if image.ndim == 2:
            image = type(image)(np.asanyarray(image.dataobj)[:, :, None], image.affine, image.header)
        volume = nibabel.as_closest_canonical(image).get_fdata(dtype=np.float32, caching="unchanged")
    except KitError:
        raise
    except Exception as error:  # nibabel passes on what gzip, zlib and numpy raise
        raise KitError(f"{path} can't be read as NIfTI: {error}.") from error
    if not np.isfinite(volume).all():
        raise KitError(f"{path} has values that aren't numbers (NaN or infinite).")
    low, high = np.percentile(volume, PERCENTILES)
    if high <= low:
        return np.zeros_like(volume)
    return np.clip((volume - np.float32(low)) / np.float32(high - low), 0, 1)
