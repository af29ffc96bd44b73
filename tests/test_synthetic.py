"""The synthetic hospitals: reproducible, complete, different, and as sick as their label says."""

import hashlib

import numpy as np
import pydicom
import pytest

from primia_kit.data import read_film, read_manifest, synthetic_hospitals
from primia_kit.data.synthetic import EQUIPMENT, LABELS, draw_child, hospitals, render_chest
from primia_kit.errors import KitError


def digests(manifest):
    return {film.path: hashlib.sha256(manifest.path_of(film).read_bytes()).hexdigest() for film in manifest}


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_cores(tmp_path, hospitals):
    again = synthetic_hospitals(patients=10, folder=tmp_path / "again", jobs=2)
    assert digests(again) == digests(hospitals)
    other = synthetic_hospitals(patients=10, seed=1, folder=tmp_path / "other", jobs=1)
    assert not set(digests(other).values()) & set(digests(hospitals).values())


def test_films_are_made_once(tmp_path, monkeypatch):
    synthetic_hospitals(patients=10, folder=tmp_path, jobs=1)
    monkeypatch.setattr(hospitals, "render_chest", None)
    synthetic_hospitals(patients=10, folder=tmp_path, jobs=1)  # nothing is drawn


def test_other_arguments_never_find_old_films(tmp_path):
    first = synthetic_hospitals(patients=10, folder=tmp_path, jobs=1)
    other = synthetic_hospitals(patients=10, seed=4, folder=tmp_path, jobs=1)
    assert not set(digests(first).values()) & set(digests(other).values())
    uids = {pydicom.dcmread(m.path_of(f), stop_before_pixels=True).SOPInstanceUID for m in (first, other) for f in m}
    assert len(uids) == len(first) + len(other)


def test_a_stopped_making_goes_on(tmp_path, monkeypatch):
    drawn = []
    real = hospitals.render_chest

    def counted(*args):
        drawn.append(args)
        if len(drawn) == 9:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(hospitals, "render_chest", counted)
    with pytest.raises(KeyboardInterrupt):
        synthetic_hospitals(patients=10, folder=tmp_path, jobs=1)
    assert not list(tmp_path.rglob("manifest.csv"))
    manifest = synthetic_hospitals(patients=10, folder=tmp_path, jobs=1)
    assert len(drawn) == len(manifest) + 1  # the eight films made before weren't drawn again
    assert read_manifest(manifest.root / "manifest.csv") == manifest


def test_every_hospital_trains_on_every_label(hospitals):
    counts = hospitals.counts()
    assert len(counts) == 6 and (counts[list(LABELS)].loc[(slice(None), "train"), :] > 0).all(axis=None)
    assert synthetic_hospitals(patients=60, jobs=-1).counts()[list(LABELS)].min(axis=None) > 0


def test_files_are_dicom_that_says_it_is_synthetic(hospitals):
    for film in hospitals:
        ds = pydicom.dcmread(hospitals.path_of(film))
        equipment = EQUIPMENT[film.site]
        assert (ds.Modality, ds.PhotometricInterpretation, ds.BitsStored) == (
            equipment.modality,
            equipment.photometric,
            equipment.bits_stored,
        )
        assert ds.PatientID == film.patient and "ynthetic" in str(ds.PatientName) and "Synthetic" in ds.ImageComments
        assert film.label not in str(ds).lower()  # the answer isn't in the header
        assert ds.pixel_array.max() < 2**ds.BitsStored


def test_polarity_is_the_same_after_reading(hospitals):
    """A child's spine is brighter than its lungs, whatever the detector stores."""
    for film in hospitals:
        if film.label == "normal":
            shown = read_film(hospitals.path_of(film))
            rows, columns = shown.shape
            middle = shown[rows // 3 : rows // 2, columns // 2 - 12 : columns // 2 + 12].max(1).mean()
            lung = shown[rows // 3 : rows // 2, columns // 3 - 25 : columns // 3 + 5].min(1).mean()
            assert middle > lung + 0.15, film


def test_hospitals_expose_differently(hospitals):
    stored = {}
    for site in EQUIPMENT:
        films = [pydicom.dcmread(hospitals.path_of(f)) for f in hospitals.select(site=site)]
        stored[site] = np.mean([np.median(ds.pixel_array) / 2**ds.BitsStored for ds in films])
    lowest, middle, highest = sorted(stored.values())
    assert middle - lowest > 0.03 and highest - middle > 0.03


def test_findings_displace_air_as_their_label_says():
    opacity = {label: [] for label in LABELS}
    sides = []
    for i in range(12):
        for label in LABELS:
            rng = np.random.default_rng([i, LABELS.index(label)])
            chest = render_chest(draw_child(rng), label, rng)
            assert chest.attenuation.shape == (224, 224) and chest.attenuation.min() >= 0 and np.isfinite(chest.attenuation).all()
            assert chest.opacity.min() >= 0 and chest.opacity.max() < 1
            opacity[label].append(chest.opacity)
            if label == "viral":
                sides.append((chest.opacity[:, :112].sum(), chest.opacity[:, 112:].sum()))
    assert max(o.max() for o in opacity["normal"]) == 0
    assert np.mean([o.max() for o in opacity["bacterial"]]) > 2 * np.mean([np.percentile(o, 99) for o in opacity["viral"]])
    assert all(0.4 < left / right < 2.5 for left, right in sides)  # viral haze is on both sides


def test_too_few_patients_is_a_sentence():
    with pytest.raises(KitError, match="at least 10"):
        synthetic_hospitals(patients=9)
