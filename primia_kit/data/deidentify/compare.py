"""What a header tells before and after: a table to look at, at the hospital."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...errors import KitError
from .films import read_bytes
from .reading import read_dataset
from .search import elements_of

_LONGEST = 34  # characters of a value that are shown


def compare_headers(before: str | Path, after: str | Path):
    """A pandas table of the elements that differ between a film and its de-identified copy.

    It holds what identifies the patient: for the eyes of the hospital that holds the film.

    Returns: rows in the order of tags, sequence items as "(0008,1140)[0].(0008,1155)"; columns "attribute",
        "before" and "after", "" where the element is absent. Pixels and file meta information are left out.
    Raises: KitError if either can't be read.
    """
    import pandas as pd

    old, new = (dict(_elements(_read(Path(path)))) for path in (before, after))
    rows = {
        tag: (*(old.get(tag) or new[tag])[:1], *(side[tag][1] if tag in side else "" for side in (old, new)))
        for tag in sorted(old.keys() | new.keys())
        if old.get(tag) != new.get(tag)
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["attribute", "before", "after"]).rename_axis("tag")


def _read(path: Path):
    try:
        return read_dataset(read_bytes(path))
    except KitError as error:
        raise KitError(f"{path}: {error}.") from error


def _elements(dataset) -> Iterator[tuple[str, tuple[str, str]]]:
    for place, element, _ in elements_of(dataset):
        if element.VR != "SQ" and element.keyword != "PixelData":
            value = f"{len(element.value):,} bytes" if isinstance(element.value, bytes) else str(element.value)
            yield place, (element.keyword or element.name, value if len(value) <= _LONGEST else f"{value[: _LONGEST - 1]}…")
