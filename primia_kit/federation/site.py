"""A hospital: it holds films, and gives out statistics, updates and, of its test films, predictions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from ..data import FilmSet, Manifest, load_films
from ..errors import KitError
from ..models import ModelSpec
from .local import LocalTraining, train_locally
from .plan import TrainingPlan

RESERVED = ("all", "own", "everywhere")  # names of sums and means in `Comparison.results`


@dataclass(frozen=True)
class Site:
    """One hospital's films in memory. What its methods return is what leaves the hospital.

    Raises: KitError for a name that would be taken for something else in a table of results.
    """

    name: str
    train: FilmSet
    test: FilmSet

    def __post_init__(self) -> None:
        if not self.name or "." in self.name or self.name in RESERVED:
            raise KitError(f"A site can't be called {self.name!r}: no dot, and not one of {', '.join(RESERVED)}.")

    def check(self, plan: TrainingPlan) -> None:
        """Refuse a plan that these films can't serve; a label that the site lacks is no obstacle."""
        for films in (self.train, self.test):
            for what in ("classes", "size", "geometry"):
                if getattr(films, what) != getattr(plan, what):
                    raise KitError(
                        f"Site {self.name}'s films have {what} {getattr(films, what)!r}, the plan says {getattr(plan, what)!r}."
                    )
        if not len(self.train):
            raise KitError(f"Site {self.name} has no training film.")
        if len(self.train) < 2 and plan.norm == "batch":
            raise KitError(f'Site {self.name} has a single training film; BatchNorm needs two. Use norm="group".')

    def pixel_sums(self) -> dict[str, torch.Tensor]:
        """Number, sum and sum of squares of the training films' pixels: float64 scalars."""
        images = self.train.images
        return {
            "pixels": torch.tensor(images.numel(), dtype=torch.float64),
            "sum": images.sum(dtype=torch.float64),
            "sum_of_squares": images.square().sum(dtype=torch.float64),
        }

    def update(
        self, plan: TrainingPlan, spec: ModelSpec, weights: dict[str, torch.Tensor], round: int
    ) -> tuple[dict[str, torch.Tensor], LocalTraining]:
        """Train the global weights on the site's films.

        Returns: the weighted update {name: weight * (local - global)} with the weight itself under
        "weight", float32, which goes through the aggregator; and the number of steps and the mean loss,
        which the server gets in clear to show progress.
        """
        network = _workspace(spec)
        network.load_state_dict(weights)
        training = train_locally(network, self.train, plan, spec, round=round, site=self.name)
        weight = float(len(self.train)) if plan.weighting == "films" else 1.0
        update = {
            name: (local - weights[name]) * weight for name, local in network.state_dict().items() if local.is_floating_point()
        }
        return {"weight": torch.tensor(weight), **update}, training


@lru_cache(maxsize=1)
def _workspace(spec: ModelSpec) -> nn.Module:
    """The network that this process trains in, one site after the other: making one costs as much as a step.

    The next site overwrites every parameter and buffer with the global ones.
    """
    return spec.build().to(memory_format=torch.channels_last)


def load_sites(manifest: Manifest, plan: TrainingPlan, *, unreadable: str = "error", progress=None) -> list[Site]:
    """Read every site's training and test films into memory as the plan wants them.

    Raises: KitError for unreadable films, and for a site without any training film.
    """
    if "" in manifest.sites:
        raise KitError("Some films have no site yet; give every patient one, e.g. with share_out(manifest, sites=3, seed=0).")
    total, before = sum(film.split != "validation" for film in manifest), 0  # validation films aren't used yet

    def part(site: str, split: str) -> FilmSet:
        nonlocal before
        chosen = manifest.select(site=site, split=split)
        relay = progress and (lambda done, _, what: progress(before + done, total, what))
        films = load_films(
            chosen, size=plan.size, geometry=plan.geometry, classes=plan.classes, unreadable=unreadable, progress=relay
        )
        before += len(chosen)
        return films

    sites = [Site(name, part(name, "train"), part(name, "test")) for name in manifest.sites]
    for site in sites:
        site.check(plan)
    return sites
