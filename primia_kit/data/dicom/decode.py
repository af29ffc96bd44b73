"""Pixel data to stored bits: the codestream's own size is checked, then one named decoder of pydicom 3 runs."""

from __future__ import annotations

import io
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import JPEGExtended12Bit

from ...errors import KitError
from .codestream import Codestream, join_fragments, jpeg, jpeg2000, tidy_rle
from .guards import check_codestream_size
from .header import Header, reason, said, tag_name
from .overhear import overheard

_SYNTAX = "TransferSyntaxUID (0002,0010)"


@dataclass(frozen=True)
class _Syntax:
    """How a family of transfer syntaxes is decoded.

    plugin: pydicom's name of the decoder. One each, so that a film gives the same pixels everywhere, and a second
        decoder isn't tried on data that the first found damaged.
    package: what to install for it.
    """

    kind: str
    plugin: str = ""
    package: str = ""
    sofs: tuple[int, ...] = ()


_JPEG = _Syntax("JPEG", "pillow", "pillow", (0xC0, 0xC1))
_LOSSLESS = _Syntax("JPEG", "gdcm", "python-gdcm", (0xC3,))
_JPEG_LS = _Syntax("JPEG", "pyjpegls", "pyjpegls", (0xF7,))
_JPEG_2000 = _Syntax("JPEG 2000", "pylibjpeg", "pylibjpeg and pylibjpeg-openjpeg")
SYNTAXES = {
    **dict.fromkeys([f"1.2.840.10008.1.2{tail}" for tail in ("", ".1", ".1.99", ".2")], _Syntax("native")),
    **dict.fromkeys(["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"], _JPEG),
    **dict.fromkeys(["1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"], _LOSSLESS),
    **dict.fromkeys(["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"], _JPEG_LS),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203)], _JPEG_2000),
    "1.2.840.10008.1.2.5": _Syntax("RLE", "pylibjpeg", "pylibjpeg and pylibjpeg-rle"),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Decoded:
    """codes: uint8 or uint16 [rows, columns], each below 2 ** bits; a signed film's are two's complement."""

    codes: np.ndarray
    bits: int
    words: str
    warnings: list[str]


def decode(header: Header) -> Decoded:
    """The film's stored values as unsigned codes of BitsStored bits; bits beside them (overlays, noise) are masked off.

    Needs a header that `check_header` passed. Raises: KitError for a transfer syntax that the kit can't read, a
    codestream of another size than the header's, data that end early or that the decoder refuses.
    """
    syntax = SYNTAXES.get(header.syntax)
    if syntax is None:
        raise KitError(f"{_SYNTAX} is {said(header.syntax.name)}, which the kit can't decode; export the film uncompressed.")
    data, _ = header.raw("PixelData")
    if not data:
        raise KitError(f"{tag_name('PixelData')} is missing or empty, or the file is cut off; there's no picture to read.")
    rows, columns, allocated = (header.whole(k) for k in ("Rows", "Columns", "BitsAllocated"))
    stored = header.whole("BitsStored")
    shift, precision = header.whole("HighBit", stored - 1) + 1 - stored, allocated
    if syntax.kind == "native":
        needed = rows * columns * allocated // 8
        if len(data) < needed:
            raise KitError(
                f"{tag_name('PixelData')} has {len(data):,} bytes where {rows} × {columns} pixels need {needed:,}; it is cut off."
            )
        data = data[: needed + needed % 2]
    else:
        frame = join_fragments(data)
        if syntax.kind == "RLE":
            frame = tidy_rle(frame, rows * columns, allocated // 8)
        else:
            own = jpeg(frame, syntax.sofs) if syntax.kind == "JPEG" else jpeg2000(frame)
            _check_own_size(own, rows, columns, allocated, len(frame))
            shift, precision = 0, own.bits
            if header.syntax == JPEGExtended12Bit and precision > 8:
                raise KitError(
                    f"{_SYNTAX} is JPEG Extended of 12 bits, which the kit can't decode; export the film uncompressed."
                )
        data = encapsulate([frame])  # so that exactly what was checked is decoded, whatever an offset table says
    raw, warnings = _run(header, syntax, data, rows, columns, allocated, stored)
    bits, more = (stored, []) if syntax.kind in ("native", "RLE") else _bits_in_use(raw, stored, precision)
    codes = (raw >> raw.dtype.type(shift)) & raw.dtype.type(2**bits - 1) if shift or bits < 8 * raw.itemsize else raw
    words = f"decoded {header.syntax.name}: {rows} rows, {columns} columns"
    return Decoded(codes, bits, words, warnings + more)


def _check_own_size(own: Codestream, rows: int, columns: int, allocated: int, length: int) -> None:
    if (own.rows, own.columns) != (rows, columns):
        its = f"a codestream of {own.rows:,} × {own.columns:,} pixels"
        raise KitError(
            f"{tag_name('Rows')} and {tag_name('Columns')} say {rows:,} × {columns:,}, but PixelData (7FE0,0010) has {its}."
        )
    if own.components != 1:
        raise KitError(f"{tag_name('PixelData')} has a codestream of {own.components} components; a film has one.")
    if own.bits > allocated:
        raise KitError(
            f"{tag_name('PixelData')} has a codestream of {own.bits} bits, more than BitsAllocated (0028,0100), {allocated}."
        )
    check_codestream_size(rows * columns, length)


def _run(
    header: Header, syntax: _Syntax, data: bytes, rows: int, columns: int, allocated: int, stored: int
) -> tuple[np.ndarray, list[str]]:
    decoder = get_decoder(header.syntax)
    if syntax.plugin and syntax.plugin not in decoder.available_plugins:
        raise KitError(f"{_SYNTAX} is {said(header.syntax.name)}; to read it, install {syntax.package}.")
    try:
        with overheard() if syntax.plugin == "gdcm" else nullcontext([]) as heard:
            array, _ = decoder.as_array(
                io.BytesIO(data), index=0, raw=True, correct_unused_bits=False, decoding_plugin=syntax.plugin, rows=rows,
                columns=columns, number_of_frames=1, samples_per_pixel=1, photometric_interpretation="MONOCHROME2",
                bits_allocated=allocated, bits_stored=stored, pixel_representation=0, pixel_keyword="PixelData",
                pixel_vr=header.raw("PixelData")[1] or "OW",
            )  # fmt: skip
    except Exception as error:  # decoders raise anything
        detail = reason(error).removeprefix("Unable to decode as exceptions were raised by all available plugins: ")
        raise KitError(f"{tag_name('PixelData')} can't be decoded as {header.syntax.name} ({detail}).") from error
    if array.shape != (rows, columns):
        raise KitError(f"{tag_name('PixelData')} became {array.shape} instead of {rows} × {columns} pixels.")
    damage = [line for line in heard if "extraneous bytes" not in line]
    if damage:
        raise KitError(f"{tag_name('PixelData')} is damaged; the decoder says {said(damage[0])}.")
    warnings = [f"{tag_name('PixelData')} has stray bytes; the decoder says {said(line)}." for line in heard[:1]]
    return array.astype(array.dtype.newbyteorder("="), copy=False).view(f"u{array.itemsize}"), warnings


def _bits_in_use(raw: np.ndarray, stored: int, precision: int) -> tuple[int, list[str]]:
    """BitsStored, or the codestream's precision where values don't fit into BitsStored (as unsigned or sign-extended)."""
    signed = raw.view(f"i{raw.itemsize}")
    half = 2 ** (stored - 1)
    if precision <= stored or int(raw.max()) < 2 * half or (int(signed.min()) >= -half and int(signed.max()) < half):
        return stored, []
    return precision, [f"{tag_name('BitsStored')} is {stored}, but the codestream has values of {precision} bits; all were kept."]
