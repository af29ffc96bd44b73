"""DICOM films become the gray that the standard's formulas say; what isn't a chest film is refused by its tag."""

import math
import os
import struct
import threading
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.pixels import compress
from pydicom.sr.codedict import codes
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from primia_kit.data import dicom_steps, read_dicom, read_film
from primia_kit.data.dicom import CHECKS, checks, checks_table, is_dicom
from primia_kit.data.dicom.checks import DX, DX_RAW
from primia_kit.errors import KitError

from .dicom_films import RAMP, film, film_bytes, lut, saved, sequence

BITS = st.sampled_from([8, 10, 12, 15, 16])


def lowest(bits, signed):
    return -(2 ** (bits - 1)) if signed else 0


@st.composite
def stored_values(draw):
    bits, signed = draw(BITS), draw(st.booleans())
    low = lowest(bits, signed)
    values = draw(st.lists(st.integers(low, low + 2**bits - 1), min_size=4, max_size=12))
    return np.array([values]), bits, signed


def by_the_standard(x, c, w, function):
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2 with ymin 0 and ymax 1, one value at a time."""
    if function == "SIGMOID":
        return 1 / (1 + math.exp(min(700, -4 * (x - c) / w)))
    if function == "LINEAR":
        if x <= c - 0.5 - (w - 1) / 2:
            return 0
        return 1 if x > c - 0.5 + (w - 1) / 2 else (x - (c - 0.5)) / (w - 1) + 0.5
    if x <= c - w / 2:
        return 0
    return 1 if x > c + w / 2 else (x - c) / w + 0.5


@settings(max_examples=300, deadline=None)
@given(
    stored_values(),
    st.integers(-40000, 70000).map(lambda n: n / 2),
    st.integers(2, 140000).map(lambda n: n / 2),
    st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    st.sampled_from([(1, 0), (2, -1024), (0.5, 100.25), (-1, 4095)]),
    st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
)
def test_windows_follow_the_standards_formulas(values, center, width, function, rescale, photometric):
    stored, bits, signed = values
    changes = {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": function, "PhotometricInterpretation": photometric}
    steps = dicom_steps(film_bytes(stored, bits, signed, RescaleSlope=rescale[0], RescaleIntercept=rescale[1], **changes))
    np.testing.assert_array_equal(steps.stored, stored)
    modality = stored * rescale[0] + rescale[1]
    np.testing.assert_array_equal(steps.modality, modality.astype(np.float32))
    expected = np.array([[by_the_standard(float(x), center, width, function) for x in modality[0]]])
    np.testing.assert_allclose(steps.voi, expected, atol=1e-6)
    np.testing.assert_allclose(steps.shown, 1 - expected if photometric == "MONOCHROME1" else expected, atol=1e-6)
    assert steps.shown.dtype == np.float32 and steps.shown.min() >= 0 and steps.shown.max() <= 1


@settings(max_examples=200, deadline=None)
@given(stored_values(), st.data())
def test_luts_follow_their_descriptors(values, data):
    """PS3.3 C.11.1.1.1 and C.11.2.1.1: below the first value mapped the first entry, beyond the last one the last."""
    stored, bits, signed = values
    low = lowest(bits, signed)
    out = data.draw(st.sampled_from([8, 10, 12, 16]))
    entries = data.draw(st.lists(st.integers(0, 2**out - 1), min_size=2, max_size=40))
    assume(out < 16 or not 128 <= max(entries) < 4096)  # taken for a device's mistake, see below
    first = data.draw(st.integers(low, low + 2**bits - 1))
    packed = bytes(entries) + b"\0" * (len(entries) % 2) if out == 8 and data.draw(st.booleans()) else entries
    table = lut(first, out, packed)
    table[0].LUTDescriptor = [len(entries), first & 0xFFFF, out]
    expected = np.array([[entries[min(max(int(x) - first, 0), len(entries) - 1)] for x in stored[0]]])

    steps = dicom_steps(film_bytes(stored, bits, signed, VOILUTSequence=table))
    np.testing.assert_allclose(steps.voi, expected / (2**out - 1), atol=1e-6)
    implicit = film(stored, bits, signed, ModalityLUTSequence=table, WindowCenter=2**out / 2, WindowWidth=2**out)
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    steps = dicom_steps(saved(implicit))
    np.testing.assert_array_equal(steps.modality, expected)
    np.testing.assert_allclose(steps.voi, np.clip(expected / (2**out - 1), 0, 1), atol=1e-6)


def test_a_lut_of_65536_entries_says_0():
    table = lut(0, 16, np.arange(65536)[::-1])
    assert table[0].LUTDescriptor[0] == 0
    stored = np.array([[0, 1, 65535]])
    np.testing.assert_allclose(read_dicom(film_bytes(stored, 16, VOILUTSequence=table))[0], 1 - stored / 65535, atol=1e-6)


def test_a_voi_lut_after_a_rescale_to_negative_values_starts_below_zero():
    steps = dicom_steps(film_bytes(RAMP, RescaleSlope=1, RescaleIntercept=-100, VOILUTSequence=lut(-100, 8, list(range(256)))))
    np.testing.assert_allclose(steps.voi, RAMP / 255, atol=1e-6)


def test_a_window_of_width_one_is_a_threshold():
    shown, _ = read_dicom(film_bytes(RAMP, WindowCenter=100, WindowWidth=1))
    np.testing.assert_array_equal(shown, RAMP > 99.5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"WindowWidth": 0.5}, r"WindowWidth \(0028,1051\) is 0.5; a LINEAR window's width is at least 1"),
        ({"WindowWidth": 0, "VOILUTFunction": "SIGMOID"}, r"WindowWidth \(0028,1051\) is 0; a SIGMOID .* greater than 0"),
        ({"WindowWidth": -3, "VOILUTFunction": "LINEAR_EXACT"}, "greater than 0"),
        ({"VOILUTFunction": "CUBIC"}, r"VOILUTFunction \(0028,1056\) is 'CUBIC'; the standard has LINEAR"),
        ({"WindowWidth": [100, 200]}, r"WindowCenter \(0028,1050\) has 1 values and WindowWidth \(0028,1051\) 2"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, r"RescaleSlope \(0028,1053\) is 0"),
        ({"ModalityLUTSequence": lut(0, 40, [1, 2])}, r"LUTDescriptor \(0028,3002\) says 40 bits"),
    ],
)
def test_an_illegal_window_or_lut_is_a_sentence(change, sentence):
    with pytest.raises(KitError, match=sentence):
        read_dicom(film_bytes(**{"WindowCenter": 100, "WindowWidth": 100, **change}))


@pytest.mark.parametrize(("said", "highest"), [(16, 4095), (8, 1023), (10, 4000)])
def test_a_voi_lut_that_says_the_wrong_number_of_bits_is_read_by_its_entries(said, highest):
    entries = np.linspace(0, highest, 256).round().astype(int).tolist()
    shown, report = read_dicom(film_bytes(VOILUTSequence=lut(0, said, entries)))
    assert shown.max() > 0.97
    assert report.warnings == (
        f"LUTDescriptor (0028,3002) says {said} bits, its entries reach {highest}: read as {highest.bit_length()} bits.",
    )


def test_a_modality_luts_output_is_unsigned_whatever_goes_in():
    table = lut(0, 16, [40000 + 10 * i for i in range(128)])
    stored = np.arange(128).reshape(8, 16)
    voi = lut(40000, 8, [0, 255])
    voi[0].LUTDescriptor = [2, 40000, 8]
    steps = dicom_steps(film_bytes(stored, 12, True, ModalityLUTSequence=table, VOILUTSequence=voi))
    assert steps.modality[0, 0] == 40000 and steps.shown[0, 0] == 0 and steps.shown[0, 1] == 1


def test_padding_around_the_picture_is_black_and_a_saturated_pixel_inside_stays():
    stored = np.full((80, 80), 900)
    stored[:, :10], stored[40, 40] = 0, 0
    ds = film(stored, 12, False, PhotometricInterpretation="MONOCHROME1", WindowCenter=500, WindowWidth=1000)
    ds.add_new("PixelPaddingValue", "US", 0)
    steps = dicom_steps(saved(ds))
    assert (steps.shown[:, :10] == 0).all() and steps.shown[40, 40] == 1 and 0.09 < steps.shown[0, 20] < 0.11
    assert steps.report.applied[-1] == "padding around the picture (0 to 0, 12.5% of it) shown black"
    assert "range" not in "".join(steps.report.applied)


@pytest.mark.parametrize(("center", "word"), [(30000, "black"), (-29700, "white")])
def test_a_picture_without_contrast_is_warned_about(center, word):
    shown, report = read_dicom(film_bytes(WindowCenter=center, WindowWidth=60100))
    assert 0 < np.ptp(shown) < 0.01
    (warning,) = report.warnings
    assert warning.startswith(f"PixelData (7FE0,0010): the picture is almost {word}: its ")


def test_a_window_that_leaves_one_gray_value_is_told_once():
    _, outside = read_dicom(film_bytes(WindowCenter=5000, WindowWidth=10))
    _, threshold = read_dicom(
        film_bytes(np.maximum(RAMP, 1), WindowCenter=1, WindowWidth=1)
    )  # all of it above, none of it outside
    assert len(outside.warnings) == 1 and "is flat" in outside.warnings[0]
    assert len(threshold.warnings) == 1


def test_views_are_chosen_by_number_luts_first():
    data = film_bytes(VOILUTSequence=lut(0, 8, list(range(255, -1, -1))), WindowCenter=[128, 40], WindowWidth=[256, 1])
    np.testing.assert_allclose(read_dicom(data)[0], 1 - RAMP / 255, atol=1e-6)
    np.testing.assert_allclose(read_dicom(data, window=1)[0], RAMP / 255, atol=1e-6)
    shown, report = read_dicom(data, window=2)
    np.testing.assert_array_equal(shown, RAMP > 39.5)
    assert "window (3 of 3), LINEAR: center 40, width 1" in report.applied
    for wrong in (3, -1):
        with pytest.raises(KitError, match=r"VOILUTSequence \(0028,3010\) has 1 LUTs and .* 2 windows.* from 0 to 2"):
            read_dicom(data, window=wrong)


def test_without_window_the_films_own_range_is_shown_and_said():
    shown, report = read_dicom(film_bytes(RAMP + 100, 10))
    np.testing.assert_allclose(shown, RAMP / 255, atol=1e-6)
    assert any("no VOI LUT and no window: the film's own range, 100 to 355" in words for words in report.applied)


@pytest.mark.parametrize("signed", [False, True])
def test_padding_does_not_count_for_the_films_own_range(signed):
    stored = np.where(RAMP < 20, lowest(12, signed), RAMP + 1000)
    ds = film(stored, 12, signed)
    ds.add_new("PixelPaddingValue", "SS" if signed else "US", lowest(12, signed))
    shown, report = read_dicom(saved(ds))
    np.testing.assert_allclose(shown, np.clip((RAMP - 20) / 235, 0, 1), atol=1e-6)
    assert "padding" in report.applied[-1]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("high", [9, 11, 15])
def test_bits_beside_the_stored_ones_are_masked_off(signed, high):
    """PS3.5 8.1.1: the sample lies below HighBit; overlays or noise may lie beside it."""
    stored = np.arange(1024).reshape(32, 32) + lowest(10, signed)
    words = (stored & 1023) << (high - 9)
    noise = np.random.default_rng(0).integers(0, 65536, words.shape) & ~(1023 << (high - 9)) & 0xFFFF
    data = film_bytes(stored, 10, signed, HighBit=high, PixelData=(words | noise).astype("<u2").tobytes())
    np.testing.assert_array_equal(dicom_steps(data).stored, stored)


SYNTAXES = [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (12, True), (16, False), (16, True)])
def test_every_transfer_syntax_gives_the_same_values(syntax, bits, signed):
    stored = np.random.default_rng(bits).integers(0, 2**bits, (40, 33)) + lowest(bits, signed)
    ds = film(stored, bits, signed, WindowCenter=lowest(bits, signed) + 2 ** (bits - 1), WindowWidth=2**bits)
    expected = read_dicom(saved(ds))[0]
    if syntax.is_encapsulated:
        compress(ds, syntax, encoding_plugin="pylibjpeg" if syntax == RLELossless else "")
    ds.file_meta.TransferSyntaxUID = syntax
    steps = dicom_steps(saved(ds))
    np.testing.assert_array_equal(steps.stored, stored)
    np.testing.assert_array_equal(steps.shown, expected)


def test_big_endian():
    stored = RAMP * 16
    ds = film(stored, 12, PixelData=stored.astype(">u2").tobytes(), VOILUTSequence=lut(0, 12, []))
    ds.VOILUTSequence[0].LUTDescriptor = [4096, 0, 12]
    ds.VOILUTSequence[0].LUTData = np.arange(4096).astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    np.testing.assert_allclose(read_dicom(saved(ds))[0], stored / 4095, atol=1e-6)


def test_polarity_is_inverted_once():
    normal = read_dicom(film_bytes())[0]
    negative, report = read_dicom(film_bytes(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"))
    np.testing.assert_array_equal(negative, 1 - normal)
    assert not report.warnings
    contradicted, report = read_dicom(film_bytes(PresentationLUTShape="INVERSE"))
    np.testing.assert_array_equal(contradicted, normal)
    assert report.warnings == ("PresentationLUTShape (2050,0020) is 'INVERSE' and contradicts MONOCHROME2, which was followed.",)


def code(value="", meaning=""):
    return sequence(CodeValue=value, CodingSchemeDesignator="SCT", CodeMeaning=meaning)


REFUSED = [
    ("SOPClassUID", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}),
    ("SOPClassUID", {"SOPClassUID": None}),
    ("SOPClassUID", {"SOPClassUID": DX_RAW}),
    ("PresentationIntentType", {"SOPClassUID": DX, "PresentationIntentType": "FOR PROCESSING"}),
    ("Modality", {"Modality": "CT"}),
    ("PhotometricInterpretation", {"PhotometricInterpretation": "RGB"}),
    ("PhotometricInterpretation", {"PhotometricInterpretation": "PALETTE COLOR"}),
    ("SamplesPerPixel", {"SamplesPerPixel": 3}),
    ("NumberOfFrames", {"NumberOfFrames": 2}),
    ("Rows", {"Rows": 0}),
    ("Rows", {"Rows": 46341, "Columns": 46341}),
    ("BitsAllocated", {"BitsAllocated": 32}),
    ("BitsStored", {"BitsStored": 9}),
    ("HighBit", {"HighBit": 3}),
    ("PixelRepresentation", {"PixelRepresentation": 2}),
    ("PatientSpeciesDescription", {"PatientSpeciesDescription": "Canis lupus familiaris"}),
    ("PatientSpeciesCodeSequence", {"PatientSpeciesCodeSequence": code("448771007", "Canis lupus familiaris")}),
    ("PatientBreedDescription", {"PatientBreedDescription": "Beagle"}),
    ("PatientBreedCodeSequence", {"PatientBreedCodeSequence": code("132446004", "Beagle")}),
    ("AcquisitionDeviceProcessingDescription", {"AcquisitionDeviceProcessingDescription": "FELINE THORAX"}),
    ("ProtocolName", {"ProtocolName": "canine"}),
    ("SeriesDescription", {"SeriesDescription": "Equine chest"}),
    ("StudyDescription", {"StudyDescription": "VETERINARY CHEST"}),
    ("PerformedProtocolCodeSequence", {"PerformedProtocolCodeSequence": code("1", "CANINE THORAX")}),
    *(("ViewPosition", {"ViewPosition": view}) for view in ("LL", "RL", "LATERAL", "LLO")),
    ("ViewCodeSequence", {"ViewCodeSequence": code("399173006", "left lateral")}),
    ("ViewCodeSequence", {"ViewCodeSequence": code("399173006")}),
    ("PatientOrientation", {"PatientOrientation": ["A", "F"]}),
    ("AcquisitionDeviceProcessingDescription", {"AcquisitionDeviceProcessingDescription": "CHEST LATERAL"}),
    ("ProtocolName", {"ProtocolName": "Chest lat"}),
    ("SeriesDescription", {"SeriesDescription": "Lateral"}),
    ("BodyPartExamined", {"BodyPartExamined": "KNEE"}),
    ("BodyPartExamined", {"BodyPartExamined": "THORACIC SPINE"}),
    ("AnatomicRegionSequence", {"AnatomicRegionSequence": code("72696002", "Knee")}),
    ("AnatomicRegionSequence", {"AnatomicRegionSequence": code("122495006", "Thoracic spine")}),
]
WARNED = [
    ("SOPClassUID", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}),
    ("Modality", {"Modality": "OT"}),
    ("ViewPosition", {"ViewPosition": None}),
    ("BodyPartExamined", {"BodyPartExamined": None}),
    ("BurnedInAnnotation", {"BurnedInAnnotation": "YES"}),
    ("BurnedInAnnotation", {"BurnedInAnnotation": None}),
    ("PresentationLUTShape", {"PresentationLUTShape": "INVERSE"}),
    ("LossyImageCompression", {"LossyImageCompression": "01"}),
    ("PixelAspectRatio", {"PixelAspectRatio": [2, 1]}),
    ("PixelSpacing", {"PixelSpacing": [0.1, 0.2]}),
    ("ImagerPixelSpacing", {"ImagerPixelSpacing": [0.1, 0.2]}),
    ("WindowCenter", {"WindowCenter": 5000, "WindowWidth": 10}),
    ("PixelData", {"PixelData": bytes(256)}),
    ("RescaleSlope", {"RescaleSlope": 2}),
]


@pytest.mark.parametrize(("keyword", "changes"), REFUSED)
def test_what_is_refused_names_its_tag(keyword, changes):
    with pytest.raises(KitError, match=rf"^the DICOM data: {keyword} \([0-9A-F]{{4}},[0-9A-F]{{4}}\) .*\.$"):
        read_dicom(film_bytes(**changes))


@pytest.mark.parametrize(("keyword", "changes"), WARNED)
def test_what_is_warned_about_names_its_tag(keyword, changes):
    _, report = read_dicom(film_bytes(**changes))
    assert len(report.warnings) == 1 and report.warnings[0].startswith(f"{keyword} ("), report.warnings


def test_every_row_of_the_table_has_a_test():
    tested = {("refuse", keyword) for keyword, _ in REFUSED} | {("warn", keyword) for keyword, _ in WARNED}
    assert {(check.action, check.keyword) for check in CHECKS} <= tested
    assert len(checks_table()) == len(CHECKS)


@pytest.mark.parametrize(
    "changes",
    [
        {"SOPClassUID": DX, "Modality": "DX", "PresentationIntentType": "FOR PRESENTATION", "PresentationLUTShape": "IDENTITY"},
        {"PatientSpeciesDescription": "Homo sapiens", "PatientSpeciesCodeSequence": code("337915000", "homo sapiens")},
        {"ViewPosition": None, "ViewCodeSequence": code("399348003", "antero-posterior")},
        {"ViewPosition": None, "ViewCodeSequence": code("R-10202")},
        {"BodyPartExamined": None, "AnatomicRegionSequence": code("51185008", "Chest")},
        {"SeriesDescription": "Chest PA and lateral", "StudyDescription": "CHEST LATERAL"},
        {"PatientOrientation": ["L", "F"]},
    ],
)
def test_what_is_right_passes_without_a_warning(changes):
    assert read_dicom(film_bytes(**changes))[1].warnings == ()


def test_codes_are_those_of_the_standard():
    names = {"AnteroPosterior", "PosteroAnterior", "Frontal"}
    assert {getattr(codes.cid4010, name).value for name in names} <= set(checks.FRONTAL_CODES)
    others = {getattr(codes.cid4010, name).value for name in codes.cid4010.dir()} - set(checks.FRONTAL_CODES)
    assert len(others) > 20
    assert {getattr(codes.cid4031, name).value for name in ("Chest", "ChestAndAbdomen")} <= set(checks.CHEST_CODES)
    with pytest.raises(KitError, match="PatientSpeciesCodeSequence"):
        read_dicom(film_bytes(PatientSpeciesCodeSequence=code("L-85B00")))  # not ours


def test_a_negative_is_warned_about_and_shown_as_the_header_says():
    chest = np.full((128, 128), 60)
    chest[:, 56:72] = 220  # mediastinum
    chest[:10] = chest[:, :6] = chest[:, -6:] = 10
    assert read_dicom(film_bytes(chest))[1].warnings == ()
    shown, report = read_dicom(film_bytes(chest, PhotometricInterpretation="MONOCHROME1"))
    assert shown[0, 0] == 1 and len(report.warnings) == 1
    assert report.warnings[0].startswith("PhotometricInterpretation (0028,0004) was followed, but")


def test_a_file_is_known_by_its_content(tmp_path):
    path = tmp_path / "film"
    path.write_bytes(film_bytes())
    assert is_dicom(path)
    np.testing.assert_array_equal(read_film(path), read_dicom(str(path))[0])
    bare = tmp_path / "without_preamble"
    bare.write_bytes(path.read_bytes()[132:])
    assert is_dicom(bare)
    np.testing.assert_array_equal(read_dicom(bare)[0], read_dicom(path)[0])
    Image.new("L", (20, 20)).save(tmp_path / "f.png")
    for content in (b"", b"DICM", bytes(131), bytes(128) + b"DIC", (tmp_path / "f.png").read_bytes()):
        path.write_bytes(content)
        assert not is_dicom(path)
        with pytest.raises(KitError, match="not a DICOM file"):
            read_dicom(path)
    os.mkfifo(tmp_path / "pipe")
    assert not is_dicom(tmp_path / "pipe")
    for wrong in (tmp_path / "pipe", tmp_path, tmp_path / "absent", "a\0b"):
        with pytest.raises(KitError):
            read_dicom(wrong)
    with pytest.raises(OSError):
        is_dicom(tmp_path)


def test_nothing_is_printed_and_threads_share_the_reader(capfd):
    ds = film(WindowCenter="128", WindowWidth="256")
    ds.SOPInstanceUID = "not a uid"
    data = saved(ds)
    results = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=lambda: results.append(read_dicom(data)[0])) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not caught
        warnings.warn("still heard", stacklevel=1)
        assert len(caught) == 1
    assert len(results) == 8 and capfd.readouterr() == ("", "")


def test_a_codestream_of_more_bits_than_the_header_says_is_kept_and_warned_about():
    stored = np.random.default_rng(0).integers(0, 4096, (40, 33))
    ds = film(stored, 12)
    compress(ds, JPEGLSLossless)
    ds.BitsStored, ds.HighBit = 10, 9
    steps = dicom_steps(saved(ds))
    np.testing.assert_array_equal(steps.stored, stored)
    assert steps.report.warnings == ("BitsStored (0028,0101) is 10, but the codestream has values of 12 bits; all were kept.",)


@pytest.mark.real_films
def test_real_films_have_the_right_polarity_and_range(cxr_dicom):
    paths = sorted(cxr_dicom.glob("chest*/*.dcm"))
    assert len(paths) == 12
    for path in paths:
        shown, report = read_dicom(path)
        assert shown.min() >= 0 and shown.max() <= 1 and np.ptp(shown) > 0.8, path
        negative = [sentence for sentence in report.warnings if "looks like a negative" in sentence]
        assert bool(negative) == ("mono1flag" in path.name), path
        np.testing.assert_array_equal(dicom_steps(path).shown, shown)


@pytest.mark.real_films
def test_eight_transfer_syntaxes_of_a_real_film_give_identical_pixels(cxr_dicom):
    steps = [dicom_steps(path) for path in sorted(cxr_dicom.glob("chest_derived/*.dcm"))]
    assert len(steps) == 8
    for other in steps[1:]:
        np.testing.assert_array_equal(other.stored, steps[0].stored)
        np.testing.assert_array_equal(other.shown, steps[0].shown)


@pytest.mark.real_films
def test_a_real_film_and_its_negative_are_exact_complements(cxr_dicom):
    negative, positive = (read_dicom(cxr_dicom / f"chest/rsna_{m}_8bit_jpeg_baseline.dcm")[0] for m in ("mono1flag", "mono2"))
    np.testing.assert_array_equal(negative, 1 - positive)


@pytest.mark.real_films
def test_real_files_that_are_no_chest_film_are_a_sentence(cxr_dicom):
    paths = sorted([*cxr_dicom.glob("bad/*.dcm"), *cxr_dicom.glob("ood/*.dcm")])
    assert len(paths) == 4
    for path in paths:
        with pytest.raises(KitError, match=r"^[^\n]*\([0-9A-F]{4},[0-9A-F]{4}\)[^\n]*\.$"):
            read_dicom(path)
        with pytest.raises(KitError):
            read_film(path)


def test_a_jpeg_of_another_kind_than_the_syntax_says_is_a_sentence():
    ds = film(RAMP)
    compress(ds, JPEGLSLossless)
    data = saved(ds).replace(b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.4.50")
    with pytest.raises(KitError, match="another kind of JPEG"):
        read_dicom(data)
    assert struct.pack(">H", 0xFFF7) in data
