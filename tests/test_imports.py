"""Dependencies point one way, and importing the kit is quick."""

import ast
import os
import subprocess
import sys
from pathlib import Path

from .conftest import ROOT

PACKAGE = ROOT / "primia_kit"
LAYERS = (  # from the bottom; a part may import from lower layers and from itself
    {"errors", "storage", "seeds", "progress", "yaml_files"},
    {"data", "models", "evaluation"},
    {"mpc", "secagg", "privacy"},
    {"inference", "federation", "governance"},
    {"attacks"},
    {"figures"},
    {"widgets", "batch", "lessons", "party_commands", "compile_command", "search_command"},
    {"cli"},
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
ONLY_IN = {"syft": "governance", "syft_rds": "governance", "flwr": "federation/flower.py", "ipywidgets": "widgets"}


def imports_of(path: Path, package: Path):
    """(line, dotted name) of everything a module imports, relative imports made absolute."""
    inside = ("primia_kit", *path.relative_to(package).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(inside[: len(inside) - node.level]) if node.level else []
            base += node.module.split(".") if node.module else []
            if base == ["primia_kit"]:
                yield from ((node.lineno, f"primia_kit.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, ".".join(base)


def violations(package: Path) -> list[str]:
    found = []
    for path in sorted(package.rglob("*.py")):
        where = path.relative_to(package)
        part = where.parts[0].removesuffix(".py")
        if part == "__init__":
            level, part = 0, ""
        elif part not in LEVEL:
            found.append(f"{where}: {part!r} stands in no layer")
            continue
        else:
            level = LEVEL[part]
        for line, name in imports_of(path, package):
            top, *rest = name.split(".")
            if top == "primia_kit" and rest and rest[0] != part and rest[0] in LEVEL and LEVEL[rest[0]] >= max(level, 1):
                found.append(f"{where}:{line}: {part} (layer {level}) imports {rest[0]} (layer {LEVEL[rest[0]]})")
            if top in ONLY_IN and not where.as_posix().startswith(ONLY_IN[top]):
                found.append(f"{where}:{line}: {top} may be imported in {ONLY_IN[top]} alone")
    return found


def test_dependencies_point_down():
    assert violations(PACKAGE) == []


def test_an_upward_import_is_found(tmp_path):
    for text in ("from ..federation import plan", "from primia_kit.batch import record", "import primia_kit.cli", "import syft"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / "manifest.py").write_text(f"def late():\n    {text}\n")
        assert len(violations(tmp_path)) == 1, text
    (tmp_path / "data" / "manifest.py").write_text("from ..errors import KitError\nfrom .images import resize\n")
    assert violations(tmp_path) == []


def test_a_module_outside_the_layers_is_found(tmp_path):
    (tmp_path / "utils.py").write_text("")
    assert violations(tmp_path) == ["utils.py: 'utils' stands in no layer"]


def test_import_takes_less_than_a_fifth_of_a_second():
    code = "import time; t = time.perf_counter(); import primia_kit; print(time.perf_counter() - t)"
    seconds = [float(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT)) for _ in range(3)]
    assert min(seconds) < 0.2


def test_threads_of_torch_wait_asleep_unless_the_user_says_otherwise():
    code = "import primia_kit, os; print(os.environ['GOMP_SPINCOUNT'])"
    for given, wanted in (({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5")):
        clean = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
        out = subprocess.run([sys.executable, "-c", code], env=clean | given, capture_output=True, text=True, check=True)
        assert out.stdout.strip() == wanted
