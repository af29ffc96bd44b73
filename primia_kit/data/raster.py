"""PNG, JPEG, TIFF and BMP films to numbers; whatever leaves their meaning open is refused.

What Pillow converts stays as Pillow does it: palettes and colour become gray by ITU-R 601 luma. Gray of
more than 8 bits, which Pillow would clip, is scaled here.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import KitError

RASTER_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
LARGEST = 100_000_000  # pixels; the largest detectors have about 20 million
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF 6.0, section 8
_WHITE_IS_ZERO = 0
_ORIENTATION = 274  # TIFF 6.0 and EXIF 2.3


def read_raster(path: Path) -> np.ndarray:
    """Decode a picture.

    A camera's or scanner's orientation tag (EXIF) is obeyed, as viewers do. Transparent parts are black.

    Returns: float32 [rows, columns] in [0, 1], 1 is white.
    Raises: KitError, one sentence that names the file, for another format, several pages, more than
        100 million pixels, gray whose range isn't known, and damaged files.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's on size (checked below) and on damaged tags (the decoder's to judge)
            # A stream, no name: Pillow maps named TIFF files, and mixes up rows and columns of those that are to be turned.
            with path.open("rb") as stream, Image.open(stream, formats=_FORMATS) as image:
                if image.width * image.height > LARGEST:
                    raise KitError(
                        f"{path} claims {image.width} × {image.height} pixels, more than any film has; it was not opened."
                    )
                if (pages := getattr(image, "n_frames", 1)) > 1:
                    raise KitError(f"{path} has {pages} pages; a film is a single picture. Save the page that counts by itself.")
                return _gray(path, image)
    except UnidentifiedImageError as error:
        raise KitError(f"{path} is not an image in a format that the kit reads, or its start is damaged.") from error
    except Image.DecompressionBombError as error:
        raise KitError(f"{path} claims more pixels than any film has; it was not opened.") from error
    except KitError:
        raise
    except Exception as error:  # damaged files raise anything from SyntaxError to struct.error and ZeroDivisionError
        raise KitError(f"{path} can't be decoded: {error}.") from error


def _gray(path: Path, image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        values, white = np.asarray(image, dtype=np.float32), _white(path, image)
        if not (np.isfinite(values).all() and values.min(initial=0) >= 0 and values.max(initial=0) <= white):
            raise KitError(
                f"{path} has gray values from {values.min():g} to {values.max():g}; the kit reads 0 to {white:g} in this format. "
                "Save it with 8 or 16 bits, or as DICOM, which says what its values mean."
            )
        film = values / np.float32(white)
        # Pillow turns WhiteIsZero round for up to 8 bits only.
        if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            film = 1 - film
        return _upright(image, film)
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image_on_black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        image_on_black.alpha_composite(rgba)
        return _upright(image, np.asarray(image_on_black.convert("L"), dtype=np.float32) / 255)
    return _upright(image, np.asarray(image.convert("L"), dtype=np.float32) / 255)


def _white(path: Path, image: Image.Image) -> float:
    """The value of white in gray of more than 8 bits."""
    if image.mode == "F":
        return 1
    if image.format == "TIFF":
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0]
        if bits > 16:
            raise KitError(f"{path} has {bits} bits a pixel; the kit reads gray of up to 16 bits. DICOM can say what more mean.")
        return 2**bits - 1
    return 65535


def _upright(image: Image.Image, film: np.ndarray) -> np.ndarray:
    """Turn and mirror as EXIF's Orientation says; Pillow has done it for TIFF."""
    orientation = image.getexif().get(_ORIENTATION, 1)
    if image.format == "TIFF" or orientation not in range(2, 9):
        return film
    picture = Image.fromarray(film)
    picture.getexif()[_ORIENTATION] = orientation
    return np.ascontiguousarray(ImageOps.exif_transpose(picture))
