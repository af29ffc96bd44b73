"""Folders of films become a manifest: the published Kermany layout, a folder a label, or a manifest.csv.

Kermany, Zhang, Goldbaum 2018 (Mendeley Data rscbjbr9sj) name films after patients:
`person12_bacteria_34.jpeg`, `person12_virus_9.jpeg`, `IM-0115-0001.jpeg`, `NORMAL2-IM-0012-0001.jpeg`.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from ..errors import KitError
from .manifest import MANIFEST_NAME, Film, Manifest, read_manifest
from .partition import deal_patients

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm")
_SPLIT_FOLDERS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_PNEUMONIA_NAME = re.compile(r"(person\d+)_(bacteria|virus)_\d+(?:_\d+)?")
_NORMAL_NAME = re.compile(r"((?:NORMAL2-)?IM-\d+)-\d+")
_KERMANY_LABELS = {"bacteria": "bacterial", "virus": "viral", "normal": "normal"}


def read_folder(root: str | Path, *, seed: int = 0, test_share: float = 0.2) -> Manifest:
    """Make the manifest of a folder of films.

    Understood are a folder with a `manifest.csv`; `{train,val,test}/LABEL/film` and `LABEL/film`, at any
    depth below the label; and Kermany's published layout, where `PNEUMONIA/` holds both kinds and the
    file name tells which. Where the folder has no split of its own, `test_share` of the patients, drawn
    with `seed` and stratified by label, become the test split.

    Exact copies of a film are left out; so is every copy of a film that stands under two labels, and a
    training copy of a test film. The manifest's notes say what was left out.

    Raises: KitError if the folder is missing, holds no film or only one label.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise KitError(f"There is no folder {root}." if not root.exists() else f"{root} is a file; give the folder of the films.")
    if (root / MANIFEST_NAME).is_file():
        return read_manifest(root / MANIFEST_NAME)
    films, notes = _find_films(root)
    films, dropped = _drop_copies(root, films)
    notes += dropped
    manifest = Manifest(root, tuple(films), tuple(notes))
    if len(manifest.classes) < 2:
        only = f" but only the label {manifest.classes[0]!r}" if manifest.classes else " that can be used"
        raise KitError(f"{root} holds {len(films)} film(s){only}: sort the films into a folder a label, at least two labels.")
    if all(film.split == "train" for film in films):
        hands = deal_patients(manifest, {"train": 1 - test_share, "test": test_share}, seed, "test split")
        manifest = replace(manifest, films=tuple(replace(f, split=hands[f.patient]) for f in films))
        manifest = replace(
            manifest,
            notes=(*notes, f"The folder has no test split: {test_share:.0%} of the patients were drawn for it (seed {seed})."),
        )
    return manifest.check()


def _find_films(root: Path) -> tuple[list[Film], list[str]]:
    films, loose, unnamed = [], 0, 0
    for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")):
        folders = path.relative_to(root).parts[:-1]
        split = _SPLIT_FOLDERS.get(folders[0].lower()) if folders else None
        if split:
            folders = folders[1:]
        if not folders:
            loose += 1
            continue
        label, person = _read_name(folders[0], path.stem)
        if person is None:
            unnamed += 1
            person = path.relative_to(root).with_suffix("").as_posix()
        # The same person number in two published splits may or may not be the same child.
        patient = f"{split}:{person}" if split else person
        films.append(Film(path.relative_to(root).as_posix(), label, patient, split=split or "train"))
    if not films:
        where = f"; {loose} film(s) lie outside any label's folder" if loose else ""
        raise KitError(
            f"{root} holds no film in a label's folder{where}. Expected LABEL/film or train/LABEL/film, "
            f"with films ending in {', '.join(IMAGE_SUFFIXES)}."
        )
    notes = []
    if loose:
        notes.append(f"{loose} film(s) outside any label's folder were left out.")
    if unnamed:
        notes.append(
            f"{unnamed} file name(s) don't tell the patient: each of these films counts as one patient. "
            "A manifest.csv can say better."
        )
    splits_of = defaultdict(set)
    for film in films:
        if ":" in film.patient:
            splits_of[film.patient.split(":", 1)[1]].add(film.split)
    shared = sum(len(splits) > 1 for person, splits in splits_of.items() if "/" not in person)
    if shared:
        notes.append(
            f"{shared} patient number(s) stand in more than one published split; whether they are the same "
            "children can't be told. They count as different ones."
        )
    return films, notes


def _read_name(folder: str, stem: str) -> tuple[str, str | None]:
    """(label, patient or None) from a label folder's name and a file's name."""
    if match := _PNEUMONIA_NAME.fullmatch(stem):
        person, kind = match.groups()
        if folder.lower() in ("pneumonia", kind):
            return _KERMANY_LABELS[kind], person
        return folder, person
    if match := _NORMAL_NAME.match(stem):
        return _KERMANY_LABELS.get(folder.lower(), folder), match.group(1)
    return folder, None


def _drop_copies(root: Path, films: list[Film]) -> tuple[list[Film], list[str]]:
    copies = defaultdict(list)
    for film in films:
        try:
            copies[hashlib.sha256((root / film.path).read_bytes()).digest()].append(film)
        except OSError as error:
            raise KitError(f"Can't read {root / film.path}: {error.strerror}.") from error
    kept, same, leaked, contradictory = [], 0, 0, 0
    for group in copies.values():
        if len({film.label for film in group}) > 1:
            contradictory += len(group)
            continue
        test = [film for film in group if film.split == "test"]
        leaked += len(group) - len(test) if test else 0
        same += len(test) - 1 if test else len(group) - 1
        kept.append((test or group)[0])
    notes = []
    if same:
        notes.append(f"{same} exact cop{'y' if same == 1 else 'ies'} of another film left out.")
    if leaked:
        notes.append(f"{leaked} film(s) that stand in the test split too were left out of training.")
    if contradictory:
        notes.append(f"{contradictory} film(s) that stand under two labels were left out.")
    return sorted(kept, key=lambda film: film.path), notes
