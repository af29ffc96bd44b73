"""What stands beside de-identified films: lists, the report, the key and its pseudonyms."""

import json
import os
import stat
from copy import deepcopy

import numpy as np
import pydicom
import pytest

from primia_kit.data import read_manifest
from primia_kit.data.deidentify import (
    Pseudonyms,
    burned_in,
    deidentify_folder,
    find_text,
    folder,
    load_or_create_key,
)
from primia_kit.errors import KitError

from .planted_identity import assert_no_trace, deidentify, outputs, planted_film, save


def test_the_manifest_has_pseudonyms_and_no_patient_on_both_sides(hospitals, tmp_path):
    for i, film in enumerate(hospitals.films[:24]):
        save(pydicom.dcmread(hospitals.path_of(film)), tmp_path / "in" / film.label / f"{i}.dcm")
    report = deidentify(tmp_path / "in", site="A")
    manifest = read_manifest(tmp_path / "out" / "manifest.csv")
    assert len(manifest) == len(report.films) == 24 and manifest.sites == ("A",) and report.labels == manifest.classes
    wanted = {pydicom.dcmread(p).PatientID for p in (tmp_path / "in").rglob("*.dcm")}
    assert len({film.patient for film in manifest}) == len(wanted) and not wanted & {film.patient for film in manifest}
    assert all(film.path.startswith(f"{film.patient}/F") for film in manifest)


def test_a_published_split_stays_however_its_folders_are_called(hospitals, tmp_path):
    for split, films in (("Training", hospitals.films[:12]), ("Testing", hospitals.films[-12:])):
        for i, film in enumerate(films):
            save(pydicom.dcmread(hospitals.path_of(film)), tmp_path / "in" / split / film.label / f"{i}.dcm")
    report = deidentify(tmp_path / "in", labels=hospitals.classes)
    wanted = {}
    for path in (tmp_path / "in").rglob("*.dcm"):
        wanted[pydicom.dcmread(path).PatientID] = {"Training": "train", "Testing": "test"}[path.parts[-3]]
    manifest = read_manifest(tmp_path / "out" / "manifest.csv")
    assert len(manifest) == len(report.films) == 24
    pseudonyms = Pseudonyms(load_or_create_key(tmp_path / "key")[0])
    assert {film.patient: film.split for film in manifest} == {pseudonyms.patient(p): split for p, split in wanted.items()}


def test_a_folder_a_patient_is_not_a_folder_a_label(plain, tmp_path):
    for number, name in enumerate(("Okonkwo_B", "Barrow_C"), start=1):
        ds = planted_film(plain, number)
        ds.PatientID = ds.PatientName = f"X{number}"
        save(ds, tmp_path / "in" / name / "film.dcm")
    report = deidentify(tmp_path / "in")
    assert report.labels == () and any("not taken for labels" in note for note in report.notes)
    assert not any(name in path.read_bytes() for path in outputs(tmp_path / "out") for name in (b"Okonkwo", b"Barrow"))
    assert (tmp_path / "out" / "films.csv").read_text().splitlines()[0] == "path,patient"


def test_a_label_that_is_a_patients_name_is_not_used_even_when_named(plain, tmp_path):
    save(planted_film(plain, 1), tmp_path / "in" / "Quillfeather" / "a.dcm")
    save(planted_film(plain, 2), tmp_path / "in" / "other" / "b.dcm")
    report = deidentify(tmp_path / "in", labels=("Quillfeather", "other"))
    assert report.labels == () and any("identifies" in note for note in report.notes)
    assert_no_trace(tmp_path / "out")


def test_the_report_names_tags_and_reasons_but_nothing_old(plain, tmp_path):
    save(planted_film(plain), tmp_path / "in" / "Thaddeus.dcm")
    (tmp_path / "in" / "Quillfeather.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"Quillfeather")
    (tmp_path / "in" / "Wexcombe.txt").write_text("Quillfeather")
    report = deidentify(tmp_path / "in")
    told = json.loads((tmp_path / "out" / "deidentification.json").read_text())
    assert told["files_left_out"] == 1 and told["refused"][0]["films"] == 1 and len(told["films"]) == 1
    tags = {change["tag"]: change["action"] for change in told["attributes"]}
    assert tags["(0010,0010)"] == "Z" and tags["(0008,1030)"] == "X" and tags["(0008,0018)"] == "U"
    assert {"preamble", "(0002,0016)", "(0002,0102)", "(6000,3000)", "(0088,0200)", "(0018,A001)"} <= set(tags)
    assert report.refused[0].original == "Quillfeather.dcm"  # for the hospital's screen
    assert_no_trace(tmp_path / "out")


@pytest.mark.parametrize("told, said", [("NO", None), ("YES", "is YES"), (None, "is absent"), ("PERHAPS", "another value")])
def test_burned_in_text_is_warned_about_unless_the_tag_says_no(told, said, plain, tmp_path):
    ds = deepcopy(plain)
    del ds.BurnedInAnnotation
    if told:
        ds.BurnedInAnnotation = told
    save(ds, tmp_path / "in" / "a")
    warnings = deidentify(tmp_path / "in").films[0].warnings
    assert (not warnings) if said is None else (said in warnings[0] and "PERHAPS" not in warnings[0])


def test_writing_in_the_pixels_is_told_by_place_only(plain, tmp_path, monkeypatch):
    class Engine:
        def __call__(self, picture):
            return [[[[1, 2], [30, 2], [30, 9], [1, 9]], "THADDEUS QUILLFEATHER", 0.9]], None

    monkeypatch.setattr(burned_in, "_loaded", Engine())
    monkeypatch.setattr(folder, "ocr_installed", lambda: True)
    save(planted_film(plain), tmp_path / "in" / "a")
    report = deidentify_folder(tmp_path / "in", tmp_path / "out", key=tmp_path / "key")
    assert "at 1 place(s), 1 of them with what stood in the header" in report.films[0].warnings[-1]
    assert_no_trace(tmp_path / "out")


@pytest.mark.skipif(burned_in.ocr_installed(), reason="the extra is installed")
def test_without_the_extra_a_sentence_says_how_to_get_it(tmp_path, plain):
    save(plain, tmp_path / "in" / "a")
    with pytest.raises(KitError, match=r"pip install 'primia-kit\[ocr\]'"):
        find_text(np.zeros((4, 4)))
    with pytest.raises(KitError, match="extra `ocr`"):
        deidentify_folder(tmp_path / "in", tmp_path / "out", key=tmp_path / "key", look_for_text=True)
    report = deidentify_folder(tmp_path / "in", tmp_path / "out", key=tmp_path / "key")
    assert any("was not looked for" in note for note in report.notes)


# Key and pseudonyms


def test_the_key_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "conf" / "hospital.key"
    key, new = load_or_create_key(path)
    assert new and len(key) == 32 and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_key(path) == (key, False)
    assert [p.name for p in path.parent.iterdir()] == ["hospital.key"]
    os.chmod(path, 0o640)
    with pytest.raises(KitError, match="chmod 600"):
        load_or_create_key(path)
    os.chmod(path, 0o600)
    path.write_bytes(b"short")
    with pytest.raises(KitError, match="has 5 bytes"):
        load_or_create_key(path)


def test_pseudonyms_depend_on_key_and_use():
    one, other = Pseudonyms(b"1" * 32), Pseudonyms(b"2" * 32)
    assert one.patient("4471902") == one.patient(" 4471902 ") != other.patient("4471902")
    assert one.uid("1.2.3") != other.uid("1.2.3") and one.uid("1.2.3") == Pseudonyms(b"1" * 32).uid("1.2.3")
    assert one.site("") == "" and one.site("A")[1:] != one.patient("A")[1:9]
