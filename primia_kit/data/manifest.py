"""One table describes any data set: which film, what label, whose, at which site, on which side of the split."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ..errors import KitError
from ..storage import write_atomically
from .fragments import split_fragment

CASE_STUDY = ("normal", "bacterial", "viral")  # PriMIA's classes, in the order of its figures
SPLITS = ("train", "validation", "test")
MANIFEST_NAME = "manifest.csv"


@dataclass(frozen=True)
class Film:
    """One row.

    path: relative to the manifest's folder. A film inside a file of many has a fragment: `pneumonia.npz#train/17`,
        `volume.nii.gz#12`.
    site: the hospital that holds it in a study; "" until films are shared out.
    acquired: where it was taken, as its header says; "" where that isn't known.
    """

    path: str
    label: str
    patient: str
    site: str = ""
    split: str = "train"
    acquired: str = ""


COLUMNS = tuple(field.name for field in fields(Film))


@dataclass(frozen=True)
class Manifest:
    """The films of one data set, in a fixed order.

    root: the folder that the paths start from.
    films: the rows.
    notes: what a reader should know of how they were found (films left out and why), a sentence each.
    """

    root: Path
    films: tuple[Film, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.films)

    def __iter__(self) -> Iterator[Film]:
        return iter(self.films)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that occur: PriMIA's order where they are PriMIA's, else alphabetical."""
        labels = {film.label for film in self.films}
        return tuple(c for c in CASE_STUDY if c in labels) if labels <= set(CASE_STUDY) else tuple(sorted(labels))

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(sorted({film.site for film in self.films}))

    def select(self, *, site: str | None = None, split: str | None = None) -> Manifest:
        """The films of one site and / or one split."""
        kept = (f for f in self.films if site in (None, f.site) and split in (None, f.split))
        return replace(self, films=tuple(kept))

    def path_of(self, film: Film) -> Path:
        """The film's path, with its fragment if it has one, as `read_film` wants it."""
        return self.root / film.path

    def file_of(self, film: Film) -> Path:
        """The file that holds the film."""
        return split_fragment(self.path_of(film))[0]

    def file_bytes(self) -> dict[str, int]:
        """Each site's films as they lie on its disk, in bytes; of a file of many films, each film's equal part."""
        files = Counter(self.file_of(film) for film in self.films)
        try:
            each = {path: path.stat().st_size / films for path, films in files.items()}
        except OSError as error:
            raise KitError(f"The manifest names {error.filename}, which can't be read: {error.strerror}.") from error
        return {site: round(sum(each[self.file_of(film)] for film in self.select(site=site))) for site in self.sites}

    def counts(self):
        """A pandas table: films for each site, split and label, with the number of patients."""
        import pandas as pd

        if not self.films:
            return pd.DataFrame()
        frame = pd.DataFrame([vars(film) for film in self.films])
        table = pd.crosstab([frame["site"], frame["split"]], frame["label"])[list(self.classes)]
        table["films"] = table.sum(axis=1)
        table["patients"] = frame.groupby(["site", "split"])["patient"].nunique()
        order = sorted(table.index, key=lambda row: (row[0], SPLITS.index(row[1])))
        return table.loc[order].rename_axis(columns=None)

    def check(self) -> Manifest:
        """Refuse a manifest that would let a patient be trained on and tested on, or be at two sites.

        Returns: itself.
        Raises: KitError naming the patients, an unknown split, or a path that stands twice.
        """
        if not self.films:
            raise KitError(f"The manifest of {self.root} holds no film.")
        for film in self.films:
            if film.split not in SPLITS:
                raise KitError(f"{film.path}: unknown split {film.split!r}; the manifest knows {', '.join(SPLITS)}.")
        twice = [path for path, n in Counter(film.path for film in self.films).items() if n > 1]
        if twice:
            raise KitError(f"{twice[0]} stands {'in two rows' if len(twice) == 1 else 'twice, as do others'}: one row a film.")
        for column, consequence in (
            ("split", "they would be trained on and tested on"),
            ("site", "sites must not share a patient"),
        ):
            seen = defaultdict(set)
            for film in self.films:
                seen[film.patient].add(getattr(film, column))
            torn = sorted(patient for patient, values in seen.items() if len(values) > 1)
            if torn:
                raise KitError(
                    f"{len(torn)} patient(s) have films in more than one {column} ({', '.join(torn[:3])}"
                    f"{', …' if len(torn) > 3 else ''}); {consequence}. Give all films of a patient the same {column}."
                )
        return self

    def to_csv(self, path: str | Path | None = None) -> Path:
        """Write the table (default: `manifest.csv` in its folder), atomically."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = COLUMNS if any(film.acquired for film in self.films) else COLUMNS[:-1]
        writer.writerow(columns)
        writer.writerows([getattr(film, column) for column in columns] for film in self.films)
        return write_atomically(path or self.root / MANIFEST_NAME, text.getvalue())


def read_manifest(path: str | Path) -> Manifest:
    """Read a manifest from CSV; its paths start from the CSV's folder.

    Columns `path`, `label` and `patient` are needed; `site`, `split` and `acquired` may be missing.

    Raises: KitError for a missing column, an empty cell or a torn patient, naming the line.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            missing = [c for c in ("path", "label", "patient") if c not in (rows.fieldnames or ())]
            if missing:
                raise KitError(f"{path} has no column {', '.join(map(repr, missing))}; a manifest needs path, label and patient.")
            known = [c for c in COLUMNS if c in rows.fieldnames]
            films = []
            for row in rows:
                empty = [c for c in ("path", "label", "patient") if not (row[c] or "").strip()]
                if empty:
                    raise KitError(f"{path}, line {rows.line_num}: no {empty[0]}.")
                films.append(Film(**{c: (row[c] or "").strip() or getattr(Film, c, "") for c in known}))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise KitError(f"Can't read the manifest {path}: {error}.") from error
    return Manifest(path.parent, tuple(films)).check()
