"""What differential privacy costs in diagnoses: test MCC at ε = 1, 3 and 6 on real films, all through the kit's federation.

The training patients of kermany224 (PRIMIA_DATA names its folder) are three hospitals' but for 15%, who are declared public and
removed from all of them; the published test films are looked at once a run. Hospitals hold secure sums, a patient is the unit of
privacy, delta is 1e-4. Only a linear layer is trained, on features that are known without private films: means and deviations of
three blocks of ImageNet's EfficientNet-Lite0 at 224 pixels, and

    components   64 principal axes of the public patients' films; their labels aren't used
    blocks       standardised by the kit's synthetic films: no real film is public, but for the choices below

Each round is one step on every patient's clipped gradient; the model is a moving mean of the rounds'. Steps, learning rates and
blocks were chosen by cross-validation on the public patients, with their labels. Beside each recipe stand the same one with (next
to) no noise, and the same one trained on the public patients alone, which costs no privacy at all.

    python benchmarks/private_utility.py [--json] [--seeds 0 1 2] [--features components blocks] [--epsilons 1 3 6]

A seed decides which patient is at which hospital; noise is fresh each time. Features take a quarter of an hour for three seeds
on two cores, all the rest a minute.
"""

import argparse
import json
import logging
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from primia_kit.data import load_films, read_folder, share_out, synthetic_hospitals
from primia_kit.evaluation import PatientBootstrap
from primia_kit.federation import Site, TrainingPlan, federate, load_sites, predict_sites
from primia_kit.models import ARCHITECTURES, public_start, weights_sha256

LEARNING_RATES = {"components": dict.fromkeys((1, 3, 6, 0), 100.0), "blocks": {1: 400.0, 3: 800.0, 6: 1600.0, 0: 1600.0}}
ALMOST_NONE = 1e-4  # a noise multiplier that changes nothing; its ledger says that epsilon is infinite
SIZE, GEOMETRY, MEAN, STD = 224, "stretch", 127 / 255, 128 / 255  # pixels as ImageNet's weights want them
RECIPE = {
    "size": SIZE, "geometry": GEOMETRY, "pixel_mean": MEAN, "pixel_std": STD, "pixel_statistics": "public", "rounds": 40,
    "augmentation": "none", "schedule": "constant", "momentum": 0.0, "weight_decay": 0.0, "ema": 0.9, "frozen": ("body",),
    "privacy": "patient", "delta": 1e-4, "clipping_norm": 0.1, "weighting": "patients",
}  # fmt: skip


def declare_public(manifest, share: float = 0.15):
    """(public, private) films, by patient."""
    patients = sorted({film.patient for film in manifest.select(split="train")})
    public = set(np.random.default_rng(2024).permutation(patients)[: int(share * len(patients))].tolist())
    apart = [replace(manifest, films=tuple(f for f in manifest if (f.patient in public) == wanted)) for wanted in (True, False)]
    return apart[0], apart[1]


def recipe(features: str, epsilon: float, sites: list[Site], start) -> TrainingPlan:
    """epsilon 0: without noise. Every patient is in every step, but for hospitals that have a few more than the smallest."""
    noise = {"target_epsilon": float(epsilon)} if epsilon else {"noise_multiplier": ALMOST_NONE}
    return TrainingPlan(
        architecture=f"lite0_{features}", learning_rate=LEARNING_RATES[features][epsilon], start=weights_sha256(start),
        batch_size=min(len(set(site.train.patients)) for site in sites), **RECIPE, **noise,
    )  # fmt: skip


def summary(runs: list) -> dict:
    """Mean and deviation over seeds, and a 95% interval over test patients of the mean."""
    bootstrap = PatientBootstrap(runs[0])
    interval, values = bootstrap.interval(runs, "mcc"), [bootstrap.interval([run], "mcc").value for run in runs]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mcc": interval.value, "interval": [interval.low, interval.high], "deviation": deviation, "seeds": values}


def study(features: str, manifest, public, seeds: list[int], epsilons: list[int]) -> dict:
    films = load_films(public, size=SIZE, geometry=GEOMETRY)
    fitted_to = films.images if features == "components" else synthetic_films()
    start = public_start(ARCHITECTURES[f"lite0_{features}"](len(films.classes)), (fitted_to - MEAN) / STD)
    found: dict[str, list] = {}
    spent: dict[str, float] = {}
    for seed in seeds:
        sites = load_sites(share_out(manifest, sites=3, seed=seed), TrainingPlan(size=SIZE, geometry=GEOMETRY))
        for epsilon in (*epsilons, 0):
            name, begin = f"epsilon {epsilon}" if epsilon else "without noise", time.perf_counter()
            run = federate(replace(recipe(features, epsilon, sites, start), seed=seed), sites, start=start)
            found.setdefault(name, []).append(predict_sites(run.model, sites))
            if epsilon:
                spent[name] = max(spent.get(name, 0.0), run.largest_epsilon)
            print(f"{features}, seed {seed}, {name}: {time.perf_counter() - begin:.0f} s", flush=True)
        alone = [Site("public", films, films)]
        run = federate(replace(recipe(features, 0, alone, start), seed=seed), alone, start=start)
        found.setdefault("public patients alone", []).append(predict_sites(run.model, sites))
    return {name: summary(runs) | ({"epsilon": spent[name]} if name in spent else {}) for name, runs in found.items()}


def synthetic_films() -> torch.Tensor:
    return load_films(synthetic_hospitals(patients=100, seed=77), size=SIZE, geometry=GEOMETRY).images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--features", nargs="*", default=["components", "blocks"], choices=list(LEARNING_RATES))
    parser.add_argument("--epsilons", nargs="*", type=int, default=[1, 3, 6], choices=[1, 3, 6])
    options = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.ERROR)
    public, private = declare_public(read_folder(Path(os.environ["PRIMIA_DATA"]) / "kermany224"))
    result = {}
    for features in options.features:
        result[features] = study(features, private, public, options.seeds, options.epsilons)
        for name, row in result[features].items():
            low, high = row["interval"]
            print(
                f"{features:<12} {name:<22} MCC {row['mcc']:.3f} [{low:.3f}, {high:.3f}]  sd {row['deviation']:.3f}", flush=True
            )
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
