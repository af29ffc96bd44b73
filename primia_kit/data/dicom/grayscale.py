"""From stored values to gray: Modality LUT and VOI LUT (PS3.3 C.11.1 and C.11.2), as functions of one value.

A film of up to 16 bits has at most 65,536 different values, so each step works on the table of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...errors import KitError
from .header import Header, said, tag_name

KEYWORDS = (
    "ModalityLUTSequence", "RescaleIntercept", "RescaleSlope", "RescaleType", "VOILUTSequence", "VOILUTFunction",
    "WindowCenter", "WindowWidth",
)  # fmt: skip
Step = Callable[[np.ndarray], np.ndarray]


def window(x: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """A VOI window (PS3.3 C.11.2.1.2 and C.11.2.1.3) with the output range [0, 1].

    LINEAR: 0 up to c - 0.5 - (w - 1) / 2, 1 above c - 0.5 + (w - 1) / 2, (x - (c - 0.5)) / (w - 1) + 0.5 between;
    w = 1 is a threshold. LINEAR_EXACT: the same with c and w. SIGMOID: 1 / (1 + exp(-4 (x - c) / w)).

    Returns: float64, shaped like x.
    Raises: KitError for another function, w < 1 with LINEAR, w <= 0 with the others.
    """
    x = np.asarray(x, np.float64)
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise KitError(f"{tag_name('VOILUTFunction')} is {said(function)}; the standard has LINEAR, LINEAR_EXACT and SIGMOID.")
    if not np.isfinite([center, width]).all() or (width < 1 if function == "LINEAR" else width <= 0):
        least = "at least 1" if function == "LINEAR" else "greater than 0"
        raise KitError(f"{tag_name('WindowWidth')} is {width:g}; a {function} window's width is {least}.")
    with np.errstate(over="ignore"):  # exp of a value far outside the window: 1 / inf is the right 0
        if function == "SIGMOID":
            return 1 / (1 + np.exp(-4 * (x - center) / width))
        if function == "LINEAR":
            center, width = center - 0.5, width - 1
        ramp = np.clip((x - center) / width + 0.5, 0, 1) if width else np.zeros_like(x)
    return np.where(x <= center - width / 2, 0, np.where(x > center + width / 2, 1, ramp))


@dataclass(frozen=True, eq=False)
class LookUpTable:
    """A LUT of a Modality or VOI LUT Sequence.

    entries: integers [n], each below 2 ** bits; `first` is the input that the first of them belongs to. Inputs below
    it give the first entry, those beyond the last one give the last (PS3.3 C.11.1.1.1, C.11.2.1.1).
    fault: a warning if the descriptor said another number of bits, as some devices do, and the entries decided.
    """

    first: int
    bits: int
    entries: np.ndarray
    fault: str = ""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        place = np.clip(np.rint(x) - self.first, 0, len(self.entries) - 1)
        return self.entries[place.astype(np.int64)].astype(np.float64)


def read_lut(item: Header, signed: bool, *, voi: bool = False) -> LookUpTable:
    """From LUTDescriptor (0028,3002) and LUTData (0028,3006).

    Args:
        signed: whether the values that go in can be negative; then so can the first value mapped be.
        voi: a VOI LUT, where the number of bits says which entry is white.

    Entries of 8 bits may lie two in a word. Raises: KitError for a table that doesn't fit its descriptor.
    """
    order = "<" if item.syntax.is_little_endian else ">"
    described, representation = item.raw("LUTDescriptor")
    if len(described) != 6:
        raise KitError(f"{tag_name('LUTDescriptor')} has {len(described)} bytes; it is three numbers of two bytes.")
    count, first, bits = (int(word) for word in np.frombuffer(described, order + "u2"))
    count = count or 65536
    if (signed or representation == "SS") and first >= 32768:
        first -= 65536
    if not 8 <= bits <= 16:
        raise KitError(f"{tag_name('LUTDescriptor')} says {bits} bits an entry; the standard has 8 to 16.")
    data, representation = item.raw("LUTData")
    if len(data) == 2 * count:
        entries = np.frombuffer(data, order + "u2").astype(np.uint16)
    elif bits == 8 and len(data) == count + count % 2:
        if order == ">" and representation == "OW":
            data = np.frombuffer(data, ">u2").astype("<u2").tobytes()
        entries = np.frombuffer(data, np.uint8)[:count].astype(np.uint16)
    else:
        raise KitError(f"{tag_name('LUTData')} has {len(data):,} bytes, which aren't the {count:,} entries of its LUTDescriptor.")
    needed, fault = int(entries.max()).bit_length(), ""
    if needed > bits or (voi and bits == 16 and 8 <= needed <= 12):  # some devices say a word's size, or a stored value's
        fault = f"{tag_name('LUTDescriptor')} says {bits} bits, its entries reach {entries.max()}: read as {needed} bits."
        bits = needed
    return LookUpTable(first, bits, entries, fault)


def modality_step(header: Header, signed: bool) -> tuple[Step, str, list[str]]:
    """Stored to modality values: the Modality LUT, else rescale slope and intercept, else as they are.

    Returns: the function, what it does in words, warnings. Raises: KitError for illegal values.
    """
    items = header.items("ModalityLUTSequence")
    slopes, intercepts = header.numbers("RescaleSlope"), header.numbers("RescaleIntercept")
    if items:
        lut = read_lut(items[0], signed)
        said_twice = (
            f"{tag_name('RescaleSlope')} stands beside {tag_name('ModalityLUTSequence')}, which excludes it; the LUT was used."
        )
        words = f"Modality LUT {tag_name('ModalityLUTSequence')} of {len(lut.entries)} entries from {lut.first}, {lut.bits} bits"
        return lut, words, [lut.fault] * bool(lut.fault) + [said_twice] * bool(slopes or intercepts)
    if not slopes and not intercepts:
        return lambda x: np.asarray(x, np.float64), "no Modality LUT and no rescale: values as stored", []
    slope, intercept = (slopes or [1.0])[0], (intercepts or [0.0])[0]
    if slope == 0 or max(abs(slope), abs(intercept)) > 1e30:
        raise KitError(f"{tag_name('RescaleSlope')} is {slope:g} with the intercept {intercept:g}; that leaves no picture.")
    unit = header.text("RescaleType")
    words = f"rescale: stored value × {slope:g} + {intercept:g}{f', in {said(unit)}' if unit else ''}"
    alone = [] if slopes and intercepts else [f"{tag_name('RescaleSlope')} and RescaleIntercept belong together; one is missing."]
    return lambda x: np.asarray(x, np.float64) * slope + intercept, words, alone


def voi_step(header: Header, index: int, signed: bool, low: float, high: float) -> tuple[Step, str, list[str]]:
    """Modality values to [0, 1]: the VOI LUT or window number `index`, counting LUTs first, then windows.

    Args:
        signed: whether modality values can be negative.
        low, high: the film's own range of modality values, used where the header has neither LUT nor window.

    Returns: the function, what it does in words, warnings. Raises: KitError for an illegal one, or none of that number.
    """
    items, function = header.items("VOILUTSequence"), header.text("VOILUTFunction").upper() or "LINEAR"
    centers, widths = header.numbers("WindowCenter"), header.numbers("WindowWidth")
    if len(centers) != len(widths):
        raise KitError(
            f"{tag_name('WindowCenter')} has {len(centers)} values and {tag_name('WindowWidth')} {len(widths)}; they go in pairs."
        )
    views = len(items) + len(centers)
    if not 0 <= index < max(views, 1):
        names = f"{tag_name('VOILUTSequence')} has {len(items)} LUTs and {tag_name('WindowCenter')} {len(centers)} windows"
        raise KitError(f"{names}, so there's no window {index}: choose from 0 to {max(views, 1) - 1}.")
    if not views:
        words = f"no VOI LUT and no window: the film's own range, {low:g} to {high:g}, became 0 to 1"
        span = high - low
        return lambda x: np.clip((np.asarray(x, np.float64) - low) / span, 0, 1) if span else np.zeros(np.shape(x)), words, []
    chosen = f"{index + 1} of {views}"
    if index < len(items):
        lut = read_lut(items[index], signed, voi=True)
        words = f"VOI LUT ({chosen}) of {len(lut.entries)} entries from {lut.first}, {lut.bits} bits"
        outside = high < lut.first or low >= lut.first + len(lut.entries)
        step, tag = (lambda x: lut(x) / (2**lut.bits - 1)), tag_name("VOILUTSequence")
    else:
        center, width = centers[index - len(items)], widths[index - len(items)]
        window(np.zeros(1), center, width, function)  # complains now if it's illegal
        words = f"window ({chosen}), {function}: center {center:g}, width {width:g}"
        outside = high < center - width / 2 or low > center + width / 2
        step, tag = (lambda x: window(x, center, width, function)), tag_name("WindowCenter")
    found = [lut.fault] if index < len(items) and lut.fault else []
    reach = f"{tag}: view {chosen} lies outside the film's values, {low:g} to {high:g}; the picture is flat."
    return step, words, [*found, reach] if outside else found
