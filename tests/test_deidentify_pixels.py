"""Pixels of films that are de-identified: bounds, bits that nobody sees, what lies inside codestreams."""

import io
import tempfile
from copy import deepcopy
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from primia_kit.data.deidentify.identity import Identity
from primia_kit.data.deidentify.jpeg import strip_jpeg, strip_jpeg2000
from primia_kit.data.deidentify.reading import read_dataset, read_with_places
from primia_kit.data.deidentify.search import leaks_in
from primia_kit.errors import KitError

from .planted_identity import (
    assert_no_trace,
    code,
    deidentify,
    jpeg_bytes,
    outputs,
    planted_film,
    save,
    with_tags,
)


def compressed(pixels: np.ndarray, plain, syntax: str, stored: int, signed: int = 0) -> Dataset:
    """A film whose codestream has 16 bits, with a header that says fewer."""
    ds = with_tags(plain, BitsStored=16, HighBit=15, PixelRepresentation=signed, PixelData=pixels.astype("<u2").tobytes())
    ds.Rows, ds.Columns = pixels.shape
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    if syntax == JPEGLosslessSV1:
        stream, new = io.BytesIO(), gdcm.ImageChangeTransferSyntax()
        ds.save_as(stream, enforce_file_format=True)
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(stream.getvalue())
            reader = gdcm.ImageReader()
            reader.SetFileName(file.name)
            assert reader.Read()
            new.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
            new.SetInput(reader.GetImage())
            assert new.Change()
            writer = gdcm.ImageWriter()
            writer.SetFile(reader.GetFile())
            writer.SetImage(new.GetOutput())
            writer.SetFileName(file.name)
            assert writer.Write()
            ds = pydicom.dcmread(io.BytesIO(Path(file.name).read_bytes()))
    else:
        ds.compress(syntax, generate_instance_uid=False)
    ds.BitsStored, ds.HighBit = stored, stored - 1
    return ds


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, RLELossless])
@pytest.mark.parametrize("signed", [0, 1])
def test_bits_outside_the_stored_ones_refuse_a_compressed_film(syntax, signed, plain, tmp_path):
    values = np.add.outer(np.arange(64), np.arange(48)) * 37 % 4096 - 2048 * signed
    words = values.astype("<i2").view("<u2")  # repeats the sign of a signed film
    drawn = words.copy()
    drawn[10:20, 10:40] ^= 0x8000
    half = words & np.where(np.arange(48) < 24, 0xFFFF, 0x0FFF).astype("<u2")  # the sign repeated on one side: a drawing, too
    save(compressed(words, plain, syntax, 12, signed), tmp_path / "in" / "good")
    save(compressed(words & 0x0FFF, plain, syntax, 12, signed), tmp_path / "in" / "not extended")
    save(compressed(drawn, plain, syntax, 12, signed), tmp_path / "in" / "drawn")
    report = deidentify(tmp_path / "in")
    assert [r.original for r in report.refused] == ["drawn"] and "overlay lies in unused bits" in report.refused[0].reason
    if signed:
        save(compressed(half, plain, syntax, 12, signed), tmp_path / "in" / "half")
        assert [r.original for r in deidentify(tmp_path / "in").refused] == ["drawn", "half"]


def test_what_hides_between_compressed_frames_goes(plain, tmp_path):
    for syntax in (RLELossless, JPEG2000Lossless):
        ds = deepcopy(plain)
        ds.compress(syntax, generate_instance_uid=False)
        frame = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
        item = b"\xfe\xff\x00\xe0"
        ds.PixelData = (
            item + b"\x0c\0\0\0Wexcombe\0\0\0\0" + item + len(frame + b"Wexcombe").to_bytes(4, "little") + frame + b"Wexcombe"
        )
        ds.add_new(0x7FE00001, "OV", b"Wexcombe")
        save(ds, tmp_path / "in" / syntax)
    report = deidentify(tmp_path / "in")
    assert len(report.films) == 2 and all(b"Wexcombe" not in path.read_bytes() for path in outputs(tmp_path / "out"))
    for film in report.films:
        assert (pydicom.dcmread(tmp_path / "out" / film.path).pixel_array == plain.pixel_array).all()


def test_a_codestream_larger_than_the_header_says_is_refused_before_it_is_decoded(plain, tmp_path, monkeypatch):
    ds = with_tags(plain, Rows=64, Columns=64, PixelData=bytes(64 * 64 * 2))
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    stream = bytearray(next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)))
    at = stream.index(b"\xff\x51") + 6
    for offset in (0, 4, 16, 20):  # the picture and its one tile
        stream[at + offset : at + offset + 4] = (20_000).to_bytes(4, "big")
    ds.PixelData = encapsulate([bytes(stream)])
    save(ds, tmp_path / "in" / "small header")
    ds.Rows = ds.Columns = 20_000
    save(ds, tmp_path / "in" / "large header")
    ds.Rows = ds.Columns = 5_000
    for offset in (0, 4, 16, 20):
        stream[at + offset : at + offset + 4] = (5_000).to_bytes(4, "big")
    ds.PixelData = encapsulate([bytes(stream)])
    save(ds, tmp_path / "in" / "thin")
    monkeypatch.setattr(pydicom.pixels, "get_decoder", None)
    reasons = {refusal.original: refusal.reason for refusal in deidentify(tmp_path / "in").refused}
    assert "another size" in reasons["small header"] and "400,000,000" in reasons["large header"]
    assert "no film compresses so far" in reasons["thin"]


@pytest.mark.parametrize("length", [None, 8])
def test_hundreds_of_thousands_of_items_are_refused_while_they_are_read(length, plain, tmp_path):
    """In sequences of undefined and of known length: the latter, pydicom parses later, uncounted."""
    data = save(plain, tmp_path / "x").read_bytes()
    at = data.index(b"\x08\0\x20\0DA")
    items = b"\xfe\xff\0\xe0\0\0\0\0" * 400_000
    size = (len(items) if length else 0xFFFFFFFF).to_bytes(4, "little")
    with pytest.raises(KitError, match="more than 50,000 reads"):
        read_dataset(data[:at] + b"\x08\0\x19\0SQ\0\0" + size + items + data[at:])
    nested = b"\x08\0\x40\x11SQ\0\0" + (8000).to_bytes(4, "little") + items[:8000]
    item = b"\xfe\xff\0\xe0" + len(nested).to_bytes(4, "little") + nested
    with pytest.raises(KitError, match="more than 50,000 reads"):
        read_dataset(data[:at] + b"\x08\0\x19\0SQ\0\0" + (400 * len(item)).to_bytes(4, "little") + item * 400 + data[at:])


@pytest.mark.parametrize("vr, value", [("DS", b"1\\" * 30_000), ("LO", b"a\\" * 30_000), ("US", b"\1\0" * 30_000)])
def test_millions_of_values_and_thousands_of_names_are_refused(vr, value, plain, tmp_path):
    data = save(plain, tmp_path / "x").read_bytes()
    at = data.index(b"\x08\0\x20\0DA")
    elements = b"".join(
        b"\x09\0" + n.to_bytes(2, "little") + vr.encode() + len(value).to_bytes(2, "little") + value
        for n in range(0x1001, 0x1029)
    )
    with pytest.raises(KitError, match="more numbers and texts"):
        read_dataset(data[:at] + elements + data[at:])
    ds = with_tags(plain, OtherPatientNames=[f"Name{n}^Other" for n in range(3000)])
    save(ds, tmp_path / "in" / "x")
    assert "more than 2,000 texts" in deidentify(tmp_path / "in").refused[0].reason


def test_the_verify_pass_sees_free_text_beside_a_code(plain):
    item = code("R-10206", "SRT", "seen by Quillfeather")[0]
    item.InstitutionName = "Quillfeather House"
    ds = with_tags(plain, ViewCodeSequence=Sequence([item]))
    found = {leak.keyword for leak in leaks_in(ds, Identity(strong={"quillfeather"}))}
    assert {"CodeMeaning", "InstitutionName"} <= found


@pytest.mark.parametrize("syntax", [f"1.2.840.10008.1.2{tail}" for tail in ("", ".1", ".2", ".1.99")])
@pytest.mark.parametrize("undefined", [False, True])
def test_places_of_values_are_where_they_are_in_the_file(syntax, undefined, plain):
    ds = planted_film(plain)
    for tag in list(ds.keys()):
        if tag.is_private or tag.group >= 0x5000:
            del ds[tag]  # of binary values the byte order is the caller's affair
    ds.file_meta.TransferSyntaxUID = syntax
    for element in ds.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = undefined
    ds.add_new(0x7FE00010, "OW", b"1234")
    stream = io.BytesIO()
    how = {"implicit_vr": syntax == "1.2.840.10008.1.2", "little_endian": not syntax.endswith(".2.2")}
    pydicom.dcmwrite(stream, ds, **how, force_encoding=True)
    found = read_with_places(stream.getvalue())
    names = [found.content[start:end].strip() for start, end, _, tag in found.places if tag in (0x00100010, 0x0040A123)]
    assert names == [b"Quillfeather^Thaddeus"] * 3


def test_a_file_without_preamble_is_deidentified_like_the_others(plain, tmp_path):
    data = save(planted_film(plain), tmp_path / "x").read_bytes()
    (tmp_path / "in").mkdir()
    for name in ("x.dcm", "y"):
        (tmp_path / "in" / name).write_bytes(data[132:])
    report = deidentify(tmp_path / "in")
    assert len(report.films) == 1 and report.copies == 1 and not report.refused and not report.left_out
    new = (tmp_path / "out" / report.films[0].path).read_bytes()
    assert new.startswith(bytes(128) + b"DICM") and not any(change.tag == "preamble" for change in report.films[0].changes)
    assert_no_trace(tmp_path / "out")


# JPEG


def test_jpeg_segments_that_cannot_be_followed_are_refused():
    good = jpeg_bytes(np.zeros((16, 16), np.uint8))
    clean, gone = strip_jpeg(good)
    assert strip_jpeg(clean) == (clean, []) and "COM" in gone
    for cut in range(0, len(clean) - 1, 7):
        with pytest.raises(KitError):
            strip_jpeg(clean[:cut])


def test_jpeg_ls_comments_go_and_the_scan_stays(plain):
    ds = deepcopy(plain)
    ds.compress(JPEGLSLossless, generate_instance_uid=False)
    stream = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
    stream = stream[: stream.rindex(b"\xff\xd9") + 2]
    assert strip_jpeg(stream[:2] + b"\xff\xfe\0\x0eQuillfeather" + stream[2:]) == (stream, ["COM"])


def test_jpeg2000_comments_go_in_main_and_tile_headers(plain):
    ds = deepcopy(plain)
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    stream = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
    comment = b"\xff\x64" + (4 + 12).to_bytes(2, "big") + b"\0\1Quillfeather"
    at = stream.index(b"\xff\x90")
    length = int.from_bytes(stream[at + 6 : at + 10], "big")
    tile = stream[at : at + 6] + (length + len(comment)).to_bytes(4, "big") + stream[at + 10 : at + 12] + comment
    planted = stream[:at] + comment + tile + stream[at + 12 :]
    clean, gone = strip_jpeg2000(planted)
    assert b"Quillfeather" not in clean and "COM" in gone and "COM in a tile" in gone
    ds.PixelData = encapsulate([clean])
    assert (ds.pixel_array == plain.pixel_array).all()
