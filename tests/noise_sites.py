"""Hospitals of random films, for tests of the federation: noise whose mean tells the class."""

import hashlib
from dataclasses import asdict, replace

import torch

from primia_kit.data import FilmSet
from primia_kit.federation import Site, TrainingPlan, TrainingRun
from primia_kit.secagg import PlainSum

CLASSES = ("normal", "bacterial", "viral")
PLAN = TrainingPlan(size=32, rounds=2, batch_size=4, learning_rate=0.02, architecture="small_cnn", norm="none")
SMALL = replace(PLAN, size=16, rounds=3)
STOPPING = replace(SMALL, rounds=30, patience=2, validation_share=0.3, learning_rate=0.01, schedule="constant")


def films(labels, seed=0, size=32, classes=CLASSES, patients=None):
    """One patient a film unless `patients` names them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(labels, dtype=torch.int64)
    images = 0.2 * torch.rand(len(labels), 1, size, size, generator=generator) + 0.3 * labels.view(-1, 1, 1, 1)
    return FilmSet(images, labels, tuple(patients or (f"p{i}" for i in range(len(labels)))), classes, "pad")


def site(name, labels, seed=0, test=(0, 1, 2), size=32, patients=None):
    return Site(name, films(labels, seed, size, patients=patients), films(list(test), seed + 100, size))


def hospitals(*names, count=9):
    return [site(name, [i % 3 for i in range(count)], seed, size=16) for seed, name in enumerate(names)]


class Gone(Site):
    """A site whose machine is down."""

    def update(self, *_, **__):
        raise RuntimeError


class Recording(PlainSum):
    def __init__(self):
        super().__init__()
        self.seen = {}

    def sum(self, purpose, contributions, fields=None):
        self.seen[purpose] = {site: dict(parts) for site, parts in contributions.items()}
        return super().sum(purpose, contributions, fields)


def with_patients(name, seed=0, patients=8):
    """Three films a patient."""
    return site(
        name, [i % 3 for i in range(3 * patients)], seed, size=16, patients=[f"{name}{i // 3}" for i in range(3 * patients)]
    )


def digest(run: TrainingRun) -> str:
    """Of everything that a run found but for its seconds: equal to the bit or not."""
    found = hashlib.sha256()
    for name, model in run.models.items():
        for parameter, value in model.weights.items():
            found.update(f"{name} {parameter}".encode() + value.contiguous().numpy().tobytes())
    for record in run.rounds:
        found.update(repr({**asdict(record), "seconds": 0}).encode())
    found.update(repr(run.best_round).encode())
    return found.hexdigest()
