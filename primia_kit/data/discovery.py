"""Which films lie in a folder, and what file names, folders, headers and a labels.csv tell of them.

Kermany, Zhang, Goldbaum 2018 (Mendeley Data rscbjbr9sj) name films after patients:
`person12_bacteria_34.jpeg`, `person12_virus_9.jpeg`, `IM-0115-0001.jpeg`, `NORMAL2-IM-0012-0001.jpeg`;
in a later version `BACTERIA-1008087-0001.jpeg`, `VIRUS-1008087-0002.jpeg`, `NORMAL-1003233-0001.jpeg`.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ..errors import KitError
from .dicom import is_dicom
from .fragments import NIFTI_SUFFIXES, NPZ_SUFFIXES, split_fragment
from .headers import Header, read_header
from .manifest import Film
from .medmnist import list_medmnist
from .nifti import is_nifti
from .raster import RASTER_SUFFIXES

LABELS_NAME = "labels.csv"
SPLIT_FOLDERS = {  # and the splits that they are
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
_PNEUMONIA_NAME = re.compile(r"(person\d+)_(bacteria|virus)_\d+(?:_\d+)?")
_NUMBERED_NAME = re.compile(r"(BACTERIA|VIRUS|NORMAL)-(\d+)-\d+")
_NORMAL_NAME = re.compile(r"((?:NORMAL2-)?IM-\d+)-\d+")
_KERMANY_LABELS = {"bacteria": "bacterial", "virus": "viral", "normal": "normal"}
_LISTED = 10  # files that can't be read, by name


class Discovery:
    """The films below a folder, found file by file; what was left out is counted for the notes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.films: list[Film] = []
        self._table = _read_labels(root / LABELS_NAME) if (root / LABELS_NAME).is_file() else None
        self._used: set[str] = set()
        self._counts: Counter[str] = Counter()
        self.damaged: list[str] = []
        self._acquired_by: Counter[str] = Counter()
        self._splits_of: dict[str, set[str]] = defaultdict(set)  # of person numbers in published splits
        self._spaces_of: dict[str, set[str]] = defaultdict(set)  # of PatientIDs
        self.number_of: dict[str, str] = {}  # patient: its PatientID

    def look_at(self, path: Path) -> None:
        """Add the films of one file, if it has any.

        Raises: KitError if the file can't be opened.
        """
        try:
            if path.name.lower().endswith(NPZ_SUFFIXES):
                self._add_medmnist(path)
            elif is_nifti(path):
                self._add(path, None)
            elif is_dicom(path):
                if (header := read_header(path)) is None:
                    self._counts["not images"] += path.name.upper() != "DICOMDIR"
                else:
                    self._add(path, header)
            elif path.suffix.lower() in RASTER_SUFFIXES:
                self._add(path, None)
            elif path.suffix.lower() == ".dcm":
                self.damaged.append(f"{path}: no DICOM file, the magic word at byte 128 is missing.")
        except OSError as error:
            raise KitError(f"Can't read {path}: {error.strerror or error}.") from error
        except KitError as error:
            self.damaged.append(str(error))

    def _add_medmnist(self, path: Path) -> None:
        name = path.relative_to(self.root).as_posix()
        films = list_medmnist(path)
        self.films += [Film(f"{name}#{part}", label, f"{name}#{part}", split=split) for part, label, split in films]
        self._counts["medmnist"] += len(films)

    def _add(self, path: Path, header: Header | None) -> None:
        relative = PurePosixPath(path.relative_to(self.root).as_posix())
        folders = relative.parts[:-1]
        split = SPLIT_FOLDERS.get(folders[0].lower()) if folders else None
        if split:
            folders = folders[1:]
        folder_label, person = _read_name(folders[0] if folders else "", path.stem)
        if self._table is not None:
            labels = self._from_table(str(relative), header)
            if not labels:
                self._counts["unlabelled"] += 1
        else:
            labels = {str(relative): folder_label} if folders else {}
            self._counts["loose"] += not folders
        if not labels:
            return
        patient, acquired = self._patient(relative, header, person, split), header.acquired if header else ""
        for name, label in labels.items():
            self.films.append(Film(name, label, patient, split=split or "train", acquired=acquired))
            if header:
                self._acquired_by[header.acquired_by] += 1

    def _from_table(self, name: str, header: Header | None) -> dict[str, str]:
        """{path: label} of what labels.csv says of a file: of several slices of a volume perhaps."""
        keys = self._table["of file"].get(name, [])
        if not keys and header and header.instance in self._table["labels"]:
            keys = [header.instance]
        self._used.update(keys)
        return {(key if split_fragment(key)[1] else name): self._table["labels"][key] for key in keys}

    def _patient(self, relative: PurePosixPath, header: Header | None, person: str | None, split: str | None) -> str:
        if header and header.patient:
            self._spaces_of[header.patient_id].add(header.namespace)
            self.number_of[header.patient] = header.patient_id
            return header.patient
        if person:
            # The same person number in two published splits may or may not be the same child.
            self._splits_of[person].add(split or "")
            return f"{split}:{person}" if split else person
        if header and header.study:
            self._counts["by study"] += 1
            return f"study {header.study}"
        self._counts["unnamed"] += 1
        return str(relative.with_suffix(""))

    def join_name_spaces(self) -> None:
        """A PatientID that has a name space in some films, and always the same one, has it in all."""
        whole = {}
        for number, spaces in self._spaces_of.items():
            if len(spaces) == 2 and "" in spaces:
                spaces.discard("")
                whole[number] = f"{next(iter(spaces))}/{number}"
        self.films = [replace(film, patient=whole.get(film.patient, film.patient)) for film in self.films]

    def notes(self) -> list[str]:
        """What a reader should know, a sentence each."""
        n = self._counts
        both = sum(len(splits) > 1 for splits in self._splits_of.values())
        spaces = sum(len(spaces) > 1 for spaces in self._spaces_of.values())
        unused = len(self._table["labels"]) - len(self._used) if self._table else 0
        places = ", ".join(f"{by}: {count} films" for by, count in self._acquired_by.most_common() if by)
        silent = self._acquired_by[""]
        sentences = [
            (n["loose"], "film(s) outside any label's folder were left out."),
            (n["unlabelled"], f"film(s) that {LABELS_NAME} doesn't name were left out."),
            (unused, f"row(s) of {LABELS_NAME} name no film that is here."),
            (
                n["unnamed"],
                "file name(s) don't tell the patient: each of these files counts as one patient. A manifest.csv can say better.",
            ),
            (n["medmnist"], "images come from MedMNIST, which doesn't tell the patient: each counts as one patient."),
            (n["by study"], "DICOM film(s) have no PatientID: the films of one study count as one patient."),
            (
                both,
                "patient number(s) stand in more than one published split; whether they are the same children can't be told. "
                "They count as different ones.",
            ),
            (
                spaces,
                "PatientID(s) occur at more than one issuer or institution; they count as different patients, and a test split "
                "that is drawn keeps them on one side, in case they are the same.",
            ),
            (n["not images"], "DICOM file(s) hold no image (reports and the like) and were left out."),
        ]
        notes = [f"{count} {sentence}" for count, sentence in sentences if count]
        if places:
            notes.append(f"Where films were taken is told by {places}{f'; {silent} tell nothing' if silent else ''}.")
        if self.damaged:
            more = f" … and {len(self.damaged) - _LISTED} more" if len(self.damaged) > _LISTED else ""
            notes.append(f"{len(self.damaged)} file(s) can't be read and were left out: {' '.join(self.damaged[:_LISTED])}{more}")
        return notes

    def nothing_found(self) -> KitError:
        """The sentence for a folder without a film that has a label."""
        loose, unlabelled = self._counts["loose"], self._counts["unlabelled"]
        where = f"; {loose} film(s) lie outside any label's folder" if loose else ""
        where = f"; its {LABELS_NAME} names none of the {unlabelled} film(s)" if unlabelled else where
        damaged = f" {len(self.damaged)} file(s) can't be read, the first: {self.damaged[0]}" if self.damaged else ""
        kinds = ", ".join((*RASTER_SUFFIXES, *NIFTI_SUFFIXES))
        return KitError(
            f"{self.root} holds no film with a label{where}. Expected LABEL/film or train/LABEL/film, or a {LABELS_NAME} with "
            f"the columns path (or SOPInstanceUID) and label; films are DICOM files of any name, or end in {kinds}.{damaged}"
        )


def find_films(root: Path, only: Path | None = None, progress=None) -> tuple[list[Film], list[str], dict[str, str]]:
    """All films below a folder, or those of one file in it, with notes on what was found and left out.

    Returns: films, notes, and {patient: PatientID} of those that have one. Patients with the same PatientID may be
    one child.

    Raises: KitError if there is none, or for a labels.csv that can't be understood.
    """
    found = Discovery(root)
    files = [only] if only else files_below(root)
    for done, path in enumerate(files, start=1):
        found.look_at(path)
        if progress:
            progress(done, len(files), "files looked at")
    if only and found.damaged:
        raise KitError(found.damaged[0])
    if not found.films:
        raise found.nothing_found()
    found.join_name_spaces()
    films = found.films if only else sorted(found.films, key=lambda film: film.path)
    return films, found.notes(), found.number_of


def files_below(root: Path, *, hidden: bool = False) -> list[Path]:
    """Every file below a folder, in order; symbolic links are followed, and each folder is entered once.

    hidden: also files and folders whose names start with a dot.

    Raises: KitError for a folder that may not be looked into: films in it would be missing in silence.
    """

    def closed(error: OSError) -> None:
        raise KitError(f"Can't look into {error.filename}: {error.strerror}.") from error

    files, entered = [], set()
    for folder, below, names in os.walk(root, followlinks=True, onerror=closed):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in entered:  # a link to a folder above would lead round for ever
            below.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        below[:] = [name for name in below if hidden or not name.startswith(".")]
        files += [Path(folder, name) for name in names if hidden or not name.startswith(".")]
    return sorted(path for path in files if path.is_file())


def _read_labels(path: Path) -> dict[str, dict]:
    """labels.csv: {"labels": {path or SOPInstanceUID: label}, "of file": {file: [its keys]}}."""
    labels: dict[str, str] = {}
    of_file: dict[str, list[str]] = defaultdict(list)
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            names = {(name or "").strip().casefold(): name for name in rows.fieldnames or ()}
            key_column = names.get("path") or names.get("sopinstanceuid")
            if not key_column or "label" not in names:
                raise KitError(
                    f"{path} needs the columns path (or SOPInstanceUID) and label; it has {', '.join(names) or 'none'}."
                )
            for row in rows:
                key, label = ((row[c] or "").strip() for c in (key_column, names["label"]))
                if not key or not label:
                    raise KitError(f"{path}, line {rows.line_num}: no {'label' if key else key_column}.")
                key = key.replace("\\", "/").removeprefix("./")
                if labels.setdefault(key, label) != label:
                    raise KitError(f"{path}, line {rows.line_num}: {key} is labelled {label!r} here and {labels[key]!r} above.")
                if key not in of_file[file := split_fragment(key)[0].as_posix()]:
                    of_file[file].append(key)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise KitError(f"Can't read {path}: {error}.") from error
    return {"labels": labels, "of file": of_file}


def _read_name(folder: str, stem: str) -> tuple[str, str | None]:
    """(label, patient or None) from a label folder's name and a file's name."""
    if match := _PNEUMONIA_NAME.fullmatch(stem):
        person, kind = match.groups()
        if folder.lower() in ("pneumonia", kind):
            return _KERMANY_LABELS[kind], person
        return folder, person
    if match := _NUMBERED_NAME.fullmatch(stem):
        kind, person = match.groups()
        return _KERMANY_LABELS[kind.lower()] if folder.lower() in ("pneumonia", kind.lower()) else folder, person
    if folder.lower() == "normal" and (match := _NORMAL_NAME.match(stem)):  # viewers name any series IM-0001-0001
        return _KERMANY_LABELS["normal"], match.group(1)
    return folder, None
