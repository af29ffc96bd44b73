"""DICOM folders, MedMNIST and NIfTI become manifests, alone or side by side."""

import shutil
import zlib
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import BasicTextSRStorage, DeflatedExplicitVRLittleEndian

from primia_kit.data import load_films, medmnist, open_films, read_film, read_folder, read_manifest
from primia_kit.data.synthetic import EQUIPMENT, expose
from primia_kit.data.synthetic.dicom import Visit, dicom_film
from primia_kit.errors import KitError

EXPOSURE = {}


def dicom(path: Path, *, patient: str | None = "7", value: int = 0, uid: str = "", site: str = "A", **header) -> Path:
    """A small DICOM film; films of different `value` differ."""
    if site not in EXPOSURE:
        rng = np.random.default_rng(0)
        EXPOSURE[site] = expose(np.abs(rng.standard_normal((224, 224))).astype(np.float32), EQUIPMENT[site], rng)
    ds = dicom_film(EXPOSURE[site], EQUIPMENT[site], Visit(f"{patient}-{path.stem}-{value}", 3, "F", 1, "20200101"))
    ds.Rows, ds.Columns = 16, 16
    ds.PixelData = (np.arange(256) + value).astype("<u2").tobytes()
    ds.PatientID = patient
    if uid:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
    for name, content in header.items():
        setattr(ds, name, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def png(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


def test_an_archives_export_with_a_folder_a_patient_is_a_sentence(tmp_path):
    for i in range(12):
        dicom(tmp_path / f"PAT{i // 2:04d}" / "ST000000" / f"IM{i % 2}", patient=str(i // 2), value=i)
    with pytest.raises(KitError, match=r"Each of the 6 folders .*PAT0000, PAT0001, PAT0002, ….* look like patients, not labels"):
        read_folder(tmp_path)


def test_a_patient_number_without_and_with_an_institution_is_one_patient(tmp_path):
    for i in range(40):
        named = {"InstitutionName": "Clinic"} if i % 2 else {"InstitutionName": ""}
        dicom(tmp_path / ("ill", "well")[i // 2 % 2] / f"{i}.dcm", patient=str(i // 2), value=i, **named)
    manifest = read_folder(tmp_path)
    assert {f.patient for f in manifest} == {f"clinic/{i}" for i in range(20)}


def test_the_same_number_at_two_institutions_is_on_one_side_of_a_drawn_split(tmp_path):
    for i in range(80):
        place = ("North", "South")[i % 2]
        dicom(tmp_path / ("ill", "well")[i // 2 % 2] / f"{i}.dcm", patient=str(i // 2), value=i, InstitutionName=place)
    manifest = read_folder(tmp_path)
    sides = {number: set() for number in range(40)}
    for f in manifest:
        sides[int(f.patient.partition("/")[2])].add(f.split)
    assert len({f.patient for f in manifest}) == 80 and all(len(split) == 1 for split in sides.values())


def test_a_film_without_preamble_is_found(tmp_path):
    for i in range(4):
        path = dicom(tmp_path / ("ill", "well")[i % 2] / f"{i}", patient=str(i), value=i)
        path.write_bytes(path.read_bytes()[132:])
    manifest = read_folder(tmp_path)
    assert len(manifest) == 4 and not any("can't be read" in note for note in manifest.notes)
    assert load_films(manifest, size=16, geometry="pad").images.std() > 0


def test_a_header_of_endless_sequence_items_is_bounded(tmp_path):
    path = dicom(tmp_path / "ill" / "1.dcm")
    dicom(tmp_path / "well" / "2.dcm", patient="8", value=2)
    head, tail = path.read_bytes().split(b"\x20\x00\x0d\x00", 1)  # before StudyInstanceUID
    items = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" * 100_000
    sequence = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff" + items + b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    path.write_bytes(head + sequence + b"\x20\x00\x0d\x00" + tail)
    dicom(tmp_path / "ill" / "3.dcm", patient="9", value=3)
    manifest = read_folder(tmp_path)
    assert len(manifest) == 2 and any("more than 50,000 reads" in note for note in manifest.notes)


def test_slices_of_a_volume_are_one_file_and_one_patient(tmp_path):
    rows = []
    for v in range(6):
        nibabel.save(nibabel.Nifti1Image(np.random.default_rng(v).random((8, 8, 6)), np.eye(4)), tmp_path / f"v{v}.nii.gz")
        rows += [f"v{v}.nii.gz#{i},{'ab'[v % 2]}" for i in (1, 4)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    manifest = read_folder(tmp_path)
    assert len(manifest) == 12 and len({f.patient for f in manifest}) == 6
    assert any(note.startswith("6 file name(s) don't tell the patient") for note in manifest.notes)


def test_a_dicom_folder_is_grouped_by_patient_and_knows_where_it_was_filmed(tmp_path):
    for i in range(12):
        label = ("ill", "well")[i % 2]
        dicom(tmp_path / label / "study" / f"IMG{i:04d}", patient=str(i // 3), value=i, InstitutionName=f"Clinic {i // 6}")
    dicom(tmp_path / "ill" / "DICOMDIR", value=90).rename(tmp_path / "DICOMDIR")
    manifest = read_folder(tmp_path)
    assert len(manifest) == 12 and {f.patient for f in manifest} == {"clinic 0/0", "clinic 0/1", "clinic 1/2", "clinic 1/3"}
    assert Counter(f.acquired for f in manifest) == {"Clinic 0": 6, "Clinic 1": 6}
    assert any("InstitutionName (0008,0080): 12 films" in note for note in manifest.notes)
    assert open_films(tmp_path).sites == ("Clinic 0", "Clinic 1")
    assert open_films(tmp_path).select(split="train").sites == ("Clinic 0", "Clinic 1")


def test_equal_ids_of_different_issuers_are_different_patients(tmp_path):
    dicom(tmp_path / "a" / "1", value=1, InstitutionName="St. Anna")
    dicom(tmp_path / "a" / "2", value=2, InstitutionName="ST ANNA ")
    dicom(tmp_path / "b" / "3", value=3, InstitutionName="St. Barbara")
    dicom(tmp_path / "b" / "4", value=4, InstitutionName="St. Barbara", IssuerOfPatientID="Region")
    dicom(tmp_path / "b" / "5", value=5, InstitutionName="St. Anna", IssuerOfPatientID="region")
    manifest = read_folder(tmp_path)
    assert [f.patient for f in manifest] == ["st anna/7", "st anna/7", "st barbara/7", "region/7", "region/7"]
    assert any(note.startswith("1 PatientID(s) occur at more than one issuer or institution") for note in manifest.notes)


def test_where_a_film_was_taken_without_an_institution(tmp_path):
    dicom(tmp_path / "a" / "1", value=1, InstitutionName="", StationName="CR 2")
    dicom(tmp_path / "b" / "2", value=2, InstitutionName="", Manufacturer="Fuji", ManufacturerModelName="X")
    dicom(tmp_path / "b" / "3", value=3, InstitutionName="", Manufacturer="", ManufacturerModelName="")
    assert [f.acquired for f in read_folder(tmp_path)] == ["CR 2", "Fuji X", ""]


def test_without_a_patient_id_a_study_is_one_patient(tmp_path):
    for i in range(4):
        dicom(tmp_path / "ab"[i % 2] / str(i), patient="", value=i, StudyInstanceUID=f"1.2.{i // 2}")
    manifest = read_folder(tmp_path)
    assert sorted(f.patient for f in manifest) == ["study 1.2.0"] * 2 + ["study 1.2.1"] * 2
    assert any(note.startswith("4 DICOM film(s) have no PatientID") for note in manifest.notes)


def test_a_patient_in_two_split_folders_is_a_sentence(tmp_path):
    dicom(tmp_path / "train" / "a" / "1", value=1), dicom(tmp_path / "test" / "b" / "2", value=2)
    with pytest.raises(KitError, match=r"1 patient\(s\) have films in more than one split"):
        read_folder(tmp_path)


def test_labels_csv_by_path_and_by_identifier(tmp_path):
    for i in range(4):
        dicom(tmp_path / "raw" / str(i), patient=str(i), value=i, uid=f"1.2.3.{i}")
    (tmp_path / "labels.csv").write_text("SOPInstanceUID,Label\n1.2.3.0,ill\n1.2.3.1,well\n1.2.3.2,ill\n9.9,well\n")
    manifest = read_folder(tmp_path)
    assert [(f.path, f.label) for f in manifest] == [("raw/0", "ill"), ("raw/1", "well"), ("raw/2", "ill")]
    assert "1 film(s) that labels.csv doesn't name were left out." in manifest.notes
    assert "1 row(s) of labels.csv name no film that is here." in manifest.notes
    (tmp_path / "labels.csv").write_text("path,label\nraw\\0,ill\n./raw/3,well\n")
    assert [f.path for f in read_folder(tmp_path)] == ["raw/0", "raw/3"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("film,label\na,b\n", "needs the columns path"),
        ("path,label\nraw/1,\n", "line 2: no label"),
        ("path,label\nraw/1,a\nraw/1,b\n", "line 3: raw/1 is labelled 'b' here and 'a' above"),
        ("path,label\nraw/9,a\n", "names none of the 1 film"),
        ("", "needs the columns"),
    ],
)
def test_a_bad_labels_csv_is_a_sentence(tmp_path, text, sentence):
    dicom(tmp_path / "raw" / "1")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(KitError, match=sentence):
        read_folder(tmp_path)


@pytest.mark.filterwarnings("ignore:The value")
def test_unreadable_dicom_files_are_listed_and_left_out(tmp_path):
    for i in range(4):
        dicom(tmp_path / "ab"[i % 2] / str(i), patient=str(i), value=i)
    whole = dicom(tmp_path / "a" / "broken", value=9).read_bytes()
    (tmp_path / "a" / "broken").write_bytes(whole[:150])
    (tmp_path / "a" / "empty.dcm").touch()
    dicom(tmp_path / "a" / "long", value=7, PatientID="1" * 100_000)
    report = dicom(tmp_path / "a" / "report", value=8)
    ds = pydicom.dcmread(report)
    del ds.Rows, ds.PixelData
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    ds.save_as(report)
    manifest = read_folder(tmp_path)
    assert len(manifest) == 4
    told = " ".join(manifest.notes)
    assert (
        "3 file(s) can't be read and were left out" in told
        and "broken" in told
        and "PatientID has 100000 bytes" in told
        and "empty.dcm" in told
    )
    assert "1 DICOM file(s) hold no image" in told


def test_a_deflated_header_is_read_without_inflating_the_whole(tmp_path):
    path = dicom(tmp_path / "a" / "1", patient="9", value=1)
    dicom(tmp_path / "b" / "2", patient="8", value=2)
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(path)
    assert {f.patient.rpartition("/")[2] for f in read_folder(tmp_path)} == {"8", "9"}
    # A bomb: the same start, and 2 GiB of zeros as pixels.
    head = path.read_bytes()[: 144 + pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength]
    packer = zlib.compressobj(9, wbits=-15)
    inner = zlib.decompressobj(-15).decompress(path.read_bytes()[len(head) :])[:-524]
    body = packer.compress(inner + b"\xe0\x7f\x10\x00OW\0\0" + (2**31).to_bytes(4, "little"))
    body += b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    path.write_bytes(head + body)
    assert {f.patient.rpartition("/")[2] for f in read_folder(tmp_path)} == {"8", "9"}


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_header_never_stops_a_folder(tmp_path, data):
    shutil.rmtree(tmp_path)
    dicom(tmp_path / "a" / "1.dcm", patient="1", value=1), dicom(tmp_path / "b" / "2", patient="2", value=2)
    path = dicom(tmp_path / "b" / "3", patient="3", value=3)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(132, len(content) - 513))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(132, len(content)))])
    assert len(read_folder(tmp_path)) in (2, 3)


def npz(path: Path, *, n: int = 6, shape=(28, 28), dtype=np.uint8, labels=None, **changes) -> Path:
    rng = np.random.default_rng(n)
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, *shape)).astype(dtype)
        arrays[f"{split}_labels"] = (np.arange(n) % 2).reshape(-1, 1) if labels is None else labels
    arrays = {name: array for name, array in (arrays | changes).items() if array is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


@pytest.mark.parametrize("place", ["", "x.npz"])
def test_medmnist(tmp_path, place):
    npz(tmp_path / "x.npz")
    manifest = read_folder(tmp_path / place, labels=["normal", "pneumonia"])
    assert len(manifest) == 18 and manifest.classes == ("normal", "pneumonia")
    assert Counter(f.split for f in manifest) == {"train": 6, "validation": 6, "test": 6}
    assert "18 images come from MedMNIST" in manifest.notes[0] and len({f.patient for f in manifest}) == 18
    film = next(f for f in manifest if f.path == "x.npz#train/3")
    stored = np.load(tmp_path / "x.npz")["train_images"][3]
    np.testing.assert_allclose(read_film(manifest.path_of(film)), stored / 255, atol=1e-7)
    assert film.label == "pneumonia"
    assert load_films(manifest, size=28, geometry="pad").images.shape == (18, 1, 28, 28)
    assert sum(manifest.file_bytes().values()) == pytest.approx((tmp_path / "x.npz").stat().st_size, abs=1)


def test_medmnist_in_colour_and_in_sixteen_bits(tmp_path):
    colour = npz(tmp_path / "c.npz", shape=(8, 8, 3))
    stored = np.load(colour)["val_images"][2] / 255
    np.testing.assert_allclose(read_film(f"{colour}#val/2"), stored @ [0.299, 0.587, 0.114], atol=0.003)
    deep = npz(tmp_path / "d.npz", dtype=np.uint16)
    np.testing.assert_allclose(read_film(f"{deep}#test/0"), np.load(deep)["test_images"][0] / 65535, atol=1e-6)


def test_an_npz_is_opened_once_for_all_its_films(tmp_path, monkeypatch):
    manifest = read_folder(npz(tmp_path / "x.npz", n=50))
    opened, load = [], np.load
    monkeypatch.setattr(medmnist.np, "load", lambda *a, **k: opened.append(a) or load(*a, **k))
    medmnist._kept.cache_clear()
    load_films(manifest, size=8, geometry="pad", cache=False)
    assert len(opened) == 3
    npz(tmp_path / "x.npz", n=51)  # another file under the same name
    assert read_film(tmp_path / "x.npz#train/50").shape == (28, 28)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"labels": np.zeros((6, 14), int)}, "multi-label: each of its images has 14 labels"),
        ({"labels": np.zeros(6)}, "one whole number"),
        ({"labels": np.zeros(5, int)}, "one whole number"),
        ({"val_images": None}, "has no val_images"),
        ({"train_images": np.array([None] * 6)}, "claims object"),
        ({"shape": (8, 8, 4)}, "expected gray"),
        ({"dtype": np.float32}, "expected gray"),
        ({"shape": ()}, "expected gray"),
    ],
)
def test_an_npz_that_is_not_medmnists_is_a_sentence(tmp_path, changes, sentence):
    with pytest.raises(KitError, match=sentence):
        read_folder(npz(tmp_path / "x.npz", **changes))


@pytest.mark.parametrize("fragment", ["", "#", "#train", "#train/6", "#train/-1", "#other/1", "#val/x"])
def test_a_film_that_an_npz_does_not_have_is_a_sentence(tmp_path, fragment):
    with pytest.raises(KitError, match=r"named by split and number|has 6 images"):
        read_film(f"{npz(tmp_path / 'x.npz')}{fragment}")


@pytest.mark.parametrize("length", [0, 10, 500, -100])
def test_a_truncated_npz_is_a_sentence(tmp_path, length):
    path = npz(tmp_path / "x.npz")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(KitError, match="can't be read as a MedMNIST file"):
        read_folder(path)


def volume(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).random((6, 6, 5)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)
    return path


def test_slices_of_a_volume_by_labels_csv_are_one_patients(tmp_path):
    path = volume(tmp_path / "v.nii.gz", 0)
    with pytest.raises(KitError, match=r"outside any label's folder.*labels.csv"):
        read_folder(path)
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"v.nii.gz#{z},{'ab'[z % 2]}\n" for z in range(5)))
    manifest = read_folder(path)
    assert [f.path for f in manifest] == [f"v.nii.gz#{z}" for z in range(5)] and len({f.patient for f in manifest}) == 1
    assert len(load_films(manifest, size=6, geometry="pad").images.unique(dim=0)) == 5


def test_all_kinds_side_by_side(tmp_path):
    png(tmp_path / "a" / "1.png", 1), png(tmp_path / "a" / "2.JPG", 2), png(tmp_path / "b" / "3.tiff", 3)
    png(tmp_path / "b" / "4.bmp", 4), png(tmp_path / ".trash" / "a" / "5.png", 5)
    dicom(tmp_path / "b" / "deep" / "6.dcm"), dicom(tmp_path / "a" / "misnamed.png", value=7)
    volume(tmp_path / "a" / "8.nii", 1), volume(tmp_path / "b" / "9.nii.gz", 2)
    (tmp_path / "a" / "notes.txt").write_text("not a film")
    manifest = read_folder(tmp_path)
    assert len(manifest) == 8
    films = load_films(manifest, size=8, geometry="pad")
    assert films.images.shape == (8, 1, 8, 8)
    assert read_manifest(manifest.to_csv()).films == manifest.films


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["x"], "no name is given to 1"),
        (["x", "y", "z"], "labels names '2'"),
        ({"00": "x"}, "labels names '00'"),
        ("xy", "give a list of names"),
    ],
)
def test_names_that_do_not_fit_are_a_sentence(tmp_path, labels, sentence):
    with pytest.raises(KitError, match=sentence):
        read_folder(npz(tmp_path / "x.npz"), labels=labels)


@pytest.mark.real_films
def test_real_dicom_headers(kermany, tmp_path):
    source = kermany.parent / "cxr_dicom"
    for i, path in enumerate(sorted(source.glob("*/*.dcm"))):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        (tmp_path / "ab"[i % 2] / path.stem).symlink_to(path)
    manifest = read_folder(tmp_path)
    assert {f.acquired for f in manifest} >= {"Scott Community Hospital", "Philips Medical Systems Hamburg"}
    derived = {f.patient for f in manifest if Path(f.path).name.startswith("rg1")}
    assert derived == {"philips medical systems hamburg/9RG1"}
