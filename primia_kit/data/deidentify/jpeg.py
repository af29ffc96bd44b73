"""Comments and application data inside JPEG, JPEG-LS and JPEG 2000 codestreams, removed without decoding.

ISO/IEC 10918-1 annex B (JPEG), 14495-1 annex C (JPEG-LS), 15444-1 annex A (JPEG 2000). Entropy-coded data,
tables and frame headers stay byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import KitError

_STANDALONE = {0x01, *range(0xD0, 0xD8)}
_MOST_SEGMENTS = 100_000  # fill bytes count as one each
_ADOBE, _JFIF = b"Adobe", b"JFIF\0"


def strip_jpeg(stream: bytes) -> tuple[bytes, list[str]]:
    """A JPEG or JPEG-LS stream without comments, application data, thumbnails and anything after its end.

    Adobe's APP14 (its 12 bytes tell the colour transform), JPEG-LS's APP8 colour transform and a bare JFIF
    header stay: decoders need them.

    Returns: (stream, what went: "COM", "APP1", "data after the end", …).
    Raises: KitError if the stream's segments can't be followed to its end.
    """
    kept, gone, end = [b"\xff\xd8"], [], 2
    if stream[:2] != b"\xff\xd8":
        raise KitError("its JPEG data doesn't start with SOI")
    for marker, start, end in _segments(stream):
        body = stream[start + 4 : end]
        name = "COM" if marker == 0xFE else f"APP{marker - 0xE0}" if 0xE0 <= marker <= 0xEF else ""
        if not name:
            kept.append(stream[start:end])
            continue
        needed = b""
        if marker == 0xE0 and body.startswith(_JFIF) and len(body) >= 14:
            needed = body[:12] + b"\0\0"  # width and height of the thumbnail
        elif marker == 0xEE and body.startswith(_ADOBE) and len(body) >= 12:
            needed = body[:12]
        elif marker == 0xE8 and body[:4] == b"mrfx" and len(body) >= 5:
            needed = body[:5]
        if needed:
            kept.append(bytes([0xFF, marker]) + (len(needed) + 2).to_bytes(2, "big") + needed)
        if needed != body:
            gone.append(name)
    if stream[end:].strip(b"\0\xff"):
        gone.append("data after the end")
    return b"".join(kept), gone


def _segments(stream: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment after SOI; a scan's coded data belongs to its SOS, the last is EOI."""
    at = found = 2
    while at + 2 <= len(stream):
        found += 1
        if stream[at] != 0xFF or found > _MOST_SEGMENTS:
            raise KitError("its JPEG segments can't be followed, or are too many")
        marker = stream[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xD9:
            yield marker, at, at + 2
            return
        if marker in _STANDALONE:
            yield marker, at, at + 2
            at += 2
            continue
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if end < at + 4 or end > len(stream):
            break
        if marker == 0xDA:
            end = _end_of_scan(stream, end)
        yield marker, at, end
        at = end
    raise KitError("its JPEG data stops before its end")


def _end_of_scan(stream: bytes, at: int) -> int:
    """Where the next marker starts. After 0xFF, bytes below 0x80 are stuffing (JPEG: 0, JPEG-LS: 7 bits)."""
    while (at := stream.find(b"\xff", at)) >= 0 and at + 1 < len(stream):
        following = stream[at + 1]
        if following >= 0x80 and following not in _STANDALONE and following != 0xFF:
            return at
        at += 1 if following == 0xFF else 2
    raise KitError("its JPEG data stops inside a scan")


def strip_jpeg2000(stream: bytes) -> tuple[bytes, list[str]]:
    """A bare JPEG 2000 codestream without comments; JP2 boxes around it go (PS3.5 A.4.4 wants none).

    COM segments of the main header are removed. One in a tile-part header is overwritten with spaces in its
    length, since the tile-part's length is written elsewhere.

    Raises: KitError if the codestream can't be followed.
    """
    gone = []
    if stream[4:8] == b"jP  ":
        stream = _codestream_of_jp2(stream)
        gone.append("JP2 boxes")
    if stream[:2] != b"\xff\x4f":
        raise KitError("its JPEG 2000 data doesn't start with SOC")
    out, at = bytearray(b"\xff\x4f"), 2
    while (marker := stream[at : at + 2]) != b"\xff\x90":  # SOT: the main header is over
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker[:1] != b"\xff" or end < at + 4 or end > len(stream):
            raise KitError("its JPEG 2000 header can't be followed")
        if marker == b"\xff\x64":
            gone.append("COM")
        else:
            out += stream[at:end]
        at = end
    while stream[at : at + 2] == b"\xff\x90":
        length = int.from_bytes(stream[at + 6 : at + 10], "big")
        part = bytearray(stream[at : at + length] if length else stream[at:])
        if len(part) < 12 or len(part) < length:
            raise KitError("its JPEG 2000 data stops inside a tile")
        if _blank_tile_comments(part):
            gone.append("COM in a tile")
        out += part
        at += len(part)
    if stream[at : at + 2] == b"\xff\xd9":
        out += b"\xff\xd9"
        if stream[at + 2 :].strip(b"\0"):
            gone.append("data after the end")
    return bytes(out), gone


def _blank_tile_comments(part: bytearray) -> bool:
    at, found = 12, False
    while at + 4 <= len(part) and part[at : at + 2] != b"\xff\x93":  # SOD: coded data follow
        end = at + 2 + int.from_bytes(part[at + 2 : at + 4], "big")
        if part[at] != 0xFF or end < at + 4 or end > len(part):
            raise KitError("its JPEG 2000 tile header can't be followed")
        if part[at + 1] == 0x64:
            part[at + 6 : end] = b" " * (end - at - 6)
            found = True
        at = end
    return found


def _codestream_of_jp2(stream: bytes) -> bytes:
    at = 0
    while at + 8 <= len(stream):
        length, kind = int.from_bytes(stream[at : at + 4], "big"), stream[at + 4 : at + 8]
        body = at + 8
        if length == 1:
            length, body = int.from_bytes(stream[at + 8 : at + 16], "big"), at + 16
        end = at + length if length else len(stream)
        if kind == b"jp2c":
            return stream[body:end]
        if end <= at:
            break
        at = end
    raise KitError("its JP2 boxes hold no codestream")
