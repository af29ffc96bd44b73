"""DICOM CR and DX films: what is refused, what is warned about, and how stored values become gray."""

from .checks import CHECKS, checks_table
from .guards import is_dicom
from .pixels import DicomReport, DicomSteps, dicom_steps, read_dicom

__all__ = ["CHECKS", "DicomReport", "DicomSteps", "checks_table", "dicom_steps", "is_dicom", "read_dicom"]
