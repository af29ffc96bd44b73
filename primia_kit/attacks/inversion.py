"""Gradient inversion: which films would have made the hospital send what it sent? (Geiping et al., NeurIPS 2020)

The server knows the model that it sent, the plan, and the update. It looks for films from which the same local
training would make an update in the same direction. An honest-but-curious server can do this: nothing is sent that
the plan doesn't say, and nobody can tell that it was done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call

from ..errors import KitError
from ..federation.local import has_dropout, mean_loss, model_input, random_shift, round_batches
from ..federation.messages import RoundTask, Tensors
from ..models import ModelSpec
from ..seeds import torch_generator

Simulation = Callable[[torch.Tensor], list[torch.Tensor]]  # films -> what a hospital would send, parameter by parameter
_PLAIN = ("fedavg", "fedadam", "fedyogi")  # strategies that change nothing at a site


@dataclass(frozen=True)
class Inversion:
    """How films are looked for.

    steps: of signed Adam, in each try. restarts: tries from other first films; the nearest counts.
    step_size: Adam's, of pixels in [0, 1]; it falls to 0 along a cosine. Above 0.03 films stay grainy.
    total_variation: weight of the mean difference between neighbouring pixels, beside a distance in [0, 2].
    """

    steps: int = 300
    restarts: int = 1
    step_size: float = 0.03
    total_variation: float = 3e-3

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("restarts", 1), ("total_variation", 0.0)):
            if getattr(self, name) < least:
                raise KitError(f"{name} is {getattr(self, name)}; the least is {least}.")
        if self.step_size <= 0:
            raise KitError(f"step_size is {self.step_size}; it must be above 0.")


@dataclass(frozen=True)
class Reconstruction:
    """What the attack came to.

    images: float32 [films, 1, size, size] in [0, 1], in an order of its own. labels: int64 [films].
    losses: the objective, step by step, of the best try. distance: cosine distance at its end, [0, 2].
    seconds: of all tries. seed: decides the first films.
    """

    images: torch.Tensor
    labels: torch.Tensor
    losses: tuple[float, ...]
    distance: float
    seconds: float
    seed: int


def film_gradient(spec: ModelSpec, weights: Mapping[str, torch.Tensor], images: torch.Tensor, labels: torch.Tensor) -> Tensors:
    """What a hospital sends in FedSGD: the gradient of the mean cross-entropy over its films.

    Args:
        weights: the state dict that the server sent.
        images: float32 [n, 1, size, size] in [0, 1]. labels: int64 [n].

    Returns: parameter -> float32, of its shape. BatchNorm normalises by these films, as in training.
    """
    network = spec.build_with(dict(weights)).train()
    gradients = torch.autograd.grad(mean_loss(network(model_input(images, spec)), labels, None), list(network.parameters()))
    return {name: gradient for (name, _), gradient in zip(network.named_parameters(), gradients, strict=True)}


def invert_gradient(
    spec: ModelSpec,
    weights: Mapping[str, torch.Tensor],
    gradient: Mapping[str, torch.Tensor],
    *,
    films: int = 1,
    labels: torch.Tensor | None = None,
    settings: Inversion | None = None,
    seed: int = 0,
    progress=None,
) -> Reconstruction:
    """Films whose mean gradient points where this one does.

    Args:
        spec, weights: the model that the server sent.
        gradient: see `film_gradient`; any positive multiple will do.
        films: how many it was made from; the server knows the batch size.
        labels: int64 [films], if the server knows them; None infers them, see `infer_labels`.
        progress: called as (done, total, what).

    Raises: KitError for a gradient that isn't this model's, and for a model with dropout.
    """
    network = _network(spec, weights)
    observed = _parameters(network, gradient)
    if labels is None:
        labels = infer_labels(network, spec, gradient, films)

    def simulate(images: torch.Tensor) -> list[torch.Tensor]:
        loss = mean_loss(network(model_input(images, spec)), labels, None)
        return list(torch.autograd.grad(loss, list(network.parameters()), create_graph=True))

    return _invert(spec, observed, simulate, labels, settings or Inversion(), seed, progress)


def invert_update(
    task: RoundTask,
    update: Mapping[str, torch.Tensor],
    *,
    site: str,
    films: int = 0,
    labels: torch.Tensor | None = None,
    settings: Inversion | None = None,
    seed: int = 0,
    progress=None,
) -> Reconstruction:
    """Films from which a site's whole round of SGD makes this update: the attack goes back through all its steps.

    The plan is public and its seed decides the order of films and how they are shifted; the attack repeats both.

    Args:
        task: what the server sent.
        update: what `Site.update` returned: its weight, and weight x (local - global) under each parameter's name.
        site: whose update it is, which the draws depend on.
        films: how many films the site has; 0 takes the update's weight, which says it.
        labels: int64 [films]; None infers them if there is one film, or one batch of all films that aren't shifted (else
            it matters which film has which).
        settings, seed, progress: see `invert_gradient`.

    Raises: KitError for a plan whose steps aren't plain SGD (Adam, MixUp, FedProx, SCAFFOLD, FedBN), a model with
        dropout, and for labels that have to be known.
    """
    plan = task.plan
    for holds, what in (
        (plan.optimizer == "sgd", f'optimizer "{plan.optimizer}"'),
        (plan.strategy in _PLAIN, f'strategy "{plan.strategy}"'),
        (not plan.mixup, "MixUp"),
    ):
        if not holds:
            raise KitError(f"The plan has {what}, and this attack goes back through plain SGD alone.")
    if not films and plan.weighting != "films":
        raise KitError('The plan weights sites uniformly, so the update doesn\'t tell how many films there are: give "films".')
    films = films or round(float(update["weight"]))
    network = _network(task.spec, task.weights)
    observed = [-change for change in _parameters(network, update)]
    batches = round_batches(plan, films, task.number, site)
    if labels is None:
        if films > 1 and (plan.augmentation != "none" or any(len(batch) < films for batch in batches)):
            raise KitError(
                f"The site's {films} films are shifted or lie in several batches, so it matters which has which label: give the "
                "attack their labels, in the site's order."
            )
        scale = float(update["weight"]) * _path(task, len(batches))
        labels = infer_labels(network, task.spec, {name: -part / scale for name, part in update.items()}, films)

    def simulate(images: torch.Tensor) -> list[torch.Tensor]:
        return _unrolled(task, network, images, labels, batches, site)

    return _invert(task.spec, observed, simulate, labels, settings or Inversion(), seed, progress)


def infer_labels(network: nn.Module, spec: ModelSpec, gradient: Mapping[str, torch.Tensor], films: int) -> torch.Tensor:
    """The labels of the films behind a mean gradient, from the bias of the last linear layer; int64 [films], ascending.

    That bias' gradient is the mean over films of (probability - 1 for the label). One film: the only negative entry is
    the label, for certain (iDLG, Zhao et al. 2020). More: films x (probability - gradient) estimates how many have each
    label, where the probability is taken of gray films; close for a model that has learned little, else a guess.
    """
    head = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    bias = gradient[f"{head}.bias"].double()
    if films == 1:
        return bias.argmin().reshape(1)
    gray = torch.full((2, 1, spec.size, spec.size), 0.5)
    with torch.no_grad():
        probability = network(model_input(gray, spec)).double().softmax(1).mean(0)
    wanted = (films * (probability - bias)).clamp_min(0)
    wanted = wanted * films / wanted.sum()
    counts = wanted.floor().long()
    largest_rests = (wanted - counts).argsort(descending=True)[: films - int(counts.sum())]
    counts[largest_rests] += 1
    return torch.arange(len(counts)).repeat_interleave(counts)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Of torch's: films this small gain little from two, and on a busy machine threads wait for each other, five times as
    long as the work takes. So a result doesn't depend on the number of cores, either."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
def _invert(
    spec: ModelSpec, observed: list[torch.Tensor], simulate: Simulation, labels: torch.Tensor, settings: Inversion, seed: int,
    progress,
) -> Reconstruction:  # fmt: skip
    """Look for films x with the least  1 - cos(simulate(x), observed) + total_variation * TV(x).

    1. x starts as gray with a little noise. (From full noise the same number of steps ends grainier.)
    2. Adam steps along the *sign* of the gradient with respect to x, which may be tiny; x stays within [0, 1].
    3. Of several tries the one with the least objective counts.
    """
    start, length, best = time.perf_counter(), _norm(observed), None
    for attempt in range(settings.restarts):
        noise = torch.rand(len(labels), 1, spec.size, spec.size, generator=torch_generator(seed, "inversion", attempt))
        images = (0.5 + 0.1 * (noise - 0.5)).requires_grad_()
        optimizer = torch.optim.Adam([images], lr=settings.step_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
        losses, distance = [], 0.0
        for step in range(settings.steps):
            simulated = simulate(images)
            product = sum((a * b).sum() for a, b in zip(simulated, observed, strict=True))
            apart = 1 - product / (_norm(simulated) * length).clamp_min(1e-20)
            loss = apart + settings.total_variation * _total_variation(images)
            images.grad = torch.autograd.grad(loss, images)[0].nan_to_num().sign()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                images.clamp_(0, 1)
            losses.append(float(loss.detach()))
            distance = float(apart.detach())
            if progress:
                progress(attempt * settings.steps + step + 1, settings.restarts * settings.steps, "gradient inversion")
        if best is None or losses[-1] < best[1][-1]:
            best = images.detach(), losses, distance
    images, losses, distance = best
    return Reconstruction(images, labels, tuple(losses), distance, time.perf_counter() - start, seed)


def _unrolled(
    task: RoundTask, network: nn.Module, images: torch.Tensor, labels: torch.Tensor, batches: list[torch.Tensor], site: str
) -> list[torch.Tensor]:
    """global - local, parameter by parameter, after the site's steps, differentiable in the images.

    As `train_locally` and torch's SGD: d = g + weight_decay p; v = momentum v + d; p <- p - rate (d + momentum v).
    """
    plan, augment = task.plan, torch_generator(task.plan.seed, task.number, site, "augment")
    names = [name for name, _ in network.named_parameters()]
    now = dict(network.named_parameters())
    velocity = [torch.zeros_like(parameter) for parameter in now.values()]
    for index, batch in enumerate(batches):
        chosen = images[batch]
        if plan.augmentation == "shift":
            chosen = random_shift(chosen, plan.size // 16, augment)
        logits = functional_call(network, now, (model_input(chosen, task.spec),))
        gradients = torch.autograd.grad(
            mean_loss(logits, labels[batch], task.class_weights), list(now.values()), create_graph=True
        )
        rate = plan.learning_rate_in(task.number, index / len(batches))
        pulls = [g + plan.weight_decay * p for g, p in zip(gradients, now.values(), strict=True)]
        velocity = [plan.momentum * v + d for v, d in zip(velocity, pulls, strict=True)]
        moved = zip(names, now.values(), pulls, velocity, strict=True)
        now = {name: p - rate * (d + plan.momentum * v) for name, p, d, v in moved}
    return [before - after for before, after in zip(network.parameters(), now.values(), strict=True)]


def _path(task: RoundTask, steps: int) -> float:
    """How far a constant gradient of 1 moves a parameter in a round."""
    velocity = way = 0.0
    for index in range(steps):
        velocity = task.plan.momentum * velocity + 1
        way += task.plan.learning_rate_in(task.number, index / steps) * (1 + task.plan.momentum * velocity)
    return way


def _network(spec: ModelSpec, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    network = spec.build_with(dict(weights)).train()
    if has_dropout(network):
        raise KitError(
            f"{spec.architecture} has dropout, whose draws this attack would have to know; choose another architecture."
        )
    return network


def _parameters(network: nn.Module, given: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """The parts that belong to parameters, in the network's order."""
    parts = []
    for name, parameter in network.named_parameters():
        if name not in given or given[name].shape != parameter.shape:
            raise KitError(f"The update has no part {name!r} of shape {tuple(parameter.shape)}: it is another model's.")
        parts.append(given[name].detach())
    return parts


def _norm(parts: list[torch.Tensor]) -> torch.Tensor:
    return sum(part.square().sum() for part in parts).sqrt()


def _total_variation(images: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference between neighbours, down and across."""
    return images.diff(dim=2).abs().mean() + images.diff(dim=3).abs().mean()
