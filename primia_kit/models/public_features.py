"""Start weights whose features are fitted to public films: nothing of a private film is in them.

Differential privacy has to pay for every look at a private film. What can be learned without one comes first: the blocks
from ImageNet, and from public films (the kit's own synthetic ones, say) how far each feature spreads and which of them go
together. Labels aren't used.
"""

from __future__ import annotations

import torch

from ..errors import KitError
from .efficientnet import PROJECTED
from .pretrained import imagenet_weights
from .trained import ModelSpec

ARCHITECTURE = "efficientnet_lite0_blocks"
PIXELS = {"pixel_mean": 127 / 255, "pixel_std": 128 / 255}  # as EfficientNet-Lite0 was trained, of pixels in [0, 1]


@torch.no_grad()
def fit_public_features(spec: ModelSpec, films: torch.Tensor, batch_size: int = 32) -> dict[str, torch.Tensor]:
    """ImageNet's blocks, a projection of their features onto the public films' principal components, and a head of zeros.

    1. m <- each public film's 624 features; mu, sd <- their mean and standard deviation over the films.
    2. V <- the first 128 principal components of (m - mu) / sd: [128, 624].
    3. The projection is f = V (m - mu) / sd, one linear layer.

    Args:
        spec: of "efficientnet_lite0_blocks" with norm "batch"; its pixel mean and standard deviation should be those in
            `PIXELS`, which the ImageNet weights expect.
        films: public, float32 [n, 1, size, size] in [0, 1]; more than 128.

    Returns: a state dict for a plan's `start` (`weights_sha256`); with frozen=("body",) only the head is trained.
    Raises: KitError for another architecture, too few films, or if the ImageNet weights aren't installed.
    """
    if spec.architecture != ARCHITECTURE or spec.norm != "batch":
        raise KitError(
            f'Public features are for architecture "{ARCHITECTURE}" with norm "batch"; the model is {spec.architecture!r} with '
            f"norm {spec.norm!r}."
        )
    if len(films) <= PROJECTED:
        raise KitError(f"{len(films)} public films can't span {PROJECTED} features: give more than {PROJECTED}.")
    network = spec.build().eval()
    published = imagenet_weights("efficientnet_lite0")
    published["_conv_stem.weight"] = published["_conv_stem.weight"].sum(1, keepdim=True)  # gray: three equal colours
    own = network.state_dict()
    network.load_state_dict({name: published.get(name, value) for name, value in own.items()} | _zeros(own))
    means = torch.cat([network.means(spec.normalise(batch)) for batch in films.split(batch_size)]).double()
    mu, sd = means.mean(0), means.std(0).clamp(min=1e-6)
    components = torch.linalg.svd((means - mu) / sd, full_matrices=False).Vh[:PROJECTED]
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    projection = components * largest.sign() / sd  # a component's sign is free: the largest entry's is plus
    network._projection.weight.copy_(projection)
    network._projection.bias.copy_(-projection @ mu)
    return network.state_dict()


def _zeros(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(value) for name, value in state.items() if name.startswith("_fc.")}
