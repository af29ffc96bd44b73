"""The one door for films on disk: a folder, a `.npz`, a volume or a manifest.csv becomes a manifest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from ..errors import KitError, nearest
from .content import content_digest
from .discovery import LABELS_NAME, find_films
from .fragments import NPZ_SUFFIXES
from .manifest import MANIFEST_NAME, Film, Manifest, read_manifest
from .nifti import is_nifti
from .partition import deal_patients, majority_places

TEST_SHARE = 0.2


def read_folder(
    root: str | Path,
    *,
    seed: int = 0,
    test_share: float = TEST_SHARE,
    labels: Sequence[str] | Mapping[str, str] | None = None,
    progress=None,
) -> Manifest:
    """Make the manifest of films on disk.

    A folder is searched at any depth. What decides, in this order:

    - a `manifest.csv` in it: nothing else is looked at;
    - a `labels.csv` in it with the columns `path` (or `SOPInstanceUID`) and `label`: films that it doesn't name
      are left out; of a volume it may name slices (`volume.nii.gz#12`);
    - the folders: `{train,val,test}/LABEL/film` and `LABEL/film`, at any depth below the label, and Kermany's
      published layout, where `PNEUMONIA/` holds both kinds and the file name tells which.

    Films are DICOM files of whatever name (DICOMDIR and objects without an image apart), PNG, JPEG, TIFF,
    BMP and NIfTI, side by side. A NIfTI volume is one film, its middle slice. A MedMNIST `.npz` brings its own
    labels and splits, one film an image. `root` may also be such a `.npz`, a NIfTI file with a labels.csv
    beside it, or a CSV file that is a manifest.

    A DICOM film's patient is its PatientID (see `headers.read_header`), and `acquired` the institution, station
    or device in its header. DICOM and `.npz` files that can't be read are left out and named in the notes.

    Where no film is for testing, `test_share` of the training patients, drawn with `seed` and stratified by
    label and by site or by where they were filmed, become the test split. Exact copies of a film are left out; so is
    every copy of a film that stands under two labels, and a training copy of a test film. The manifest's
    notes say what was left out.

    Args:
        labels: other names for labels: a list for labels that are numbers from 0 (MedMNIST), or {old: new}.
        progress: called as (done, total, what).

    Raises: KitError if there is nothing at `root`, it holds no film or only one label, a DICOM patient stands
        in two splits, or `labels` doesn't fit.
    """
    manifest, number_of = _read(Path(root).expanduser(), progress)
    manifest = _rename(manifest, labels)
    if not any(film.split == "test" for film in manifest):
        manifest = draw_test_split(manifest, test_share, seed, number_of)
    return manifest.check()


def _read(root: Path, progress) -> tuple[Manifest, dict[str, str]]:
    """The manifest, and {patient: PatientID} of patients that may be one child where the number is the same."""
    only = None
    if not root.exists():
        raise KitError(f"There is no folder {root}.")
    if not root.is_dir():
        if root.suffix.lower() == ".csv":
            return read_manifest(root), {}
        if not root.name.lower().endswith(NPZ_SUFFIXES) and not is_nifti(root):
            raise KitError(f"{root} is a file; give the folder of the films, or a MedMNIST .npz, a NIfTI file or a manifest.csv.")
        root, only = root.parent, root
    elif (root / MANIFEST_NAME).is_file():
        return read_manifest(root / MANIFEST_NAME), {}
    films, notes, number_of = find_films(root, only, progress)
    films, dropped = _drop_copies(root, films, progress)
    manifest = Manifest(root, tuple(films), tuple(notes + dropped))
    if len(manifest.classes) < 2:
        only_one = f" but only the label {manifest.classes[0]!r}" if manifest.classes else " that can be used"
        raise KitError(
            f"{only or root} holds {len(films)} film(s){only_one}: sort the films into a folder a label, at least two labels. "
            + " ".join(notes)
        )
    if not only and number_of:
        _refuse_a_folder_a_patient(manifest)
    return manifest, number_of


def _refuse_a_folder_a_patient(manifest: Manifest) -> None:
    """An archive's export has a folder a patient: as labels they would teach a model to know children again."""
    patients = defaultdict(set)
    for film in manifest:
        patients[film.label].add(film.patient)
    if len(patients) > 2 and all(len(found) == 1 for found in patients.values()):
        raise KitError(
            f"Each of the {len(patients)} folders in {manifest.root} ({_listed(set(patients), 3)}) holds one patient's films: "
            f"these look like patients, not labels. Give {LABELS_NAME} with the columns path (or SOPInstanceUID) and label."
        )


def _rename(manifest: Manifest, labels: Sequence[str] | Mapping[str, str] | None) -> Manifest:
    if labels is None:
        return manifest
    if isinstance(labels, str):
        raise KitError(f"labels is {labels!r}; give a list of names, or a dictionary of old and new names.")
    names = dict(labels) if isinstance(labels, Mapping) else {str(i): name for i, name in enumerate(labels)}
    present = {film.label for film in manifest}
    if unknown := sorted(set(names) - present):
        raise KitError(
            f"labels names {unknown[0]!r}{nearest(unknown[0], present)}, which no film has; the labels are {_listed(present)}."
        )
    if not isinstance(labels, Mapping) and (nameless := present - set(names)):
        raise KitError(f"labels gives {len(names)} names, numbered from 0; no name is given to {_listed(nameless)}.")
    return replace(manifest, films=tuple(replace(film, label=names.get(film.label, film.label)) for film in manifest))


def _listed(labels: set[str], most: int = 10) -> str:
    return ", ".join(sorted(labels)[:most]) + (", …" if len(labels) > most else "")


def draw_test_split(
    manifest: Manifest, share: float = TEST_SHARE, seed: int = 0, number_of: Mapping[str, str] = MappingProxyType({})
) -> Manifest:
    """Draw test patients from the training ones, stratified by label and by site or where they were filmed.

    Args:
        share: of the training patients.
        number_of: patient -> a number; patients with the same one stay on one side.

    Raises: KitError for a share that isn't between 0 and 1.
    """
    if not 0 < share < 1:
        raise KitError(f"test_share is {share!r}; it is a share of the patients between 0 and 1.")

    def drawn_as(film: Film) -> str:
        return number_of.get(film.patient, film.patient)

    training = manifest.select(split="train")
    training = replace(training, films=tuple(replace(film, patient=drawn_as(film)) for film in training))
    place_of = {film.patient: film.site for film in training if film.site}
    place_of = majority_places(training) | place_of
    hands: dict[str, str] = {}
    for place in sorted(set(place_of.values())):
        part = replace(training, films=tuple(film for film in training if place_of[film.patient] == place))
        purpose = f"test split {place}".strip()
        hands |= deal_patients(part, {"train": 1 - share, "test": share}, seed, purpose)
    films = tuple(replace(film, split=hands[drawn_as(film)]) if film.split == "train" else film for film in manifest)
    note = f"The films have no test split: {share:.0%} of the training patients were drawn for it (seed {seed})."
    return replace(manifest, films=films, notes=(*manifest.notes, note))


def _drop_copies(root: Path, films: list[Film], progress) -> tuple[list[Film], list[str]]:
    copies = defaultdict(list)
    for done, film in enumerate(films, start=1):
        copies[content_digest(root / film.path)].append(film)
        if progress:
            progress(done, len(films), "films compared")
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
    order = {film.path: i for i, film in enumerate(films)}
    return sorted(kept, key=lambda film: order[film.path]), notes
