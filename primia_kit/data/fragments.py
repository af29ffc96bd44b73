"""Paths to films inside files of many: `pneumonia.npz#train/17`, `volume.nii.gz#12`."""

from __future__ import annotations

import re
from pathlib import Path

NPZ_SUFFIXES = (".npz",)
NIFTI_SUFFIXES = (".nii", ".nii.gz")
_FRAGMENT = re.compile(r"(.*?(?:\.npz|\.nii|\.nii\.gz))#(.*)", re.IGNORECASE | re.DOTALL)


def split_fragment(path: str | Path) -> tuple[Path, str]:
    """(file, fragment or ""). Only files that can hold many films have one, so that other names may have a #."""
    match = _FRAGMENT.fullmatch(str(path))
    return (Path(match[1]), match[2]) if match else (Path(path), "")
