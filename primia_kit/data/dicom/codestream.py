"""What a compressed frame says of itself: its own rows, columns and bits, read before a decoder sees it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

from ...errors import KitError

MAX_FRAGMENTS = 4096
MAX_TILES = 1024  # decoders keep kilobytes for each
_DATA = "PixelData (7FE0,0010)"
_ITEM, _END = 0xFFFEE000, 0xFFFEE0DD


@dataclass(frozen=True)
class Codestream:
    """rows, columns, components and bits (precision) as the codestream has them."""

    rows: int
    columns: int
    components: int
    bits: int


def join_fragments(data: bytes) -> bytes:
    """The one frame of encapsulated pixel data (PS3.5 A.4): all fragments, without the offset table.

    Raises: KitError if the items are damaged or too many.
    """
    position, fragments = 0, []
    while position + 8 <= len(data):
        group, element, length = struct.unpack_from("<HHL", data, position)
        tag, position = group << 16 | element, position + 8
        if tag == _END:
            break
        if tag != _ITEM or length > len(data) - position:
            raise KitError(f"{_DATA} is damaged: fragment {len(fragments)} is no item, or longer than the data.")
        if len(fragments) > MAX_FRAGMENTS:
            raise KitError(f"{_DATA} has more than {MAX_FRAGMENTS} fragments; a film of one frame has a few.")
        fragments.append(data[position : position + length])
        position += length
    frame = b"".join(fragments[1:])  # the first item is the offset table
    if not frame:
        raise KitError(f"{_DATA} holds no compressed frame.")
    return frame


def jpeg(frame: bytes, sofs: tuple[int, ...]) -> Codestream:
    """From the frame header (SOFn) of JPEG (ITU-T T.81 B.2.2) or JPEG-LS (SOF55, T.87 C.2.2).

    Args:
        sofs: the SOF markers' second bytes that the transfer syntax allows.

    Raises: KitError if there's none before the scan, another kind, or more than one.
    """
    if frame[:2] != b"\xff\xd8":
        raise KitError(f"{_DATA} has no JPEG codestream, though the transfer syntax says so.")
    found, position = [], 2
    while position + 4 <= len(frame):
        if frame[position] != 0xFF:
            raise KitError(f"{_DATA} has a damaged JPEG codestream: no marker at byte {position}.")
        marker = frame[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xDA:  # start of scan
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without length: none has a place here
            raise KitError(f"{_DATA} has a damaged JPEG codestream: marker FF{marker:02X} in its header.")
        (length,) = struct.unpack_from(">H", frame, position + 2)
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            if marker not in sofs:
                raise KitError(f"{_DATA} has another kind of JPEG (marker FF{marker:02X}) than the transfer syntax says.")
            if position + 10 > len(frame):
                break
            bits, rows, columns, components = struct.unpack_from(">BHHB", frame, position + 4)
            found.append(Codestream(rows, columns, components, bits))
        position += 2 + length
    if len(found) != 1:
        raise KitError(f"{_DATA} has {len(found)} JPEG frame headers where one belongs; it is damaged or cut off.")
    return found[0]


def jpeg2000(frame: bytes) -> Codestream:
    """From the SIZ segment of JPEG 2000 or HTJ2K (ITU-T T.800 A.5.1), in JP2 boxes or bare.

    Raises: KitError if it's missing, or describes more than one component at full resolution in few tiles.
    """
    start = _jp2_codestream(frame) if frame[4:8] == b"jP  " else 0
    head = frame[start : start + 49]
    if head[:4] != b"\xff\x4f\xff\x51" or len(head) < 45:
        raise KitError(f"{_DATA} has no JPEG 2000 codestream, though the transfer syntax says so.")
    right, bottom, left, top, width, height, tiles_left, tiles_top = struct.unpack_from(">8L", head, 8)
    components, depth, across, down = struct.unpack_from(">HBBB", head, 40)
    if (
        not width
        or not height
        or (across, down) != (1, 1)
        or left >= right
        or top >= bottom
        or tiles_left > left
        or tiles_top > top
    ):
        raise KitError(f"{_DATA} has a JPEG 2000 codestream whose size segment makes no sense.")
    tiles = -(-(right - tiles_left) // width) * -(-(bottom - tiles_top) // height)
    if tiles > MAX_TILES:
        raise KitError(f"{_DATA} has a JPEG 2000 codestream of {tiles:,} tiles; a film has at most {MAX_TILES}.")
    return Codestream(bottom - top, right - left, components, (depth & 0x7F) + 1)


def _jp2_codestream(frame: bytes) -> int:
    position = 0
    for _ in range(32):
        if position + 8 > len(frame):
            break
        length, kind = struct.unpack_from(">L4s", frame, position)
        if kind == b"jp2c":
            return position + (16 if length == 1 else 8)
        if length < 8:
            break
        position += length
    return len(frame)


def tidy_rle(frame: bytes, pixels: int, bytes_allocated: int) -> bytes:
    """An RLE frame (PS3.5 G) that is known to decode to `pixels` samples: RLE has no dimensions of its own.

    Each segment is walked packet by packet without being decoded, and cut off where its pixels end: the decoder
    panics, with words on stderr, on a segment that goes on.

    Raises: KitError unless there's one segment for each byte of a sample, in order, and each holds `pixels` bytes.
    """
    if len(frame) < 64:
        raise KitError(f"{_DATA} is too short for an RLE header of 64 bytes.")
    count, *offsets = struct.unpack_from("<16L", frame)
    bounds = [*offsets[:count], len(frame)]
    if count != bytes_allocated or bounds[0] != 64 or any(a >= b for a, b in pairwise(bounds)):
        says = f"{count} segments, where BitsAllocated (0028,0100) asks for {bytes_allocated}"
        raise KitError(f"{_DATA} has an RLE header that doesn't fit: {says}, or they are out of order.")
    segments = []
    for begin, end in pairwise(bounds):
        position, left = begin, pixels
        while left > 0 and position < end:
            head = frame[position]
            if head < 128:  # head + 1 bytes as they are
                left -= head + 1
                position += head + 2
            elif head > 128:  # the next byte, 257 - head times
                left -= 257 - head
                position += 2
            else:  # no operation
                position += 1
        if left or position > end:
            raise KitError(f"{_DATA} has an RLE segment that doesn't hold {pixels:,} bytes; it is damaged or cut off.")
        segment = frame[begin:position]
        segments.append(segment + b"\x80" * (len(segment) % 2))  # padded by a packet that does nothing
    starts = [64 + sum(map(len, segments[:n])) for n in range(count)]
    return struct.pack("<16L", count, *starts, *[0] * (15 - count)) + b"".join(segments)
