"""MedMNIST's `.npz` files (Yang et al. 2023, Scientific Data 10:41): images and labels of three splits.

`train_images` [n, 28, 28] gray or [n, 28, 28, 3] colour (28 may be any size), `train_labels` [n] or [n, 1];
the same for `val_` and `test_`.
"""

from __future__ import annotations

import math
import threading
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import KitError

_SPLITS = {"train": "train", "val": "validation", "test": "test"}  # the file's names and the manifest's
LARGEST = 8 * 2**30  # bytes of one array
_opening = threading.Lock()


def list_medmnist(path: Path) -> list[tuple[str, str, str]]:
    """The films of a file: (fragment, label as digits, split) each, in the file's order.

    Raises: KitError if the file isn't MedMNIST's, its images aren't gray or colour pictures, its labels
        don't fit them, or an image has several labels.
    """
    films = []
    for name, split in _SPLITS.items():
        shape, _ = _header(path, f"{name}_images")
        labels_shape, kind = _header(path, f"{name}_labels")
        if len(labels_shape) == 2 and labels_shape[1] > 1:
            raise KitError(
                f"{path} is multi-label: each of its images has {labels_shape[1]} labels. The kit needs one label a film: "
                "choose one of the columns and save it as the labels."
            )
        if len(labels_shape) not in (1, 2) or kind.kind not in "iub" or labels_shape[0] != shape[0]:
            raise KitError(
                f"{path}: {name}_labels is {kind} {labels_shape}; expected one whole number for each of {shape[0]} images."
            )
        labels = _array(path, f"{name}_labels").reshape(-1)
        films += [(f"{name}/{i}", str(int(label)), split) for i, label in enumerate(labels)]
    return films


def medmnist_image(path: Path, fragment: str) -> np.ndarray:
    """The stored image of a fragment such as "train/17": [rows, columns] or [rows, columns, 3]."""
    name, _, number = fragment.partition("/")
    if name not in _SPLITS or not number.isdecimal():
        raise KitError(f"{path}#{fragment}: a film is named by split and number, as in {path.name}#train/17.")
    try:
        status = path.stat()
    except OSError as error:
        raise KitError(f"Can't read {path}: {error.strerror}.") from error
    with _opening:  # one thread opens, the others find it open
        images = _kept(path, status.st_mtime_ns, status.st_size, f"{name}_images")
    if int(number) >= len(images):
        raise KitError(f"{path}#{fragment}: {name} has {len(images)} images, numbered from 0.")
    return images[int(number)]


def read_medmnist(path: Path, fragment: str) -> np.ndarray:
    """One film; colour becomes gray by ITU-R 601 luma.

    Returns: float32 [rows, columns] in [0, 1], 1 is white.
    Raises: KitError, one sentence that names the film.
    """
    image = medmnist_image(path, fragment)
    if image.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("L"), dtype=np.float32) / 255
    return image.astype(np.float32) / 65535


@lru_cache(maxsize=3)
def _kept(path: Path, modified: int, size: int, name: str) -> np.ndarray:
    """An array of the file, read once in a process: an archive has no cheap way to a single image."""
    shape, kind = _header(path, name)
    gray, colour = len(shape) == 3, len(shape) == 4 and shape[3] == 3 and kind == np.uint8
    if not (gray or colour) or kind not in (np.uint8, np.uint16) or min(shape[1:]) < 1:
        raise KitError(
            f"{path}: {name} is {kind} {shape}; expected gray [n, rows, columns] of 8 or 16 bits, or 8-bit colour "
            "[n, rows, columns, 3]."
        )
    return _array(path, name)


def _header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array, without reading it; refuses one that is larger than the archive says or than fits."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as stream:
                major, _ = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
                shape, _, kind = read(stream)
    except KeyError as error:
        raise KitError(
            f"{path} has no {name}; a MedMNIST file has train_images, train_labels and the same for val and test."
        ) from error
    except Exception as error:  # zipfile, zlib and numpy's header parser each have their own
        raise KitError(f"{path} can't be read as a MedMNIST file: {error}.") from error
    size = math.prod(shape) * kind.itemsize
    if kind.hasobject or not shape or size > min(LARGEST, member.file_size):
        raise KitError(f"{path}: {name} claims {kind} {shape}, which the file doesn't hold or the kit doesn't open.")
    return shape, kind


def _array(path: Path, name: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[name]
    except Exception as error:
        raise KitError(f"{path}: {name} can't be read: {error}.") from error
