"""Three synthetic hospitals on disk: real DICOM files and a manifest, made once and kept."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import KitError
from ...seeds import derive_seed, numpy_generator
from ...storage import cache_folder, write_atomically
from ..manifest import MANIFEST_NAME, Film, Manifest, read_manifest
from ..partition import deal_patients
from .anatomy import LABELS, draw_child, render_chest
from .dicom import Visit, dicom_film
from .equipment import EQUIPMENT, expose

SIZE = {"A": 1.4, "B": 1.0, "C": 0.6}  # hospitals, relative to their mean
MIX = {"A": (0.40, 0.34, 0.26), "B": (0.28, 0.42, 0.30), "C": (0.34, 0.30, 0.36)}  # shares of LABELS
FILMS_EACH = (1, 1, 1, 2, 1, 3)  # films a child, in turn: mean 1.5
TEST_SHARE = 1 / 3


def synthetic_hospitals(
    *, patients: int = 150, seed: int = 0, folder: str | Path | None = None, jobs: int = -1, progress=None
) -> Manifest:
    """Make (or find again) the films of hospitals A, B and C.

    Args:
        patients: children a hospital on average, at least 10; A is larger, C smaller. A child has 1.5
            films on average, and a third of the children are for testing.
        seed: the same seed gives the same bytes.
        folder: where to keep them, by default the kit's cache: in a subfolder named after the arguments and
            the code that draws and splits, so that a changed generator or another seed never finds old films.
        jobs: processes; -1 for all cores. About 45 ms a film and core.
        progress: called as (done, total, what).

    Returns: the manifest; labels "normal", "bacterial", "viral".
    Raises: KitError for fewer than 10 patients or a full disk; what was made before it is used again.
    """
    if patients < 10:
        raise KitError(
            f"patients is {patients}; a synthetic hospital needs at least 10 to have every class among its training films."
        )
    folder = Path(folder or cache_folder()) / f"hospitals-{_fingerprint()}-{patients}-seed{seed}"
    if (folder / MANIFEST_NAME).is_file():
        manifest = read_manifest(folder / MANIFEST_NAME)
        if all(manifest.path_of(film).is_file() for film in manifest):
            return manifest
    children = list(_children(patients, seed))
    films = [film for child in children for film in child]
    done = 0
    for count in _in_parallel(_make_child, [(folder, seed, child) for child in children], jobs):
        done += count
        if progress:
            progress(done, len(films), "synthetic films")
    manifest = _split(Manifest(folder, tuple(films)), seed)
    manifest.to_csv()  # last: its presence says that every film is there
    return manifest


def _children(patients: int, seed: int) -> Iterator[list[Film]]:
    for site in EQUIPMENT:
        count = round(patients * SIZE[site])
        bounds = np.round(np.cumsum((0, *MIX[site])) * count).astype(int)
        labels = np.repeat(LABELS, np.diff(bounds)).tolist()
        order = numpy_generator(seed, "labels", site).permutation(count)
        for number, i in enumerate(order, start=1):
            patient = f"{site}{number:04d}"
            visits = FILMS_EACH[number % len(FILMS_EACH)]
            yield [Film(f"{site}/{patient}_{visit}.dcm", labels[i], patient, site) for visit in range(1, visits + 1)]


def _make_child(folder: Path, seed: int, films: list[Film]) -> int:
    """Draw one child and write those of its films that aren't there yet."""
    first = films[0]
    rng = numpy_generator(seed, "child", first.patient)
    child, sex = draw_child(rng), str(rng.choice(["F", "M"]))
    year, month, day = rng.integers(2015, 2020), rng.integers(1, 13), rng.integers(1, 27)
    for number, film in enumerate(films, start=1):
        if (folder / film.path).is_file():
            continue
        rng = numpy_generator(seed, "film", film.patient, number)
        equipment = EQUIPMENT[film.site]
        exposure = expose(render_chest(child, film.label, rng).attenuation, equipment, rng)
        visit = Visit(film.patient, child.age_years, sex, number, f"{year}{month:02d}{day + number - 1:02d}")
        dataset = dicom_film(exposure, equipment, visit, entropy=folder.name)
        write_atomically(folder / film.path, lambda path, ds=dataset: ds.save_as(path, enforce_file_format=True))
    return len(films)


def _split(manifest: Manifest, seed: int) -> Manifest:
    hands = {}
    for site in manifest.sites:
        hands |= deal_patients(
            manifest.select(site=site), {"train": 1 - TEST_SHARE, "test": TEST_SHARE}, derive_seed(seed, site), "test split"
        )
    return replace(manifest, films=tuple(replace(film, split=hands[film.patient]) for film in manifest))


def _in_parallel(function, arguments: list[tuple], jobs: int) -> Iterator:
    """function(*arguments[i]) for each i, as they finish; a few tasks aren't worth starting processes."""
    if jobs == 1 or len(arguments) < 16:
        yield from (function(*a) for a in arguments)
        return
    from joblib import Parallel, delayed

    yield from Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=4)(delayed(function)(*a) for a in arguments)


def _fingerprint() -> str:
    """Eight hex digits that change with the code that draws the films, deals the patients and derives the seeds."""
    elsewhere = [Path(inspect.getsourcefile(function)) for function in (deal_patients, derive_seed)]
    code = b"".join(path.read_bytes() for path in [*sorted(Path(__file__).parent.glob("*.py")), *elsewhere])
    return hashlib.sha256(code).hexdigest()[:8]
