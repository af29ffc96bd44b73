"""How often 95% intervals cover the truth, by kind of bootstrap, and what 2,000 resamples of 303 films cost.

Simulated studies: patients with 1, 1, 1, 2, 3 or 5 films of one label, whose answers share part of their chance.
"percentile" and "reflected" (basic) are the kit's; BCa (Efron 1987), with the jackknife over patients, is for comparison.

    python benchmarks/interval_coverage.py [--json] [--studies 400] [--patients 100] [--skill 1.5]
"""

import argparse
import json
import time

import numpy as np
from scipy.stats import norm

from primia_kit.evaluation import METRICS, PatientBootstrap, Predictions, metric_named

CLASSES = ("normal", "bacterial", "viral")
NAMES = (*METRICS, "sensitivity.viral")


def study(random: np.random.Generator, patients: int, skill: float) -> Predictions:
    patient = np.repeat(np.arange(patients), random.choice([1, 1, 1, 2, 3, 5], patients))
    labels = random.choice(3, patients, p=[0.4, 0.35, 0.25])[patient]
    values = random.normal(size=(len(patient), 3)) + 0.8 * random.normal(size=(patients, 3))[patient]
    values[np.arange(len(patient)), labels] += skill
    odds = np.exp(values)
    return Predictions(labels, odds / odds.sum(1, keepdims=True), patient, np.full(len(patient), "A"), CLASSES)


def bca(films: Predictions, name: str, value: float, replicates: np.ndarray) -> tuple[float, float]:
    _, patient = np.unique(films.patients, return_inverse=True)
    without_one = (np.arange(patient.max() + 1)[:, None] != patient).astype(float)
    jackknife = metric_named(name, CLASSES)(films, without_one)
    jackknife = jackknife[~np.isnan(jackknife)]
    away = jackknife.mean() - jackknife
    spread = (away**2).sum()
    acceleration = (away**3).sum() / (6 * spread**1.5) if spread else 0.0
    below = ((replicates < value).mean() + (replicates <= value).mean()) / 2
    bias = norm.ppf(np.clip(below, 1e-4, 1 - 1e-4))
    ends = [bias + (bias + z) / (1 - acceleration * (bias + z)) for z in norm.ppf([0.025, 0.975])]
    return tuple(np.quantile(replicates, norm.cdf(ends)))


def coverage(studies: int, patients: int, skill: float, resamples: int = 1000) -> dict[str, dict[str, float]]:
    random = np.random.default_rng(0)
    everybody = study(random, 60_000, skill)
    truth = {name: metric_named(name, CLASSES)(everybody, np.ones((1, len(everybody))))[0] for name in NAMES}
    covered = {name: dict.fromkeys(("percentile", "reflected", "BCa"), 0) for name in NAMES}
    studied = dict.fromkeys(NAMES, 0)
    for seed in range(studies):
        films = study(random, patients, skill)
        bootstrap = PatientBootstrap(films, resamples=resamples, seed=seed)
        for name in NAMES:
            value, replicates = bootstrap.distribution(films, name)
            replicates = replicates[~np.isnan(replicates)]
            if not len(replicates):  # a study without a film of the class
                continue
            studied[name] += 1
            low, high = np.quantile(replicates, [0.025, 0.975])
            kinds = {"percentile": (low, high), "reflected": (2 * value - high, 2 * value - low)}
            kinds["BCa"] = bca(films, name, value, replicates)
            for kind, bounds in kinds.items():
                covered[name][kind] += bounds[0] <= truth[name] <= bounds[1]
    shares = {name: {kind: count / studied[name] for kind, count in kinds.items()} for name, kinds in covered.items()}
    return {name: {"truth": float(truth[name])} | shares[name] for name in NAMES}


def seconds(films: Predictions) -> dict[str, float]:
    """The best of five: all draws and one metric, or all of them."""
    taken = {}
    for label, names in (("mcc", ["mcc"]), ("all", NAMES)):
        tries = []
        for seed in range(5):
            start = time.perf_counter()
            bootstrap = PatientBootstrap(films, resamples=2000, seed=seed)
            for name in names:
                bootstrap.interval(films, name)
            tries.append(time.perf_counter() - start)
        taken[label] = min(tries)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--skill", type=float, default=1.5, help="logits that the true class has ahead; 3.5: AUC 0.995")
    arguments = parser.parse_args()
    found = {
        "patients": arguments.patients,
        "coverage": coverage(arguments.studies, arguments.patients, arguments.skill),
        "seconds_2000_resamples_303_films": seconds(study(np.random.default_rng(0), 303, 1.5)[:303]),
    }
    for name, kinds in found["coverage"].items():
        print(f"{name:18}", "  ".join(f"{kind} {value:.3f}" for kind, value in kinds.items()))
    print("2,000 resamples of 303 films:", found["seconds_2000_resamples_303_films"])
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
