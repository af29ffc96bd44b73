"""Damaged and hostile DICOM files: one sentence each, in bounded memory and time."""

import contextlib
import json
import random
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from pydicom.pixels import compress
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from primia_kit.data import read_dicom
from primia_kit.errors import KitError

from .conftest import ROOT
from .dicom_films import film, film_bytes, saved

MEGABYTES = 500
DEFLATED, EXPLICIT = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0"
VIEW_CODE, PRIVATE = struct.pack("<HH", 0x0054, 0x0220), struct.pack("<HH", 0x0009, 0x1001)
UNKNOWN_LENGTH = 0xFFFFFFFF


def sentence(source) -> str:
    with pytest.raises(KitError) as caught:
        read_dicom(source)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 500
    return text


def start(syntax: bytes = EXPLICIT) -> bytes:
    """Preamble and file meta group alone."""
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(syntax)) + syntax
    return bytes(128) + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(meta)) + meta


def open_sequence(tag: bytes) -> bytes:
    return tag + b"SQ\0\0" + struct.pack("<L", UNKNOWN_LENGTH) + struct.pack("<HHL", 0xFFFE, 0xE000, UNKNOWN_LENGTH)


def deflated(body: bytes) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return start(DEFLATED) + squeeze.compress(body) + squeeze.flush()


def bomb(path) -> None:
    """1 GB of zeros, deflated to 1 MB, as the data set."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    with path.open("wb") as stream:
        stream.write(start(DEFLATED))
        for _ in range(64):
            stream.write(squeeze.compress(bytes(2**24)))
        stream.write(squeeze.flush())


def codestream_film(syntax, rows=64, columns=64) -> bytes:
    ds = film(np.random.default_rng(0).integers(0, 4096, (rows, columns)), 12)
    compress(ds, syntax, encoding_plugin="pylibjpeg" if syntax == RLELossless else "")
    return saved(ds)


def write_hostile(name: str, path) -> None:
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    small = film_bytes()
    if name == "sparse":
        with path.open("wb") as stream:
            stream.write(small)
            stream.truncate(2**31)
    elif name == "bomb":
        bomb(path)
    elif name == "large header":
        path.write_bytes(film_bytes(Rows=46341, Columns=46341, PixelData=bytes(10_000)))
    elif name == "large film, few bytes":
        path.write_bytes(film_bytes(Rows=5000, Columns=5000, PixelData=bytes(10_000)))
    elif name == "nested":
        path.write_bytes(small + open_sequence(VIEW_CODE) * 1000)
    elif name == "nested private":
        path.write_bytes(start() + open_sequence(PRIVATE) * 1000)
    elif name == "elements":
        path.write_bytes(start() + struct.pack("<HH2sH", 9, 0x1001, b"LO", 0) * 10_000_000)
    elif name == "items, unknown length":
        path.write_bytes(start() + PRIVATE + b"SQ\0\0" + struct.pack("<L", UNKNOWN_LENGTH) + items * 10_000_000)
    elif name == "items, known length":
        ds = VIEW_CODE + b"SQ\0\0" + struct.pack("<L", len(items) * 10_000_000) + items * 10_000_000
        at = small.index(struct.pack("<HH", 0x7FE0, 0x0010))
        path.write_bytes(small[:at] + ds + small[at:])
    elif name == "fragments":
        data = codestream_film(JPEGLSLossless)
        at = data.index(struct.pack("<HH", 0x7FE0, 0x0010)) + 12
        path.write_bytes(data[:at] + items * 10_000_000 + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0))
    elif name == "deflated elements":
        path.write_bytes(deflated(struct.pack("<HH2sH", 9, 0x1001, b"LO", 0) * 10_000_000))
    elif name == "JPEG 2000 bomb":
        data = bytearray(codestream_film(JPEG2000Lossless))
        at = data.index(b"\xff\x4f\xff\x51") + 8
        data[at : at + 8] = data[at + 16 : at + 24] = struct.pack(">LL", 46000, 700)
        path.write_bytes(bytes(data).replace(*sizes(64, 64, 700, 46000)))
    elif name == "JPEG 2000 tiles":
        data = bytearray(codestream_film(JPEG2000Lossless, 256, 256))
        at = data.index(b"\xff\x4f\xff\x51") + 24
        data[at : at + 8] = struct.pack(">LL", 1, 1)
        path.write_bytes(data)
    elif name == "JPEG-LS bomb":
        data = codestream_film(JPEGLSLossless)
        at = data.index(b"\xff\xf7") + 5
        data = data[:at] + struct.pack(">HH", 700, 46000) + data[at + 4 :]
        path.write_bytes(data.replace(*sizes(64, 64, 700, 46000)))
    elif name == "RLE bomb":
        ds = film(np.zeros((64, 64)), 12)
        header = struct.pack("<16L", 2, 64, 64 + 1_000_000, *[0] * 13)
        ds.PixelData = struct.pack("<HHLHHL", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, 64 + 2_000_000) + header + b"\x82\0" * 1_000_000
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = RLELossless
        path.write_bytes(saved(ds))
    elif name == "JPEG-LS in a header of another size":
        path.write_bytes(codestream_film(JPEGLSLossless).replace(*sizes(64, 64, 640, 640)))
    elif name == "random":
        path.write_bytes(bytes(128) + b"DICM" + random.Random(0).randbytes(5_000_000))
    else:
        raise AssertionError(name)


def sizes(rows, columns, other_rows, other_columns) -> tuple[bytes, bytes]:
    """Rows and Columns as elements, before and after."""

    def elements(r, c):
        return struct.pack("<HH2sHHHH2sHH", 0x28, 0x10, b"US", 2, r, 0x28, 0x11, b"US", 2, c)

    return elements(rows, columns), elements(other_rows, other_columns)


HOSTILE = {
    "sparse": "bytes, more than any film",
    "bomb": "inflate to more than",
    "large header": "46,341 × 46,341 pixels, more than any film",
    "large film, few bytes": "has 10,000 bytes where 5000 × 5000 pixels need 25,000,000",
    "nested": "sequences in sequences",
    "nested private": "sequences in sequences",
    "elements": "tens of thousands of elements",
    "items, unknown length": "tens of thousands of elements",
    "items, known length": "tens of thousands of elements",
    "fragments": "tens of thousands of elements",
    "deflated elements": "tens of thousands of elements",
    "JPEG 2000 bomb": "no film compresses so far",
    "JPEG 2000 tiles": "65,536 tiles",
    "JPEG-LS bomb": "no film compresses so far",
    "RLE bomb": "RLE segment that doesn't hold 4,096 bytes",
    "JPEG-LS in a header of another size": "say 640 × 640, but PixelData .* 64 × 64",
    "random": "",
}
MEASURE = """
import json, sys, time
from primia_kit.data import read_dicom
from primia_kit.errors import KitError

def megabytes(name):
    with open("/proc/self/status") as stream:
        return int(next(line for line in stream if line.startswith(name)).split()[1]) / 1024

for path in sys.argv[1:]:
    with open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")  # the peak starts again from here
    before, began = megabytes("VmRSS"), time.perf_counter()
    try:
        read_dicom(path)
        said = "no error"
    except KitError as error:
        said = str(error)
    print(json.dumps([said, round(time.perf_counter() - began, 2), round(megabytes("VmHWM") - before)]), flush=True)
"""


def measured(*paths) -> list[tuple[str, float, int]]:
    """(sentence, seconds, megabytes) of each file in a process of their own: its peak above what it had before.

    What PyTorch takes when the kit is imported, half a gigabyte, is no doing of the file's.
    """
    run = subprocess.run([sys.executable, "-c", MEASURE, *map(str, paths)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stderr == ""
    return [tuple(json.loads(line)) for line in run.stdout.splitlines()]


def test_hostile_files_are_a_sentence_in_bounded_memory_and_time(tmp_path):
    import re

    for number, name in enumerate(HOSTILE):
        write_hostile(name, tmp_path / str(number))
    results = measured(*(tmp_path / str(number) for number in range(len(HOSTILE))))
    for (name, words), (said, seconds, megabytes) in zip(HOSTILE.items(), results, strict=True):
        print(f"{name}: {seconds} s, {megabytes} MB, {said}")
        assert re.search(words, said) and said != "no error", (name, said)
        assert seconds < 4 and megabytes < MEGABYTES, (name, seconds, megabytes)


@pytest.mark.real_films
def test_real_bad_files_stay_in_bounded_memory(cxr_dicom):
    for said, _, megabytes in measured(*sorted(cxr_dicom.glob("bad/*")), *sorted(cxr_dicom.glob("ood/*"))):
        assert said != "no error" and megabytes < MEGABYTES


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=str)
def test_a_film_cut_off_at_every_length_is_a_sentence(syntax):
    data = codestream_film(syntax, 40, 40) if syntax else film_bytes()
    whole = read_dicom(data)[0]
    for length in range(len(data)):
        if syntax and len(data) - length <= 8:  # nothing but the end mark is missing
            with contextlib.suppress(KitError):
                np.testing.assert_array_equal(read_dicom(data[:length])[0], whole)
        else:
            sentence(data[:length])


def test_a_deflated_film_cut_off_at_every_length_is_a_sentence():
    whole = film_bytes()
    body = whole[whole.index(struct.pack("<HH", 0x0008, 0x0016)) :]
    data = deflated(body)
    read_dicom(data)
    for length in range(len(data)):
        sentence(data[:length])


def test_too_many_fragments_are_a_sentence():
    items = struct.pack("<HHLH", 0xFFFE, 0xE000, 2, 0)
    ds = film()
    ds.PixelData = struct.pack("<HHL", 0xFFFE, 0xE000, 0) + items * 5000
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = JPEGLSLossless
    assert "more than 4096 fragments" in sentence(saved(ds))


@pytest.mark.real_films
def test_damage_that_gdcm_tells_on_stderr_alone_is_a_sentence(cxr_dicom, capfd):
    data = bytearray((cxr_dicom / "chest_derived/rg1_mono1_15bit_jpeg_lossless_sv1.dcm").read_bytes())
    data[300_000:300_002] = b"\xff\xd9"
    assert "the decoder says 'Corrupt JPEG data: premature end" in sentence(bytes(data))
    assert capfd.readouterr() == ("", "")


def test_random_bytes_are_a_sentence():
    random_ = random.Random(0)
    for length in [0, 1, 131, 132, 133, *range(200, 4000, 97)]:
        sentence(random_.randbytes(length))
        sentence(start() + random_.randbytes(length))
        sentence(start(DEFLATED) + random_.randbytes(length))


def films_to_mutate(folder) -> list[bytes]:
    """Real films where they are, small enough to be read thousands of times; and synthetic ones in each syntax."""
    films = [film_bytes(WindowCenter=128, WindowWidth=256)]
    films += [codestream_film(syntax) for syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless)]
    real = sorted(folder.glob("*/*.dcm")) if folder else []
    return films + [path.read_bytes() for path in real if path.stat().st_size < 2**20]


def mutated(data: bytes, random_: random.Random) -> bytes:
    """One to eight changes: bytes set, bits flipped, pieces cut, doubled or swapped, interesting numbers put in.

    Half of them fall on the header or the start of the codestream, where they do most harm.
    """
    data = bytearray(data)
    for _ in range(random_.randint(1, 8)):
        pixels = max(data.rfind(b"\xe0\x7f\x10\x00"), 0)
        near = random_.choice([pixels, pixels + 600, len(data)])
        at = random_.randrange(max(1, min(near, len(data) - 1)))
        kind = random_.randrange(6)
        if kind == 0:
            data[at] = random_.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << random_.randrange(8)
        elif kind == 2:
            del data[at : at + random_.randint(1, 64)]
        elif kind == 3:
            data[at:at] = data[at : at + random_.randint(1, 64)]
        elif kind == 4:
            data[at : at + 4] = struct.pack("<L", random_.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFEE000, 0x7FFF, 0xFFFF]))
        else:
            other = random_.randrange(len(data))
            data[at : at + 8], data[other : other + 8] = data[other : other + 8], data[at : at + 8]
        if len(data) < 200:
            break
    return bytes(data)


def mutate(films: list[bytes], count: int) -> tuple[int, int]:
    """How many mutations were read, and how many refused; anything but a KitError passes through."""
    read = refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(count):
            data = mutated(films[seed % len(films)], random.Random(seed))
            try:
                shown, _ = read_dicom(data)
            except KitError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 500
            else:
                read += 1
                assert shown.dtype == np.float32 and 0 <= shown.min() <= shown.max() <= 1
    return read, refused


def folder_or_none(request):
    try:
        return request.getfixturevalue("cxr_dicom")
    except pytest.skip.Exception:
        return None


def test_1000_mutations_raise_nothing_but_the_kits_error(request, capfd):
    read, refused = mutate(films_to_mutate(folder_or_none(request)), 1000)
    assert read > 50 and refused > 50
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_10000_mutations_raise_nothing_but_the_kits_error(request):
    read, refused = mutate(films_to_mutate(folder_or_none(request)), 10_000)
    print(f"{read} read, {refused} refused")
    assert read > 500 and refused > 500
