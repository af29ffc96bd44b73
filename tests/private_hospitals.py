"""Hospitals that train privately, for tests: plans, test doubles and what is worked out by hand."""

from dataclasses import replace

import torch

from primia_kit.federation import Federation, federate
from primia_kit.federation.private import Units
from primia_kit.privacy import NoiseSource
from primia_kit.privacy.gradients import FilmGradients, clipped_sum

from .noise_sites import PLAN, films, site

PRIVATE = replace(
    PLAN, size=16, rounds=3, sync_every=2, batch_size=5, privacy="patient", noise_multiplier=1.0, delta=1e-3,
    pixel_statistics="public", weighting="patients",
)  # fmt: skip
BUDGET = replace(PRIVATE, noise_multiplier=0.0, target_epsilon=4.0)
HEAD = replace(PRIVATE, frozen=("body",), augmentation="none")
# One step of plain SGD at rate 1 from everybody: what a site sends is -(S + noise) / B, times its weight.
ONE = replace(
    PRIVATE, sync_every=1, rounds=1, batch_size=10, learning_rate=1.0, momentum=0.0, weight_decay=0.0, schedule="constant",
    weighting="uniform", clipping_norm=0.7,
)  # fmt: skip


def hospital(name, seed=0, patients=10, each=2):
    """Every patient has `each` films."""
    count = patients * each
    return site(name, [i % 3 for i in range(count)], seed, size=16, patients=[f"p{i // each}" for i in range(count)])


def hospitals(names="ABC"):
    return [hospital(name, seed) for seed, name in enumerate(names)]


class Fixed(NoiseSource):
    """A test double: samples whom it is told, and adds no noise."""

    def __init__(self, sampled=None):
        self.sampled = sampled

    def bernoulli(self, n, q):
        return torch.ones(n, dtype=torch.bool).numpy() if self.sampled is None else torch.tensor(self.sampled).numpy()

    def noised(self, values, std):
        return values.clone()


def one_update(plan, who=None, source=None):
    """The parts that a site sends after one round, and its ledger."""
    who = who or hospital("A")
    federation = Federation(plan, [who])
    memory = federation.memories["A"]
    memory.privacy.source = source or NoiseSource.insecure(1)
    parts, training = who.update(federation.task(), memory)
    return parts, training, memory


def flat(parts):
    return torch.cat([value.flatten() for name, value in parts.items() if name != "weight"]).double()


def sum_by_hand(plan, who, sampled):
    """S of the sampled patients at the first weights, by another way than `train_privately`'s."""
    federation = Federation(plan, [who])
    network, spec = federation.spec.build_with(federation.weights), federation.spec
    people = [
        (spec.normalise(who.train.images[chosen]), who.train.labels[chosen])
        for unit, chosen in enumerate(Units(who.train, "patient").films)
        if sampled[unit]
    ]
    return clipped_sum(FilmGradients(network), people, plan.clipping_norm, 8).sums


def accuracy(plan):
    """Of the model that three hospitals of 60 patients train, on films of others."""
    who = [hospital(name, seed, patients=60, each=2) for seed, name in enumerate("ABC")]
    model = federate(plan, who).model
    test = films([0, 1, 2] * 10, 50, 16)
    with torch.no_grad():
        return float((model.network()(model.spec.normalise(test.images)).argmax(1) == test.labels).double().mean())
