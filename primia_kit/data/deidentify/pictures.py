"""PNG, JPEG, TIFF and BMP: the pixels go on, everything written beside them stays behind."""

from __future__ import annotations

import io
import zlib

import numpy as np
from PIL import Image

from ...errors import KitError
from ..dicom.guards import MAX_PIXELS
from .jpeg import strip_jpeg
from .profile import Change

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "BMP": ".bmp"}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TIFF_NEEDED = {  # TIFF 6.0: size, depth, colour, strips and tiles, resolution, predictor
    256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 282, 283, 284, 296, 317, 320, 322, 323, 324, 325, 338, 339,
}  # fmt: skip
_PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


def clean_picture(content: bytes) -> tuple[bytes, str, np.ndarray, list[Change]]:
    """A picture without metadata, its pixels unchanged.

    PNG keeps its IHDR, PLTE, tRNS and IDAT chunks, JPEG all but its comments and application data: neither is
    decoded and coded again. TIFF and BMP are written anew from their pixels, without loss.

    Returns: (new file, its suffix, the pixels, what was removed; never its value).
    Raises: KitError if the file is none of the four, holds several pages, or is damaged.
    """
    kind, pixels = _decode(content)
    if kind == "PNG":
        new, gone = _clean_png(content)
    elif kind == "JPEG":
        new, gone = strip_jpeg(content)
        gone = sorted(set(gone))
    else:
        new, gone = _write_again(content, kind)
    if not np.array_equal(_decode(new)[1], pixels):
        raise KitError("its pixels would not survive the removal of its metadata")
    return new, SUFFIXES[kind], pixels, [Change(what, "", "kit", f"beside the pixels of a {kind}") for what in gone]


def texts_beside(content: bytes) -> list[str]:
    """Every text that Pillow finds beside the pixels (comments, EXIF, PNG text): what must not be found again."""
    try:
        with Image.open(io.BytesIO(content), formats=list(SUFFIXES)) as image:
            values = [*image.info.values(), *image.getexif().values(), *getattr(image, "tag_v2", {}).values()]
    except Exception:  # damaged metadata: the cleaning itself says what is wrong with the file
        return []
    texts = [value.decode("latin-1") if isinstance(value, bytes) else value for value in values]
    return [text.strip("\0 ") for text in texts if isinstance(text, str) and text.strip("\0 ").isprintable()]


def _decode(content: bytes) -> tuple[str, np.ndarray]:
    try:
        with Image.open(io.BytesIO(content), formats=list(SUFFIXES)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise KitError("it claims more pixels than any film has")
            if image.format == "TIFF" and image.n_frames != 1:
                raise KitError(f"it has {image.n_frames} pages; a film has one")
            kind = "JPEG" if image.format == "MPO" else image.format  # a JPEG with more JPEGs behind its end
            return kind, np.asarray(image)
    except KitError:
        raise
    except Image.DecompressionBombError as error:
        raise KitError("it claims more pixels than any film has") from error
    except Exception as error:  # Pillow's plug-ins raise anything on damaged data
        raise KitError("it is neither DICOM nor a PNG, JPEG, TIFF or BMP that can be read") from error


def _clean_png(content: bytes) -> tuple[bytes, list[str]]:
    kept, gone, at = [_PNG_SIGNATURE], [], len(_PNG_SIGNATURE)
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        name = content[at + 4 : at + 8]
        if end > len(content) or zlib.crc32(content[at + 4 : end - 4]) != int.from_bytes(content[end - 4 : end], "big"):
            raise KitError("its PNG chunks are damaged")
        if name in _PNG_KEPT:
            kept.append(content[at:end])
        else:
            known = name.decode("latin-1") if name in _KNOWN_CHUNKS else "of an unknown kind"
            gone.append(f"PNG chunk {known}")
        at = end
        if name == b"IEND":
            break
    if content[at:]:
        gone.append("data after the end")
    return b"".join(kept), sorted(set(gone))


_KNOWN_CHUNKS = {b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"tIME", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD"}


def _write_again(content: bytes, kind: str) -> tuple[bytes, list[str]]:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        gone = []
        if kind == "TIFF":
            gone = [f"TIFF tag {tag}" for tag in sorted(set(image.tag_v2) - _TIFF_NEEDED)]
        bare = Image.frombytes(image.mode, image.size, image.tobytes())
        if image.mode == "P":
            bare.putpalette(image.getpalette())
    stream = io.BytesIO()
    options = {"compression": "tiff_adobe_deflate"} if kind == "TIFF" else {}
    bare.save(stream, format=kind, **options)
    return stream.getvalue(), [*gone, "everything but the pixels (written anew)"]
