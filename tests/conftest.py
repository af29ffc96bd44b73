"""Fixtures, and one rule: where the real films are there, no test on them may be skipped."""

import os
from pathlib import Path

import matplotlib
import pytest

import primia_kit  # noqa: F401 - before any test imports torch, as in a notebook

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Tests neither read nor fill the user's cache."""
    os.environ["PRIMIA_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def hospitals(_own_cache):
    """The manifest of three small synthetic hospitals."""
    from primia_kit.data import synthetic_hospitals

    return synthetic_hospitals(patients=10, jobs=1)


@pytest.fixture(scope="session")
def plain(hospitals):
    """A synthetic film's pydicom data set: copy it before you change it."""
    import pydicom

    return pydicom.dcmread(hospitals.path_of(hospitals.films[0]))


@pytest.fixture(scope="session")
def small_plan():
    from primia_kit.federation import TrainingPlan

    return TrainingPlan(size=32, rounds=2, batch_size=8, learning_rate=0.02)


@pytest.fixture(scope="session")
def sites(hospitals, small_plan):
    from primia_kit.federation import load_sites

    return load_sites(hospitals, small_plan)


@pytest.fixture(scope="session")
def kermany():
    """The folder of 4,896 real films; a test that uses it carries the mark `real_films`."""
    folder = Path(os.environ.get("PRIMIA_DATA", "")) / "kermany224"
    if not os.environ.get("PRIMIA_DATA") or not folder.is_dir():
        pytest.skip("PRIMIA_DATA names no folder with kermany224: real films aren't here")
    return folder


@pytest.fixture(scope="session")
def cxr_dicom():
    """The folder of real CR and DX files; a test that uses it carries the mark `real_films`."""
    folder = Path(os.environ.get("PRIMIA_DATA", "")) / "cxr_dicom"
    if not os.environ.get("PRIMIA_DATA") or not folder.is_dir():
        pytest.skip("PRIMIA_DATA names no folder with cxr_dicom: real DICOM films aren't here")
    return folder


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if (
        report.skipped
        and (item.get_closest_marker("real_films") or {"kermany", "cxr_dicom"} & set(item.fixturenames))
        and os.environ.get("PRIMIA_DATA")
    ):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped although PRIMIA_DATA is set: {report.longrepr}"


@pytest.fixture
def one_thread():
    """Of torch's: small films gain nothing from two, threads wait for each other on a busy machine, and sums are rounded
    alike wherever a test runs."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
