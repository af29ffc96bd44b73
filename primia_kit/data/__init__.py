"""Films and the table that describes them: from folders and DICOM files to tensors, hospital by hospital."""

from .dicom import DicomReport, DicomSteps, dicom_steps, read_dicom
from .folders import read_folder
from .images import GEOMETRIES, FilmSet, load_films, pool_films, read_film, resize, warning_lines
from .manifest import CASE_STUDY, Film, Manifest, read_manifest
from .open import open_films
from .partition import PARTITIONS, partition, share_out, site_names
from .synthetic import synthetic_hospitals

__all__ = [
    "CASE_STUDY", "GEOMETRIES", "PARTITIONS", "DicomReport", "DicomSteps", "Film", "FilmSet", "Manifest", "dicom_steps",
    "load_films", "open_films", "partition", "pool_films", "read_dicom", "read_film", "read_folder", "read_manifest",
    "resize", "share_out", "site_names", "synthetic_hospitals", "warning_lines",
]  # fmt: skip
