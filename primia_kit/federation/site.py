"""A hospital: it holds films, and gives out statistics, updates and, of its test films, predictions."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..data import FilmSet, Manifest, load_films
from ..errors import KitError
from ..seeds import derive_seed
from .approval import check_task
from .device import CPU, Device
from .distributed import noised_gradient_sum
from .local import model_input, train_locally
from .messages import LocalTraining, RoundTask, SiteMemory, Tensors
from .plan import TrainingPlan
from .private import count_units, train_privately
from .strategies import LOCAL_RULES
from .trainable import freeze, head_inputs, trained_head

RESERVED = ("all", "own", "everywhere")  # names of sums and means in `Comparison.results`


@dataclass(frozen=True)
class Site:
    """One hospital's films in memory. What its methods return is what leaves the hospital.

    validation: films of training patients that early stopping looks at; None or empty: the site sets some of its
        training patients aside, if the plan asks for it. Test films are no concern of training.
    approved: SHA-256 of the plan that the hospital has reviewed; it then answers tasks of that plan alone (see
        `check_task`). A `Federation` sets it. "": it runs whatever it is sent, which attacks on such hospitals need.

    Raises: KitError for a name that would be taken for something else in a table of results.
    """

    name: str
    train: FilmSet
    test: FilmSet
    validation: FilmSet | None = None
    approved: str = ""

    def __post_init__(self) -> None:
        if not self.name or "." in self.name or self.name in RESERVED:
            raise KitError(f"A site can't be called {self.name!r}: no dot, and not one of {', '.join(RESERVED)}.")

    def check(self, plan: TrainingPlan, held: int = 0) -> None:
        """Refuse a plan that these films can't serve, or another than was approved; a label that the site lacks is no obstacle.

        Args:
            held: training films that were set aside for validation (for the sentence alone).
        """
        if self.approved and plan.sha256 != self.approved:
            raise KitError(f"Site {self.name} has approved the plan {self.approved[:12]}…, and this one is {plan.sha256[:12]}….")
        for films in (self.train, self.test, self.validation or self.train):
            for what in ("classes", "size", "geometry"):
                if getattr(films, what) != getattr(plan, what):
                    raise KitError(
                        f"Site {self.name}'s films have {what} {getattr(films, what)!r}, the plan says {getattr(plan, what)!r}."
                    )
        if not len(self.train):
            raise KitError(f"Site {self.name} has no training film.")
        if len(self.train) < 2 and plan.norm == "batch":
            why = f", as {held} are set aside for validation" if held else ""
            raise KitError(f'Site {self.name} has a single training film{why}; BatchNorm needs two. Use norm="group".')
        if plan.private:
            self._check_privacy(plan)

    def _check_privacy(self, plan: TrainingPlan) -> None:
        units = count_units(self.train, plan.privacy)
        if units < plan.batch_size:
            raise KitError(
                f"Site {self.name} has {units} {plan.privacy}s to train on, and batch_size, the number expected in a private "
                f"step, is {plan.batch_size}: lower it, or leave the site out."
            )
        if plan.delta > 1 / (10 * units) * (1 + 1e-9):
            raise KitError(
                f"delta is {plan.delta:g}; for the {units} {plan.privacy}s of site {self.name} it may be {1 / (10 * units):.3g} "
                "at most, a tenth of one in their number, since it's the chance that the promise doesn't hold at all."
            )

    def with_validation(self, plan: TrainingPlan) -> Site:
        """The site with validation films of its own, if the plan stops early; else itself."""
        return self.held_out(plan) if plan.patience else self

    def held_out(self, plan: TrainingPlan) -> Site:
        """The site with validation films of its own: those that it has, else of some of its training patients.

        Whether a patient is set aside is a function of (plan.seed, patient), so that a pooled run and a federated
        one leave out the same patients, but for this: one patient at least is set aside, and one stays. (Not so under
        differential privacy, where nobody's place may depend on who else is there.)

        Raises: KitError if that leaves a private plan without a patient on either side.
        """
        if self.validation is not None and len(self.validation):
            return self
        draw = {patient: derive_seed(plan.seed, "validation", patient) / 2**63 for patient in set(self.train.patients)}
        ordered = sorted(draw, key=lambda patient: (draw[patient], patient))
        count = sum(value < plan.validation_share for value in draw.values())
        if plan.private and not 0 < count < len(ordered):
            raise KitError(
                f"Site {self.name} has {len(ordered)} patients, and a validation_share of {plan.validation_share:g} sets "
                f"{count} aside: choose another share or seed."
            )
        aside = set(ordered[: min(max(count, 1), len(ordered) - 1)])
        rest = [i for i, patient in enumerate(self.train.patients) if patient not in aside]
        held = [i for i, patient in enumerate(self.train.patients) if patient in aside]
        return replace(self, train=_subset(self.train, rest), validation=_subset(self.train, held))

    def weight(self, plan: TrainingPlan) -> float:
        """The site's weight in averages."""
        if plan.weighting == "patients":
            return float(len(set(self.train.patients)))
        return float(len(self.train)) if plan.weighting == "films" else 1.0

    def pixel_sums(self) -> Tensors:
        """Number, sum and sum of squares of the training films' pixels: float64 scalars."""
        total = squares = 0.0
        for film in self.train.images.numpy():  # film by film on one thread: the same to the bit on any number of cores
            pixels = film.astype(np.float64)
            total, squares = total + pixels.sum(), squares + np.square(pixels).sum()
        found = {"pixels": self.train.images.numel(), "sum": total, "sum_of_squares": squares}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}

    def class_counts(self) -> Tensors:
        """How many training films have each label: float64 [classes]."""
        return {"films": self.train.labels.bincount(minlength=len(self.train.classes)).double()}

    def update(
        self,
        task: RoundTask,
        memory: SiteMemory | None = None,
        *,
        device: Device = CPU,
        on_step: Callable[[int, int], None] | None = None,
    ) -> tuple[Tensors, LocalTraining]:
        """Train the global weights on the site's films, by the plan's strategy.

        Args:
            memory: the site's own; None is an empty one (all that FedAvg needs).
            on_step: see `train_locally`.

        Returns: the contribution to the round's sum, float32, which goes through the aggregator: the weight
        under "weight", weight * (local - global) under each trained parameter's name, and what the strategy adds; and
        the number of steps and the mean loss, which the server gets in clear to show progress. Of a private plan (see
        `train_privately`; memory has the ledger) it gets the steps and the ledger's head, and no loss. Where noise is
        distributed, the contribution is that of `noised_gradient_sum`.

        Raises: KitError for a task that isn't of the approved plan, before anything is computed or spent.
        """
        self._check_approval(task)
        network = _workspace(task, device.kind)
        memory = memory if memory is not None else SiteMemory()
        rule = LOCAL_RULES[task.plan.strategy](task, memory, network)
        head = trained_head(network, task.plan)
        if head is not None and memory.features is None:  # for the whole run: what is frozen doesn't change
            memory.features = head_inputs(network, self.train, task.spec, model_input, device)
        if task.plan.noise == "distributed":
            return noised_gradient_sum(
                network, self.train, task, site=self.name, memory=memory, device=device,
                features=None if head is None else memory.features, on_step=on_step,
            )  # fmt: skip
        train = train_privately if task.plan.private else train_locally
        training = train(
            network, self.train, task, site=self.name, rule=rule, memory=memory, device=device,
            features=None if head is None else memory.features, on_step=on_step,
        )  # fmt: skip
        return rule.contribution(self.weight(task.plan)), training

    @torch.no_grad()
    def validation_sums(
        self,
        task: RoundTask,
        memory: SiteMemory,
        *,
        device: Device = CPU,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensors:
        """Sum of the loss over the validation films, and of the films (both by class weights, if the plan has them).

        Of the global weights, with FedBN's layers from the site's memory: float64 scalars, 0 without a film.
        """
        self._check_approval(task)
        network = _workspace(task, device.kind)
        network.load_state_dict(personal_weights(task.weights, memory.kept))
        network.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        weights = torch.ones(len(task.spec.classes)) if task.class_weights is None else task.class_weights
        films = self.validation if self.validation is not None else _subset(self.train, [])
        batches = torch.arange(len(films)).split(128) if len(films) else ()
        for index, batch in enumerate(batches):
            labels = films.labels[batch]
            logits = network(model_input(films.images[batch].to(device.kind), task.spec)).cpu()
            sums[0] += F.cross_entropy(logits, labels, weights.to(logits.dtype), reduction="sum").double()
            sums[1] += weights[labels].double().sum()
            if on_step:
                on_step(index + 1, len(batches))
        return {"loss": sums[0], "films": sums[1]}

    def _check_approval(self, task: RoundTask) -> None:
        if self.approved:
            check_task(task, self.approved)

    def films_sha256(self) -> str:
        """A digest of the films that the site trains and validates on; it stays at the site."""
        digest = hashlib.sha256()
        for films in (self.train, self.validation):
            if films is not None:
                digest.update(repr((films.classes, films.geometry, tuple(films.images.shape), films.patients)).encode())
                digest.update(films.images.contiguous().numpy())
                digest.update(films.labels.contiguous().numpy())
        return digest.hexdigest()


def personal_weights(weights: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor]) -> Tensors:
    """The global state dict with the layers that a site keeps to itself (FedBN)."""
    return {name: kept.get(name, value) for name, value in weights.items()}


def _subset(films: FilmSet, indices: list[int]) -> FilmSet:
    chosen = torch.tensor(indices, dtype=torch.int64)
    patients = tuple(films.patients[i] for i in indices)
    return replace(films, images=films.images[chosen], labels=films.labels[chosen], patients=patients)


_workspaces = threading.local()


def _workspace(task: RoundTask, device: str) -> nn.Module:
    """The network that this thread trains in, one site after the other: making one costs as much as a step.

    The next site overwrites every parameter and buffer with the global ones.
    """
    made_for = task.spec, task.plan.frozen, device
    if getattr(_workspaces, "made_for", None) != made_for:
        network = task.spec.build_with(task.weights)  # draws nothing: the generator belongs to no thread
        _workspaces.network = freeze(network, task.plan).to(device, memory_format=torch.channels_last)
        _workspaces.made_for = made_for
    return _workspaces.network


def load_sites(
    manifest: Manifest, plan: TrainingPlan, *, validation: bool = False, unreadable: str = "error", cache: bool = True,
    progress=None,
) -> list[Site]:  # fmt: skip
    """Read every site's training and test films into memory as the plan wants them (arguments: see `load_films`),
    and its validation films if the plan stops early or `validation` asks for them (a search does).

    Raises: KitError for unreadable films, and for a site without any training film.
    """
    if "" in manifest.sites:
        raise KitError("Some films have no site yet; give every patient one, e.g. with share_out(manifest, sites=3, seed=0).")
    validation = validation or plan.patience > 0
    total, before = sum(validation or film.split != "validation" for film in manifest), 0

    def part(site: str, split: str) -> FilmSet:
        nonlocal before
        chosen = manifest.select(site=site, split=split)
        relay = progress and (lambda done, _, what: progress(before + done, total, what))
        films = load_films(
            chosen,
            size=plan.size,
            geometry=plan.geometry,
            classes=plan.classes,
            unreadable=unreadable,
            cache=cache,
            progress=relay,
        )
        before += len(chosen)
        return films

    splits = ("train", "test", "validation") if validation else ("train", "test")
    sites = [Site(name, *(part(name, split) for split in splits)) for name in manifest.sites]
    for site in sites:
        site.check(plan)
    return sites
