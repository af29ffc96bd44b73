"""What a private step costs: processor seconds of DP-SGD by patients and of plain SGD, on the same films, on one thread.

    python benchmarks/private_steps.py [--json]

Both go through the kit's own site (`Site.update`), a private one with its noise and without what is done once a round
(the ledger). `resnet9`: all 308 thousand parameters, group norm, 64 pixels, 32 patients of one film. `head`: the last
layer of EfficientNet-Lite0's shape (1,280 features), 800 patients of two films, everybody in every step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from types import SimpleNamespace

import torch

from primia_kit.data import FilmSet
from primia_kit.federation import Site, SiteMemory, TrainingPlan, train_locally
from primia_kit.federation.messages import RoundTask
from primia_kit.federation.private import SitePrivacy, train_privately
from primia_kit.federation.strategies import LocalRule
from primia_kit.federation.trainable import freeze

PRIVATE = TrainingPlan(
    norm="group", pixel_statistics="public", weighting="patients", privacy="patient", noise_multiplier=1.0, delta=1e-5,
    sync_every=10, batch_size=32,
)  # fmt: skip


class NoLedger:
    """In place of a ledger: its disk and its accounting are once a round."""

    head, history, account = "", (), SimpleNamespace(budget=None, delta=1e-5)

    def spend(self, *_, **__) -> str:
        return ""

    def epsilon(self) -> float:
        return 0.0


def step_seconds(repeats: int = 5) -> dict[str, dict[str, float]]:
    """{"resnet9": {"private", "plain", "ratio"}, "head": the same}: medians of processor seconds a step, runs interleaved."""
    head = replace(PRIVATE, architecture="efficientnet_lite0", frozen=("body",), augmentation="none", batch_size=800)
    return {
        "resnet9": _compare(PRIVATE, _site(32, 1, 64), None, repeats),
        "head": _compare(head, _site(800, 2, 32), 1280, repeats),
    }


def _site(patients: int, each: int, size: int) -> Site:
    generator = torch.Generator().manual_seed(0)
    count = patients * each
    images, labels = torch.rand(count, 1, size, size, generator=generator), torch.arange(count) % 3
    films = FilmSet(images, labels, tuple(f"p{i // each}" for i in range(count)), PRIVATE.classes, "pad")
    return Site("A", films, films)


def _compare(private: TrainingPlan, site: Site, features: int | None, repeats: int) -> dict[str, float]:
    films_a_step = len(site.train)  # q = 1: a private step takes all patients, a plain one as many films
    plans = {"private": private, "plain": replace(private, privacy="none", batch_size=films_a_step)}
    spec = private.model_spec(0.5, 0.25)
    network = freeze(spec.build(0), private)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    inputs = None if features is None else torch.randn(films_a_step, features, generator=torch.Generator().manual_seed(1))
    memory = SiteMemory(privacy=SitePrivacy(NoLedger(), private.noise_multiplier))
    seconds: dict[str, list[float]] = {name: [] for name in plans}
    for _ in range(repeats + 1):  # the first warms up
        for name, plan in plans.items():
            task = RoundTask(plan, spec, 1, weights)
            rule, train = LocalRule(task, memory, network), train_privately if plan.private else train_locally
            start = time.process_time()
            train(network, site.train, task, site="A", rule=rule, memory=memory, features=inputs)
            seconds[name].append((time.process_time() - start) / plan.sync_every)
    found = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    return found | {"ratio": found["private"] / found["plain"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = step_seconds(options.repeats)
    for name, row in found.items():
        print(f"{name:<8} private {1e3 * row['private']:7.2f} ms   plain {1e3 * row['plain']:7.2f} ms   {row['ratio']:.2f} x")
    if options.json:
        print(json.dumps({"step_seconds": found}))


if __name__ == "__main__":
    main()
