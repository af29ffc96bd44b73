"""What dicom-anonymizer alone leaves in a film, and what the kit leaves: field by field, on a film with an invented identity.

Two films: a synthetic one with an identity planted where people and devices write, and one that is given
(default: the film with a synthetic identity in $PRIMIA_DATA/cxr_dicom, if it is there). No value is printed.

    python benchmarks/deidentification.py [--json] [FILM.dcm]
"""

import argparse
import io
import json
import os
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence

from primia_kit.data.deidentify import deidentify_folder
from primia_kit.data.deidentify.identity import identity_of
from primia_kit.data.deidentify.search import Search
from primia_kit.data.deidentify.verify import find_leaks

REAL = "cxr_dicom/chest/fuji_cr_ap_portable_mono1_10bit_rle_burnedin_fakePHI.dcm"
NAME, UID = "Quillfeather^Thaddeus", "1.3.6.1.4.1.99999.7.12345"


def planted_film() -> bytes:
    """A small film with an invented identity."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.file_meta.SourceApplicationEntityTitle, ds.file_meta.SendingApplicationEntityTitle = "MOSSGATE_PACS", "MOSSGATE_MOD"
    ds.file_meta.PrivateInformationCreatorUID, ds.file_meta.PrivateInformation = UID, b"Quillfeather"
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID + ".1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = UID + ".2", UID + ".3"
    ds.StudyDate, ds.StudyTime, ds.PatientBirthDate, ds.PatientSex = "20190317", "093847", "20120229", "M"
    ds.PatientName, ds.PatientID, ds.AccessionNumber = NAME, "QX-4471902", "ACC77310055"
    ds.InstitutionName, ds.ReferringPhysicianName = "Mossgate Infirmary", "Wexcombe^Ambrosia"
    ds.StudyDescription, ds.ImageComments = "chest, Quillfeather", "mother: Ambrosia"
    ds.SoftwareVersions, ds.FilterType = "licensed to Mossgate Infirmary", "Quillfeather"
    ds.Manufacturer, ds.BodyPartExamined, ds.Modality = "Mossgate Infirmary", "QUILLFEATHER", "CR"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99MOSS", "view for Wexcombe"
    ds.ViewCodeSequence = Sequence([code])
    device = Dataset()
    device.InstitutionName, device.ContributionDateTime = "Mossgate Infirmary", "20190317093847"
    ds.ContributingEquipmentSequence = Sequence([device])
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = ds.SOPClassUID, UID + ".4"
    ds.ReferencedImageSequence = Sequence([source])
    ds.private_block(0x0029, "MOSSGATE", create=True).add_new(0x10, "LO", NAME)
    ds.add_new(0x60000022, "LO", "Quillfeather")
    ds.add_new(0x60003000, "OW", b"Thaddeus")
    ds.add_new(0x50003000, "OW", b"Wexcombe")
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 32, 32, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = np.arange(1024, dtype="<u2").tobytes()
    ds.preamble = b"Thaddeus Quillfeather".ljust(128)
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def fields(dataset, where="") -> dict[str, tuple[str, object]]:
    """{tag with its place: (keyword, value)} of everything but pixels and empty values, file meta information too."""
    found = {}
    for element in (*(getattr(dataset, "file_meta", None) or ()), *dataset):
        tag = f"{where}({element.tag.group:04X},{element.tag.element:04X})"
        if element.VR == "SQ":
            for i, item in enumerate(element.value):
                found |= fields(item, f"{tag}[{i}].")
        elif element.keyword != "PixelData" and not element.is_empty:
            found[tag] = (element.keyword or "(private or unknown)", element.value)
    return found


def compare(content: bytes, name: str) -> dict:
    """One film through both; a field is left if its value is the same afterwards and holds something that identifies."""
    from dicomanonymizer import anonymize_dicom_file

    original = pydicom.dcmread(io.BytesIO(content))
    identity = identity_of(original)  # names of files are the caller's affair in dicom-anonymizer: not counted
    search = Search(identity)
    before = fields(original)
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder, "in", name)
        inside.parent.mkdir()
        inside.write_bytes(content)
        start = time.perf_counter()
        anonymize_dicom_file(str(inside), str(Path(folder, name)))
        alone_seconds = time.perf_counter() - start
        start = time.perf_counter()
        report = deidentify_folder(inside.parent, Path(folder, "out"), key=Path(folder, "key"), look_for_text=False)
        kit_seconds = time.perf_counter() - start
        results = {
            "dicom-anonymizer": (Path(folder, name).read_bytes(), name),
            "kit": (Path(folder, "out", report.films[0].path).read_bytes(), report.films[0].path),
        }
    rows, summary = [], {}
    for who, (data, new_name) in results.items():
        after = fields(pydicom.dcmread(io.BytesIO(data)))
        same = {tag for tag, (_, value) in before.items() if tag in after and after[tag][1] == value}
        bearing = {tag for tag in same if search.hits(_text(before[tag][1]))}
        summary[who] = {
            "fields_unchanged": len(same),
            "fields_left_that_identify": len(bearing),
            "places_where_the_search_finds_something": [str(leak) for leak in find_leaks(data, new_name, identity)],
            "method_recorded": "(0012,0064)[0].(0008,0100)" in after,
        }
        rows.append((same, bearing))
    (alone, alone_bad), (kit, kit_bad) = rows
    differing = sorted(alone ^ kit)
    table = [
        {
            "tag": tag,
            "keyword": before[tag][0],
            "dicom-anonymizer": "left" if tag in alone else "changed",
            "kit": "left" if tag in kit else "changed",
            "identifies": tag in alone_bad | kit_bad,
        }
        for tag in differing
    ]
    summary["dicom-anonymizer"]["seconds"], summary["kit"]["seconds"] = round(alone_seconds, 3), round(kit_seconds, 3)
    return {"fields": len(before), **summary, "differ": table}


def _text(value) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) or hasattr(value, "append") else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("film", type=Path, nargs="?", help="a DICOM film")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    films = {"planted": (planted_film(), "film.dcm")}
    real = options.film or Path(os.environ.get("PRIMIA_DATA", ""), REAL)
    if real.is_file():
        films["given"] = (real.read_bytes(), "film.dcm")
    results = {}
    for title, (content, name) in films.items():
        results[title] = found = compare(content, name)
        print(f"\n{title} film: {found['fields']} fields that hold something")
        for row in found["differ"]:
            mark = "IDENTIFIES" if row["identifies"] else ""
            print(f"  {row['tag']:<36} {row['keyword']:<40} alone {row['dicom-anonymizer']:<8} kit {row['kit']:<8} {mark}")
        for who in ("dicom-anonymizer", "kit"):
            one = found[who]
            places = one["places_where_the_search_finds_something"]
            print(
                f"  {who}: {one['fields_left_that_identify']} field(s) left that identify; {one['seconds']} s; found in {places}"
            )
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
