"""Text in the picture itself: warned about, looked for where the extra `ocr` is installed, never painted over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from ...errors import KitError

OCR_MISSING = (
    "Text in the pixels was not looked for: that needs the extra `ocr` (pip install 'primia-kit[ocr]', works offline). "
    "Look at the films before they leave the hospital."
)
_LONGEST_SIDE = 1600


@dataclass(frozen=True)
class TextRegion:
    """A place that looks like writing.

    box: left, top, right, bottom in pixels of the film.
    text, score: what was read, and how surely in [0, 1]; the text may be an identity: it enters no report.
    """

    box: tuple[int, int, int, int]
    text: str
    score: float


def burned_in_warning(dataset) -> str:
    """What BurnedInAnnotation (0028,0301) is worth: a warning, "" only if it says NO.

    NO is a claim by the sender, not a finding. Films with a name in their pixels commonly lack the attribute.
    """
    told = str(dataset.get("BurnedInAnnotation") or "").strip().upper()
    if told == "NO":
        return ""
    if told == "YES":
        return "BurnedInAnnotation (0028,0301) is YES: the pixels hold text that may identify; they were not changed."
    state = "has another value than YES or NO" if told else "is absent"
    return f"BurnedInAnnotation (0028,0301) {state}: the pixels may hold text that identifies; they were not changed."


def ocr_installed() -> bool:
    return find_spec("rapidocr_onnxruntime") is not None


def find_text(pixels: np.ndarray) -> list[TextRegion]:
    """Look for writing in a film, offline, with the models inside rapidocr-onnxruntime's wheel.

    Args:
        pixels: [rows, columns] or [rows, columns, 3] of any number type; of several frames, the first.

    Raises: KitError if the extra `ocr` is not installed.

    It misses text: small, faint, handwritten or turned. Finding nothing proves nothing.
    """
    engine = _engine()
    picture = _as_bytes(pixels)
    step = -(-max(picture.shape[:2]) // _LONGEST_SIDE)
    result, _ = engine(np.ascontiguousarray(np.repeat(picture[::step, ::step, None], 3, axis=2)))
    regions = []
    for corners, text, score in result or ():
        x, y = [point[0] * step for point in corners], [point[1] * step for point in corners]
        regions.append(TextRegion((int(min(x)), int(min(y)), int(max(x)), int(max(y))), text, float(score)))
    return regions


_loaded = None


def _engine():
    global _loaded
    if _loaded is None:
        try:
            from rapidocr_onnxruntime import RapidOCR
        except ImportError as error:
            raise KitError(OCR_MISSING) from error
        _loaded = RapidOCR()
    return _loaded


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    """One gray uint8 picture, stretched to its own 1st and 99th percentile."""
    values = np.asarray(pixels)
    if values.ndim == 4 or (values.ndim == 3 and values.shape[-1] not in (3, 4)):
        values = values[0]
    values = values.astype(np.float32)
    if values.ndim == 3:
        values = values[..., :3].mean(axis=-1)
    low, high = np.percentile(values, (1, 99))
    return (np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def regions_sentence(regions: Iterable[TextRegion], identifies: Callable[[str], bool]) -> str:
    """Where something looks like writing, without what it says; `identifies` tells whether a text names the patient."""
    regions = list(regions)
    if not regions:
        return ""
    known = sum(identifies(region.text) for region in regions)
    own = f", {known} of them with what stood in the header" if known else ""
    return (
        f"Writing in the pixels at {len(regions)} place(s){own}; left, top, right, bottom: "
        f"{'; '.join(str(region.box) for region in regions)}."
    )
