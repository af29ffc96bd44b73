"""The places that name packages, commands and files agree with each other."""

import re
import subprocess
import tomllib

import yaml

from .conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_agrees_with_pyproject():
    *plain, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert plain == ["python=3.11", "pip"]
    assert pip["pip"] == ["-c constraints.txt", "-e .", *PROJECT["dependencies"]]
    assert PROJECT["requires-python"] == ">=3.11"


def test_every_dependency_is_pinned():
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    named = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"] + PROJECT["optional-dependencies"]["pretrained"]
    assert {name for name in named if name not in {p.lower() for p in pinned}} == set()
    assert pinned["torch"] == "2.13.0"
    assert not any(re.search(r"[+@]", version) for version in pinned.values())  # releases of the registry, no local builds


def test_every_make_target_that_the_readme_names_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"make ([a-z][\w-]*)", (ROOT / "README.md").read_text()))
    assert named and named <= targets


def test_every_file_that_the_documents_name_exists():
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = document.read_text()
        for name in re.findall(r"\b((?:notebooks|sweeps|benchmarks|primia_kit|docs|tests)/[\w/.-]+\.\w+)", text):
            assert (ROOT / name).is_file(), f"{document.name} names {name}"
        for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
            assert (document.parent / name).is_file(), f"{document.name} shows {name}"


def test_ci_runs_the_readmes_test_command():
    assert re.search(r"^make test\b", (ROOT / ".ci" / "run").read_text(), re.M)


def test_no_file_is_large_and_no_path_is_a_machines():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.split() or [p.relative_to(ROOT).as_posix() for p in (ROOT / "primia_kit").rglob("*.py")]
    for name in names:
        path = ROOT / name
        if path.is_file():
            assert path.stat().st_size < 1_000_000, name
            if path.suffix in (".py", ".md", ".ipynb", ".yaml", ".yml", ".toml"):
                assert not re.search(r"/(home|root|work)/\w", path.read_text()), name
