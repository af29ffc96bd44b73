"""What stays though an identifier looks like it, and what goes though it doesn't."""

import json
from datetime import date

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from primia_kit.data.deidentify import Pseudonyms
from primia_kit.data.deidentify.dates import dates_in
from primia_kit.data.deidentify.identity import Identity
from primia_kit.data.deidentify.search import Search
from primia_kit.data.deidentify.terms import is_defined_term

from .planted_identity import code, copy_of, deidentify, outputs, save, with_private, with_tags


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
