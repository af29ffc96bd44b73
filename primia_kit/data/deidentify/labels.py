"""Which of the source's labels may stand in the output's manifest, and on which side of the split its films are."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from ..discovery import SPLIT_FOLDERS
from ..folders import draw_test_split
from ..manifest import MANIFEST_NAME, Film, Manifest
from .identity import Identity
from .report import FilmReport
from .search import Search

_MOST_LABELS = 20
Row = tuple[FilmReport, Film]


def label_rows(
    rows: list[tuple[FilmReport, Film | None]], source: Path, labels: tuple[str, ...], identity: Identity
) -> tuple[list[Row], list[str]]:
    """The rows for the manifest, none if labels aren't known or can't be told from names.

    Args:
        rows: each film with what the source said of it.
        labels: names that the caller vouches for; () to decide by their use.
        identity: what must not be a label.

    Returns: (rows, sentences that say what was left out and why; without the names themselves).
    """
    known = [(found, film) for found, film in rows if film]
    notes = []
    if labels:
        kept = [(found, film) for found, film in known if film.label in labels]
        if len(kept) < len(rows):
            notes.append(f"{len(rows) - len(kept)} film(s) with none of the labels given are not in {MANIFEST_NAME}.")
        known = kept
    elif known and len(known) < len(rows):
        notes.append(f"{len(rows) - len(known)} film(s) without a label are not in {MANIFEST_NAME}.")
    if not known:
        return [], notes
    patients = defaultdict(set)
    for found, film in known:
        patients[film.label].add(found.patient)
    search = Search(Identity(strong=identity.strong))
    if any(search.hits(label) for label in patients):
        return [], [*notes, "The source's labels hold something that identifies: they were not used."]
    vouched = labels or (source / MANIFEST_NAME).is_file()
    if not vouched and (len(patients) > _MOST_LABELS or min(map(len, patients.values())) < 2):
        return [], [
            *notes,
            "Folder names were not taken for labels, since one stands for a single patient: name them with --labels.",
        ]
    return _with_split(known, source), notes


def _with_split(rows: list[Row], source: Path) -> list[Row]:
    """A split that `read_folder` drew film by film is drawn again by patient, as the headers tell them."""
    has_split = (source / MANIFEST_NAME).is_file() or any(film.path.split("/")[0].lower() in SPLIT_FOLDERS for _, film in rows)
    if has_split:
        return rows
    films = tuple(replace(film, path=found.path, patient=found.patient, split="train") for found, film in rows)
    split_of = {film.path: film.split for film in draw_test_split(Manifest(source, films))}
    return [(found, replace(film, split=split_of[found.path])) for found, film in rows]
