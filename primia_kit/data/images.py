"""Films as numbers: decode, bring to one geometry, hold a site's films in memory."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..errors import KitError, nearest
from .content import content_digest
from .contrast import faintness
from .dicom import is_dicom, read_dicom
from .film_cache import FilmCache, open_cache
from .fragments import NPZ_SUFFIXES, split_fragment
from .manifest import Manifest
from .medmnist import read_medmnist
from .nifti import is_nifti, read_nifti
from .raster import read_raster

GEOMETRIES = ("pad", "stretch")
Progress = Callable[[int, int, str], None]  # done, total, what


@dataclass(frozen=True)
class FilmSet:
    """Films in memory.

    images: float32 [n, 1, size, size] in [0, 1], 1 is white (dense tissue).
    labels: int64 [n], indices into `classes`.
    patients: the patient of each film, n strings.
    geometry: how films were brought to a square, "pad" or "stretch" (see `resize`).
    warnings: what films were warned about when they were read: sentence -> the films' paths.
    """

    images: torch.Tensor
    labels: torch.Tensor
    patients: tuple[str, ...]
    classes: tuple[str, ...]
    geometry: str
    warnings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        return self.images.shape[-1]


def warning_lines(sets: Iterable[FilmSet]) -> list[str]:
    """What films were warned about, a line each, commonest first, with their number.

    Without their names, which may tell a patient's: `FilmSet.warnings` has them.
    """
    ordered = sorted(_joined(sets).items(), key=lambda item: (-len(item[1]), item[0]))
    return [f"{len(paths)} film(s): {sentence}" for sentence, paths in ordered]


def read_film(path: str | Path) -> np.ndarray:
    """Decode a film: DICOM by its content, NIfTI and MedMNIST's `.npz` by their names, else PNG, JPEG, TIFF or BMP.

    Args:
        path: a file, or a film inside a file of many (`pneumonia.npz#train/17`, `volume.nii.gz#12`).

    Returns: float32 [rows, columns] in [0, 1], 1 is white.
    Raises: KitError, one sentence that names the file.
    """
    return _decode(*split_fragment(path))[0]


def _decode(path: Path, fragment: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """A film and what it is warned about."""
    try:
        if not path.is_file():
            raise KitError(f"There is no film {path}.")
        if path.name.lower().endswith(NPZ_SUFFIXES):
            film = read_medmnist(path, fragment)
        elif is_nifti(path):
            film = read_nifti(path, fragment)
        elif is_dicom(path):
            film, report = read_dicom(path)
            return film, report.warnings
        else:
            film = read_raster(path)
    except OSError as error:
        raise KitError(f"Can't read {path}: {error.strerror or error}.") from error
    faint = faintness(film)
    return film, (f"{faint[0].upper()}{faint[1:]}.",) if faint else ()


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
    cache: bool = True,
    progress: Progress | None = None,
) -> FilmSet:
    """Decode and resize every film of a manifest, on all cores.

    Args:
        classes: the order of the labels; default the manifest's own.
        unreadable: "error" names every film that can't be read and stops; "skip" leaves them out.
        cache: keep decoded films for the next run (see `film_cache`); the result is the same to the bit.
            PRIMIA_NO_CACHE=1 in the environment switches it off everywhere.
        progress: called as (done, total, what).

    Returns: the films; what they were warned about is in `warnings`, from the cache as well.
    Raises: KitError for unreadable films, or a label that is not in `classes`.
    """
    for name, value, choices in (("unreadable", unreadable, ("error", "skip")), ("geometry", geometry, GEOMETRIES)):
        if value not in choices:
            raise KitError(f"{name} is {value!r}{nearest(str(value), choices)}; it must be one of {', '.join(choices)}.")
    classes = classes or manifest.classes
    unknown = sorted({film.label for film in manifest} - set(classes))
    if unknown:
        raise KitError(f"{manifest.root} has films labelled {unknown[0]!r}; the plan's classes are {', '.join(classes)}.")
    films = open_cache(size, geometry) if cache else None

    def one(film):
        path = manifest.path_of(film)
        try:
            return _cached(films, path, size, geometry) if films else _square(path, size, geometry)
        except KitError as error:
            return error

    kept, images, failures = [], np.empty((len(manifest), 1, size, size), np.float32), []
    warnings: dict[str, list[str]] = defaultdict(list)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders and resize release the interpreter's lock
            for done, (film, result) in enumerate(zip(manifest, pool.map(one, manifest), strict=True), start=1):
                if isinstance(result, KitError):
                    failures.append(str(result))
                else:
                    images[len(kept), 0], sentences = result
                    kept.append(film)
                    for sentence in sentences:
                        warnings[sentence].append(film.path)
                if progress:
                    progress(done, len(manifest), "films read")
    finally:  # a run that is stopped has its films decoded, too
        if films:
            films.flush()
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
        warnings={sentence: tuple(paths) for sentence, paths in warnings.items()},
    )


def _square(path: Path, size: int, geometry: str) -> tuple[np.ndarray, tuple[str, ...]]:
    film, sentences = _decode(*split_fragment(path))
    return resize(film, size, geometry), sentences


def _cached(films: FilmCache, path: Path, size: int, geometry: str) -> tuple[np.ndarray, tuple[str, ...]]:
    file, _ = split_fragment(path)
    before = _state(file)
    key = content_digest(path)
    found = films.get(key)
    if found is None:
        found = _square(path, size, geometry)
        if _state(file) == before:  # else the pixels may not be those of the digest
            films.put(key, *found)
    return found


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


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
        warnings=_joined(sets),
    )


def _joined(sets: Iterable[FilmSet]) -> dict[str, tuple[str, ...]]:
    joined: dict[str, tuple[str, ...]] = {}
    for films in sets:
        for sentence, paths in films.warnings.items():
            joined[sentence] = (*joined.get(sentence, ()), *paths)
    return joined
