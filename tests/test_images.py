"""Films of every supported kind become the same numbers; broken ones become sentences."""

import struct
import zlib

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from primia_kit.data import Film, Manifest, load_films, pool_films, read_film, resize
from primia_kit.data.synthetic import EQUIPMENT, expose
from primia_kit.data.synthetic.dicom import Visit, dicom_film
from primia_kit.errors import KitError

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_eight_bits(tmp_path, suffix):
    Image.fromarray(RAMP).save(tmp_path / f"f.{suffix}")
    film = read_film(tmp_path / f"f.{suffix}")
    assert film.dtype == np.float32
    np.testing.assert_allclose(film, RAMP / 255, atol=1e-7)


def test_sixteen_bits(tmp_path):
    values = RAMP.astype(np.uint16) * 257
    Image.fromarray(values).save(tmp_path / "f.png")
    np.testing.assert_allclose(read_film(tmp_path / "f.png"), RAMP / 255, atol=1e-6)


def test_colour_becomes_gray(tmp_path):
    Image.fromarray(RAMP).convert("RGB").save(tmp_path / "f.png")
    np.testing.assert_allclose(read_film(tmp_path / "f.png"), RAMP / 255, atol=1e-7)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_keep_their_scale_however_dark(tmp_path, suffix):
    Image.fromarray(np.array([[0, 1]], np.uint16)).save(tmp_path / f"f.{suffix}")
    np.testing.assert_allclose(read_film(tmp_path / f"f.{suffix}"), [[0, 1 / 65535]])


@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_white_is_zero(tmp_path, bits):
    values = RAMP if bits == 8 else RAMP.astype(np.uint16) * 257
    stored = np.iinfo(values.dtype).max - values
    Image.fromarray(stored).save(tmp_path / "f.tif", tiffinfo={262: 0})
    shown = Image.open(tmp_path / "f.tif")
    assert shown.tag_v2[262] == 0
    if bits == 8:  # Pillow turns what it writes round as well
        np.testing.assert_allclose(read_film(tmp_path / "f.tif"), stored / 255, atol=1e-6)
    else:
        np.testing.assert_allclose(read_film(tmp_path / "f.tif"), RAMP / 255, atol=1e-6)


def test_one_bit_and_palette(tmp_path):
    Image.fromarray(RAMP > 100).save(tmp_path / "bit.png")
    np.testing.assert_array_equal(read_film(tmp_path / "bit.png"), RAMP > 100)
    palette = Image.fromarray(RAMP, "P")
    palette.putpalette([255 - i // 3 for i in range(768)])  # a reversed gray scale
    palette.save(tmp_path / "palette.png")
    np.testing.assert_allclose(read_film(tmp_path / "palette.png"), 1 - RAMP / 255, atol=1e-7)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparent_parts_are_black(tmp_path, mode):
    if mode == "P":
        image = Image.fromarray(np.array([[1, 0]], np.uint8), "P")
        image.putpalette([200] * 3 + [255] * 3)
        image.save(tmp_path / "f.png", transparency=0)
    else:
        pixels = np.array([[[255], [200]]], np.uint8)
        colours = np.repeat(pixels, len(mode) - 1, 2)
        Image.fromarray(np.concatenate([colours, np.array([[[255], [0]]], np.uint8)], 2), mode).save(tmp_path / "f.png")
    np.testing.assert_array_equal(read_film(tmp_path / "f.png"), [[1, 0]])


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_tag_is_obeyed_once(tmp_path, orientation, suffix):
    values = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values).save(tmp_path / f"f.{suffix}", exif=exif)
    # EXIF 2.3, 4.6.4: where the picture's first row and first column are to be seen.
    turned = {
        1: values, 2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1], 5: values.T, 6: np.rot90(values, -1),
        7: values[::-1, ::-1].T, 8: np.rot90(values),
    }[orientation]  # fmt: skip
    np.testing.assert_allclose(read_film(tmp_path / f"f.{suffix}"), turned / 255, atol=1e-7)


def save_pages(path, **options):
    Image.fromarray(RAMP).save(path, save_all=True, append_images=[Image.fromarray(255 - RAMP)], **options)


def save_float(path, values):
    Image.fromarray(np.array([values], np.float32)).save(path)


def big_png(path):
    """A header that claims 46341 x 46341 pixels, and no more."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 46341, 46341, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 10_000) + b"IDAT" + bytes(10_000))


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (save_pages, "has 2 pages; a film is a single picture"),
        (lambda p: save_pages(p, format="PNG"), "has 2 pages"),
        (lambda p: save_float(p, [0, 2]), "gray values from 0 to 2"),
        (lambda p: save_float(p, [0, np.nan]), "gray values"),
        (lambda p: Image.fromarray(RAMP.astype(np.int32)).save(p), "32 bits a pixel"),
        (lambda p: Image.fromarray(RAMP).save(p, format="GIF"), "not an image in a format"),
        (big_png, "more (pixels )?than any film has"),
        (lambda p: p.write_bytes(b""), "not an image"),
        (lambda p: p.mkdir(), "no film"),
    ],
)
def test_a_picture_that_is_no_film_is_a_sentence(tmp_path, write, sentence):
    write(tmp_path / "f.tif")
    with pytest.raises(KitError, match=sentence) as caught:
        read_film(tmp_path / "f.tif")
    assert "\n" not in str(caught.value) and "f.tif" in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_picture_is_a_film_or_a_sentence(tmp_path, suffix, data):
    path = tmp_path / f"f.{suffix}"
    Image.fromarray(RAMP).save(path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        film = read_film(path)
    except KitError as error:
        assert str(path) in str(error)
    else:
        assert film.dtype == np.float32 and film.ndim == 2 and film.min() >= 0 and film.max() <= 1


def nifti(path, data, affine=None):
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


def test_nifti_slices_share_the_volumes_scale(tmp_path):
    volume = np.random.default_rng(0).normal(100, 20, (5, 7, 9)).astype(np.float32)
    low, high = np.percentile(volume, (0.5, 99.5))
    path = nifti(tmp_path / "v.nii.gz", volume)
    for fragment, z in (("", 4), ("#0", 0), ("#8", 8)):
        # Axes run to the right, the front, the head; shown are the patient's right on the left, and the front on top.
        expected = np.clip((volume[::-1, ::-1, z].T - low) / (high - low), 0, 1)
        np.testing.assert_allclose(read_film(f"{path}{fragment}"), expected, atol=1e-5)


def test_nifti_is_turned_to_the_patients_axes(tmp_path):
    volume = np.random.default_rng(0).random((5, 7, 9)).astype(np.float32)
    straight = read_film(nifti(tmp_path / "a.nii", volume))
    for axes in ((2, 0, 1), (1, 0, 2), (0, 2, 1)):
        affine = np.eye(4)[:, [*axes, 3]]  # the volume stored in another order of axes, the first of them backwards
        affine[:, 0] *= -1
        stored = np.flip(volume.transpose(axes), 0)
        np.testing.assert_allclose(read_film(nifti(tmp_path / "b.nii", stored, affine)), straight, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 1), (3, 2, 1, 1)])
def test_a_flat_film_that_itk_wrote_as_nifti_comes_out_as_it_was(tmp_path, shape):
    picture = np.arange(6, dtype=np.uint8).reshape(2, 3)
    film = read_film(nifti(tmp_path / "f.nii", picture.T.reshape(shape), np.diag([-1, -1, 1, 1])))
    assert film.shape == (2, 3)
    assert (np.diff(film.ravel()) > 0).all() and film.min() == 0 and film.max() == 1


@pytest.mark.parametrize(
    ("write", "fragment", "sentence"),
    [
        (lambda p: nifti(p, np.zeros((2, 2, 2, 3), np.float32)), "", "reads gray films"),
        (lambda p: nifti(p, np.full((2, 2, 2), np.nan, np.float32)), "", "aren't numbers"),
        (lambda p: nifti(p, np.zeros((2, 2, 2), np.float32)), "#2", "has 2 slice"),
        (lambda p: nifti(p, np.zeros((2, 2, 2), np.float32)), "#-1", "number from 0"),
        (lambda p: p.write_bytes(b"nothing"), "", "can't be read as NIfTI"),
        (lambda p: p.write_bytes(nifti(p, np.ones((9, 9, 9), np.float32)).read_bytes()[:900]), "", "can't be read as NIfTI"),
    ],
)
def test_a_volume_that_is_none_is_a_sentence(tmp_path, write, fragment, sentence):
    write(tmp_path / "v.nii")
    with pytest.raises(KitError, match=sentence):
        read_film(f"{tmp_path}/v.nii{fragment}")


def test_a_volume_of_one_value_is_black(tmp_path):
    assert read_film(nifti(tmp_path / "v.nii", np.full((2, 3, 4), 7, np.int16))).tolist() == [[0, 0]] * 3


def test_a_volume_that_claims_too_much_is_not_opened(tmp_path):
    path = nifti(tmp_path / "v.nii", np.zeros((2, 2, 2), np.uint8))
    content = bytearray(path.read_bytes())
    content[42:48] = struct.pack("<3h", 32000, 32000, 32000)
    path.write_bytes(content)
    with pytest.raises(KitError, match="more than the kit opens"):
        read_film(path)


def exposure_of(site):
    rng = np.random.default_rng(0)
    return expose(np.abs(rng.standard_normal((224, 224))).astype(np.float32), EQUIPMENT[site], rng)


@pytest.mark.parametrize("site", EQUIPMENT)
def test_dicom_window_and_polarity(tmp_path, site):
    """PS3.3 C.11.2.1.2.1, worked out by hand: y = ((x - (c - 0.5)) / (w - 1) + 0.5), clipped, then inverted for MONOCHROME1."""
    exposure, equipment = exposure_of(site), EQUIPMENT[site]
    path = tmp_path / "no_suffix_needed"
    dicom_film(exposure, equipment, Visit("p", 3, "F", 1, "20200101")).save_as(path, enforce_file_format=True)
    x, c, w = exposure.stored.astype(float), exposure.window_center, exposure.window_width
    expected = np.clip((x - (c - 0.5)) / (w - 1) + 0.5, 0, 1)
    if equipment.photometric == "MONOCHROME1":
        expected = 1 - expected
    film = read_film(path)
    np.testing.assert_allclose(film, expected, atol=1e-6)
    assert film.min() == 0  # the window's lower end is the film's darkest value
    assert film.shape == (equipment.rows, equipment.columns)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"PhotometricInterpretation": "RGB"}, "MONOCHROME1 or MONOCHROME2"),
        ({"NumberOfFrames": 2, "Rows": 112}, "one frame"),
        ({"Rows": 4000}, "PixelData .* is cut off"),
        ({"WindowWidth": 0}, "LINEAR window's width is at least 1"),
        ({"PixelData": b""}, "PixelData .* is missing or empty"),
    ],
)
def test_a_dicom_file_that_is_no_film_is_a_sentence(tmp_path, change, sentence):
    ds = dicom_film(exposure_of("A"), EQUIPMENT["A"], Visit("p", 3, "F", 1, "20200101"))
    for name, value in change.items():
        setattr(ds, name, value)
    ds.save_as(tmp_path / "f.dcm", enforce_file_format=True)
    with pytest.raises(KitError, match=sentence):
        read_film(tmp_path / "f.dcm")


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([8, 32]), st.sampled_from(["pad", "stretch"]))
def test_resize_gives_a_square_within_the_films_range(rows, columns, size, geometry):
    film = np.random.default_rng(rows).uniform(0.25, 0.75, (rows, columns)).astype(np.float32)
    square = resize(film, size, geometry)
    assert square.shape == (size, size) and square.dtype == np.float32
    inside = square[square > 0]
    assert film.min() - 1e-6 <= inside.min() and inside.max() <= film.max() + 1e-6


def test_pad_keeps_the_aspect_and_centres():
    square = resize(np.ones((40, 20), np.float32), 16, "pad")
    np.testing.assert_array_equal(square, np.repeat([[0.0] * 4 + [1.0] * 8 + [0.0] * 4], 16, 0))
    np.testing.assert_array_equal(resize(np.ones((40, 20), np.float32), 16, "stretch"), np.ones((16, 16)))


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        Image.fromarray(RAMP + i).save(tmp_path / f"{i}.png")
    return Manifest(tmp_path, tuple(Film(f"{i}.png", ("well", "ill")[i % 2], f"p{i}") for i in range(4)))


def test_load_films(folder):
    told = []
    films = load_films(folder, size=8, geometry="pad", progress=lambda *a: told.append(a))
    assert films.images.shape == (4, 1, 8, 8)
    assert films.classes == ("ill", "well") and films.labels.tolist() == [1, 0, 1, 0]
    assert told[-1] == (4, 4, "films read")


def test_unreadable_films_are_all_named_or_left_out(folder):
    whole = (folder.root / "1.png").read_bytes()
    (folder.root / "1.png").write_bytes(whole[: len(whole) // 2])
    (folder.root / "2.png").write_bytes(b"not a picture")
    (folder.root / "3.png").unlink()
    with pytest.raises(KitError, match=r"(?s)3 of 4 films can't be read:.*1\.png.*2\.png.*3\.png.*skip"):
        load_films(folder, size=8, geometry="pad")
    films = load_films(folder, size=8, geometry="pad", unreadable="skip")
    assert films.patients == ("p0",) and films.images.shape == (1, 1, 8, 8)


def test_a_truncated_film_never_raises_anything_else(tmp_path):
    path = tmp_path / "f"
    dicom_film(exposure_of("C"), EQUIPMENT["C"], Visit("p", 3, "F", 1, "20200101")).save_as(path, enforce_file_format=True)
    whole = path.read_bytes()
    for length in [*range(0, 1500, 7), len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(KitError):
            read_film(path)


def test_a_label_outside_the_classes_is_a_sentence(folder):
    with pytest.raises(KitError, match="labelled 'ill'; the plan's classes are well, sick"):
        load_films(folder, size=8, geometry="pad", classes=("well", "sick"))


def test_pooling(folder):
    small, large = (load_films(folder, size=size, geometry="pad") for size in (8, 16))
    assert len(pool_films([small, small])) == 8
    with pytest.raises(KitError, match="can't be pooled"):
        pool_films([small, large])


@pytest.mark.parametrize("wrong", [{"unreadable": "skp"}, {"geometry": "padd"}])
def test_a_misspelt_choice_is_a_sentence(folder, wrong):
    with pytest.raises(KitError, match="did you mean"):
        load_films(folder, **{"size": 8, "geometry": "pad", **wrong})
