"""Films as numbers: decode, bring to one geometry, hold a site's films in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ..errors import KitError, nearest
from .dicom import is_dicom, read_dicom
from .manifest import Manifest

GEOMETRIES = ("pad", "stretch")
Progress = Callable[[int, int, str], None]  # done, total, what


@dataclass(frozen=True)
class FilmSet:
    """Films in memory.

    images: float32 [n, 1, size, size] in [0, 1], 1 is white (dense tissue).
    labels: int64 [n], indices into `classes`.
    patients: the patient of each film, n strings.
    geometry: how films were brought to a square, "pad" or "stretch" (see `resize`).
    """

    images: torch.Tensor
    labels: torch.Tensor
    patients: tuple[str, ...]
    classes: tuple[str, ...]
    geometry: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        return self.images.shape[-1]


def read_film(path: str | Path) -> np.ndarray:
    """Decode a film: DICOM by its content, else PNG, JPEG, TIFF or BMP; colour becomes gray.

    Returns: float32 [rows, columns] in [0, 1], 1 is white.
    Raises: KitError, one sentence that names the file.
    """
    path = Path(path)
    try:
        if is_dicom(path):
            return read_dicom(path)
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                values = np.asarray(image, dtype=np.float32)
                return np.clip(values / (65535 if values.max(initial=0) > 1 else 1), 0, 1)
            return np.asarray(image.convert("L"), dtype=np.float32) / 255
    except UnidentifiedImageError as error:
        raise KitError(f"{path} is not an image in a format that the kit reads, or its start is damaged.") from error
    except Image.DecompressionBombError as error:
        raise KitError(f"{path} claims more pixels than any film has; it was not opened.") from error
    except (OSError, ValueError, SyntaxError, MemoryError) as error:
        raise KitError(f"{path} can't be decoded: {error}.") from error


def resize(film: np.ndarray, size: int, geometry: str) -> np.ndarray:
    """Bring a film to a square.

    Args:
        film: float32 [rows, columns].
        size: the square's side in pixels.
        geometry: "pad" keeps the aspect, centres the film and fills up with black; "stretch" doesn't keep it.

    Returns: float32 [size, size]; antialiased bilinear, so values stay in the film's range.
    """
    rows, columns = film.shape
    if geometry == "stretch":
        height, width = size, size
    else:
        scale = size / max(rows, columns)
        height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
    small = np.asarray(Image.fromarray(film).resize((width, height), Image.Resampling.BILINEAR))
    if (height, width) == (size, size):
        return small
    square = np.zeros((size, size), np.float32)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = small
    return square


def load_films(
    manifest: Manifest,
    *,
    size: int,
    geometry: str,
    classes: tuple[str, ...] | None = None,
    unreadable: str = "error",
    progress: Progress | None = None,
) -> FilmSet:
    """Decode and resize every film of a manifest, on all cores.

    Args:
        classes: the order of the labels; default the manifest's own.
        unreadable: "error" names every film that can't be read and stops; "skip" leaves them out.
        progress: called as (done, total, what).

    Raises: KitError for unreadable films, or a label that is not in `classes`.
    """
    for name, value, choices in (("unreadable", unreadable, ("error", "skip")), ("geometry", geometry, GEOMETRIES)):
        if value not in choices:
            raise KitError(f"{name} is {value!r}{nearest(str(value), choices)}; it must be one of {', '.join(choices)}.")
    classes = classes or manifest.classes
    unknown = sorted({film.label for film in manifest} - set(classes))
    if unknown:
        raise KitError(f"{manifest.root} has films labelled {unknown[0]!r}; the plan's classes are {', '.join(classes)}.")

    def one(film):
        try:
            return resize(read_film(manifest.path_of(film)), size, geometry)
        except KitError as error:
            return error

    kept, images, failures = [], np.empty((len(manifest), 1, size, size), np.float32), []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders and resize release the interpreter's lock
        for done, (film, result) in enumerate(zip(manifest, pool.map(one, manifest), strict=True), start=1):
            if isinstance(result, KitError):
                failures.append(str(result))
            else:
                images[len(kept), 0] = result
                kept.append(film)
            if progress:
                progress(done, len(manifest), "films read")
    if failures and unreadable == "error":
        shown = failures[:10] + [f"… and {len(failures) - 10} more"] * (len(failures) > 10)
        lines = "\n  ".join([f"{len(failures)} of {len(manifest)} films can't be read:", *shown])
        raise KitError(f'{lines}\nMend them, or leave them out with unreadable="skip".')
    return FilmSet(
        images=torch.from_numpy(images[: len(kept)]),
        labels=torch.tensor([classes.index(film.label) for film in kept], dtype=torch.int64),
        patients=tuple(film.patient for film in kept),
        classes=classes,
        geometry=geometry,
    )


def pool_films(sets: list[FilmSet]) -> FilmSet:
    """All films in one set, as if one hospital held them (for the centralised comparison alone)."""
    if len({(films.classes, films.size, films.geometry) for films in sets}) != 1:
        raise KitError("Film sets with different classes, sizes or geometries can't be pooled.")
    return FilmSet(
        images=torch.cat([films.images for films in sets]),
        labels=torch.cat([films.labels for films in sets]),
        patients=tuple(patient for films in sets for patient in films.patients),
        classes=sets[0].classes,
        geometry=sets[0].geometry,
    )
