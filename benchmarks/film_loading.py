"""Films a second into memory: decoded, decoded with the cache filling, and from the filled cache.

Synthetic films are DICOM files of about 0.1 megapixels; large ones are DICOM files of 5 megapixels, as a
detector makes them; real films are the JPEGs of PRIMIA_DATA, where that is set. Each way is timed in a fresh
process-wide state but with the files in the operating system's own cache; the best of the repetitions counts.

    python benchmarks/film_loading.py [--json] [--size 64] [--repeat 3]
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from primia_kit.data import Film, Manifest, load_films, read_folder, synthetic_hospitals
from primia_kit.data.content import content_digest
from primia_kit.data.synthetic import EQUIPMENT
from primia_kit.data.synthetic.dicom import Visit, dicom_film
from primia_kit.data.synthetic.equipment import Exposure


def large_films(folder: Path, count: int = 12) -> Manifest:
    """DICOM films of 2,500 x 2,000 pixels of noise."""
    rng, films = np.random.default_rng(0), []
    for i in range(count):
        stored = rng.integers(0, 2 ** EQUIPMENT["A"].bits_stored, (2500, 2000), dtype=np.uint16)
        center = 2.0 ** (EQUIPMENT["A"].bits_stored - 1)
        exposure = Exposure(stored=stored, window_center=center, window_width=2 * center)
        dicom_film(exposure, EQUIPMENT["A"], Visit(str(i), 3, "F", 1, "20200101")).save_as(
            folder / f"{i}.dcm", enforce_file_format=True
        )
        films.append(Film(f"{i}.dcm", "normal", str(i)))
    return Manifest(folder, tuple(films))


def measure(manifest: Manifest, size: int, repeat: int) -> dict[str, float]:
    """Films a second each way, and of hashing alone."""
    ways = {"decoded": [], "cold": [], "warm": [], "hashed": []}
    for _ in range(repeat):
        shutil.rmtree(Path(os.environ["PRIMIA_CACHE"]) / "films", ignore_errors=True)
        for way in ("decoded", "cold", "warm"):
            start = time.perf_counter()
            load_films(manifest, size=size, geometry="pad", cache=way != "decoded")
            ways[way].append(time.perf_counter() - start)
        start = time.perf_counter()
        for film in manifest:
            content_digest(manifest.path_of(film))
        ways["hashed"].append(time.perf_counter() - start)
    return {"films": len(manifest)} | {f"{way}_films_per_second": len(manifest) / min(times) for way, times in ways.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--size", type=int, default=64, help="side of the films in memory, pixels")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PRIMIA_CACHE"] = f"{folder}/cache"
        (Path(folder) / "large").mkdir()
        manifests = {
            "synthetic DICOM": synthetic_hospitals(patients=60, folder=f"{folder}/synthetic", jobs=1),
            "large DICOM": large_films(Path(folder) / "large"),
        }
        if data := os.environ.get("PRIMIA_DATA"):
            manifests["real JPEG"] = read_folder(Path(data) / "kermany224")
        result = {name: measure(manifest, options.size, options.repeat) for name, manifest in manifests.items()}
    if options.json:
        print(json.dumps(result))
        return
    for name, rates in result.items():
        print(f"{name}, {rates.pop('films')} films: " + ", ".join(f"{w.split('_')[0]} {r:,.0f}/s" for w, r in rates.items()))


if __name__ == "__main__":
    main()
