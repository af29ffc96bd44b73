"""Membership inference on real films, and audits of private training.

Membership: models are trained by the kit's federation on halves of the training patients of kermany224 (PRIMIA_DATA names its
folder), and attacked with a tenth of the patients as the population. TPR and AUC are with 95% intervals by patients.

    overfitted   the small CNN, 30 passes by Adam at a constant learning rate, no augmentation
    stopped      the same, 2 passes
    epsilon E    the same network by DP-SGD, patients as the unit, 5 passes, delta 1e-5

Beside them the target's balanced accuracy on films that it wasn't trained on: a model that has learned little has little to
give away.

Audits: 500 canaries on the last layer, epsilon about 2, each trained, guessed and bounded anew.

    python benchmarks/attacks.py [--json] [--victims overfitted stopped 8 2] [--size 32] [--references 4] [--audits 100]
                                 [--resume FILE]

A victim takes half a minute (stopped) to five minutes, all audits half a minute. With --resume, each result goes into FILE as
it comes, and what FILE has under the same options isn't computed again.
"""

import argparse
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score

from primia_kit.attacks import audit_training, membership_table, train_game
from primia_kit.data import load_films, read_folder
from primia_kit.evaluation import Interval
from primia_kit.federation import TrainingPlan, predict
from primia_kit.privacy import NoiseSource
from primia_kit.storage import write_atomically

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
    game, (target,) = train_game(plan, films, references=references)
    seconds = time.perf_counter() - start
    attacks = [attack for attack in ("loss", "rmia", "lira") if attack != "lira" or references >= 4]
    results = {attack: game.attack(attack) for attack in attacks}
    print(f"{name}: {1 + references} models, {seconds:.0f} s\n{membership_table(results).to_string()}", flush=True)
    outside, called = ~game.members[0], predict(target.network(), films, target.spec).argmax(1).numpy()
    accuracy = balanced_accuracy_score(films.labels.numpy()[outside], called[outside])
    seen, asked = game.confidences[0][game.members[0]], game.confidences[0][game.asked & ~game.members[0]]
    return {
        "members": results["loss"].members, "outsiders": results["loss"].outsiders, "seconds": seconds,
        "balanced_accuracy": accuracy,
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


class Kept:
    """Results, name -> figures, in a file as well if there is one. Those of other options are thrown away."""

    def __init__(self, file: Path | None, options: dict):
        self.file, self.options, self.results = file, options, {}
        if file is not None and file.exists():
            found = json.loads(file.read_text())
            self.results = found["results"] if found["options"] == options else {}

    def get(self, name: str, compute: Callable[[], dict]) -> None:
        if name not in self.results:
            self.results[name] = compute()
            if self.file is not None:
                write_atomically(self.file, json.dumps({"options": self.options, "results": self.results}).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--victims", nargs="*", default=["overfitted", "stopped", "8", "2"], help="names, or epsilons")
    parser.add_argument("--size", type=int, default=32, help="side of the films in pixels; 64 takes four times as long")
    parser.add_argument("--references", type=int, default=4, help="reference models, an even number; LiRA takes 4")
    parser.add_argument("--audits", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", type=Path, metavar="FILE", help="of results: go on from them, and keep them there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("absl").setLevel(logging.ERROR)
    kept = Kept(options.resume, {"size": options.size, "references": options.references, "audits": options.audits})
    films = None
    for name in options.victims:
        plan = replace(victim(name), size=options.size)
        if films is None and f"membership {name}" not in kept.results:
            manifest = read_folder(Path(os.environ["PRIMIA_DATA"]) / "kermany224").select(split="train")
            films = load_films(manifest, size=options.size, geometry=CNN.geometry)
        kept.get(f"membership {name}", partial(membership, plan, films, options.references, name))
    if options.audits:
        kept.get("audits", partial(audits, options.audits))
    if options.json:
        print(json.dumps(kept.results))


if __name__ == "__main__":
    main()
