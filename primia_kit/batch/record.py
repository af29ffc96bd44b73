"""A notebook's results, carried in its own outputs: the notebook needs to know nothing of where it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import KitError

MIME_TYPE = "application/vnd.primia-kit.result+json"


def record(results: Mapping[str, Any]) -> None:
    """Hand a notebook's results to whoever runs it: `primia run` writes them to `result.json`.

    Args:
        results: flat names -> numbers, texts or truth values. NaN (not defined) becomes null.

    Raises: KitError for a value of another kind.
    """
    from IPython.display import display

    plain = {str(name): _plain(name, value) for name, value in results.items()}
    display({MIME_TYPE: plain, "text/plain": f"{len(plain)} results recorded"}, raw=True)


def recorded(notebook) -> dict[str, Any]:
    """The results that an executed notebook (an nbformat node) recorded, merged in order."""
    results: dict[str, Any] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            results.update(output.get("data", {}).get(MIME_TYPE, {}))
    return results


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, (str, bool)) or value is None:
        return value
    value = value.item() if hasattr(value, "item") else value  # numpy and torch scalars
    if isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    raise KitError(f"Result {name!r} is a {type(value).__name__}; record numbers, texts and truth values under flat names.")
