"""What was done to each film, in words that may leave the hospital: tags and reasons, never values or old names."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from .profile import METHOD, Change

REPORT_NAME = "deidentification.json"


@dataclass(frozen=True)
class FilmReport:
    """One film in the output: its new path, its patient's pseudonym, what was changed and what to look at."""

    path: str
    patient: str
    kind: str
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class Refusal:
    """A film that didn't go into the output. `original` is its old path: for the hospital's eyes, in no file."""

    original: str
    reason: str
    leaked: bool = False

    def __str__(self) -> str:
        return f"{self.original}: {self.reason}."


@dataclass
class Report:
    """A whole run.

    films: what is in the output, ordered by new path (so not in the originals' order).
    refused: films that couldn't be de-identified; `left_out`: other files, by their old path; `copies`: exact
        copies of another film, which became the same file.
    labels: the labels in manifest.csv, () if there is none.
    notes: sentences for whoever gives the folder away.
    strangers: files in the output that this run didn't write, relative to it.
    """

    films: tuple[FilmReport, ...] = ()
    refused: tuple[Refusal, ...] = ()
    left_out: tuple[str, ...] = ()
    copies: int = 0
    labels: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    strangers: tuple[str, ...] = ()

    @property
    def leaks(self) -> tuple[Refusal, ...]:
        """Films that the verify pass stopped."""
        return tuple(refusal for refusal in self.refused if refusal.leaked)

    def to_json(self) -> str:
        """The report as a file may hold it: no old name, no removed value, and the same for the same run.

        `attributes` lists each distinct change once; a film's `changes` are indices into it.
        """
        attributes = sorted({change for film in self.films for change in film.changes})
        index = {change: i for i, change in enumerate(attributes)}
        reasons = Counter(refusal.reason for refusal in self.refused)
        return (
            json.dumps(
                {
                    "method": list(METHOD),
                    "films": [
                        {
                            "path": film.path,
                            "patient": film.patient,
                            "kind": film.kind,
                            "sha256": film.sha256,
                            "warnings": list(film.warnings),
                            "changes": [index[change] for change in film.changes],
                        }
                        for film in self.films
                    ],
                    "attributes": [vars(change) for change in attributes],
                    "refused": [{"reason": reason, "films": n} for reason, n in sorted(reasons.items())],
                    "files_left_out": len(self.left_out),
                    "exact_copies": self.copies,
                    "labels": list(self.labels),
                    "notes": self.notes,
                },
                indent=1,
            )
            + "\n"
        )

    def summary(self) -> str:
        """A table for a terminal: what was removed from how many films, then everything that wants a person's look."""
        films_with: Counter[tuple[str, str, str]] = Counter()
        for film in self.films:
            films_with.update({_row(change) for change in film.changes})
        lines = []
        if films_with:
            lines.append(f"{'films':>5}  {'tag':<11}  {'attribute':<38}  why")
            lines += [f"{n:5}  {tag:<11}  {name:<38}  {why}" for (tag, name, why), n in sorted(films_with.items())]
            lines.append("")
        patients = len({film.patient for film in self.films})
        lines.append(
            f"{len(self.films)} film(s) of {patients} patient(s) written, read again, searched for what identified them."
        )
        warned = Counter(warning for film in self.films for warning in film.warnings)
        lines += [f"LOOK AT {n} film(s): {warning}" for warning, n in sorted(warned.items())]
        lines += self.notes
        if self.copies:
            lines.append(f"{self.copies} exact cop{'y' if self.copies == 1 else 'ies'} of another film became the same file.")
        if self.left_out:
            lines.append(f"{len(self.left_out)} other file(s) left out: {', '.join(self.left_out[:10])}{_more(self.left_out)}")
        if self.strangers:
            lines.append(
                f"{len(self.strangers)} file(s) in the output are not of this run and were not checked: "
                f"{', '.join(self.strangers[:10])}{_more(self.strangers)}"
            )
        lines += [f"REFUSED {refusal}" for refusal in self.refused]
        return "\n".join(lines)


def _row(change: Change) -> tuple[str, str, str]:
    """Nested changes count at their innermost tag, private ones together."""
    tag = change.tag.rpartition(".")[2] if change.tag.startswith("(") else change.tag
    if change.reason == "private":
        return "(odd,...)", "private attributes", "private"
    return tag, change.keyword + (" (nested)" if "[" in change.tag else ""), change.reason


def _more(names: tuple[str, ...]) -> str:
    return f" and {len(names) - 10} more" if len(names) > 10 else ""
