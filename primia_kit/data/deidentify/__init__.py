"""Films without their patients: PS3.15 Annex E, Basic Application Level Confidentiality Profile."""

from .burned_in import TextRegion, find_text, ocr_installed
from .compare import compare_headers
from .folder import deidentify_folder
from .key import Pseudonyms, default_key_path, load_or_create_key
from .profile import Change
from .report import FilmReport, Refusal, Report

__all__ = [
    "Change", "FilmReport", "Pseudonyms", "Refusal", "Report", "TextRegion", "compare_headers", "default_key_path",
    "deidentify_folder", "find_text", "load_or_create_key", "ocr_installed",
]  # fmt: skip
