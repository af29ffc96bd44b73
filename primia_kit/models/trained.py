"""A model's specification, and a trained model with everything that inference has to know about it."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from ..errors import KitError, nearest
from ..seeds import derive_seed
from ..storage import write_atomically
from .architectures import ARCHITECTURES, SIZE_STEP
from .layers import FEATURE_NORMS
from .pretrained import normalise_features


@dataclass(frozen=True)
class ModelSpec:
    """What has to be known to build a model and to feed it as it was trained.

    Pixels in [0, 1] enter the network as (pixel - pixel_mean) / pixel_std.
    feature_norm: "l2" scales what enters the last linear layer to length 1, "l2_centred" takes the films' mean off that,
        which the weights hold, and scales it again; "none" leaves it.
    """

    architecture: str
    classes: tuple[str, ...]
    norm: str
    pool: str
    size: int
    geometry: str
    pixel_mean: float
    pixel_std: float
    feature_norm: str = "none"

    def build(self, seed: int = 0) -> nn.Module:
        """A freshly initialised network; the seed decides its weights and nothing else's."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "initial weights"))
            return self._architecture()

    def build_with(self, weights: dict[str, torch.Tensor]) -> nn.Module:
        """A network with a copy of these weights (a state dict), without initialising it first.

        Raises: KitError if the weights don't fit, naming the first parameter that doesn't.
        """
        with torch.device("meta"):  # shapes alone, no memory
            network = self._architecture()
        _check_fit({name: value.shape for name, value in network.state_dict().items()}, weights)
        network.load_state_dict({name: value.clone() for name, value in weights.items()}, assign=True)
        return network

    def check(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Raises: KitError if these weights (a state dict) don't fit, naming the first parameter that doesn't."""
        _check_fit(_shapes(self), weights)

    def _architecture(self) -> nn.Module:
        if self.architecture not in ARCHITECTURES:
            close, known = nearest(self.architecture, ARCHITECTURES), ", ".join(ARCHITECTURES)
            raise KitError(f"Unknown architecture {self.architecture!r}{close}; there are {known}.")
        step = SIZE_STEP[self.architecture]
        if self.size % step:
            raise KitError(f"size is {self.size}; for {self.architecture} it must be a multiple of {step}.")
        network = ARCHITECTURES[self.architecture](len(self.classes), self.norm, self.pool)
        if self.feature_norm not in FEATURE_NORMS:
            known = ", ".join(FEATURE_NORMS)
            raise KitError(
                f"Unknown feature_norm {self.feature_norm!r}{nearest(self.feature_norm, FEATURE_NORMS)}; there are {known}."
            )
        return network if self.feature_norm == "none" else normalise_features(network, self.feature_norm == "l2_centred")

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        return (images - self.pixel_mean) / self.pixel_std


@dataclass(frozen=True)
class TrainedModel:
    """A spec and its weights (a state dict)."""

    spec: ModelSpec
    weights: dict[str, torch.Tensor]

    def network(self) -> nn.Module:
        """The network in evaluation mode.

        Raises: KitError if the weights don't fit the spec, naming the first parameter that doesn't.
        """
        return self.spec.build_with(self.weights).eval()

    def save(self, path: str | Path) -> Path:
        """Write spec and weights to one file, atomically."""
        buffer = io.BytesIO()
        torch.save({"spec": asdict(self.spec), "weights": self.weights}, buffer)
        return write_atomically(path, buffer.getvalue())


def load_model(path: str | Path) -> TrainedModel:
    """Read a model that `TrainedModel.save` wrote; no code in the file is run (`weights_only=True`).

    Raises: KitError if the file is not such a model.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        spec = ModelSpec(**{**content["spec"], "classes": tuple(content["spec"]["classes"])})
        for field in ("architecture", "norm", "pool", "geometry", "size", "pixel_mean", "pixel_std", "feature_norm"):
            if type(getattr(spec, field)).__name__ != ModelSpec.__annotations__[field]:
                raise TypeError(f"its {field} is {getattr(spec, field)!r}")
        return TrainedModel(spec, dict(content["weights"]))
    except (OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise KitError(
            f"{path} is not a model saved by the kit: {(str(error) or type(error).__name__).splitlines()[0]}"
        ) from error


@lru_cache(maxsize=16)
def _shapes(spec: ModelSpec) -> Mapping[str, torch.Size]:
    """Of the spec's state dict: making a large network without memory takes as long as a step of it."""
    with torch.device("meta"):
        return {name: value.shape for name, value in spec._architecture().state_dict().items()}


def _check_fit(expected: Mapping[str, torch.Size], given: Mapping[str, torch.Tensor]) -> None:
    for name in expected:
        if name not in given:
            raise KitError(f"The weights have no parameter {name!r}{nearest(name, given)}.")
        if given[name].shape != expected[name]:
            raise KitError(
                f"Parameter {name!r} has shape {tuple(given[name].shape)}; the architecture has {tuple(expected[name])}."
            )
    for name in given:
        if name not in expected:
            raise KitError(f"The weights have a parameter {name!r} that the architecture doesn't have.")


def weights_sha256(weights: Mapping[str, torch.Tensor]) -> str:
    """64 hex digits that tell a state dict from any other: SHA-256 over names, dtypes, shapes and values, in the order of
    the names. What a plan's `start` names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
