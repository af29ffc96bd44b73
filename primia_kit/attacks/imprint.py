"""The imprint: an architecture that copies films into its own gradient (Fowl et al., ICLR 2022, "Robbing the Fed").

Here the server is malicious. It sends a model with a module of its own in front, which sorts films into bins by their
brightness; each bin's gradient holds the films that are brighter than its edge. The difference of two neighbouring
bins is the film between them, in closed form. A *sum* over hospitals only fills more bins, so secure aggregation
doesn't stop it. Differential privacy does (`noisy_imprint` asks how much of it), and so does a hospital that runs no
architecture but the approved one.

The *windowed* form (the paper's sparse variant) gates each bin from above, too: a film's gradient lies in one row instead of
all those below it. Nothing has to be subtracted, and where gradients are clipped, a film's whole length C is in that row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import KitError
from ..federation.messages import Tensors
from ..models import ModelSpec
from ..seeds import torch_generator

_PREFIX = "imprint."
_SCALE = 1e-4  # of what the bins measure
_CEILING = 1e-8  # of a window's output: 256 of them, spread by 100,000, move a pixel by a hundredth of its deviation
_EMPTY = 1e-3  # of the fullest bin's gradient: less is rounding, or a film that the model is sure of


class Imprint(nn.Module):
    """Films in, films out: x + spread(gate(measure(x))), [n, 1, size, size] -> the same shape.

    It can pass for an adapter or a residual block; what makes it an attack are its weights, see `imprint_weights`.

    Args:
        size: side of a film in pixels. bins: the more there are, the fewer films share one.
        windowed: the gate is a clamp to [0, 1e-8], open within a bin alone; else ReLU.
    """

    def __init__(self, size: int, bins: int, windowed: bool = False):
        super().__init__()
        self.windowed = windowed
        self.measure = nn.Linear(size**2, bins)
        self.spread = nn.Linear(bins, size**2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        measured = self.measure(flat)
        gated = F.hardtanh(measured, 0.0, _CEILING) if self.windowed else F.relu(measured)
        return (flat + self.spread(gated)).view_as(x)


class ImprintedClassifier(nn.Module):
    """A classifier behind an imprint: [n, 1, size, size] -> logits [n, classes]."""

    def __init__(self, imprint: Imprint, classifier: nn.Module):
        super().__init__()
        self.imprint, self.classifier = imprint, classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.imprint(x))


@dataclass(frozen=True)
class ImprintSpec(ModelSpec):
    """The model that the malicious server sends in place of the plan's. bins, windowed: of the imprint."""

    bins: int = 256
    windowed: bool = False

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise KitError(f"bins is {self.bins}; an imprint needs at least 2.")

    @classmethod
    def of(cls, spec: ModelSpec, bins: int = 256, windowed: bool = False) -> ImprintSpec:
        """The same model with an imprint in front."""
        return cls(**vars(spec), bins=bins, windowed=windowed)

    def _architecture(self) -> nn.Module:
        return ImprintedClassifier(Imprint(self.size, self.bins, self.windowed), super()._architecture())


@dataclass(frozen=True)
class Imprinted:
    """What the server read off.

    images: float32 [m, 1, size, size] in [0, 1], one for each bin that wasn't empty; where several films share a bin,
        a mixture of them. bins: int64 [m], which bins, from dark to bright.
    """

    images: torch.Tensor
    bins: torch.Tensor


def brightness(spec: ModelSpec, images: torch.Tensor) -> torch.Tensor:
    """What the bins sort by: the mean of a film's pixels as the model sees them, [n]."""
    return spec.normalise(images).mean((1, 2, 3))


def bin_edges(spec: ImprintSpec, public: torch.Tensor) -> torch.Tensor:
    """Lower edges of the bins, ascending: float32 [bins]. Films whose brightness is distributed normally, with the mean and
    standard deviation of these [n, 1, size, size], fill all bins alike."""
    values = brightness(spec, public).double()
    shares = (torch.arange(spec.bins, dtype=torch.float64) + 0.5) / spec.bins
    return (values.mean() + values.std() * torch.special.ndtri(shares)).float()


def imprint_weights(spec: ImprintSpec, public: torch.Tensor, *, spread: float = 300.0, seed: int = 0) -> Tensors:
    """The state dict that the malicious server sends.

    1. Each row of `measure` is the same: s x the film's brightness, s = 0.0001. Its bias is -s x the bin's edge, so that
       neuron i is active for films brighter than edge i. s is small, so that the model sees nearly the film itself.
       Windowed: divided by the bin's width, s is the window's height. So neuron i is active in bin i alone.
    2. Each column of `spread` is the same random vector: all bins of a film have one gradient, the film's own.

    Args:
        public: films that the server has of its own, float32 [n, 1, size, size]; where on their scale of brightness the
            edges lie decides how many films share a bin.
        spread: length of a column of `spread`, which multiplies the gradient that the server reads.
        seed: decides the other layers' weights and `spread`'s direction.
    """
    weights, pixels = spec.build(seed).state_dict(), spec.size**2
    direction = F.normalize(torch.randn(pixels, generator=torch_generator(seed, "imprint")), dim=0)
    edges, slopes = bin_edges(spec, public), torch.full((spec.bins,), _SCALE)
    if spec.windowed:
        slopes = _CEILING / edges.diff(append=2 * edges[-1:] - edges[:1])  # above the last edge, as wide as all bins together
    weights[_PREFIX + "measure.weight"] = (slopes / pixels)[:, None].repeat(1, pixels)
    weights[_PREFIX + "measure.bias"] = -slopes * edges
    weights[_PREFIX + "spread.weight"] = (spread * direction)[:, None].repeat(1, spec.bins)
    return weights


def read_imprint(spec: ImprintSpec, update: Mapping[str, torch.Tensor], *, most: int | None = None) -> Imprinted:
    """Recover films from a gradient, an update, or the sum of many hospitals' updates.

    Exact for one local step. In later steps the bins have moved, so fewer films stand alone.

    With d_x the gradient of film x's loss by a bin's activation, and edges ascending:

    1. Row i of the gradient of `measure.weight` is the sum of d_x x over films brighter than edge i; entry i of that of
       `measure.bias` is the sum of d_x.
    2. Row i less row i + 1 leaves the films of bin i. So does entry i less entry i + 1. (Windowed, they are there already.)
    3. Their quotient is a film as the model sees it, if the bin holds one; learning rate, number of films and sign
       cancel. (Weight decay pulls equal rows alike, so it cancels in the difference, too.)

    Args:
        most: how many bins are read, those with the largest entries, if the server knows how many films there are: noise would
            fill them all. Default: all that aren't empty.

    Raises: KitError if the update has no imprint of this shape.
    """
    rows = imprint_rows(spec, update)
    if not spec.windowed:
        rows = -rows.diff(dim=0, append=torch.zeros(1, rows.shape[1]))
    films, factors = rows[:, :-1], rows[:, -1]
    full = (factors.abs() > _EMPTY * factors.abs().max()).nonzero().flatten()
    if most is not None:
        full = full[factors[full].abs().argsort(descending=True)[:most].sort().values]
    return Imprinted(as_films(spec, films[full] / factors[full, None]).clamp(0, 1), full)


def imprint_rows(spec: ImprintSpec, update: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What an update says of `measure`: float64 [bins, pixels + 1], the bias' part last.

    Raises: KitError if the update has no imprint of this shape.
    """
    rows, entries = (update.get(_PREFIX + f"measure.{part}") for part in ("weight", "bias"))
    if rows is None or entries is None or rows.shape != (spec.bins, spec.size**2) or entries.shape != (spec.bins,):
        raise KitError(f"The update has no imprint of {spec.bins} bins and films of {spec.size} pixels a side: it wasn't run.")
    return torch.cat([rows, entries[:, None]], dim=1).double()


def as_films(spec: ModelSpec, seen: torch.Tensor) -> torch.Tensor:
    """Films as the model sees them, [m, pixels], as pixels: float32 [m, 1, size, size]."""
    return (seen * spec.pixel_std + spec.pixel_mean).float().view(-1, 1, spec.size, spec.size)
