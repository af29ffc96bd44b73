"""The first line of every notebook: real films where there are any, synthetic hospitals where not."""

from __future__ import annotations

from pathlib import Path

from .folders import read_folder
from .manifest import Manifest
from .partition import share_out
from .synthetic import synthetic_hospitals


def open_films(data_dir: str | Path = "", *, sites: int = 3, patients: int = 200, seed: int = 0, progress=None) -> Manifest:
    """Films with a label, a patient, a site and a split each.

    Args:
        data_dir: a folder of real films (see `read_folder`); empty for the three synthetic hospitals.
        sites: simulated hospitals that real films are shared out to, patient by patient, unless their
            manifest.csv already says where each was taken.
        patients: children a synthetic hospital, on average.
        seed: decides the synthetic films, the sharing out and a split that the folder doesn't have.
        progress: called as (done, total, what).

    Raises: KitError, see `read_folder`, `share_out` and `synthetic_hospitals`.
    """
    if not str(data_dir):
        return synthetic_hospitals(patients=patients, seed=seed, progress=progress)
    manifest = read_folder(data_dir, seed=seed)
    return share_out(manifest, sites, seed) if manifest.sites == ("",) else manifest
