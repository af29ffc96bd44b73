"""Attack x defence x seed: the same films, what the server would get of them, and what it makes of that."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch

from ..data import FilmSet
from ..errors import KitError, nearest
from ..federation.fields import update_fields
from ..federation.messages import Tensors
from ..models import ModelSpec
from ..secagg import SecureSum
from ..seeds import numpy_generator, torch_generator
from .imprint import ImprintSpec, imprint_weights, read_imprint
from .inversion import Inversion, film_gradient, invert_gradient
from .similarity import Similarity, compare_films

DELTA = 1e-5


@dataclass(frozen=True)
class Defence:
    """What happens to a gradient before the server has it.

    films: in each hospital's gradient. hospitals: whose gradients are summed by `SecureSum`; 1: the server gets it alone.
    clip: C, the most that one film's gradient may measure before they are summed. noise_multiplier: sigma; the
    hospital adds normal noise of standard deviation sigma C to its sum. 0: neither.
    """

    films: int = 1
    hospitals: int = 1
    clip: float = 1.0
    noise_multiplier: float = 0.0

    def __post_init__(self) -> None:
        if self.films < 1 or self.hospitals not in (1, *range(3, 256)):
            raise KitError(f"A defence has {self.films} film(s) at {self.hospitals} hospital(s): 1 or more, at 1 or at 3 to 255.")
        if self.clip <= 0 or self.noise_multiplier < 0:
            raise KitError(f"clip is {self.clip} and noise_multiplier {self.noise_multiplier}; above 0, and 0 or more.")

    def epsilon(self, delta: float = DELTA) -> float:
        """What one such release spends per film (add or remove one), exactly (Balle & Wang 2018); inf without noise.

        One gradient, all of whose films are always in it: there's no sampling to make it less, and no second round.
        """
        if not self.noise_multiplier:
            return float("inf")
        from dp_accounting import get_epsilon_gaussian

        return float(get_epsilon_gaussian(self.noise_multiplier, delta))


DEFENCES: Mapping[str, Defence] = MappingProxyType(
    {
        "nothing": Defence(),
        "4 films": Defence(films=4),
        "16 films": Defence(films=16),
        "secure sum": Defence(hospitals=3),
        "noise 0.001": Defence(noise_multiplier=0.001),
        "noise 0.01": Defence(noise_multiplier=0.01),
        "noise 1": Defence(noise_multiplier=1.0),
    }
)


@dataclass(frozen=True)
class Trial:
    """One attack on one release.

    originals, images: float32 [n or m, 1, size, size], the films and what was recovered.
    losses: of the gradient inversion; () for the imprint. similarity: see `compare_films`.
    """

    attack: str
    defence: str
    seed: int
    originals: torch.Tensor
    images: torch.Tensor
    similarity: Similarity
    losses: tuple[float, ...] = ()
    seconds: float = 0.0


def release(
    spec: ModelSpec, weights: Mapping[str, torch.Tensor], images: torch.Tensor, labels: torch.Tensor, defence: Defence, seed: int
) -> Tensors:
    """What the server gets: the mean gradient over all films of all hospitals, under a defence.

    1. Each film's gradient g is scaled to g min(1, C / |g|), if there is noise.
    2. A hospital adds up its films' gradients, and noise N(0, (sigma C)²) to each entry.
    3. Several hospitals' sums and their numbers of films go through the kit's secure sum.

    The noise is drawn by the seed, so that a table repeats. That is right for an attack's simulation and wrong at a
    hospital, which draws from its operating system: a server that knows the seed takes the noise off.
    """
    noise, contributions = torch_generator(seed, "simulated noise"), {}
    for hospital in range(defence.hospitals):
        mine = slice(hospital * defence.films, (hospital + 1) * defence.films)
        if not defence.noise_multiplier:
            total = {name: g * defence.films for name, g in film_gradient(spec, weights, images[mine], labels[mine]).items()}
        else:
            total = _clipped_sum(spec, weights, images[mine], labels[mine], defence.clip)
            std = defence.noise_multiplier * defence.clip
            total = {name: g + std * torch.randn(g.shape, generator=noise) for name, g in total.items()}
        contributions[f"H{hospital + 1}"] = {"weight": torch.tensor(float(defence.films)), **total}
    if defence.hospitals > 1:
        total = SecureSum().sum("gradient", contributions, update_fields(contributions["H1"], len(images), defence.hospitals))
    else:
        total = contributions["H1"]
    return {name: part / total["weight"] for name, part in total.items() if name != "weight"}


def _clipped_sum(spec, weights, images, labels, clip: float) -> Tensors:
    total: Tensors = {}
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        gradient = film_gradient(spec, weights, image, label)
        length = float(torch.cat([g.flatten() for g in gradient.values()]).norm())
        for name, g in gradient.items():
            total[name] = total.get(name, 0) + g * min(1.0, clip / max(length, 1e-12))
    return total


def _invert(spec, weights, films: FilmSet, chosen: torch.Tensor, defence: Defence, seed: int, settings: Inversion):
    labels = films.labels[chosen]
    gradient = release(spec, weights, films.images[chosen], labels, defence, seed)
    found = invert_gradient(spec, weights, gradient, films=len(chosen), labels=labels, settings=settings, seed=seed)
    return found.images, found.losses, found.seconds


def _imprint(spec, weights, films: FilmSet, chosen: torch.Tensor, defence: Defence, seed: int, settings: Inversion):
    malicious = ImprintSpec.of(spec)
    public = films.images[[i for i in range(len(films)) if i not in set(chosen.tolist())]]
    gradient = release(
        malicious, imprint_weights(malicious, public, seed=seed), films.images[chosen], films.labels[chosen], defence, seed
    )
    return read_imprint(malicious, gradient, most=len(chosen)).images, (), 0.0


ATTACKS = {"inversion": _invert, "imprint": _imprint}


def run_attacks(
    films: FilmSet,
    spec: ModelSpec,
    *,
    attacks: Sequence[str] = ("inversion", "imprint"),
    defences: Mapping[str, Defence] = DEFENCES,
    seeds: Sequence[int] = (0,),
    settings: Inversion | None = None,
    progress=None,
) -> list[Trial]:
    """Every attack on every defence, seed by seed.

    A seed draws a model's first weights and the films, one of a patient; every defence protects the first of the same
    row of films. The inversion is told the labels (more than a server knows); the imprint knows the other films'
    brightness. All patients' films are the candidates of the match rate.

    Args:
        films: of more patients than any defence has films; two at least are left for the imprint's server to know.
        spec: the model.
        defences: name -> defence.
        progress: called as (done, total, what).

    Raises: KitError for an unknown attack or too few patients.
    """
    for attack in attacks:
        if attack not in ATTACKS:
            raise KitError(f"Unknown attack {attack!r}{nearest(attack, ATTACKS)}; there are {', '.join(ATTACKS)}.")
    first = list({patient: i for i, patient in reversed(list(enumerate(films.patients)))}.values())
    most = max(defence.films * defence.hospitals for defence in defences.values())
    if len(first) < most + 2:
        raise KitError(f"There are films of {len(first)} patients; these defences need {most + 2}.")
    trials, total = [], len(seeds) * len(attacks) * len(defences)
    for seed, attack, (name, defence) in itertools.product(seeds, attacks, defences.items()):
        order = torch.tensor(numpy_generator(seed, "attacked films").permutation(sorted(first)))
        chosen = order[: defence.films * defence.hospitals]
        weights = spec.build(seed).state_dict()
        images, losses, seconds = ATTACKS[attack](spec, weights, films, chosen, defence, seed, settings or Inversion())
        originals = films.images[chosen]
        similarity = compare_films(images, originals, films.images[sorted(first)])
        trials.append(Trial(attack, name, seed, originals, images, similarity, losses, seconds))
        if progress:
            progress(len(trials), total, "attacks")
    return trials


def attack_table(trials: Sequence[Trial], defences: Mapping[str, Defence] = DEFENCES):
    """A pandas table: (attack, defence) -> films attacked, mean PSNR and SSIM of those with a reconstruction, share matched
    and what chance would match, share recovered exactly, and the defence's epsilon; over seeds."""
    import numpy as np
    import pandas as pd

    rows = {}
    for key in dict.fromkeys((trial.attack, trial.defence) for trial in trials):
        same = [trial.similarity for trial in trials if (trial.attack, trial.defence) == key]
        psnr, ssim, matched = (np.concatenate([getattr(s, what) for s in same]) for what in ("psnr", "ssim", "matched"))
        found = ~np.isnan(psnr)
        rows[key] = {
            "films": len(psnr),
            "PSNR": psnr[found].mean() if found.any() else np.nan,
            "SSIM": ssim[found].mean() if found.any() else np.nan,
            "matched": matched.mean(),
            "chance": np.mean([s.chance for s in same]),
            "exact": sum(s.exact for s in same) / len(psnr),
            "ε": defences[key[1]].epsilon(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["attack", "defence"])


def attack_results(trials: Sequence[Trial]) -> dict[str, float]:
    """The same numbers as flat names for `batch.record`: "inversion.secure_sum.psnr", .ssim, .matched, .chance, .exact."""
    table = attack_table(trials, {trial.defence: Defence() for trial in trials})
    return {
        f"{attack}.{defence.replace(' ', '_').replace('.', 'p')}.{column.lower()}": float(value)
        for (attack, defence), row in table.iterrows()
        for column, value in row.items()
        if column in ("PSNR", "SSIM", "matched", "chance", "exact")
    }
