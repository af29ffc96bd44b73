"""What the federation costs on top of training: the kit's rounds against a bare torch loop of the same steps.

Both train the default model on the same three sites; a kit's round also loads the global weights at each site, forms
updates, checks and sums them. The two take turns in one process, so that a busy machine slows both.

    python benchmarks/federated_training.py [--json] [--rounds 9] [--architecture resnet9] [--strategy fedavg]
"""

import argparse
import json
import statistics
import time

import torch
from torch.nn import functional as F

from primia_kit.data import FilmSet
from primia_kit.federation import Federation, Site, TrainingPlan
from primia_kit.federation.local import random_shift

FILMS = {"A": 278, "B": 200, "C": 117}  # the synthetic hospitals' training films


def make_sites(plan: TrainingPlan) -> list[Site]:
    """Random pixels: neither side looks at what it learns."""
    generator = torch.Generator().manual_seed(0)
    sites = []
    for name, count in FILMS.items():
        images = torch.rand(count, 1, plan.size, plan.size, generator=generator)
        labels = torch.randint(0, len(plan.classes), (count,), generator=generator)
        films = FilmSet(images, labels, ("",) * count, plan.classes, plan.geometry)
        sites.append(Site(name, films, films))
    return sites


def bare_round(network, sites, plan, mean, std) -> None:
    """The same optimizer steps on the same films, and nothing else."""
    for site in sites:
        optimizer = torch.optim.SGD(
            network.parameters(), lr=plan.learning_rate, momentum=plan.momentum, weight_decay=plan.weight_decay, nesterov=True
        )
        generator = torch.Generator().manual_seed(0)
        images, labels = site.train.images, site.train.labels
        for batch in torch.randperm(len(labels), generator=generator).tensor_split(-(-len(labels) // plan.batch_size)):
            films = (random_shift(images[batch], plan.size // 16, generator) - mean) / std
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(network(films.contiguous(memory_format=torch.channels_last)), labels[batch]).backward()
            optimizer.step()


def measure(plan: TrainingPlan) -> dict[str, float]:
    """Medians over the rounds; the ratio is the median of the ratios of neighbours."""
    sites = make_sites(plan)
    federation = Federation(plan, sites)
    spec = federation.spec
    network = spec.build().to(memory_format=torch.channels_last).train()
    pairs = []
    for number in range(plan.rounds):
        start = time.perf_counter()
        federation.run_round()
        middle = time.perf_counter()
        bare_round(network, sites, plan, spec.pixel_mean, spec.pixel_std)
        if number:  # the first round warms up
            pairs.append((middle - start, time.perf_counter() - middle))
    return {
        "kit_seconds": statistics.median(kit for kit, _ in pairs),
        "bare_seconds": statistics.median(bare for _, bare in pairs),
        "ratio": statistics.median(kit / bare for kit, bare in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each, the first not counted")
    parser.add_argument("--architecture", default=TrainingPlan().architecture)
    parser.add_argument("--strategy", default=TrainingPlan().strategy, help="the bare loop stays that of fedavg")
    options = parser.parse_args()
    plan = TrainingPlan(
        rounds=max(2, options.rounds), architecture=options.architecture, strategy=options.strategy,
        learning_rate=0.001, schedule="constant",
    )  # fmt: skip
    result = measure(plan)
    if options.json:
        print(json.dumps(result))
        return
    films = f"{sum(FILMS.values())} films of {plan.size} pixels at {len(FILMS)} sites"
    print(f"{plan.architecture}, {films}, {torch.get_num_threads()} threads")
    print("kit {kit_seconds:.2f} s a round, bare torch {bare_seconds:.2f} s, ratio {ratio:.3f}".format(**result))


if __name__ == "__main__":
    main()
