"""The first line of every notebook: real films where there are any, synthetic hospitals where not."""

from __future__ import annotations

from pathlib import Path

from ..errors import KitError
from .folders import read_folder
from .manifest import Manifest
from .partition import partition
from .synthetic import synthetic_hospitals


def open_films(
    data_dir: str | Path = "",
    *,
    sites: int = 0,
    how: str = "",
    alpha: float = 0.5,
    patients: int = 200,
    seed: int = 0,
    labels=None,
    progress=None,
) -> Manifest:
    """Films with a label, a patient, a site and a split each.

    Args:
        data_dir: real films: a folder, a MedMNIST `.npz` or another of the things that `read_folder` takes;
            empty for the three synthetic hospitals.
        sites: simulated hospitals that films are shared out to; 0 for as many as the films say, or 3 where they
            don't say where they belong.
        how: how patients are shared out, see `partition`. Empty leaves films where they are: at the site that
            their manifest.csv says, else where their headers say that they were taken if there are at least
            two such places, else "iid". Anything else shares them out anew, synthetic films too.
        alpha: skew of "label_skew" and "quantity_skew", see `partition`.
        patients: children a synthetic hospital, on average.
        seed: decides the synthetic films, the sharing out and a split that the folder doesn't have.
        labels: other names for labels, see `read_folder`.
        progress: called as (done, total, what).

    Raises: KitError, see `read_folder`, `partition` and `synthetic_hospitals`; also for a number of sites that isn't
        the films' own, without a `how`.
    """
    if str(data_dir):
        manifest = read_folder(data_dir, seed=seed, labels=labels, progress=progress)
    else:
        manifest = synthetic_hospitals(patients=patients, seed=seed, progress=progress)
    if not how:
        if manifest.sites != ("",):
            if sites and sites != len(manifest.sites):
                raise KitError(
                    f"These films belong to {len(manifest.sites)} sites ({', '.join(manifest.sites[:4])}"
                    f"{', …' if len(manifest.sites) > 4 else ''}), and sites is {sites}: say how to share them out anew, "
                    'e.g. how="iid", or leave sites at 0.'
                )
            return manifest
        places = {film.acquired for film in manifest}
        how = "acquisition" if len(places) > 1 and "" not in places else "iid"
    return partition(manifest, sites or 3, how, alpha=alpha, seed=seed)
