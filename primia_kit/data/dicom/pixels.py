"""CR and DX films to numbers, in the standard's order (PS3.3 C.11, PS3.4 N.2).

bounds -> decode -> stored sign and bits -> Modality LUT or rescale -> VOI LUT or window -> inverted once if MONOCHROME1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_propagation

from ...errors import KitError
from ..contrast import faintness
from . import checks, grayscale, polarity
from .decode import decode
from .guards import read_bounded
from .header import Header, parse, reason, tag_name

KEYWORDS = frozenset((*checks.KEYWORDS, *grayscale.KEYWORDS, "PixelData", "PixelPaddingValue", "PixelPaddingRangeLimit"))


@dataclass(frozen=True)
class DicomReport:
    """What was done to a film.

    applied: each step in words, with its numbers, in order.
    warnings: sentences, each naming its tag as `Keyword (gggg,eeee)`.
    """

    applied: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class DicomSteps:
    """A film after each step, every array [rows, columns].

    stored: int32, as the file holds them, with their sign.
    modality: float32, after Modality LUT or rescale, in the header's unit.
    voi: float32 in [0, 1], after VOI LUT or window.
    shown: float32 in [0, 1], 1 is white: `voi`, inverted for MONOCHROME1, padding around the picture black.
    """

    stored: np.ndarray
    modality: np.ndarray
    voi: np.ndarray
    shown: np.ndarray
    report: DicomReport


@dataclass(frozen=True, eq=False)
class _Film:
    """A decoded film: `codes` [rows, columns] are indices into the tables of each step's values.

    background: bool [rows, columns], padding around the picture; None if there is none.
    flat: whether all of it is one gray, and a warning says why.
    """

    codes: np.ndarray
    stored: np.ndarray
    modality: np.ndarray
    voi: np.ndarray
    shown: np.ndarray
    background: np.ndarray | None
    applied: list[str]
    warnings: list[str]
    flat: bool

    def picture(self, table: np.ndarray) -> np.ndarray:
        out = np.empty(self.codes.shape, table.dtype)
        for start in range(0, len(out), 256):  # numpy turns an index array into 64 bits: in strips, that is little
            out[start : start + 256] = table[self.codes[start : start + 256]]
        return out

    def as_shown(self) -> np.ndarray:
        out = self.picture(self.shown)
        if self.background is not None:
            out[self.background] = 0
        return out

    def report(self, shown: np.ndarray) -> DicomReport:
        found = [*self.warnings, *polarity.contradictions(shown)]
        if not self.flat and (faint := faintness(shown)):
            found.append(f"{tag_name('PixelData')}: {faint}.")
        return DicomReport(tuple(self.applied), tuple(dict.fromkeys(found)))


def read_dicom(source: str | Path | bytes, *, window: int = 0) -> tuple[np.ndarray, DicomReport]:
    """A single-frame monochrome chest film as a viewer would show it, in the order of PS3.3 C.11.

    Args:
        source: a file, or its bytes.
        window: which of the header's views to apply: its VOI LUTs count first, then its windows. A film with neither
            is shown from its darkest to its brightest value, and the report says so.

    Returns: float32 [rows, columns] in [0, 1], 1 is white; and what was applied and warned about.
    Raises: KitError, one sentence, if the source isn't such a film or is damaged (`checks_table` lists what is refused).
    """
    film = _film(source, window)
    shown = film.as_shown()
    return shown, film.report(shown)


def dicom_steps(source: str | Path | bytes, *, window: int = 0) -> DicomSteps:
    """A film after each step of `read_dicom`, to look at; same arguments, and `shown` is what `read_dicom` returns.

    Raises: KitError as `read_dicom` does.
    """
    film = _film(source, window)
    pictures = {step: film.picture(getattr(film, step)) for step in ("stored", "modality", "voi")} | {"shown": film.as_shown()}
    return DicomSteps(**pictures, report=film.report(pictures["shown"]))


def _film(source: str | Path | bytes, window: int) -> _Film:
    """Everything up to the tables; the one place where errors become sentences that name the file."""
    name = "the DICOM data" if isinstance(source, bytes | bytearray | memoryview) else str(source)
    try:
        return _steps(parse(read_bounded(source), KEYWORDS), window)
    except KitError as error:
        raise KitError(f"{name}: {error}") from error
    except OSError as error:
        raise KitError(f"{name} can't be read: {error.strerror or reason(error)}.") from error
    except Exception as error:  # parser and decoders raise anything from struct.error to RecursionError on a damaged file
        raise KitError(f"{name}: it can't be read as a DICOM film ({reason(error)}).") from error


def _steps(header: Header, window: int) -> _Film:
    warnings = checks.check_header(header)
    signed = bool(header.whole("PixelRepresentation", 0))
    decoded = decode(header)
    codes, bits = decoded.codes, decoded.bits

    levels = np.arange(2**bits, dtype=np.int32)
    if signed:
        levels[2 ** (bits - 1) :] -= 2**bits  # two's complement
    occurring = _present(codes)
    present = np.unique(levels[occurring])
    stored = f"{bits} of {header.whole('BitsAllocated')} bits stored, {'signed' if signed else 'unsigned'}"
    applied = [decoded.words, f"{stored}: {present[0]} to {present[-1]} in this film"]

    to_modality, words, found = grayscale.modality_step(header, signed)
    modality = to_modality(levels)
    applied.append(words)
    warnings += decoded.warnings + found

    padding = _padding(header, signed)
    low, high, words = _range(padding, present, to_modality)
    # A Modality LUT's output is unsigned, whatever goes into it.
    signed_values = modality.min() < 0 or (signed and not header.items("ModalityLUTSequence"))
    to_gray, voi_words, found = grayscale.voi_step(header, window, signed_values, low, high)
    voi = to_gray(modality).astype(np.float32)
    applied.append(voi_words + (words if "own range" in voi_words else ""))
    warnings += found
    grays = voi[occurring]
    flat = bool(found or len(present) == 1) and grays.min() == grays.max()  # and a warning says so
    if len(present) == 1:
        warnings.append(f"{tag_name('PixelData')} has one value everywhere; there's no picture in it.")

    shown = voi
    if header.text("PhotometricInterpretation").upper() == "MONOCHROME1":
        shown = 1 - voi
        applied.append(f"inverted: {tag_name('PhotometricInterpretation')} is MONOCHROME1, the lowest value is white")
    background = _background(codes, levels, padding)
    if background is not None:
        applied.append(f"padding around the picture ({padding[0]} to {padding[1]}, {background.mean():.1%} of it) shown black")
    return _Film(codes, levels, modality.astype(np.float32), voi, shown, background, applied, warnings, flat)


def _background(codes: np.ndarray, levels: np.ndarray, padding: tuple[int, int] | None) -> np.ndarray | None:
    """Padding that reaches the picture's border. Inside the picture the same value may be a saturated pixel."""
    if not padding:
        return None
    padded = ((levels >= padding[0]) & (levels <= padding[1]))[codes]
    border = np.zeros_like(padded)
    border[[0, -1]], border[:, [0, -1]] = padded[[0, -1]], padded[:, [0, -1]]
    if not border.any() or padded.all():
        return None
    return binary_propagation(border, mask=padded)


def _present(codes: np.ndarray) -> np.ndarray:
    """Which codes occur, in order."""
    seen = np.zeros(65536, bool)
    for start in range(0, len(codes), 256):
        seen[codes[start : start + 256]] = True
    return np.flatnonzero(seen)


def _range(padding: tuple[int, int] | None, present: np.ndarray, to_modality) -> tuple[float, float, str]:
    """The film's lowest and highest modality value, padding (PS3.3 C.7.5.1.1.2) left out; and a note if some was."""
    words = ""
    if padding:
        inside = present[(present < padding[0]) | (present > padding[1])]
        if 0 < len(inside) < len(present):
            present, words = inside, f" (padding, {padding[0]} to {padding[1]}, left out of the range)"
    values = to_modality(present)
    return float(values.min()), float(values.max()), words


def _padding(header: Header, signed: bool) -> tuple[int, int] | None:
    ends = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        data, _ = header.raw(keyword)  # its representation is ambiguous: PixelRepresentation decides
        if len(data) == 2:
            order = "<" if header.syntax.is_little_endian else ">"
            ends.append(int(np.frombuffer(data, order + ("i2" if signed else "u2"))[0]))
    return (min(ends), max(ends)) if ends and "PixelPaddingValue" in header else None
