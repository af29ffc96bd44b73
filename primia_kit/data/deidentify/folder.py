"""A folder of films becomes a folder that may leave the hospital."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path, PurePath

from ...errors import KitError
from ...storage import disk_error, write_atomically
from ..dicom.guards import dataset_offset
from ..discovery import SPLIT_FOLDERS, files_below
from ..folders import read_folder
from ..manifest import MANIFEST_NAME, Film
from ..raster import RASTER_SUFFIXES
from .burned_in import OCR_MISSING, burned_in_warning, find_text, ocr_installed, regions_sentence
from .films import deidentify_dataset, read_bytes
from .identity import Identity, identity_of
from .key import Pseudonyms, default_key_path, load_or_create_key
from .lists import check_output, write_lists
from .pictures import clean_picture, texts_beside
from .pixels import decode
from .reading import read_dataset
from .report import FilmReport, Refusal, Report
from .search import Search
from .verify import find_leaks


class _Leaked(Exception):
    """The verify pass found something; its text says where."""


def deidentify_folder(
    source: str | Path,
    target: str | Path,
    *,
    key: str | Path | None = None,
    labels: tuple[str, ...] = (),
    site: str = "",
    look_for_text: bool | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """De-identify every film below a folder (PS3.15 Annex E, Basic Profile) and search the output for what was there.

    1. Each DICOM file, told by its content, goes through the profile; of PNG, JPEG, TIFF and BMP the pixels go on.
    2. It gets a name from the key, `target/PATIENT/FILM.dcm`; nothing of old names survives.
    3. It is written beside its place, read again and searched for every identifying string of its original.
       Only if none is found, and the pixels read the same, does it take its place.
    4. manifest.csv (where labels are known) or films.csv, and deidentification.json, are written and searched.

    Args:
        source: the originals; nothing in it is changed.
        target: a folder outside `source`. What a run that was stopped left there is completed, byte for byte the same.
        key: the hospital's key, made if it isn't there; default `default_key_path()`.
        labels: the folder names that are labels. By default `read_folder` decides, and labels are believed only
            if each stands for two patients or more: a folder a patient would else put names into the manifest.
        site: the `site` of all films in the manifest; by default a pseudonym of the source manifest's site.
        look_for_text: run OCR on every film; default: where the extra `ocr` is installed.
        progress: called as (done, total, what).

    Returns: the report. A damaged film or one with a leak is in `refused`, and not in `target`.
    Raises: KitError for folders that can't be used, a key that must not be, or a full disk.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    key = Path(key).expanduser() if key else default_key_path()
    _check_places(source, target, key)
    if look_for_text and not ocr_installed():
        raise KitError(OCR_MISSING)
    paths = files_below(source, hidden=True)
    if not paths:
        raise KitError(f"{source} holds no file.")
    pseudonyms = Pseudonyms(load_or_create_key(key)[0])
    _remove_unfinished(target)
    known, report = _known_films(source), Report()
    run = _Run(source, target, pseudonyms, known, labels, ocr_installed() if look_for_text is None else look_for_text)
    for done, path in enumerate(paths, start=1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's quote values
            run.take(path)
        if progress:
            progress(done, len(paths), "files de-identified")
    report.films = tuple(sorted(run.films.values(), key=lambda film: film.path))
    report.refused, report.left_out, report.copies = tuple(run.refused), tuple(run.left_out), run.copies
    if not run.look_for_text and run.films:
        report.notes.append(OCR_MISSING if look_for_text is None else "Text in the pixels was not looked for.")
    write_lists(report, run, site)
    check_output(report, run)
    return report


class _Run:
    """The state of one run: what was written, and every identity met so far."""

    def __init__(self, source, target, pseudonyms, known: dict[str, Film], labels, look_for_text: bool) -> None:
        self.source, self.target, self.pseudonyms = source, target, pseudonyms
        self.known, self.labels, self.look_for_text = known, labels, look_for_text
        names = {film.label for film in known.values()} | set(labels) | SPLIT_FOLDERS.keys()
        self.label_words = frozenset(name.lower() for name in names)
        self.films: dict[str, FilmReport] = {}
        self.rows: list[tuple[FilmReport, Film | None]] = []
        self.refused: list[Refusal] = []
        self.left_out: list[str] = []
        self.copies = 0
        self.identity = Identity()

    def take(self, path: Path) -> None:
        """De-identify one file, or say why not."""
        where = path.relative_to(self.source)
        if where.as_posix() == MANIFEST_NAME:
            return
        try:
            if path.name == "DICOMDIR":
                self.left_out.append(where.as_posix())
                return
            content = read_bytes(path)
            if dataset_offset(content) is not None:
                make = self._dicom
            elif path.suffix.lower() in RASTER_SUFFIXES:
                make = self._picture
            elif path.suffix.lower() in (".dcm", ".dicom"):
                raise KitError("it can't be read as DICOM: it has neither DICOM's magic word (PS3.10 7.1) nor a file meta group")
            else:
                self.left_out.append(where.as_posix())
                return
            new, film, identity = make(content, where)
            if film.path in self.films:
                self.copies += 1
            else:
                self._write(new, film, identity)
                self.films[film.path] = film
                self.rows.append((film, self.known.get(where.as_posix())))
            self.identity.add(identity)
        except _Leaked as leak:
            self.refused.append(Refusal(where.as_posix(), str(leak), leaked=True))
        except KitError as error:
            if isinstance(error.__cause__, OSError) and str(self.target) in str(error):
                raise  # a full disk is no film's fault
            self.refused.append(Refusal(where.as_posix(), str(error).rstrip(".")))
        except Exception as error:  # one damaged film must not stop a night's run; a parser's message may quote a value
            self.refused.append(Refusal(where.as_posix(), f"it is too damaged to go through ({type(error).__name__})"))

    def _dicom(self, content: bytes, where: PurePath) -> tuple[bytes, FilmReport, Identity]:
        dataset = read_dataset(content)
        pixels = decode(dataset)
        identity = identity_of(dataset, where, self.label_words)
        told = [warning] if (warning := burned_in_warning(dataset)) else []
        patient = self.pseudonyms.patient(str(dataset.get("PatientID") or "").strip() or self._patient(where))
        new, changes = deidentify_dataset(dataset, self.pseudonyms, patient, content, identity)
        again = decode(read_dataset(new))
        if again.dtype != pixels.dtype or again.shape != pixels.shape or (again != pixels).any():
            raise KitError("its pixels would not read the same afterwards")
        return new, self._film(content, new, ".dcm", patient, "DICOM", changes, told, pixels, identity), identity

    def _picture(self, content: bytes, where: PurePath) -> tuple[bytes, FilmReport, Identity]:
        new, suffix, pixels, changes = clean_picture(content)
        patient = self._patient(where)
        identity = identity_of(None, where, self.label_words, texts=texts_beside(content))
        told = ["A picture has no tag that tells whether text is burned in: its pixels may hold text that identifies."]
        kind = suffix[1:].upper()
        return (
            new,
            self._film(content, new, suffix, self.pseudonyms.patient(patient), kind, changes, told, pixels, identity),
            identity,
        )

    def _patient(self, where: PurePath) -> str:
        """Whose a film without PatientID is: as the manifest says, else nobody else's."""
        film = self.known.get(where.as_posix())
        return film.patient if film else where.as_posix()

    def _film(self, content, new, suffix, patient, kind, changes, told, pixels, identity) -> FilmReport:
        if self.look_for_text and (sentence := regions_sentence(find_text(pixels), Search(identity).hits)):
            told = [*told, sentence]
        path = f"{patient}/{self.pseudonyms.film(content)}{suffix}"
        return FilmReport(path, patient, kind, tuple(changes), tuple(told), sha256(new).hexdigest())

    def _write(self, new: bytes, film: FilmReport, identity: Identity) -> None:
        def write_and_read_again(temporary: Path) -> None:
            temporary.write_bytes(new)
            if leaks := find_leaks(temporary.read_bytes(), film.path, identity):
                found = ", ".join(str(leak) for leak in leaks)
                what = "the new path" if any(leak.where == "name" for leak in leaks) else film.path
                raise _Leaked(f"LEAK: something that identifies was still in {found} of {what}; nothing was written")

        if not (self.target / film.path).exists() or (self.target / film.path).read_bytes() != new:
            write_atomically(self.target / film.path, write_and_read_again)
        elif leaks := find_leaks(new, film.path, identity):  # from an earlier run, perhaps of an earlier version
            (self.target / film.path).unlink()
            raise _Leaked(f"LEAK: something that identifies was in {leaks[0]} of {film.path}; it was removed")


def _check_places(source: Path, target: Path, key: Path) -> None:
    if not source.is_dir():
        raise KitError(f"There is no folder {source}." if not source.exists() else f"{source} is a file; give the films' folder.")
    old, new = source.resolve(), target.resolve()
    if target.exists() and not target.is_dir():
        raise KitError(f"{target} is a file; give a folder for the de-identified films.")
    if old == new or old in new.parents or new in old.parents:
        raise KitError(f"{target} and {source} lie in each other: de-identified films need a folder apart from the originals.")
    if new == key.resolve() or new in key.resolve().parents:
        raise KitError(f"The key {key} lies in {target}, which is to be given away. Keep it elsewhere, with --key.")


def _remove_unfinished(target: Path) -> None:
    """Files that a killed run was still writing: they weren't searched."""
    try:
        for path in target.rglob(".*.part") if target.is_dir() else ():
            path.unlink()
    except OSError as error:
        raise disk_error(error, target) from error


def _known_films(source: Path) -> dict[str, Film]:
    """What `read_folder` can tell of each film, by its path; nothing where it sees no labels."""
    try:
        return {film.path: film for film in read_folder(source)}
    except KitError:
        if (source / MANIFEST_NAME).is_file():
            raise  # a manifest that is wrong is for its author to mend
        return {}
