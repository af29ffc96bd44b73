"""What a hospital does in a round: the same function in one process, in an approved job, on any node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from ..data import FilmSet
from ..models import ModelSpec
from ..seeds import derive_seed, numpy_generator, torch_generator
from .device import CPU, Device
from .messages import LocalTraining, RoundTask, SiteMemory
from .plan import TrainingPlan
from .strategies import LocalRule
from .trainable import trainable, trained_head, training_mode


def train_locally(
    network: nn.Module,
    films: FilmSet,
    task: RoundTask,
    *,
    site: str,
    rule: LocalRule,
    memory: SiteMemory | None = None,
    device: Device = CPU,
    features: torch.Tensor | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> LocalTraining:
    """Train `network` in place for one round.

    1. Shuffle the films and cut them into batches, see `round_batches`.
    2. For each batch: augment, normalise, blend (MixUp), gradient of the mean cross-entropy; the strategy's rule
       adjusts it; one optimizer step at the learning rate of this round and share of its steps.

    All draws come from (plan.seed, round, site). The optimizer is new each round.

    Args:
        memory: the site's own; keeps fp16's loss scale, which would else have to be found anew in every round.
        features: what enters the last layer for each film, [n, features], if that layer alone is trained (see `trainable`).
        on_step: called as (steps made, steps of the round) after each; what it raises ends the training.
    """
    plan, number = task.plan, task.number
    training_mode(network)
    head = None if features is None else trained_head(network, plan)
    memory = memory if memory is not None else SiteMemory()
    optimizer, scaler = make_optimizer(network, plan), device.scaler(memory.loss_scale)
    augment = torch_generator(plan.seed, number, site, "augment")
    blend = numpy_generator(plan.seed, number, site, "mixup")
    class_weights = None if task.class_weights is None else task.class_weights.to(device.kind)
    batches, losses, steps = round_batches(plan, len(films), number, site), [], 0
    with _dropout_draws(network, device, derive_seed(plan.seed, number, site, "dropout")):
        rule.before_training(lambda: full_gradient(network, films, task, device))
        for index, batch in enumerate(batches):
            images = films.images[batch] if head is None else features[batch]
            if plan.augmentation == "shift":
                images = random_shift(images, plan.size // 16, augment)
            images, labels = images.to(device.kind), films.labels[batch].to(device.kind)
            share, partner = (blend.beta(plan.mixup, plan.mixup), blend.permutation(len(batch))) if plan.mixup else (1.0, None)
            if partner is not None:
                images = share * images + (1 - share) * images[partner]
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate_in(number, index / len(batches))
            optimizer.zero_grad(set_to_none=True)
            with device.autocast():
                logits = network(model_input(images, task.spec)) if head is None else F.linear(images, head.weight, head.bias)
            logits = device.widened(logits)
            loss = mean_loss(logits, labels, class_weights)
            if partner is not None:
                loss = share * loss + (1 - share) * mean_loss(logits, labels[partner], class_weights)
            steps += _step(network, loss, optimizer, scaler, rule)
            losses.append((loss.detach(), len(batch)))
            if on_step:
                on_step(index + 1, len(batches))
    memory.loss_scale = scaler.get_scale() if scaler else memory.loss_scale
    optimizer.zero_grad()  # the last films' gradient isn't left in a network that others will use
    seen = sum(n for _, n in losses)
    return LocalTraining(steps=steps, loss=sum(float(loss) * n for loss, n in losses) / seen)


def has_dropout(network: nn.Module) -> bool:
    """Whether training draws from torch's global generator."""
    return any(isinstance(module, nn.modules.dropout._DropoutNd) for module in network.modules())


@contextmanager
def _dropout_draws(network: nn.Module, device: Device, seed: int) -> Iterator[None]:
    """Dropout draws by this seed, and the caller's generator is left as it was."""
    if not has_dropout(network):
        yield
        return
    with torch.random.fork_rng(devices=device.generators()):
        torch.manual_seed(seed)
        yield


def _step(network: nn.Module, loss: torch.Tensor, optimizer, scaler, rule: LocalRule) -> int:
    """One optimizer step; returns how many were made (fp16 leaves out a step whose scaled gradient overflowed)."""
    if scaler is None:
        loss.backward()
        rule.adjust_gradients()
        optimizer.step()
        return 1
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    finite = all(torch.isfinite(parameter.grad).all() for parameter in trainable(network).values())
    if finite:
        rule.adjust_gradients()
    scaler.step(optimizer)
    scaler.update()
    return int(finite)


def round_batches(plan: TrainingPlan, films: int, round: int, site: str) -> list[torch.Tensor]:
    """The indices of the films in each batch of a round, int64 [about batch_size].

    A pass over the films is ceil(n / batch_size) batches of equal size, give or take one; fewer where a batch
    would have a single film, which BatchNorm can't train on.

    sync_every = 0: `local_epochs` passes, shuffled by (seed, round, site).
    sync_every = k: the site has one endless row of passes, shuffled by (seed, pass, site), and round r takes
    batches (r - 1) k to r k - 1 of it. A site that comes to the end of a pass goes on into its next one, so
    that every site makes k fresh steps in every round; which ones depends on the round alone, so a site that
    misses a round leaves its batches out.
    """
    cut = plan.batches_in_a_pass(films)
    if not plan.sync_every:
        shuffle = torch_generator(plan.seed, round, site, "shuffle")
        return [b for _ in range(plan.local_epochs) for b in torch.randperm(films, generator=shuffle).tensor_split(cut)]
    first, end, batches = (round - 1) * plan.sync_every, round * plan.sync_every, []
    for number in range(first // cut, (end - 1) // cut + 1):
        shuffle = torch_generator(plan.seed, "pass", number, site, "shuffle")
        whole = torch.randperm(films, generator=shuffle).tensor_split(cut)
        batches += whole[max(0, first - number * cut) : end - number * cut]
    return batches


def full_gradient(network: nn.Module, films: FilmSet, task: RoundTask, device: Device) -> list[torch.Tensor]:
    """The gradient of the mean cross-entropy over all films as they are, parameter by parameter.

    BatchNorm normalises by batches as in training, since its running statistics mean nothing in the first round.
    """
    mean = [torch.zeros_like(parameter) for parameter in trainable(network).values()]
    weights = None if task.class_weights is None else task.class_weights.to(device.kind)
    for batch in torch.arange(len(films)).tensor_split(task.plan.batches_in_a_pass(len(films))):
        network.zero_grad(set_to_none=True)
        images, labels = films.images[batch].to(device.kind), films.labels[batch].to(device.kind)
        mean_loss(network(model_input(images, task.spec)), labels, weights).backward()
        for total, parameter in zip(mean, trainable(network).values(), strict=True):
            total.add_(parameter.grad, alpha=len(batch) / len(films))
    return mean


def mean_loss(logits: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor | None) -> torch.Tensor:
    """The mean over films of weight x cross-entropy, in nats.

    torch's own weighted mean divides by the sum of the batch's weights, so at a site with a single label the weights
    would cancel. Balanced weights are 1 on average over all sites' films; this mean's gradient is the pooled one.
    """
    return F.cross_entropy(logits, labels, class_weights, reduction="sum") / len(labels)


def model_input(images: torch.Tensor, spec: ModelSpec) -> torch.Tensor:
    """Films in [0, 1] as the network takes them: normalised, in the memory layout that convolutions like."""
    return spec.normalise(images).contiguous(memory_format=torch.channels_last)


def make_optimizer(network: nn.Module, plan: TrainingPlan) -> torch.optim.Optimizer:
    common = {"lr": plan.learning_rate, "weight_decay": plan.weight_decay}
    if plan.optimizer == "adam":
        return torch.optim.Adam(trainable(network).values(), **common)
    return torch.optim.SGD(trainable(network).values(), momentum=plan.momentum, nesterov=plan.momentum > 0, **common)


def random_shift(images: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """Move each film [n, 1, size, size] by up to `most` pixels along both axes; the border is black."""
    n, _, size, _ = images.shape
    padded = F.pad(images, (most, most, most, most))
    top, left = torch.randint(0, 2 * most + 1, (2, n), generator=generator)
    windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # [n, 1, 2 most + 1, 2 most + 1, size, size], a view
    return windows[torch.arange(n), :, top, left]


@torch.no_grad()
def predict(network: nn.Module, films: FilmSet, spec: ModelSpec, batch_size: int = 128) -> torch.Tensor:
    """Class probabilities of every film: float32 [n, classes]."""
    network.eval().to(memory_format=torch.channels_last)
    device = next(network.parameters()).device
    logits = [network(model_input(images.to(device), spec)).cpu() for images in films.images.split(batch_size)]
    return torch.cat(logits).softmax(1) if logits else torch.empty(0, len(spec.classes))
