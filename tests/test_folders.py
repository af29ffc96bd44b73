"""Folders in the layouts that people have become manifests."""

import csv
import os

import numpy as np
import pytest
from PIL import Image

from primia_kit.data import load_films, read_folder
from primia_kit.errors import KitError


def film(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


def test_the_published_kermany_layout(tmp_path):
    films = {
        "train/NORMAL/IM-0115-0001.jpeg": ("normal", "train:IM-0115", "train"),
        "train/NORMAL/NORMAL2-IM-0412-0001-0002.jpeg": ("normal", "train:NORMAL2-IM-0412", "train"),
        "train/PNEUMONIA/person12_bacteria_34.jpeg": ("bacterial", "train:person12", "train"),
        "train/PNEUMONIA/person12_virus_9.jpeg": ("viral", "train:person12", "train"),
        "val/NORMAL/NORMAL2-IM-1427-0001.jpeg": ("normal", "validation:NORMAL2-IM-1427", "validation"),
        "test/PNEUMONIA/person12_bacteria_478.jpeg": ("bacterial", "test:person12", "test"),
    }
    for value, name in enumerate(films):
        film(tmp_path / name, 30 * value)
    manifest = read_folder(tmp_path)
    assert {f.path: (f.label, f.patient, f.split) for f in manifest} == films
    assert any("1 patient number(s) stand in more than one published split" in note for note in manifest.notes)


def test_a_folder_a_label_gets_a_test_split_by_patient(tmp_path):
    for label in ("cat", "dog"):
        for i in range(20):
            film(tmp_path / label / "deeper" / f"{i}.png", 2 * i + (label == "dog") * 100)
    manifest = read_folder(tmp_path)
    assert manifest.classes == ("cat", "dog")
    assert {(f.label, f.split): sum(g.label == f.label and g.split == f.split for g in manifest) for f in manifest} == {
        ("cat", "train"): 16, ("cat", "test"): 4, ("dog", "train"): 16, ("dog", "test"): 4,
    }  # fmt: skip
    assert read_folder(tmp_path, seed=1).films != manifest.films
    assert any("each of these files counts as one patient" in note for note in manifest.notes)


def test_copies_are_dropped(tmp_path):
    film(tmp_path / "train" / "a" / "1.png", 1)
    film(tmp_path / "train" / "a" / "same.png", 1)  # an exact copy
    film(tmp_path / "train" / "a" / "leak.png", 2)  # stands in the test split, too
    film(tmp_path / "test" / "a" / "2.png", 2)
    film(tmp_path / "train" / "a" / "both.png", 3)  # under two labels
    film(tmp_path / "train" / "b" / "both.png", 3)
    film(tmp_path / "train" / "b" / "4.png", 4)
    manifest = read_folder(tmp_path)
    assert [f.path for f in manifest] == ["test/a/2.png", "train/a/1.png", "train/b/4.png"]
    told = " ".join(manifest.notes)
    assert (
        "1 exact copy" in told
        and "1 film(s) that stand in the test split too" in told
        and "2 film(s) that stand under two labels" in told
    )


def test_a_manifest_in_the_folder_decides(tmp_path):
    film(tmp_path / "x" / "1.png", 1)
    film(tmp_path / "x" / "2.png", 2)
    (tmp_path / "manifest.csv").write_text("path,label,patient,site\nx/1.png,ill,p1,Mainz\nx/2.png,well,p2,Ulm\n")
    assert read_folder(tmp_path).sites == ("Mainz", "Ulm")


def test_names_of_the_later_kermany_version(tmp_path):
    films = {
        "train/NORMAL/NORMAL-1003233-0001.jpeg": ("normal", "train:1003233"),
        "train/PNEUMONIA/BACTERIA-1008087-0001.jpeg": ("bacterial", "train:1008087"),
        "train/PNEUMONIA/VIRUS-1008087-0002.jpeg": ("viral", "train:1008087"),
    }
    for value, name in enumerate(films):
        film(tmp_path / name, 30 * value)
    film(tmp_path / "test/NORMAL/NORMAL-1-0001.jpeg", 200)
    assert {f.path: (f.label, f.patient) for f in read_folder(tmp_path).select(split="train")} == films


def test_a_viewers_series_names_dont_make_films_one_patients(tmp_path):
    for i in range(6):
        film(tmp_path / "ab"[i % 2] / f"study{i}" / "IM-0001-0001.png", i)
    assert len({f.patient for f in read_folder(tmp_path)}) == 6


def test_linked_folders_are_entered_once(tmp_path):
    for i in range(6):
        film(tmp_path / "elsewhere" / "ab"[i % 2] / f"{i}.png", i)
    (tmp_path / "study").mkdir()
    for label in "ab":
        (tmp_path / "study" / label).symlink_to(tmp_path / "elsewhere" / label)
    (tmp_path / "elsewhere" / "a" / "round").symlink_to(tmp_path / "study")
    manifest = read_folder(tmp_path / "study")
    assert len(manifest) == 6 and manifest.classes == ("a", "b")


def test_a_folder_that_may_not_be_looked_into_is_a_sentence(tmp_path, monkeypatch):
    """Its films would be missing in silence. (Whoever runs the tests may be allowed to look into everything.)"""

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    real = os.scandir
    film(tmp_path / "a" / "1.png", 1)
    film(tmp_path / "b" / "closed" / "2.png", 2)
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(KitError, match=r"Can't look into .*closed: Permission denied"):
        read_folder(tmp_path)


def test_films_without_a_test_split_get_one_whatever_named_them(tmp_path):
    for i in range(40):
        film(tmp_path / ("val" if i >= 30 else "Training") / "ab"[i % 2] / f"{i}.png", i)
    manifest = read_folder(tmp_path)
    splits = [sum(f.split == split for f in manifest) for split in ("train", "validation", "test")]
    assert splits == [24, 10, 6]

    rows = [f"Training/{'ab'[i % 2]}/{i}.png,{'ab'[i % 2]},p{i},{'Ulm' if i < 10 else 'Jena'}" for i in range(30)]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,label,patient,site", *rows]))
    manifest = read_folder(tmp_path)
    assert {site: len(manifest.select(site=site, split="test")) for site in manifest.sites} == {"Jena": 4, "Ulm": 2}
    assert any("no test split" in note for note in manifest.notes)


def test_a_manifest_of_files_that_are_gone_is_a_sentence(tmp_path):
    (tmp_path / "manifest.csv").write_text("path,label,patient,site\nx/1.png,ill,p1,Mainz\nx/2.png,well,p2,Ulm\n")
    with pytest.raises(KitError, match=r"1\.png, which can't be read: No such file"):
        read_folder(tmp_path).file_bytes()


@pytest.mark.parametrize("content", [[], ["loose.png"], ["only/1.png", "only/2.png"], ["a/notes.txt"]])
def test_a_folder_without_labelled_films_is_a_sentence(tmp_path, content):
    for i, name in enumerate(content):
        film(tmp_path / name, i) if name.endswith("png") else (tmp_path / "a").mkdir()
    with pytest.raises(KitError, match="holds"):
        read_folder(tmp_path)


def test_a_wrong_path_is_a_sentence(tmp_path):
    with pytest.raises(KitError, match="There is no folder"):
        read_folder(tmp_path / "nowhere")
    film(tmp_path / "f.png", 0)
    with pytest.raises(KitError, match="is a file; give the folder"):
        read_folder(tmp_path / "f.png")


@pytest.mark.real_films
def test_the_real_films_are_read_as_their_index_says(kermany):
    with (kermany / "index.csv").open() as stream:
        index = {row["path"]: row for row in csv.DictReader(stream)}
    manifest = read_folder(kermany)
    names = {"bacteria": "bacterial", "virus": "viral", "normal": "normal"}
    for f in manifest:
        assert (f.split, f.label, f.patient) == (
            index[f.path]["split"],
            names[index[f.path]["label"]],
            index[f.path]["patient_group"],
        )
    assert len(index) - len(manifest) == 29
    assert "29 exact copies of another film left out." in manifest.notes
    assert len({f.patient for f in manifest.select(split="train")}) == 2505


@pytest.mark.real_films
def test_real_films_load(kermany):
    films = load_films(read_folder(kermany).select(split="test"), size=64, geometry="stretch")
    assert films.images.shape == (299, 1, 64, 64)
    assert 0.3 < films.images.mean() < 0.7 and films.images.min() >= 0 and films.images.max() <= 1
