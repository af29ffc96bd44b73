"""Membership inference on real films, and audits of private training.

Membership: models are trained by the kit's federation on halves of the training patients of kermany224 (PRIMIA_DATA names its
folder), and attacked with a tenth of the patients as the population. TPR and AUC are with 95% intervals by patients.

    overfitted   the small CNN, 30 passes by Adam at a constant learning rate, no augmentation
    stopped      the same, 2 passes
    epsilon E    the same network by DP-SGD, patients as the unit, 5 passes, delta 1e-5

Audits: 500 canaries on the last layer, epsilon about 2, each trained, guessed and bounded anew.

    python benchmarks/attacks.py [--json] [--victims overfitted stopped 8 2] [--size 32] [--references 4] [--audits 100]
"""

import argparse
import json
import logging
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from primia_kit.attacks import audit_training, membership_table, train_game
from primia_kit.data import load_films, read_folder
from primia_kit.evaluation import Interval
from primia_kit.federation import TrainingPlan
from primia_kit.privacy import NoiseSource

CNN = TrainingPlan(
    architecture="small_cnn", norm="none", geometry="stretch", optimizer="adam", learning_rate=1e-3, schedule="constant",
    augmentation="none",
)  # fmt: skip
HEAD = TrainingPlan(
    architecture="small_cnn", norm="none", size=16, privacy="patient", noise_multiplier=2.06, delta=1e-4, frozen=("body",),
    augmentation="none", pixel_statistics="public", weighting="uniform", rounds=5, batch_size=100, learning_rate=0.01,
    momentum=0.0,
)  # fmt: skip


def victim(name: str) -> TrainingPlan:
    if name in ("overfitted", "stopped"):
        return replace(CNN, rounds={"overfitted": 30, "stopped": 2}[name])
    return replace(
        CNN, rounds=5, batch_size=128, optimizer="sgd", learning_rate=0.1, privacy="patient", target_epsilon=float(name),
        delta=1e-5, clipping_norm=1.0, pixel_statistics="public", pixel_mean=0.5, pixel_std=0.25, weighting="uniform",
    )  # fmt: skip


def bounds(interval: Interval) -> list[float]:
    return [interval.value, interval.low, interval.high]


def membership(plan: TrainingPlan, films, references: int, name: str) -> dict:
    start = time.perf_counter()
    game, _ = train_game(plan, films, references=references)
    seconds = time.perf_counter() - start
    attacks = [attack for attack in ("loss", "rmia", "lira") if attack != "lira" or references >= 4]
    results = {attack: game.attack(attack) for attack in attacks}
    print(f"{name}: {1 + references} models, {seconds:.0f} s\n{membership_table(results).to_string()}", flush=True)
    seen, asked = game.confidences[0][game.members[0]], game.confidences[0][game.asked & ~game.members[0]]
    return {
        "members": results["loss"].members, "outsiders": results["loss"].outsiders, "seconds": seconds,
        "confidence": {"members": float(seen.mean()), "outsiders": float(asked.mean())},
    } | {
        attack: {"auc": bounds(found.auc), "tpr_at_1%": bounds(found.tpr(0.01)), "tpr_at_0.1%": bounds(found.tpr(0.001))}
        for attack, found in results.items()
    }  # fmt: skip


class Silent(NoiseSource):
    """Adds no noise: what an audit has to notice."""

    def noised(self, values: torch.Tensor, std: float) -> torch.Tensor:
        return values.clone()


def audits(count: int) -> dict:
    found = {}
    for name, source in (("honest", NoiseSource()), ("without noise", Silent())):
        start = time.perf_counter()
        results = [audit_training(HEAD, source=source) for _ in range(count)]
        seconds, lower = time.perf_counter() - start, np.array([result.bound for result in results])
        found[name] = {
            "claimed": results[0].claimed, "bound_mean": float(lower.mean()), "bound_largest": float(lower.max()),
            "refuted": float(np.mean([result.refuted for result in results])), "seconds_each": seconds / count,
        }  # fmt: skip
        print(f"{count} audits, {name}: " + ", ".join(f"{key} {value:.3g}" for key, value in found[name].items()), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--victims", nargs="*", default=["overfitted", "stopped", "8", "2"], help="names, or epsilons")
    parser.add_argument("--size", type=int, default=32, help="side of the films in pixels; 64 takes four times as long")
    parser.add_argument("--references", type=int, default=4, help="reference models, an even number; LiRA takes 4")
    parser.add_argument("--audits", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("absl").setLevel(logging.ERROR)
    result: dict = {}
    if options.victims:
        manifest = read_folder(Path(os.environ["PRIMIA_DATA"]) / "kermany224").select(split="train")
        films = load_films(manifest, size=options.size, geometry=CNN.geometry)
        plans = {name: replace(victim(name), size=options.size) for name in options.victims}
        result["membership"] = {name: membership(plan, films, options.references, name) for name, plan in plans.items()}
    if options.audits:
        result["audits"] = audits(options.audits)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
