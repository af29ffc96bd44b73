"""The lists beside the films, manifest.csv or films.csv and the report, and the last look at the whole output."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from ...errors import KitError
from ...storage import disk_error, write_atomically
from ..manifest import MANIFEST_NAME, Manifest
from .labels import label_rows
from .report import REPORT_NAME, Report

LIST_NAME = "films.csv"


def write_lists(report: Report, run, site: str) -> None:
    """Write manifest.csv where labels are known, else films.csv, and the report; note in it which and why."""
    rows, notes = label_rows(run.rows, run.source, run.labels, run.identity)
    report.notes += notes
    try:
        if rows:
            films = [
                replace(film, path=found.path, patient=found.patient, site=site or run.pseudonyms.site(film.site))
                for found, film in rows
            ]
            manifest = Manifest(run.target, tuple(sorted(films, key=lambda film: film.path))).check()
            manifest.to_csv()
            report.labels = manifest.classes
            report.notes.append(f"{MANIFEST_NAME} has {len(films)} film(s) labelled {', '.join(manifest.classes)}.")
            _drop(run.target / LIST_NAME)
            _write_report(report, run)
            return
    except KitError as error:
        if isinstance(error.__cause__, OSError):
            raise
        report.notes.append(f"No {MANIFEST_NAME} was written: patients as the headers tell them don't fit the source's split.")
    _drop(run.target / MANIFEST_NAME)
    if report.films:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "patient"])
        writer.writerows([film.path, film.patient] for film in report.films)
        write_atomically(run.target / LIST_NAME, text.getvalue())
        report.notes.append(f"Labels are not known: {LIST_NAME} lists films and patients, and is no manifest.")
    _write_report(report, run)


def _write_report(report: Report, run) -> None:
    if report.films or run.target.is_dir():
        write_atomically(run.target / REPORT_NAME, report.to_json())


def _drop(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error


def check_output(report: Report, run) -> None:
    """Read everything in the output once more: films are what was searched, lists hold no number, date or full name."""
    telling = {n for n in run.identity.strong if "^" in n or sum(c.isdigit() for c in n) >= 6}
    strangers = []
    for place in [path for path in run.target.rglob("*") if path.is_dir() and not any(path.iterdir())]:
        place.rmdir()  # of a film that was stopped
    for path in sorted(p for p in run.target.rglob("*") if p.is_file()):
        where = path.relative_to(run.target).as_posix()
        if where in run.films:
            if sha256(path.read_bytes()).hexdigest() != run.films[where].sha256:
                path.unlink()
                raise KitError(f"{where} is not what was written and searched; it was removed. Run the command again.")
        elif where in (MANIFEST_NAME, LIST_NAME, REPORT_NAME):
            if telling & _words_of(path.read_text(encoding="utf-8")):
                path.unlink()
                raise KitError(f"LEAK: something that identifies was in {where}; it was removed. Give labels with --labels.")
        else:
            strangers.append(where)
    report.strangers = tuple(strangers)


def _words_of(text: str) -> set[str]:
    """A list's words, whole and in parts: of thousands of patients' strings, each is looked up, not searched for."""
    words = set(re.findall(r"[\w.^-]+", text.lower()))
    return words.union(*(re.split(r"[._^-]", word) for word in words))
