"""A film's pixels: decoded once within bounds, to compare and to check, and cleaned of what isn't picture."""

from __future__ import annotations

import io
import warnings
from contextlib import nullcontext

import numpy as np

from ...errors import KitError
from ..dicom.codestream import join_fragments, jpeg, jpeg2000, tidy_rle
from ..dicom.decode import SYNTAXES
from ..dicom.guards import MAX_PIXELS, check_codestream_size
from ..dicom.overhear import overheard
from .jpeg import strip_jpeg, strip_jpeg2000
from .profile import Change

_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_HIDDEN = (
    "an overlay lies in unused bits of its compressed pixels, or something else that viewers don't show; store the film "
    "uncompressed first"
)


class _Layout:
    """How the header says that the pixels are stored (PS3.5 8)."""

    def __init__(self, dataset) -> None:
        try:
            self.rows, self.columns = int(dataset.Rows), int(dataset.Columns)
            self.samples, self.frames = int(dataset.get("SamplesPerPixel") or 1), int(dataset.get("NumberOfFrames") or 1)
            self.allocated, self.stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
            self.high, self.signed = int(dataset.HighBit), bool(int(dataset.get("PixelRepresentation") or 0))
            self.syntax = str(dataset.file_meta.TransferSyntaxUID)
        except Exception as error:
            raise KitError("its image attributes (group 0028) are incomplete") from error
        total = self.rows * self.columns * self.samples * self.frames
        if min(self.rows, self.columns, self.samples, self.frames) < 1 or total > MAX_PIXELS:
            raise KitError(f"Rows × Columns × samples × frames is {total:,}; a film has at most {MAX_PIXELS:,}")
        if self.allocated not in (1, 8, 16, 32) or not 1 <= self.stored <= self.high + 1 <= self.allocated:
            raise KitError("its BitsAllocated, BitsStored and HighBit (0028,0100 to 0102) don't fit together")
        self.kind = SYNTAXES[self.syntax].kind


def decode(dataset) -> np.ndarray:
    """The stored values of all frames, bits outside the stored ones left out.

    Returns: [rows, columns], with frames before and samples behind where there are several; int where the film is signed.
    Raises: KitError if the header or a codestream claims more than any film has, if the data can't be decoded, or if
        compressed pixels have bits outside the stored ones: they can't be cleared there, and decoders mask them away.
    """
    layout = _Layout(dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if layout.kind == "native":
            raw, shift = _run(dataset, layout, dataset.PixelData, layout.stored), layout.high + 1 - layout.stored
        else:
            frames, precision = _checked(_frames(dataset, layout), layout)
            raw = _run(dataset, layout, _encapsulated(frames), max(layout.stored, precision))
            shift = layout.high + 1 - layout.stored if layout.kind == "RLE" else 0
            if not _fits(raw, layout, shift, precision):
                raise KitError(_HIDDEN)
    width = 8 * raw.itemsize
    if shift == 0 and layout.stored == width:
        return raw.view(f"i{raw.itemsize}") if layout.signed else raw
    values = raw.view(f"{'i' if layout.signed else 'u'}{raw.itemsize}")
    return (values << (width - layout.stored - shift)) >> (width - layout.stored)  # a signed shift repeats the sign


def _frames(dataset, layout: _Layout) -> list[bytes]:
    from pydicom.encaps import generate_frames

    joined = join_fragments(dataset.PixelData)  # walks the fragments, few as they must be
    if layout.frames == 1:
        return [joined]
    try:
        frames = list(generate_frames(dataset.PixelData, number_of_frames=layout.frames))
    except Exception as error:
        raise KitError(f"its encapsulated frames can't be told apart ({type(error).__name__})") from error
    if len(frames) != layout.frames:
        raise KitError(f"it has {len(frames)} encapsulated frames, but NumberOfFrames (0028,0008) says {layout.frames}")
    return frames


def _checked(frames: list[bytes], layout: _Layout) -> tuple[list[bytes], int]:
    """The frames, each known to decode to no more than the header says; and the bits that their samples have."""
    syntax, precision = SYNTAXES[layout.syntax], layout.allocated
    if layout.kind == "RLE":
        segments = layout.samples * layout.allocated // 8
        return [tidy_rle(frame, layout.rows * layout.columns, segments) for frame in frames], precision
    for number, frame in enumerate(frames):
        own = jpeg(frame, syntax.sofs) if syntax.kind == "JPEG" else jpeg2000(frame)
        if (own.rows, own.columns, own.components) != (
            layout.rows,
            layout.columns,
            layout.samples,
        ) or own.bits > layout.allocated:
            raise KitError(
                "a codestream in PixelData (7FE0,0010) has another size, depth or number of samples than the header says"
            )
        if number and own.bits != precision:
            raise KitError("its frames have different numbers of bits")
        precision = own.bits
        check_codestream_size(layout.rows * layout.columns, len(frame))
    return frames, precision


def _run(dataset, layout: _Layout, data: bytes, stored: int) -> np.ndarray:
    """Decode with the one decoder that the kit names for the transfer syntax, nothing masked or corrected."""
    from pydicom.pixels import get_decoder

    plugin = SYNTAXES[layout.syntax].plugin
    photometric = "MONOCHROME2" if layout.samples == 1 else str(dataset.get("PhotometricInterpretation") or "RGB")
    try:
        with overheard() if plugin == "gdcm" else nullcontext([]) as heard:
            raw, _ = get_decoder(layout.syntax).as_array(
                io.BytesIO(data), raw=True, correct_unused_bits=False, decoding_plugin=plugin, rows=layout.rows,
                columns=layout.columns, number_of_frames=layout.frames, samples_per_pixel=layout.samples,
                planar_configuration=int(dataset.get("PlanarConfiguration") or 0), photometric_interpretation=photometric,
                bits_allocated=layout.allocated, bits_stored=stored, pixel_representation=0, pixel_keyword="PixelData",
                pixel_vr="OB" if dataset["PixelData"].VR == "OB" else "OW",
            )  # fmt: skip
    except Exception as error:  # decoders raise anything on damaged data
        raise KitError(f"its pixel data can't be decoded ({type(error).__name__})") from error
    if any("extraneous bytes" not in line for line in heard):
        raise KitError("its pixel data is damaged: the decoder gives a picture, but complains")
    return raw.astype(raw.dtype.newbyteorder("="), copy=False).view(f"u{raw.itemsize}")


def _fits(raw: np.ndarray, layout: _Layout, shift: int, precision: int) -> bool:
    """Whether only stored bits are set, or all samples of a signed film repeat their sign above them, up to some bit.

    All in one way: zeros above one negative sample and ones above another are a drawing.
    """
    if shift and (raw & raw.dtype.type((1 << shift) - 1)).any():
        return False
    values = raw >> raw.dtype.type(shift)
    if int(values.max()) >> layout.stored == 0:
        return True
    width = 8 * raw.itemsize
    for top in {width - shift, precision} if layout.signed else ():
        if int(values.max()) >> top == 0:
            signed = (values << (width - top)).view(f"i{raw.itemsize}") >> (width - top)
            if int(signed.min()) >= -(1 << layout.stored - 1) and int(signed.max()) < 1 << layout.stored - 1:
                return True
    return False


def clean_pixels(dataset) -> list[Change]:
    """Take away what is no picture, in place; needs a data set that `decode` passed.

    Uncompressed: what follows the last pixel, bits outside the stored ones. Compressed: comments, application data,
    what follows a frame's end; the frames are encapsulated anew, since tables of offsets and fragments have room, too.
    """
    layout = _Layout(dataset)
    if layout.kind == "native":
        gone = _trim_native(dataset, layout)
    else:
        if any(e.tag.group & 0xFF00 == 0x6000 and e.tag.element == 0x0102 and e.value for e in dataset):
            raise KitError(_HIDDEN)
        frames = _frames(dataset, layout)
        if layout.kind == "RLE":
            stripped = [(frame, []) for frame in _checked(frames, layout)[0]]
            gone = sorted({"data after the last pixel" for old, (new, _) in zip(frames, stripped) if len(new) < len(old)})
        else:
            stripped = [(strip_jpeg if layout.kind == "JPEG" else strip_jpeg2000)(frame) for frame in frames]
            gone = sorted({what for _, names in stripped for what in names})
        dataset.PixelData = _encapsulated([frame for frame, _ in stripped])
    gone = [f"JPEG segment {what}" if what.startswith(("APP", "COM")) else what for what in gone]
    return [Change("(7FE0,0010)", "PixelData", "kit", f"{what}; the image is unchanged") for what in gone]


def _encapsulated(frames: list[bytes]) -> bytes:
    from pydicom.encaps import encapsulate

    return encapsulate(frames)


def _trim_native(dataset, layout: _Layout) -> list[str]:
    """Cut what follows the last pixel, and clear bits outside the stored ones: old overlays lie there (PS3.5 8.1.1)."""
    from pydicom.pixels.utils import get_expected_length

    gone, data, length = [], dataset.PixelData, get_expected_length(dataset, "bytes")
    if len(data) < length:
        raise KitError(f"its pixel data has {len(data)} bytes, but Rows × Columns ask for {length}")
    if len(data) > length:
        if data[length:].strip(b"\0"):
            gone.append("data after the last pixel")
        data = data[:length] + b"\0" * (length % 2)
    if layout.allocated > 1:
        order = ">" if layout.syntax == _BIG_ENDIAN else "<"
        words = np.frombuffer(data[:length], f"{order}{'i' if layout.signed else 'u'}{layout.allocated // 8}")
        up, down = layout.allocated - 1 - layout.high, layout.allocated - layout.stored
        values = (words << up) >> down  # a signed shift repeats the sign
        clean = values << (layout.high + 1 - layout.stored)
        if not np.array_equal(clean, words):
            gone.append("bits outside the stored ones")
            data = clean.astype(words.dtype).tobytes() + data[length:]
    if len(data) != len(dataset.PixelData) or gone:
        dataset.PixelData = data
    return gone
