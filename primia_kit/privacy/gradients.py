"""Gradients whose dependence on any one patient is bounded, the first half of DP-SGD (Abadi et al. 2016, arXiv 1607.00133).

    g_j   a film's gradient, over all trainable parameters
    g_p   a patient's gradient: the mean of g_j over the patient's films and their augmented copies
    C     the clipping norm
    S     sum over the sampled patients of g_p min(1, C / |g_p|)

Adding or removing a patient, with any number of films, changes S by at most C (in exact arithmetic; float32 rounds
each sum to about 1e-7 of its size). Clipping film by film, or the gradient of a whole batch, has no such bound.

Per-film gradients come from `torch.func` (vmap of grad). Opacus 1.6's hooks are as fast on ResNet-9, but return wrong
gradients for convolutions in channels_last memory, and refuse layers that work in place.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import KitError

Gradients = dict[str, torch.Tensor]


@dataclass(frozen=True)
class ClippedSum:
    """sums: S, parameter name -> tensor of its shape. norms: |g_p| before clipping, float64 [patients]; private: they
    leave the site in no form but a noised count."""

    sums: Gradients
    norms: torch.Tensor


class FilmGradients:
    """Per-film gradients of a network's trainable parameters: calling it gives name -> [n, *shape].

    The films of a batch don't meet: each gradient is what the film alone would give.

    Args:
        network: in the mode that it is trained in; trainable parameters are those with `requires_grad`.
        class_weights: float [classes], the weight of each label in the cross-entropy; None: all 1.

    Raises: KitError that names the first layer which mixes films or draws at random.
    """

    def __init__(self, network: nn.Module, class_weights: torch.Tensor | None = None):
        check_layers(network)
        # Of one small view in adaptive pooling, which costs nothing to speak of.
        warnings.filterwarnings("ignore", "There is a performance drop.*as_strided_", UserWarning)
        self.network = network
        own = dict(network.named_parameters())
        self.trainable = {name: p for name, p in own.items() if p.requires_grad}
        fixed = {name: p.detach() for name, p in own.items() if not p.requires_grad} | dict(network.named_buffers())

        def loss(parameters: Gradients, film: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            logits = torch.func.functional_call(network, (parameters, fixed), (film[None],))
            return F.cross_entropy(logits.to(parameters_dtype), label[None], class_weights, reduction="sum")

        parameters_dtype = next(iter(self.trainable.values())).dtype
        self._gradients = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))

    def zeros(self) -> Gradients:
        return {name: torch.zeros_like(p, requires_grad=False) for name, p in self.trainable.items()}

    def __call__(self, films: torch.Tensor, labels: torch.Tensor) -> Gradients:
        """films: the network's input [n, ...]. labels: int64 [n]."""
        return self._gradients({name: p.detach() for name, p in self.trainable.items()}, films, labels)


def clipped_sum(
    gradients: FilmGradients, patients: Iterable[tuple[torch.Tensor, torch.Tensor]], clipping_norm: float, chunk: int
) -> ClippedSum:
    """S over patients, with the gradients of at most `chunk` films in memory at a time (and one patient's).

    Args:
        patients: of each sampled patient the network's inputs [n, ...], augmented copies among them, and labels int64 [n].
        clipping_norm: C.

    A patient whose gradient isn't finite counts as a zero: one patient can't stop the run, or be told by it.
    """
    total, norms = gradients.zeros(), []
    for means in patient_gradients(gradients, patients, chunk):
        norm = torch.stack([torch.linalg.vector_norm(m.flatten(1), dim=1, dtype=torch.float64) for m in means.values()]).norm(
            dim=0
        )
        factors = clip_factors(norm, clipping_norm)
        for name, mean in means.items():
            if not torch.isfinite(norm).all():
                mean = torch.where(torch.isfinite(norm).view(-1, *[1] * (mean.dim() - 1)), mean, 0)
            total[name] += torch.tensordot(factors.to(mean.dtype), mean, dims=1)
        norms.append(norm)
    return ClippedSum(total, torch.cat(norms) if norms else torch.zeros(0, dtype=torch.float64))


def patient_gradients(
    gradients: FilmGradients, patients: Iterable[tuple[torch.Tensor, torch.Tensor]], chunk: int
) -> Iterator[Gradients]:
    """g_p of all patients, [patients, *shape] of some at a time (arguments: see `clipped_sum`)."""
    open_patient: Gradients | None = None  # the sum so far of the patient whose films go on in the next chunk
    for films, labels, owners, shares, ends in _chunks(patients, chunk):
        found = gradients(films, labels)
        means = {name: _by_owner(g, owners, shares) for name, g in found.items()}
        if open_patient is not None:
            for name, part in open_patient.items():
                means[name][0] += part
        open_patient = None if ends else {name: mean[-1].clone() for name, mean in means.items()}
        whole = int(owners[-1]) + int(ends)
        if whole:
            yield {name: mean[:whole] for name, mean in means.items()}


def clip_factors(norms: torch.Tensor, clipping_norm: float) -> torch.Tensor:
    """min(1, C / norm), and 0 for a norm that isn't finite."""
    return torch.where(torch.isfinite(norms), (clipping_norm / norms.clamp(min=1e-300)).clamp(max=1.0), 0.0)


class HeadGradients:
    """S for a linear layer on fixed features, in closed form: nothing per film is formed but its answer's error.

    1. d_j <- weight of j's label * (softmax(W f_j + b) - e_label), so that g_j = d_j [f_j, 1]^T.
    2. |g_p|^2 <- sum over films j, k of p of (d_j . d_k)(f_j . f_k + 1) / n_p^2; the f_j . f_k never change.
    3. S <- sum_j c_p / n_p d_j [f_j, 1]^T, one product of matrices, with c_p = min(1, C / |g_p|).

    Args:
        features: float32 [n, features], as they enter the layer.
        labels: int64 [n].
        owners: the patient of each film, int64 [n], from 0.
        class_weights: float [classes] or None.
    """

    def __init__(self, features: torch.Tensor, labels: torch.Tensor, owners: torch.Tensor, class_weights=None):
        features = torch.nan_to_num(features, 0, 0, 0)  # one patient's must not reach another's through a product
        self.features, self.labels, self.owners, self.class_weights = features, labels, owners, class_weights
        self.films = owners.bincount()  # n_p
        order = owners.argsort(stable=True)
        first, second = [], []
        for group in order.split(self.films.tolist()):
            first.append(group.repeat_interleave(len(group)))
            second.append(group.repeat(len(group)))
        self.first, self.second = torch.cat(first), torch.cat(second)
        dots = [
            (features[i].double() * features[k].double()).sum(1) for i, k in zip(self.first.split(4096), self.second.split(4096))
        ]
        self.dots = torch.cat(dots)

    def __call__(self, layer: nn.Linear, sampled: torch.Tensor, clipping_norm: float) -> ClippedSum:
        """layer: its plain product is taken, whatever else it does. sampled: bool [patients]."""
        chosen = sampled[self.owners].nonzero().squeeze(1)
        errors = torch.zeros(len(self.labels), layer.out_features, dtype=torch.float64, device=self.features.device)
        features, labels = self.features[chosen], self.labels[chosen]
        errors[chosen] = self._errors(F.linear(features, layer.weight.detach(), _detached(layer.bias)), labels).double()
        pairs = sampled[self.owners[self.first]].nonzero().squeeze(1)
        first, second, has_bias = self.first[pairs], self.second[pairs], float(layer.bias is not None)
        products = (errors[first] * errors[second]).sum(1) * (self.dots[pairs] + has_bias)
        squares = torch.zeros(len(self.films), dtype=torch.float64, device=errors.device)
        squares.index_add_(0, self.owners[first], products)
        norms = squares.clamp(min=0).sqrt() / self.films
        factors = clip_factors(norms, clipping_norm) / self.films
        scaled = torch.nan_to_num(errors[chosen] * factors[self.owners[chosen], None], 0, 0, 0).to(features.dtype)
        sums = {"weight": scaled.T @ features}
        if layer.bias is not None:
            sums["bias"] = scaled.sum(0)
        return ClippedSum(sums, norms[sampled])

    def by_patient(self, layer: nn.Linear, sampled: torch.Tensor, chunk: int) -> Iterator[Gradients]:
        """g_p of the sampled patients one by one, [patients, *shape] of at most `chunk` at a time."""
        for patients in sampled.nonzero().squeeze(1).split(chunk):
            place = torch.full_like(self.films, -1)
            place[patients] = torch.arange(len(patients), device=place.device)
            chosen = (place[self.owners] >= 0).nonzero().squeeze(1)
            features, owners = self.features[chosen], place[self.owners[chosen]]
            logits = F.linear(features, layer.weight.detach(), _detached(layer.bias))
            errors = self._errors(logits, self.labels[chosen]) / self.films[self.owners[chosen], None]
            weight = features.new_zeros(len(patients), *layer.weight.shape)
            found = {"weight": weight.index_add_(0, owners, errors[:, :, None] * features[:, None, :])}
            if layer.bias is not None:
                found["bias"] = errors.new_zeros(len(patients), layer.out_features).index_add_(0, owners, errors)
            yield found

    def _errors(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        errors = logits.softmax(1) - F.one_hot(labels, logits.shape[1])
        return errors if self.class_weights is None else errors * self.class_weights[labels, None]


def check_layers(network: nn.Module) -> None:
    """Refuse what would make a film's gradient depend on other films.

    Raises: KitError that names the layer.
    """
    for name, module in network.named_modules():
        kind, normalises = type(module).__name__, isinstance(module, nn.modules.batchnorm._NormBase)
        if normalises and module.training and (module.track_running_stats or isinstance(module, nn.modules.batchnorm._BatchNorm)):
            raise KitError(
                f'Layer {name} is a {kind} in training mode, which mixes the films of a batch: use norm="group", or freeze it '
                "at a public start."
            )
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p:
            raise KitError(
                f"Layer {name} is a {kind}: its draws for a film depend on which others are in the batch, so a patient's part "
                "in the sum has no bound. Freeze all but the last layer, or choose an architecture without it."
            )
        if isinstance(module, nn.RNNBase):
            raise KitError(
                f"Layer {name} is a {kind}, whose per-film gradients aren't supported: use convolutions and linear layers."
            )


def _detached(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else bias.detach()


def _by_owner(gradient: torch.Tensor, owners: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """[n, *shape] -> [owners, *shape]: each owner's films, weighted by their shares and added up."""
    if len(owners) == int(owners[-1]) + 1 and bool((shares == 1).all()):
        return gradient
    weighted = gradient * shares.to(gradient).view(-1, *[1] * (gradient.dim() - 1))
    means = gradient.new_zeros(int(owners[-1]) + 1, *gradient.shape[1:])
    return means.index_add_(0, owners.to(gradient.device), weighted)  # no product of matrices: 0 times infinity is no number


def _chunks(patients: Iterable[tuple[torch.Tensor, torch.Tensor]], chunk: int) -> Iterator[tuple]:
    """The films of all patients in pieces of at most `chunk`: (films, labels, owners from 0, 1 / n_p, whether the last
    owner's films end here)."""
    held: list[tuple] = []
    room = chunk

    def packed(ends: bool) -> tuple:
        owners = torch.cat([torch.full((len(labels),), i) for i, (_, labels, _) in enumerate(held)])
        shares = torch.cat([torch.full((len(labels),), share) for _, labels, share in held])
        return torch.cat([films for films, _, _ in held]), torch.cat([labels for _, labels, _ in held]), owners, shares, ends

    for films, labels in patients:
        share, start = 1 / len(labels), 0
        while start < len(labels):
            piece = slice(start, start + room)
            held.append((films[piece], labels[piece], share))
            start, room = start + len(held[-1][1]), room - len(held[-1][1])
            if not room:
                yield packed(start == len(labels))
                held, room = [], chunk
    if held:
        yield packed(True)
