"""De-identification: a made-up identity planted in every kind of place leaves no trace; pixels stay."""

import io
import json
import os
import stat
import tempfile
from copy import deepcopy
from datetime import date
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from primia_kit import cli
from primia_kit.data import read_film, read_manifest
from primia_kit.data.deidentify import (
    Pseudonyms,
    burned_in,
    compare_headers,
    deidentify_folder,
    films,
    find_text,
    folder,
    load_or_create_key,
)
from primia_kit.data.deidentify.dates import dates_in
from primia_kit.data.deidentify.identity import Identity, identity_of
from primia_kit.data.deidentify.jpeg import strip_jpeg, strip_jpeg2000
from primia_kit.data.deidentify.reading import read_dataset, read_with_places
from primia_kit.data.deidentify.search import Search, leaks_in
from primia_kit.data.deidentify.terms import is_defined_term
from primia_kit.data.dicom import guards
from primia_kit.errors import KitError

NAMES = ("Quillfeather", "Thaddeus", "Ambrosia", "Wexcombe", "Nightingale-Oxley")
SECRETS = (
    *NAMES, "QX-4471902", "ACC77310055", "20190317", "20120229", "093847", "+44 7700 900123", "Larkspur Lane",
    "Mossgate Infirmary", "MOSSGATE_PACS", "WX_MODALITY", "SN-88120-77", "2.25.314159265358979323846264338327950288", 
    "1.3.6.1.4.1.99999.7.12345",
)  # fmt: skip
NOTHING_LEFT = [
    form for s in SECRETS for form in (s.lower().encode(), s.lower().encode("utf-16-le"), s.lower().encode("utf-16-be"))
]


def planted_film(source: Dataset, number: int = 1) -> Dataset:
    """A synthetic film with an invented identity in every kind of place that people and devices write to."""
    ds = deepcopy(source)
    ds.PatientName, ds.PatientID, ds.OtherPatientIDs = "Quillfeather^Thaddeus", "QX-4471902", "QX-4471902-B"
    ds.PatientBirthDate, ds.StudyDate, ds.StudyTime, ds.PatientAge = "20120229", "20190317", "093847", "007Y"
    ds.ContributionDateTime, ds.AcquisitionDateTime = "20190317093847", "20190317093847.120+0100"
    ds.AccessionNumber, ds.PatientAddress, ds.PatientTelephoneNumbers = "ACC77310055", "4 Larkspur Lane, Ely", "+44 7700 900123"
    ds.InstitutionName, ds.InstitutionAddress, ds.StationName = "Mossgate Infirmary", "Larkspur Lane", "MOSSGATE_PACS"
    ds.ReferringPhysicianName, ds.OperatorsName = "Wexcombe^Ambrosia", ["Wexcombe^Ambrosia", "Nightingale-Oxley^A"]
    ds.StudyDescription = "CHEST for Thaddeus Quillfeather"
    ds.SeriesDescription, ds.ImageComments, ds.ProtocolName = (
        "seen by Wexcombe",
        "mother: Ambrosia",
        "Mossgate Infirmary paediatric",
    )
    ds.DeviceSerialNumber, ds.SoftwareVersions, ds.FilterType = "SN-88120-77", "licensed to Mossgate Infirmary", "Quillfeather"
    ds.Manufacturer, ds.BodyPartExamined = "Mossgate Infirmary workshop", "CHEST"
    ds.add_new(0x00280303, "CS", "UNMODIFIED")
    ds.SOPInstanceUID = f"1.3.6.1.4.1.99999.7.12345.{number}"
    ds.StudyInstanceUID = ds.FrameOfReferenceUID = "2.25.314159265358979323846264338327950288"
    ds.IrradiationEventUID = ["1.3.6.1.4.1.99999.7.12345.8", "1.3.6.1.4.1.99999.7.12345.9"]

    deep = Dataset()
    deep.PersonName, deep.CodeMeaning, deep.CodingSchemeDesignator = "Quillfeather^Thaddeus", "Thaddeus", "99MOSS"
    deep.add_new(0x00291010, "LO", "Quillfeather")
    middle = Dataset()
    middle.ReferencedSOPClassUID, middle.ReferencedSOPInstanceUID = ds.SOPClassUID, "1.3.6.1.4.1.99999.7.12345.1"
    middle.ViewCodeSequence, middle.TextValue = Sequence([deep]), "Quillfeather"
    middle.RequestedProcedureDescription = "for Thaddeus"
    ds.ReferencedImageSequence = ds.ViewCodeSequence = Sequence([middle])
    equipment = Dataset()
    equipment.InstitutionName, equipment.ContributionDateTime = "Mossgate Infirmary", "20190317093847"
    ds.ContributingEquipmentSequence = Sequence([equipment])
    icon = Dataset()
    icon.Rows, icon.Columns, icon.BitsAllocated, icon.SamplesPerPixel = 4, 4, 8, 1
    icon.PixelData = b"Quillfeather\0\0\0\0"
    ds.IconImageSequence = Sequence([icon])
    ds.SourceImageSequence = Sequence([icon])

    private = ds.private_block(0x0029, "Mossgate Infirmary", create=True)
    private.add_new(0x10, "LO", "Quillfeather^Thaddeus")
    private.add_new(0x11, "UN", b"Thaddeus Quillfeather 20120229")
    ds.add_new(0x60000010, "US", 8)
    ds.add_new(0x60000011, "US", 8)
    ds.add_new(0x60000022, "LO", "Quillfeather")
    ds.add_new(0x60003000, "OW", b"Thaddeus")
    ds.add_new(0x50003000, "OW", b"Wexcombe")
    ds.add_new(0xFFFCFFFC, "OB", b"Quillfeather")
    meta = ds.file_meta
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.SourceApplicationEntityTitle, meta.SendingApplicationEntityTitle = "MOSSGATE_PACS", "WX_MODALITY"
    meta.ReceivingApplicationEntityTitle = "MOSSGATE_PACS"
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = "1.3.6.1.4.1.99999.7.12345", b"Quillfeather"
    ds.preamble = b"Thaddeus Quillfeather, Larkspur Lane".ljust(128, b" ")
    return ds


@pytest.fixture(scope="session")
def plain(hospitals):
    return pydicom.dcmread(hospitals.path_of(hospitals.films[0]))


def save(ds: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def deidentify(source: Path, **options):
    return deidentify_folder(source, source.parent / "out", key=source.parent / "key", look_for_text=False, **options)


def outputs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def assert_no_trace(out: Path) -> None:
    for path in outputs(out):
        data = path.read_bytes()
        for form in NOTHING_LEFT:
            assert form not in data.lower(), f"{path.name} holds {form}"
            assert form not in path.relative_to(out).as_posix().lower().encode()
        if path.suffix == ".dcm":
            for element in pydicom.dcmread(path).iterall():
                assert not any(s.lower() in str(element.value).lower() for s in SECRETS), element.tag


def jpeg_bytes(pixels: np.ndarray) -> bytes:
    """A JPEG that carries a comment, EXIF, and bytes behind its end."""
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E], exif[0x9286] = "Thaddeus Quillfeather", "Wexcombe"
    Image.fromarray(pixels).save(stream, "JPEG", comment=b"Quillfeather^Thaddeus", exif=exif)
    return stream.getvalue() + b"Wexcombe"


# The whole


def test_nothing_of_a_planted_identity_is_left_and_the_pixels_are_the_same(plain, tmp_path):
    source = tmp_path / "Quillfeather export"
    one = save(planted_film(plain), source / "Mossgate Infirmary" / "Thaddeus_20190317.dcm")
    before = one.read_bytes()
    report = deidentify(source)
    assert one.read_bytes() == before
    assert not report.refused and len(report.films) == 1
    assert_no_trace(tmp_path / "out")
    new = pydicom.dcmread(tmp_path / "out" / report.films[0].path)
    assert (new.pixel_array == plain.pixel_array).all()
    assert (read_film(tmp_path / "out" / report.films[0].path) == read_film(one)).all()
    assert new.PatientID == new.PatientName == report.films[0].patient
    assert new.PatientIdentityRemoved == "YES" and new.LongitudinalTemporalInformationModified == "REMOVED"
    assert new.DeidentificationMethodCodeSequence[0].CodeValue == "113100" and "Annex E" in new.DeidentificationMethod[0]
    assert new.file_meta.MediaStorageSOPInstanceUID == new.SOPInstanceUID
    assert new.preamble == bytes(128) and not any(tag.is_private for tag in new)
    assert new.PatientSex == "" and "PatientAge" not in new  # the Basic Profile's Z and X


def test_what_a_reader_needs_stays(plain, tmp_path):
    save(plain, tmp_path / "in" / "x.dcm")
    new = pydicom.dcmread(tmp_path / "out" / deidentify(tmp_path / "in").films[0].path)
    for keyword in (
        "SOPClassUID", "Modality", "Rows", "Columns", "BitsStored", "PhotometricInterpretation", "WindowCenter", "WindowWidth",
        "BodyPartExamined", "ViewPosition", "PatientOrientation", "ImagerPixelSpacing", "BurnedInAnnotation", "ImageType",
    ):  # fmt: skip
        assert new[keyword].value == plain[keyword].value, keyword


def test_headers_before_and_after_stand_side_by_side(plain, tmp_path):
    plain_ds = planted_film(plain)
    (tmp_path / "in").mkdir()
    plain_ds.save_as(tmp_path / "in" / "film", enforce_file_format=True)
    (film,) = deidentify_folder(tmp_path / "in", tmp_path / "out", key=tmp_path / "key").films
    table = compare_headers(tmp_path / "in" / "film", tmp_path / "out" / film.path)
    assert table.loc["(0010,0010)"].tolist() == ["PatientName", "Quillfeather^Thaddeus", film.patient]
    assert table.loc["(0010,0030)", "after"] == "" and table.loc["(0012,0062)"].tolist()[1:] == ["", "YES"]
    assert "(0028,0010)" not in table.index  # Rows is the same
    assert any("[0]." in tag for tag in table.index)
    with pytest.raises(KitError, match="key: it can't be read as DICOM"):
        compare_headers(tmp_path / "key", tmp_path / "key")


def test_lookup_tables_stay_and_their_explanations_go(plain, tmp_path):
    ds = deepcopy(plain)
    for keyword in ("WindowCenter", "WindowWidth"):
        delattr(ds, keyword)
    table = Dataset()
    table.LUTDescriptor, table.LUTExplanation = [1 << ds.BitsStored, 0, 16], "for Quillfeather"
    table.add_new(0x00283006, "OW", (np.arange(1 << ds.BitsStored) ** 1.5).astype("<u2").tobytes())
    ds.VOILUTSequence = Sequence([table])
    path = save(ds, tmp_path / "in" / "a.dcm")
    new = tmp_path / "out" / deidentify(tmp_path / "in").films[0].path
    assert (read_film(new) == read_film(path)).all() and "LUTExplanation" not in pydicom.dcmread(new).VOILUTSequence[0]
    assert_no_trace(tmp_path / "out")


def test_references_between_films_of_a_study_still_fit(plain, tmp_path):
    save(planted_film(plain, 1), tmp_path / "in" / "a")
    save(planted_film(plain, 2), tmp_path / "in" / "b")
    report = deidentify(tmp_path / "in")
    a, b = sorted((pydicom.dcmread(tmp_path / "out" / f.path) for f in report.films), key=lambda d: d.SOPInstanceUID)
    assert a.StudyInstanceUID == b.StudyInstanceUID and a.PatientID == b.PatientID and a.SOPInstanceUID != b.SOPInstanceUID
    assert a.StudyInstanceUID.startswith("2.25.") and a.StudyInstanceUID.is_valid
    assert a.ReferencedImageSequence[0].ReferencedSOPInstanceUID in (a.SOPInstanceUID, b.SOPInstanceUID)
    assert a.ReferencedImageSequence[0].ReferencedSOPClassUID == plain.SOPClassUID


def test_the_same_run_gives_the_same_bytes_and_another_key_other_names(plain, tmp_path):
    save(planted_film(plain), tmp_path / "in" / "a.dcm")
    first = deidentify(tmp_path / "in")
    kept = {p: p.read_bytes() for p in outputs(tmp_path / "out")}
    stale = tmp_path / "out" / first.films[0].patient / ".F0.dcm.abc.part"
    stale.write_bytes(b"Quillfeather")  # a killed run was still writing this
    (tmp_path / "out" / first.films[0].path).unlink()
    second = deidentify(tmp_path / "in")
    assert {p: p.read_bytes() for p in outputs(tmp_path / "out")} == kept and second.films == first.films
    other = deidentify_folder(tmp_path / "in", tmp_path / "out2", key=tmp_path / "key2", look_for_text=False)
    assert other.films[0].patient != first.films[0].patient and other.films[0].path != first.films[0].path


def test_deflated_rle_and_jpeg2000_films(plain, tmp_path):
    ds = planted_film(plain)
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    save(ds, tmp_path / "in" / "deflated")
    for name, syntax in (("rle", RLELossless), ("j2k", JPEG2000Lossless)):
        ds = planted_film(plain)
        ds.compress(syntax, generate_instance_uid=False)
        save(ds, tmp_path / "in" / name)
    report = deidentify(tmp_path / "in")
    assert len(report.films) == 3 and not report.refused
    assert_no_trace(tmp_path / "out")
    for film in report.films:
        assert (pydicom.dcmread(tmp_path / "out" / film.path).pixel_array == plain.pixel_array).all()


def test_a_jpeg_inside_dicom_loses_its_comment_and_exif(plain, tmp_path):
    gray = (read_film(plain.filename) * 255).astype(np.uint8)
    gray = gray[: gray.shape[0] // 2 * 2]
    ds = planted_film(plain)
    ds.Rows, ds.Columns = gray.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = encapsulate([jpeg_bytes(gray)])
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    path = save(ds, tmp_path / "in" / "x")
    report = deidentify(tmp_path / "in")
    assert not report.refused
    assert_no_trace(tmp_path / "out")
    assert (pydicom.dcmread(tmp_path / "out" / report.films[0].path).pixel_array == pydicom.dcmread(path).pixel_array).all()
    gone = {change.reason for change in report.films[0].changes if change.tag == "(7FE0,0010)"}
    assert {r.split(";")[0] for r in gone} == {"JPEG segment COM", "JPEG segment APP1", "data after the end"}


def test_bits_and_bytes_outside_the_pixels_are_cleared(plain, tmp_path):
    ds = deepcopy(plain)
    words = np.frombuffer(ds.PixelData, "<u2").copy()
    words[::3] |= 0x8000  # an old overlay lies there
    ds.PixelData = words.tobytes() + b"Thaddeus"
    save(ds, tmp_path / "in" / "x")
    report = deidentify(tmp_path / "in")
    new = pydicom.dcmread(tmp_path / "out" / report.films[0].path)
    assert new.PixelData == plain.PixelData
    ds.PixelData = words.tobytes()
    ds.compress(RLELossless, generate_instance_uid=False)
    save(ds, tmp_path / "in" / "x")
    assert "overlay lies in unused bits" in deidentify(tmp_path / "in").refused[0].reason


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_pictures_keep_their_pixels_alone(kind, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 52), np.uint8)
    path = tmp_path / "in" / "Quillfeather" / f"Thaddeus.{kind.lower()}"
    path.parent.mkdir(parents=True)
    if kind == "JPEG":
        path.write_bytes(jpeg_bytes(pixels))
    elif kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text("Patient", "Quillfeather^Thaddeus")
        info.add_itxt("Comment", "Wexcombe", zip=True)
        Image.fromarray(pixels).save(path, pnginfo=info, icc_profile=b"Mossgate Infirmary")
        path.write_bytes(path.read_bytes() + b"Wexcombe")
    elif kind == "TIFF":
        Image.fromarray(pixels).save(path, tiffinfo={270: "Thaddeus Quillfeather", 315: "Wexcombe"})
    else:
        Image.fromarray(pixels).save(path)
        path.write_bytes(path.read_bytes() + b"Quillfeather")
    report = deidentify(tmp_path / "in")
    assert not report.refused and report.films[0].changes and "burned in" in report.films[0].warnings[0]
    assert_no_trace(tmp_path / "out")
    new = tmp_path / "out" / report.films[0].path
    assert (np.asarray(Image.open(new)) == np.asarray(Image.open(path))).all()
    assert not {
        key
        for key in Image.open(new).info
        if key not in ("jfif", "jfif_version", "jfif_unit", "jfif_density", "compression", "dpi", "resolution")
    }


# The verify pass


def test_a_leak_is_stopped_named_by_its_tag_and_not_by_its_value(plain, tmp_path, monkeypatch):
    """The mutant: a profile that forgets one nested name."""
    real = films.apply_profile

    def forgetful(dataset, pseudonyms, patient):
        changes = real(dataset, pseudonyms, patient)
        item = Dataset()
        item.PersonName = "Quillfeather^T"
        dataset.RequestAttributesSequence = Sequence([item])
        return changes

    monkeypatch.setattr(films, "apply_profile", forgetful)
    monkeypatch.setattr(films, "scrub", lambda dataset, identity: [])
    save(planted_film(plain), tmp_path / "in" / "a.dcm")
    report = deidentify(tmp_path / "in")
    assert not report.films and len(report.leaks) == 1
    reason = report.leaks[0].reason
    assert "(0040,0275)[0].(0040,A123) PersonName" in reason and "quillfeather" not in reason.lower()
    assert [p.name for p in outputs(tmp_path / "out")] == ["deidentification.json"]
    assert_no_trace(tmp_path / "out")


@pytest.mark.parametrize("place", ["preamble", "padding", "title", "name", "pixels"])
def test_a_leak_outside_the_elements_is_stopped_too(place, plain, tmp_path, monkeypatch):
    real = folder.deidentify_dataset

    def leaky(*arguments):
        new, changes = real(*arguments)
        if place == "preamble":
            new = b"Thaddeus".ljust(128, b"\0") + new[128:]
        elif place == "padding":
            new += b"\xfc\xff\xfc\xffOB\0\0\x0c\0\0\0Quillfeather"
        elif place == "title":
            ds = pydicom.dcmread(io.BytesIO(new))
            ds.file_meta.SourceApplicationEntityTitle = "MOSSGATE_PACS"
            stream = io.BytesIO()
            ds.save_as(stream)
            new = stream.getvalue()
        return new, changes

    monkeypatch.setattr(folder, "deidentify_dataset", leaky)
    if place == "name":
        monkeypatch.setattr(Pseudonyms, "film", lambda self, content: "Thaddeus")
    ds = planted_film(plain)
    if place == "pixels":  # bytes that are pixels and a name: nobody but a person can decide about them
        ds.PixelData, ds.BitsStored, ds.HighBit = b"Quillfeather" + ds.PixelData[12:], 16, 15
    save(ds, tmp_path / "in" / "a.dcm")
    report = deidentify(tmp_path / "in")
    assert not report.films and len(report.leaks) == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["deidentification.json"]
    assert_no_trace(tmp_path / "out")


def test_a_text_that_the_profile_keeps_goes_if_it_names_the_patient(plain, tmp_path):
    ds = deepcopy(plain)
    ds.PatientName, ds.BodyPartExamined, ds.Manufacturer = "Quillfeather^Thaddeus", "THADDEUS", "Acme"
    save(ds, tmp_path / "in" / "a")
    report = deidentify(tmp_path / "in")
    new = pydicom.dcmread(tmp_path / "out" / report.films[0].path)
    assert "BodyPartExamined" not in new and new.Manufacturer == "Acme"


def test_short_strings_and_numbers_are_found_as_whole_words_only():
    search = Search(Identity(strong={"li", "1234", "m", "okonkwo", "王"}))
    assert search.hits("Li Wei") and search.hits("id 1234.") and search.hits("xOKONKWOx") and search.hits("王小")
    assert not search.hits("Lisbon") and not search.hits("12345") and not search.hits("MONOCHROME1")
    assert not search.hits_number("1234")  # a series number of 1234 is no leak


def test_names_in_other_character_sets_are_searched_as_stored(plain):
    ds = deepcopy(plain)
    ds.SpecificCharacterSet, ds.PatientName = ["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    found = identity_of(pydicom.dcmread(io.BytesIO(stream.getvalue())))
    assert {"yamada", "tarou", "山田", "太郎"} <= found.strong


# What stays though an identifier looks like it, and what goes though it doesn't


def with_tags(plain, **tags) -> Dataset:
    ds = deepcopy(plain)
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    return ds


def with_private(plain, vr: str, value: str, **tags) -> Dataset:
    ds = with_tags(plain, **tags)
    ds.private_block(0x0019, "ACME", create=True).add_new(1, vr, value)
    return ds


def copy_of(ds: Dataset, tmp_path, name: str = "x") -> Dataset:
    """The de-identified copy of a film, which must not be refused."""
    save(ds, tmp_path / "in" / name)
    report = deidentify(tmp_path / "in")
    assert not report.refused
    return pydicom.dcmread(tmp_path / "out" / report.films[0].path)


@pytest.mark.parametrize(
    "tags, kept",
    [
        ({"StudyID": "16"}, "BitsAllocated"),
        ({"StudyID": "25"}, "Rows"),
        ({"StudyID": "10008", "AccessionNumber": "840"}, "SOPClassUID"),
        ({"AccessionNumber": "224"}, "Columns"),
        ({"OperatorsName": "CR"}, "Modality"),
        ({"StationName": "CR", "OperatorsName": "AP"}, "ViewPosition"),
        ({"StationName": "CHEST"}, "BodyPartExamined"),
        ({"ReferringPhysicianName": "NO^MONOCHROME1"}, "PhotometricInterpretation"),
        ({"PatientName": "Foot^Head", "BodyPartExamined": "FOOT"}, "BodyPartExamined"),
        ({"PatientID": "4096", "WindowWidth": "4096"}, "WindowWidth"),
        ({"PatientID": "1234567", "WindowWidth": "1234567"}, "WindowWidth"),
        ({"AccessionNumber": "100", "Exposure": "100"}, "Exposure"),
    ],
)
def test_an_identifier_that_looks_like_a_number_or_term_refuses_and_removes_nothing(tags, kept, plain, tmp_path):
    ds = with_tags(plain, **tags)
    assert copy_of(ds, tmp_path)[kept].value == ds[kept].value


@pytest.mark.parametrize("vr", ["LO", "SH", "DS"])
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_private_numbers_are_not_searched_for(vr, syntax, plain, tmp_path):
    ds = with_private(plain, vr, ["0.143000", "0.143000"], PixelSpacing=["0.143000", "0.143000"], KVP="70.5")
    ds.file_meta.TransferSyntaxUID = syntax
    new = copy_of(ds, tmp_path)
    assert new.PixelSpacing == ds.PixelSpacing and new.KVP == ds.KVP


def test_numbers_derived_from_dates_and_identifiers_are_emptied(plain, tmp_path):
    ds = with_tags(plain, AccessionNumber="1002345", InstanceNumber="1002345", StudyDate="20200304", SeriesNumber="20200304")
    ds.AcquisitionNumber, ds.ExposureTime, ds.PatientID = "5120", "881234", "ab 881234"
    new = copy_of(with_tags(ds, StudyID="5120"), tmp_path)
    assert "SeriesNumber" in new and [new.get(f"{k}Number") for k in ("Series", "Instance", "Acquisition")] == [None] * 3
    assert "ExposureTime" not in new


def test_a_number_that_swallowed_a_text_goes(plain, tmp_path):
    """What a damaged length does: WindowWidth holds the elements behind it."""
    path = save(with_tags(plain, PatientName="Quillfeather^T", WindowWidth="4096"), tmp_path / "in" / "x")
    data = path.read_bytes()
    at = data.index(b"DS\x04\0" + b"4096") + 2
    path.write_bytes(data[:at] + b"\x14\0" + b"4096)\0Quillfeather__" + data[at + 6 :])
    report = deidentify(tmp_path / "in")
    assert all(b"Quillfeather" not in p.read_bytes() for p in outputs(tmp_path / "out"))
    assert not report.films or "WindowWidth" not in pydicom.dcmread(tmp_path / "out" / report.films[0].path)


@pytest.mark.parametrize(
    "where, tags",
    [
        ("primia_study/x.dcm", {}),
        ("profile_001.dcm", {}),
        ("confidential/x", {}),
        ("x", {"InstitutionName": "Annex Clinic"}),
        ("x", {"PatientName": "Kitson^Basic", "PatientID": "113100"}),
        ("x", {"OperatorsName": "PYDICOM"}),
    ],
)
def test_the_method_is_recorded_whatever_the_identity(where, tags, plain, tmp_path):
    new = copy_of(with_tags(plain, **tags), tmp_path, where)
    assert new.PatientIdentityRemoved == "YES" and "Annex E" in new.DeidentificationMethod[0]
    assert new.DeidentificationMethodCodeSequence[0].CodeValue == "113100"


@pytest.mark.parametrize(
    "tags, model",
    [
        ({"PatientName": "Smith-Jones^Ann"}, "Jones scanner"),
        ({"PatientName": "O'Brien^Pat"}, "OBrien unit"),
        ({"PatientName": "OBrien^Pat"}, "O'Brien unit"),
        ({"PatientName": "Müller^Jörg", "SpecificCharacterSet": "ISO_IR 192"}, "Muller room"),
        ({"PatientID": "12-345-678"}, "unit 12345678"),
        ({"PatientID": "12345678"}, "unit 12-345-678 9"),
        ({"PatientID": "00123456"}, "123456"),
        ({"PatientID": "123456"}, "PX0123456"),
        ({"AccessionNumber": "ACC77310055"}, "77310055"),
        *(
            ({"PatientBirthDate": "20150102"}, text)
            for text in (
                "rev 02JAN2015",
                "150102",
                "020115",
                "1/2/2015",
                "2.1.2015",
                "Jan 2, 2015",
                "2nd of January 2015",
                "2015 01 02",
                "2/1/15",
                "20150102101112",
                "2-jan-15",
                "2015-Jan-02",
            )
        ),
    ],
)
def test_other_spellings_of_an_identity_are_found_in_the_make(tags, model, plain, tmp_path):
    ds = with_tags(plain, ManufacturerModelName=model, Manufacturer="Acme", **tags)
    new = copy_of(ds, tmp_path)
    assert "ManufacturerModelName" not in new and new.Manufacturer == "Acme"


def test_other_dates_and_numbers_are_not_taken_for_the_patients():
    search = Search(Identity(strong={"12345678"}, numbers={"12345678"}, dates={(2015, 1, 2)}))
    for text in ("3/1/2015", "2015-01-03", "150103", "v2.1.16", "Feb 2, 2015", "512345678", "1234 567", "XG-1", "DR 2015"):
        assert not search.hits(text), text


def test_uids_that_the_standard_does_not_list_are_replaced(plain, tmp_path):
    ds = with_tags(plain, StudyInstanceUID="1.2.840.10008.99.1234567", SOPClassUID="1.2.276.0.99.5551212")
    ds.file_meta.MediaStorageSOPClassUID, ds.PatientID = ds.SOPClassUID, "5551212"
    part = Dataset()
    part.ReferencedSOPClassUID, part.ReferencedSOPInstanceUID = "1.2.3.4.5551212", "1.2.3"
    ds.ReferencedImageSequence = Sequence([part])
    new = copy_of(ds, tmp_path)
    uids = (new.StudyInstanceUID, new.SOPClassUID, new.file_meta.MediaStorageSOPClassUID)
    assert all(uid.startswith("2.25.") for uid in (*uids, new.ReferencedImageSequence[0].ReferencedSOPClassUID))
    assert uids[1] == uids[2]


def test_a_uid_that_is_neither_the_standards_nor_derived_is_a_leak(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(Pseudonyms, "uid", lambda self, uid: "1.2.3.4.5")
    save(plain, tmp_path / "in" / "x")
    assert "SOPInstanceUID" in deidentify(tmp_path / "in").leaks[0].reason


def code(value: str, scheme: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning, item.CodingSchemeVersion = value, scheme, meaning, "Jane Doe"
    return Sequence([item])


def test_codes_stay_with_the_standards_meaning_or_not_at_all(plain, tmp_path):
    ds = with_tags(plain, ViewCodeSequence=code("R-10206", "SRT", "Chest view for Dr Wilson 555-1234"))
    ds.AnatomicRegionSequence = code("JANE DOE", "DCM", "chest")
    ds.DerivationCodeSequence = code("113040", "DCM", "Jane Doe")
    ds.CodeValue, ds.CodeMeaning = "JANE DOE", "Jane Doe"
    new = copy_of(ds, tmp_path)
    assert new.ViewCodeSequence[0].CodeMeaning.startswith("Antero-posterior") and new.ViewCodeSequence[0].CodeValue == "R-10206"
    assert new.DerivationCodeSequence[0].CodeMeaning == "Lossy Compression" and "AnatomicRegionSequence" not in new
    assert "Jane Doe" not in str(new) and "JANE DOE" not in str(new) and "Wilson" not in str(new)


def test_coded_strings_hold_defined_terms_alone(plain, tmp_path):
    ds = with_tags(plain, BodyPartExamined="CHEST JANE DOE", FilterType="JANE DOE", ImageType=["DERIVED", "PRIMARY", "DR SMITH"])
    ds.ViewPosition, ds.RescaleType, ds.PatientOrientation = "LATERAL", "for Dr Wilson", ["L", "DOE"]
    new = copy_of(ds, tmp_path)
    assert "BodyPartExamined" not in new and "FilterType" not in new and "RescaleType" not in new
    assert new.ViewPosition == "LATERAL" and list(new.ImageType) == ["DERIVED", "PRIMARY", ""] and new.PatientOrientation[1] == ""
    told = json.loads((tmp_path / "out" / "deidentification.json").read_text())["attributes"]
    assert {"(0018,0015)", "(0008,0008)"} <= {change["tag"] for change in told if change["reason"] == "not a defined term"}


@pytest.mark.parametrize(
    "tag, value, defined",
    [(0x00180015, "Chest", True), (0x00180015, "LEFT KNEE", True), (0x00180015, "KNEE SMITH", False), (0x00080060, "CR", True),
     (0x00080060, "SMITH", False), (0x00200020, "AFR", True), (0x00200020, "ANN", False), (0x00080005, "ISO_IR 100", True),
     (0x00080005, "SMITH", False), (0x00281300, "YES", True), (0x00281300, "", True)],
)  # fmt: skip
def test_defined_terms(tag, value, defined):
    assert is_defined_term(tag, value) is defined


@given(st.dates(min_value=date(1902, 1, 1), max_value=date(2099, 12, 31)))
def test_a_date_is_found_in_every_spelling(day):
    for form in ("%Y%m%d", "%d%m%Y", "%y%m%d", "%m%d%y", "%Y-%m-%d", "%d.%m.%Y", "%m/%d/%y", "x %d %b %Y", "%B %d, %Y", "%d%b%y"):
        assert (day.year, day.month, day.day) in set(dates_in(day.strftime(form).lower())), form


# Pixels: bounds, and bits that nobody sees


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


# Lists and the report


def test_the_manifest_has_pseudonyms_and_no_patient_on_both_sides(hospitals, tmp_path):
    for i, film in enumerate(hospitals.films[:24]):
        save(pydicom.dcmread(hospitals.path_of(film)), tmp_path / "in" / film.label / f"{i}.dcm")
    report = deidentify(tmp_path / "in", site="A")
    manifest = read_manifest(tmp_path / "out" / "manifest.csv")
    assert len(manifest) == len(report.films) == 24 and manifest.sites == ("A",) and report.labels == manifest.classes
    wanted = {pydicom.dcmread(p).PatientID for p in (tmp_path / "in").rglob("*.dcm")}
    assert len({film.patient for film in manifest}) == len(wanted) and not wanted & {film.patient for film in manifest}
    assert all(film.path.startswith(f"{film.patient}/F") for film in manifest)


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


# Bad inputs


def test_damaged_films_are_refused_and_the_rest_goes_on(plain, tmp_path):
    good = save(planted_film(plain), tmp_path / "in" / "good.dcm").read_bytes()
    bad = tmp_path / "in" / "bad"
    bad.mkdir()
    for cut in (132, 140, 300, len(good) // 2, len(good) - 60):
        (bad / f"cut{cut}").write_bytes(good[:cut])
    (bad / "noise").write_bytes(bytes(128) + b"DICM" + np.random.default_rng(0).bytes(4000))
    (bad / "empty.png").write_bytes(b"")
    (bad / "no meta group.dcm").write_bytes(good[132 + 12 + good[140] + 256 * good[141] :])
    huge = deepcopy(plain)
    huge.Rows = huge.Columns = 46341
    save(huge, bad / "huge")
    text = deepcopy(plain)
    del text.PixelData
    save(text, bad / "no pixels")
    opening, closing = (
        b"\x54\0\x20\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff",
        b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0",
    )
    (bad / "nested").write_bytes(good + opening * 1000 + closing * 1000)
    report = deidentify(tmp_path / "in")
    assert len(report.films) == 1 and len(report.refused) == 11
    assert all(len(str(refusal)) < 250 and "\n" not in str(refusal) for refusal in report.refused)


def test_a_deflate_bomb_is_refused(plain, tmp_path, monkeypatch):
    ds = deepcopy(plain)
    ds.PixelData = bytes(4 << 20)
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    save(ds, tmp_path / "in" / "bomb")
    monkeypatch.setattr(guards, "MAX_BYTES", 1 << 20)
    assert "inflate to more than 1,048,576" in deidentify(tmp_path / "in").refused[0].reason


def test_folders_that_lie_in_each_other_and_a_key_in_the_output_are_refused(plain, tmp_path):
    source = save(plain, tmp_path / "in" / "a.dcm").parent
    for target in (source, source / "out", tmp_path):
        with pytest.raises(KitError, match="lie in each other"):
            deidentify_folder(source, target, key=tmp_path / "key")
    with pytest.raises(KitError, match="to be given away"):
        deidentify_folder(source, tmp_path / "out", key=tmp_path / "out" / "deep" / "key")
    with pytest.raises(KitError, match="There is no folder"):
        deidentify_folder(tmp_path / "none", tmp_path / "out", key=tmp_path / "key")
    assert outputs(tmp_path) == [source / "a.dcm"]


def test_files_of_others_in_the_output_are_named(plain, tmp_path):
    save(plain, tmp_path / "in" / "a.dcm")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("Quillfeather")
    assert deidentify(tmp_path / "in").strangers == ("notes.txt",)


def test_mutated_films_are_copied_clean_or_refused_in_a_sentence(plain, tmp_path):
    small = planted_film(plain)
    small.Rows = small.Columns = 8
    small.PixelData = small.PixelData[:128]
    good, rng = save(small, tmp_path / "good").read_bytes(), np.random.default_rng(1)
    (tmp_path / "in").mkdir()
    for i in range(150):
        mutant = bytearray(good)
        for at in rng.integers(132, len(good), rng.integers(1, 6)):
            mutant[at] = rng.integers(256)
        (tmp_path / "in" / f"{i:03}").write_bytes(mutant)
    report = deidentify(tmp_path / "in")
    assert len(report.films) + len(report.refused) + report.copies == 150 and report.films
    assert all("\n" not in str(refusal) and len(str(refusal)) < 400 for refusal in report.refused)
    for path in outputs(tmp_path / "out"):  # a mutation may have spoilt one spelling of a name, never freed another
        assert not any(form in path.read_bytes().lower() for form in (b"quillfeather", b"mossgate infirmary", b"qx-4471902"))


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


# The command


def test_the_command(plain, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "conf"))
    save(planted_film(plain), tmp_path / "in" / "a.dcm")
    call = ["deidentify", str(tmp_path / "in"), str(tmp_path / "out"), "--text", "no"]
    assert cli.main(call) == 0
    told = capsys.readouterr().out
    key = (tmp_path / "conf" / "primia-kit" / "hospital.key").read_bytes()
    assert "A new key was made" in told and key.hex() not in told and "PatientName" in told
    assert not any(name.lower() in told.lower() for name in NAMES)
    (tmp_path / "in" / "b.dcm").write_bytes(bytes(128) + b"DICM")
    assert cli.main(call) == 1
    assert "REFUSED b.dcm: " in capsys.readouterr().out
    assert cli.main(["deidentify", str(tmp_path / "in"), str(tmp_path / "in")]) == 2
    assert "lie in each other" in capsys.readouterr().err


# Real films


BURNED_IN = "chest/fuji_cr_ap_portable_mono1_10bit_rle_burnedin_fakePHI.dcm"
KNOWN = (
    "davidson", "douglas", "292821506", "19760616", "20130713", "085957", "090020", "090143", "20130714E864535", "POSDA", "CTP",
    "Scott Community", "334 Michael", "Sarahview", "hughes", "kathleen", "0544 Green", "Jeffreyland", "brown", "peter", "037Y",
    "87009668", "20120224142721", "112784503178059210578740147414000844278", "106461954783291641048254423668956446198",
    "22373700284337224907673770690654453238", "FDMS", "SECTRA", "fakePHI",
)  # fmt: skip


@pytest.mark.real_films
def test_the_film_with_a_name_burned_in(cxr_dicom, tmp_path):
    original = cxr_dicom / BURNED_IN
    (tmp_path / "in" / "DAVIDSON_DOUGLAS").mkdir(parents=True)
    (tmp_path / "in" / "DAVIDSON_DOUGLAS" / original.name).write_bytes(original.read_bytes())
    report = deidentify(tmp_path / "in")
    assert not report.refused and "is absent" in report.films[0].warnings[0]
    for path in outputs(tmp_path / "out"):
        texts = [path.relative_to(tmp_path / "out").as_posix().encode(), path.read_bytes()]
        if path.suffix == ".dcm":
            new = pydicom.dcmread(path)
            texts += [
                str(element.value).encode() for element in (*new.iterall(), *new.file_meta) if element.keyword != "PixelData"
            ]
            rest = path.read_bytes().replace(new.PixelData, b"")  # short words turn up in pixels by chance
            texts[1] = rest
        for known in KNOWN:
            assert not any(known.lower().encode() in text.lower() for text in texts), (path.name, known)
    assert new.pixel_array.tobytes() == pydicom.dcmread(original).pixel_array.tobytes()
    assert (read_film(path if path.suffix == ".dcm" else tmp_path / "out" / report.films[0].path) == read_film(original)).all()


@pytest.mark.real_films
def test_real_films_in_every_transfer_syntax(cxr_dicom, tmp_path):
    report = deidentify_folder(cxr_dicom, tmp_path / "out", key=tmp_path / "key", look_for_text=False)
    expected = len(list(cxr_dicom.glob("chest*/*.dcm"))) + len(list(cxr_dicom.glob("ood/*.dcm")))
    assert len(report.films) >= expected and not report.leaks
    assert all(refusal.original.startswith("bad/") for refusal in report.refused)
