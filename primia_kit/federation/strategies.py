"""Strategies: what a site does beside plain local training, and what the server does with the sum.

    x   the global model, y_i site i's model after its local steps, w_i its weight in the average
    Δ   the mean update: sum_i w_i (y_i - x) / sum_i w_i over the sites that are in the round's sum

    strategy   at a site                   at the server             paper
    fedavg     nothing                     x <- x + Δ                McMahan et al. 2017, arXiv 1602.05629
    fedprox    a pull towards x            x <- x + Δ                Li et al. 2020, arXiv 1812.06127
    scaffold   steps corrected by c - c_i  x <- x + Δ, and c         Karimireddy et al. 2020, arXiv 1910.06378
    fedadam    nothing                     an Adam step along Δ      Reddi et al. 2021, arXiv 2003.00295
    fedyogi    nothing                     a Yogi step along Δ       the same
    fedbn      keeps its BatchNorm layers  x <- x + Δ for the rest   Li et al. 2021, arXiv 2102.07623

All that a site gives is a named part of its contribution to the aggregator: w_i under "weight", w_i (y_i - x) under
the parameters' names (and those of BatchNorm's running statistics, which every server averages plainly), and SCAFFOLD's
w_i (c_i⁺ - c_i) under "control." and the name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from .messages import RoundTask, SiteMemory, Tensors
from .plan import TrainingPlan
from .trainable import trainable, trained_names

CONTROL = "control."  # prefix of the parts that hold control variates


# --- at a site


class LocalRule:
    """Plain local training (FedAvg, and whatever differs from it at the server alone); one object a site and round.

    Args:
        task: from the server.
        memory: the site's own.
        network: on the site's device; it is given the weights to start from here.
    """

    def __init__(self, task: RoundTask, memory: SiteMemory, network: nn.Module):
        self.task, self.memory, self.network = task, memory, network
        network.load_state_dict(self.start())
        self.trained = trained_names(network)

    def start(self) -> Mapping[str, torch.Tensor]:
        """The state dict that local training starts from."""
        return self.task.weights

    def before_training(self, full_gradient: Callable[[], list[torch.Tensor]]) -> None:
        """Called once; `full_gradient` forms the mean gradient over all films, parameter by parameter."""

    def adjust_gradients(self) -> None:
        """Called after every backward pass, before the optimizer's step."""

    def contribution(self, weight: float) -> Tensors:
        """What the site sends through the aggregator: float32 tensors on the CPU."""
        parts = {"weight": torch.tensor(weight)}
        for name, local in self.network.state_dict().items():
            if name in self.trained and self.is_shared(name) and local.is_floating_point():
                parts[name] = (local.cpu() - self.task.weights[name]) * weight
        return parts

    def is_shared(self, name: str) -> bool:
        return True


class Proximal(LocalRule):
    """FedProx: the local loss is F_i(y) + (mu / 2) |y - x|^2, so that sites with different films drift less.

    1. g <- gradient of F_i at y for the batch.
    2. g <- g + mu (y - x), for every trainable parameter.
    """

    def __init__(self, task: RoundTask, memory: SiteMemory, network: nn.Module):
        super().__init__(task, memory, network)
        self.anchor = [parameter.detach().clone() for parameter in trainable(network).values()]

    @torch.no_grad()
    def adjust_gradients(self) -> None:
        for y, x in zip(trainable(self.network).values(), self.anchor, strict=True):
            y.grad.add_(y - x, alpha=self.task.plan.proximal_mu)


class ControlVariate(LocalRule):
    """SCAFFOLD, Algorithm 1 at site i; c_i starts at 0 and stays at the site, c comes from the server.

    1. y <- x.
    2. Every step: g <- gradient at y for the batch; step along g - c_i + c.
    3. Option I: c_i⁺ <- the gradient at x over all films. Option II: c_i⁺ <- the mean of the g of all K steps,
       which is the paper's c_i - c + (x - y) / (K eta) wherever that can be told from the path (plain SGD at a
       constant rate eta without weight decay), and holds with momentum and a falling rate, too.
    4. Send w (y - x) and w (c_i⁺ - c_i). Keep c_i⁺ once the server says that the sum holds them.
    """

    def __init__(self, task: RoundTask, memory: SiteMemory, network: nn.Module):
        super().__init__(task, memory, network)
        names = list(trainable(network))
        device = next(network.parameters()).device
        self.own = {name: memory.kept.get(CONTROL + name, torch.zeros_like(task.control[name])) for name in names}
        self.correction = [(task.control[name] - self.own[name]).to(device) for name in names]
        self.sums = [torch.zeros_like(parameter) for parameter in trainable(network).values()]
        self.steps = 0

    @torch.no_grad()
    def adjust_gradients(self) -> None:
        for parameter, total, correction in zip(trainable(self.network).values(), self.sums, self.correction, strict=True):
            total.add_(parameter.grad)
            parameter.grad.add_(correction)
        self.steps += 1

    def before_training(self, full_gradient: Callable[[], list[torch.Tensor]]) -> None:
        if self.task.plan.scaffold_option == "I":
            self.at_start = full_gradient()
            self.network.load_state_dict(self.start())  # BatchNorm's running statistics have moved

    def contribution(self, weight: float) -> Tensors:
        means = [total / max(self.steps, 1) for total in self.sums]
        renewed = self.at_start if self.task.plan.scaffold_option == "I" else means
        offered = {CONTROL + name: value.cpu() for name, value in zip(self.own, renewed, strict=True)}
        changes = {CONTROL + name: (offered[CONTROL + name] - own) * weight for name, own in self.own.items()}
        self.memory.offered = offered
        return super().contribution(weight) | changes


class PersonalNorm(LocalRule):
    """FedBN: BatchNorm's weights, biases and running statistics never leave the site; all else is averaged.

    1. y <- x with the site's own BatchNorm layers (those of x in its first round).
    2. Train. Send w (y - x) without these layers. Keep them once the server says that the sum holds the rest.
    """

    def __init__(self, task: RoundTask, memory: SiteMemory, network: nn.Module):
        self.personal = personal_names(network)
        super().__init__(task, memory, network)

    def start(self) -> Mapping[str, torch.Tensor]:
        return {**self.task.weights, **self.memory.kept}

    def is_shared(self, name: str) -> bool:
        return name not in self.personal

    def contribution(self, weight: float) -> Tensors:
        state = self.network.state_dict()
        self.memory.offered = {n: state[n].cpu().clone() for n in self.personal if state[n].is_floating_point()}
        return super().contribution(weight)


def personal_names(network: nn.Module) -> set[str]:
    """The state-dict names of all BatchNorm layers."""
    return {
        f"{layer}.{name}"
        for layer, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for name in module.state_dict()
    }


# --- at the server


class Average:
    """x <- x + Δ.

    Args:
        network: as it starts; tells trainable parameters from frozen ones and buffers.
        everyone: sum of the weights of all sites, drawn or not, where `needs_everyone`.

    state: what the server keeps from round to round, name -> tensor.
    """

    needs_everyone = False

    def __init__(self, plan: TrainingPlan, network: nn.Module, everyone: float | None = None):
        self.plan, self.everyone = plan, everyone
        self.trainable = tuple(trainable(network))
        self.state: Tensors = self.first_state(trainable(network))

    def first_state(self, parameters: Mapping[str, torch.Tensor]) -> Tensors:
        return {}

    def control(self) -> Tensors | None:
        """What the sites get beside the weights."""
        return None

    def step(self, weights: Tensors, total: Tensors) -> Tensors:
        """The new global weights from the round's sum."""
        weight = total["weight"]
        # What wasn't sent stays: frozen layers, FedBN's, whole-number buffers (BatchNorm's counters mean nothing in an average).
        return {name: old + total[name] / weight if name in total else old for name, old in weights.items()}


class ControlledAverage(Average):
    """SCAFFOLD, Algorithm 1 at the server, with the global step size 1.

    1. x <- x + Δ.
    2. c <- c + sum_i w_i (c_i⁺ - c_i) / W over the sites in the sum, with the weight W of *all* sites: c stays the
       weighted mean of all c_i (in the paper, where all weights are 1, W is N).
    """

    needs_everyone = True

    def first_state(self, parameters: Mapping[str, torch.Tensor]) -> Tensors:
        return {name: torch.zeros_like(x, requires_grad=False) for name, x in parameters.items()}

    def control(self) -> Tensors:
        return self.state

    def step(self, weights: Tensors, total: Tensors) -> Tensors:
        self.state = {name: c + total[CONTROL + name] / self.everyone for name, c in self.state.items()}
        return super().step(weights, total)


class Adaptive(Average):
    """FedAdam and FedYogi, Algorithm 2 of Reddi et al.; m starts at 0, v at tau^2, no bias correction.

    1. m <- beta_1 m + (1 - beta_1) Δ.
    2. FedAdam: v <- beta_2 v + (1 - beta_2) Δ^2. FedYogi: v <- v - (1 - beta_2) Δ^2 sign(v - Δ^2).
    3. x <- x + eta m / (sqrt(v) + tau), for trainable parameters; running statistics are averaged plainly, since
       they are measurements and no direction to go.
    """

    def first_state(self, parameters: Mapping[str, torch.Tensor]) -> Tensors:
        moments = {f"m.{name}": torch.zeros_like(x, requires_grad=False) for name, x in parameters.items()}
        start = self.plan.server_tau**2
        return moments | {f"v.{name}": torch.full_like(x, start, requires_grad=False) for name, x in parameters.items()}

    def second_moment(self, v: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        beta_2 = self.plan.server_beta2
        if self.plan.strategy == "fedyogi":
            return v - (1 - beta_2) * square * (v - square).sign()
        return beta_2 * v + (1 - beta_2) * square

    def step(self, weights: Tensors, total: Tensors) -> Tensors:
        plan, new = self.plan, super().step(weights, total)
        for name in self.trainable:
            delta = total[name] / total["weight"]
            m = plan.server_beta1 * self.state[f"m.{name}"] + (1 - plan.server_beta1) * delta
            v = self.second_moment(self.state[f"v.{name}"], delta.square())
            self.state[f"m.{name}"], self.state[f"v.{name}"] = m, v
            new[name] = weights[name] + plan.server_learning_rate * m / (v.sqrt() + plan.server_tau)
        return new


LOCAL_RULES: dict[str, Callable[..., LocalRule]] = {
    "fedavg": LocalRule, "fedprox": Proximal, "scaffold": ControlVariate,
    "fedadam": LocalRule, "fedyogi": LocalRule, "fedbn": PersonalNorm,
}  # fmt: skip
SERVERS: dict[str, Callable[..., Average]] = {
    "fedavg": Average, "fedprox": Average, "scaffold": ControlledAverage,
    "fedadam": Adaptive, "fedyogi": Adaptive, "fedbn": Average,
}  # fmt: skip
