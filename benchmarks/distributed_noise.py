"""What distributed noise saves, costs and is accounted as, beside noise that each hospital adds in full.

noise       its deviation in the mean over n hospitals, in units of C: "local", each adds noise of multiplier 1; "distributed",
            at the same ε, with 0 and 1 colluders (drawn by the kit's own code, 20,000 values; expected: 1/√n and
            1/√n √(n / (n - colluders)) of what one hospital alone has, against 1/√n of it, √n fewer).
epsilon     by a hospital's ledger against the continuous Gaussian's at the same σ, and √n / (8 μ), their distance. "exact" is
            one release of one value, shifted by K: the least ε at δ, by adding up the discrete Gaussian's chances.
seconds     of one hospital's part in a round, on one thread: noise of all values; rounding of one patient's gradient.
bits        of a value in the secure sum, always the ring's 32, and how many steps C has in it.
mcc         of a linear head on EfficientNet-Lite0's ImageNet features of synthetic films (1,600 children, shared out evenly to
            3 or 8 hospitals, tested on 800 others), one step a round with everybody in it, 1 colluder: mean over runs that
            differ in noise. "none" is the same recipe without noise (it clips, rounds, sums). Its learning rate was chosen of
            10, 30, 100 and 300 on a quarter of the training children.

    python benchmarks/distributed_noise.py [--json] [--quick]      --quick leaves out mcc, which takes some minutes
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from dataclasses import asdict, replace

import numpy as np
import torch
from scipy.optimize import brentq
from sklearn.metrics import matthews_corrcoef

from primia_kit.data import FilmSet, pool_films, synthetic_hospitals
from primia_kit.data.partition import site_names
from primia_kit.federation import Federation, Site, TrainingPlan, load_sites
from primia_kit.federation.device import CPU
from primia_kit.federation.local import model_input
from primia_kit.federation.trainable import freeze, head_inputs
from primia_kit.models import last_layer, pretrained, weights_sha256
from primia_kit.privacy import DistributedNoise, NoiseSource, SampledDiscreteGaussian, SampledGaussian, epsilon
from primia_kit.privacy.distributed import most_sampled

VALUES = 20_000
SETTINGS = (  # q, z, steps, values, δ
    (1.0, 20.0, 40, 3_843, 1e-4),
    (1.0, 5.0, 20, 308_000, 1e-5),
    (0.1, 1.0, 200, 308_000, 1e-4),
    (0.05, 1.1, 120, 11_200_000, 1e-4),
)


def noise_deviations(hospitals: int) -> dict[str, float]:
    """Of the mean over hospitals, over C."""
    source, gradient = NoiseSource(), torch.zeros(VALUES, dtype=torch.float64)
    local = sum(source.noised(gradient, 1.0) for _ in range(hospitals)) / hospitals
    found = {"alone": 1.0, "local": float(local.std())}
    for colluders in (0, 1):
        terms = DistributedNoise.fitted(
            1.0, 1.0, VALUES, shares=hospitals - colluders, sites=hospitals, sampled=most_sampled(1000, 64)
        )
        total = sum(terms.share(source) for _ in range(hospitals)) / terms.scale / hospitals
        found[f"distributed_{colluders}"] = float(total.std())
        found[f"expected_{colluders}"] = 1 / math.sqrt(hospitals * (hospitals - colluders))
    return found


def accounted(rate: float, multiplier: float, steps: int, values: int, delta: float) -> dict[str, float]:
    terms = DistributedNoise.fitted(multiplier, 1.0, values, shares=2, sites=3, sampled=most_sampled(1000, 1000 * rate))
    mechanism = terms.mechanism(rate)
    gaussian = SampledGaussian(rate, multiplier)
    return {
        "q": rate, "z": multiplier, "steps": steps, "values": values, "delta": delta,
        "distributed": epsilon([(mechanism, steps)], delta),
        "gaussian": epsilon([(gaussian, steps)], delta),
        "gaussian_rdp": epsilon([(gaussian, steps)], delta, "rdp"),
        "distance": math.sqrt(steps * mechanism.squared_gap),
    }  # fmt: skip


def one_value(multiplier: float = 1.0, variance: int = 10**6, delta: float = 1e-3) -> dict[str, float]:
    """The accounting's ε of one value, and the exact one."""
    deviation = math.sqrt(variance)
    k, shift = np.arange(-14 * deviation, 14 * deviation + 1), round(deviation / multiplier)
    p, q = (np.exp(-((k - s) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance) for s in (0, shift))
    exact = brentq(lambda eps: np.maximum(p - math.exp(eps) * q, 0).sum() - delta, 0, 50)
    mechanism = SampledDiscreteGaussian(1.0, deviation / shift, 1, variance)
    return {"exact": float(exact), "distributed": epsilon([(mechanism, 1)], delta)}


def seconds(values: int) -> dict[str, float]:
    terms, source = DistributedNoise.fitted(1.0, 1.0, values, shares=2, sites=3, sampled=100), NoiseSource()
    gradient = np.random.default_rng(0).normal(size=values).astype(np.float32)
    ways = {"noise": lambda: terms.share(source), "rounding": lambda: terms.rounded(gradient, source)}
    found = {name: min(_timed(way) for _ in range(5)) for name, way in ways.items()}
    flat = torch.zeros(values)
    return found | {"local_noise": min(_timed(lambda: source.noised(flat, 1.0)) for _ in range(5))}


def steps_of_a_norm(hospitals: int) -> float:
    """s C: how many steps the clipping norm has, with the ring's 32 bits for the sum."""
    sampled = most_sampled(1000, 64)
    terms = DistributedNoise.fitted(1.0, 1.0, VALUES, shares=hospitals - 1, sites=hospitals, sampled=sampled)
    return terms.scale * terms.clipping_norm


def _timed(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class NoNoise(DistributedNoise):
    """Of the recipe without noise."""

    def share(self, source: NoiseSource) -> np.ndarray:
        return np.zeros(self.values, np.int64)


def head_mcc(hospitals: int, runs: int, draws: int, epsilons=(1.0, 3.0)) -> dict:
    """MCC on all test films.

    Args:
        runs: over which it's a mean. draws: of three times 200 children each, synthetic.
    """
    start = pretrained("efficientnet_lite0", 3).state_dict()
    plan = TrainingPlan(
        architecture="efficientnet_lite0", norm="batch", size=96, frozen=("body",), start=weights_sha256(start),
        feature_norm="l2", augmentation="none", pixel_statistics="public", privacy="patient", target_epsilon=1.0, delta=1e-4,
        clipping_norm=0.3, sync_every=1, rounds=40, weighting="uniform", min_sites=hospitals, momentum=0.0, weight_decay=0.0,
        learning_rate=30.0, schedule="constant", ema=0.9,
    )  # fmt: skip
    sites = _even_sites(plan, hospitals, draws)
    plan = replace(plan, batch_size=len(set(sites[0].train.patients)))
    network = freeze(plan.model_spec(plan.pixel_mean, plan.pixel_std).build_with(start), plan)
    spec = plan.model_spec(plan.pixel_mean, plan.pixel_std)
    features = {site.name: head_inputs(network, site.train, spec, model_input, CPU) for site in sites}
    tested = pool_films([site.test for site in sites])
    inputs, layer = head_inputs(network, tested, spec, model_input, CPU), last_layer(network)

    def mcc(plan: TrainingPlan, quiet: bool = False) -> float:
        federation = Federation(plan, sites, start=start)
        for name, memory in federation.memories.items():
            memory.features = features[name]
            if quiet:
                memory.privacy.distributed = NoNoise(**asdict(memory.privacy.distributed))
        for _ in federation:
            pass
        weights = federation.run().model.weights
        answers = torch.nn.functional.linear(inputs, weights[f"{layer}.weight"], weights[f"{layer}.bias"]).argmax(1)
        return float(matthews_corrcoef(tested.labels, answers))

    distributed = replace(plan, noise="distributed")
    found = {"patients": hospitals * plan.batch_size, "films": sum(len(site.test) for site in sites), "runs": runs}
    found["none"] = mcc(distributed, quiet=True)
    for target in epsilons:
        for noise in ("local", "distributed"):
            scores = [mcc(replace(plan, noise=noise, target_epsilon=target)) for _ in range(runs)]
            found[f"{noise}_{target:g}"] = {"mean": statistics.mean(scores), "sd": statistics.stdev(scores)}
            print(f"MCC of {hospitals} at ε {target:g}, {noise:<12} {found[f'{noise}_{target:g}']}", flush=True)
    return found


def _even_sites(plan: TrainingPlan, hospitals: int, draws: int) -> list[Site]:
    """Hospitals with as many patients each, from several draws of the synthetic ones."""
    drawn = [load_sites(synthetic_hospitals(patients=200, seed=seed), plan) for seed in range(draws)]
    train, test = (
        pool_films([_renamed(getattr(site, part), f"{seed}{site.name}") for seed, sites in enumerate(drawn) for site in sites])
        for part in ("train", "test")
    )
    patients = sorted(set(train.patients))
    order = np.random.default_rng(0).permutation(len(patients) // hospitals * hospitals).reshape(hospitals, -1)
    names = site_names(hospitals)
    site_of = {patients[i]: name for name, chosen in zip(names, order, strict=True) for i in chosen}
    return [
        Site(name, _part(train, [i for i, p in enumerate(train.patients) if site_of.get(p) == name]),
             _part(test, list(range(number, len(test), hospitals))))
        for number, name in enumerate(names)
    ]  # fmt: skip


def _renamed(films: FilmSet, prefix: str) -> FilmSet:
    return replace(films, patients=tuple(f"{prefix} {patient}" for patient in films.patients))


def _part(films: FilmSet, indices: list[int]) -> FilmSet:
    chosen = torch.tensor(indices)
    patients = tuple(films.patients[i] for i in indices)
    return replace(films, images=films.images[chosen], labels=films.labels[chosen], patients=patients)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--quick", action="store_true", help="without mcc")
    parser.add_argument("--runs", type=int, default=3, help="of each kind for mcc")
    parser.add_argument("--draws", type=int, default=4, help="of the synthetic hospitals for mcc")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        "noise": {str(n): noise_deviations(n) for n in (3, 10, 50)},
        "epsilon": [accounted(*setting) for setting in SETTINGS],
        "one_value": one_value(),
        "seconds": {str(values): seconds(values) for values in (3_843, 308_000, 11_200_000)},
        "bits": {str(n): {"value": 32, "steps": steps_of_a_norm(n)} for n in (3, 10, 50)},
    }
    for n, row in found["noise"].items():
        parts = "   ".join(f"{name} {value:.4f}" for name, value in row.items())
        print(f"{n:>2} hospitals   {parts}   C in {found['bits'][n]['steps']:,.0f} steps")
    for row in found["epsilon"]:
        print("   ".join(f"{name} {value:.6g}" for name, value in row.items()))
    print(f"one value   {found['one_value']}")
    for values, row in found["seconds"].items():
        print(f"{int(values):>10,} values   " + "   ".join(f"{name} {1e3 * value:.2f} ms" for name, value in row.items()))
    if not options.quick:
        found["mcc"] = {str(hospitals): head_mcc(hospitals, options.runs, options.draws) for hospitals in (3, 8)}
        print(found["mcc"])
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
