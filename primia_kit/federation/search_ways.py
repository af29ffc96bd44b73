"""On whose films a search trains and scores its trials, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from ..data import pool_films
from ..errors import KitError
from ..privacy import Gaussian
from ..secagg import Aggregator, PlainSum
from .engine import Federation
from .plan import TrainingPlan
from .pooled import sum_over_all
from .proposals import check_choice
from .search_privacy import check_budget, check_charged, check_held_out, check_separate, ledger_epsilons
from .site import Site
from .validation import NOISED_FIELDS, answer_shares, pooled_answers

CHARGES = ("composition",)


class Way(Protocol):
    """How a search looks at films.

    sites: that trials are trained on. judges: whose validation films score them.
    whose: "exact", "charged" or "public", for the folder. options: arguments of every trial's `Federation`.
    """

    sites: tuple[Site, ...]
    judges: tuple[Site, ...]
    whose: str
    options: dict[str, Any]

    def aggregator(self) -> Aggregator | None:
        """A trial's; None for the federation's default."""

    def answers(self, federation: Federation, purpose: str) -> torch.Tensor:
        """The pooled confusion matrix of the model as it stands: float64 [classes, classes]."""

    def epsilons(self) -> dict[str, float]:
        """Site -> ε of its ledger; empty where nothing is charged."""

    def cost(self, trials: int) -> str:
        """A sentence."""


class Exact:
    """Train at the sites, score on their held-out films, without differential privacy."""

    whose = "exact"

    def __init__(self, plan: TrainingPlan, sites: Sequence[Site]):
        self.sites = self.judges = tuple(site.held_out(plan) for site in sites)
        self.options: dict[str, Any] = {}
        check_held_out(self.judges)

    def aggregator(self) -> Aggregator | None:
        return None

    def answers(self, federation: Federation, purpose: str) -> torch.Tensor:
        return pooled_answers(purpose, federation.models(), self.judges, federation.aggregator)

    def epsilons(self) -> dict[str, float]:
        return {}

    def cost(self, trials: int) -> str:
        return (
            f"{trials} trial(s) on private films, without differential privacy: the server saw every trial's models, and the "
            "confusion matrices of all sites' validation films together. Nothing bounds what they tell of a patient."
        )


class Public(Exact):
    """The same at sites of public films: whatever it looks at, no patient of the hospitals is in it."""

    whose = "public"

    def __init__(self, plan: TrainingPlan, sites: Sequence[Site], public: Sequence[Site]):
        check_separate(public, sites)
        super().__init__(plan, public)

    def aggregator(self) -> Aggregator | None:
        return PlainSum() if len(self.sites) == 2 else None  # of which there is no secure sum, nor need of one

    def cost(self, trials: int) -> str:
        return f"{trials} trial(s) on public films alone: the search costs the hospitals' patients epsilon 0."


class Charged:
    """Train privately at the sites, score with noise on held-out patients or exactly on public films; ledgers add up."""

    whose = "charged"

    def __init__(
        self, plan: TrainingPlan, sites: Sequence[Site], public: Sequence[Site] | None, score_noise: float, ledgers: Path
    ):
        self.plan, self.score_noise, self.ledgers, self.public = plan, score_noise, ledgers, public is not None
        self.options: dict[str, Any] = {"ledgers": ledgers}
        if public is None:
            self.sites = self.judges = tuple(site.held_out(plan) for site in sites)
            check_held_out(self.judges)
        else:
            check_separate(public, sites)
            self.sites, self.judges = tuple(sites), tuple(all_for_validation(site) for site in public)
        check_charged(plan, self.sites, score_noise, scored_on_public=self.public)

    def aggregator(self) -> Aggregator | None:
        return None

    def check_budget(self, plans: Sequence[TrainingPlan], budget: float) -> None:
        """Refuse the trials to come, before the first, if they'd pass an ε at a site."""
        check_budget(plans, self.sites, self.score_noise, self.ledgers, budget)

    def answers(self, federation: Federation, purpose: str) -> torch.Tensor:
        """On held-out patients each site adds its own noise, which its ledger has before; a patient counts 1."""
        models = federation.models()
        if self.public:
            one = next(iter(models.values()))  # a private plan has no other
            return pooled_answers(purpose, dict.fromkeys([site.name for site in self.judges], one), self.judges, PlainSum())
        mechanism, noised = Gaussian(self.score_noise), {}
        for site in self.judges:
            privacy = federation.memories[site.name].privacy
            privacy.ledger.spend(mechanism, purpose=purpose, run=federation.plan.sha256)
            shares = answer_shares(models[site.name], site.validation, self.plan.privacy)
            noised[site.name] = {"films": privacy.source.noised(shares, self.score_noise)}
        return sum_over_all(purpose, noised, NOISED_FIELDS if len(noised) > 1 else None, federation.aggregator)["films"]

    def epsilons(self) -> dict[str, float]:
        return ledger_epsilons(self.sites, self.ledgers)

    def cost(self, trials: int) -> str:
        on = "public films" if self.public else f"held-out patients with noise multiplier {self.score_noise:g}"
        return (
            f"{trials} trial(s) on private films, scored on {on}: all are charged, and the largest of the hospitals' ledgers "
            f"stands at epsilon {max(self.epsilons().values(), default=0.0):.3g} (delta {self.plan.delta:g})."
        )


def way_to(
    plan: TrainingPlan, sites: Sequence[Site], *, public: Sequence[Site] | None, charge: str | None, score_noise: float,
    budget: float | None, ledgers: str | Path | None, folder: Path,
) -> Exact | Public | Charged:  # fmt: skip
    """The way that the arguments of `search` say.

    Raises: KitError for a private plan whose films would be looked at without a charge, and for what isn't covered.
    """
    if charge is not None:
        check_choice("charge", charge, CHARGES)
        return Charged(plan, sites, public, float(score_noise), folder if ledgers is None else Path(ledgers))
    if score_noise or budget is not None or ledgers is not None:
        raise KitError('score_noise, budget and ledgers belong to a search that is charged: set charge="composition".')
    if public is not None:
        return Public(plan, sites, public)
    if plan.private:
        raise KitError(
            "The plan is private, and every trial of a search looks at films: give public films (public=), which cost nothing; "
            'or charge="composition", and the ledgers add all trials up; or let one hospital alone repeat_and_select.'
        )
    return Exact(plan, sites)


def all_for_validation(site: Site) -> Site:
    """All films of a public site but its test films."""
    held = site.validation
    return replace(site, validation=pool_films([site.train] if held is None or not len(held) else [site.train, held]))
