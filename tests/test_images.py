"""Films of every supported kind become the same numbers; broken ones become sentences."""

import numpy as np
import pytest
from hypothesis import given
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
        ({"Rows": 4000}, "can't be read as a DICOM film"),
        ({"WindowWidth": 0}, "can't be read as a DICOM film"),
        ({"PixelData": b""}, "can't be read as a DICOM film"),
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
