"""What a search costs of the hospitals' patients' privacy, and which searches can be charged at all.

A search looks at films twice in every trial: it trains, and it scores. Under differential privacy there are three ways:

    public films        Train and score on patients who were declared public and stand at no site. Costs nothing.
    composition         Train on private films, score on held-out patients with noise (or on public films). Every trial is a
                        release of its own, whoever sees it; the ledgers add them up.
    repeat and select   A hospital alone tries a random number of plans and shows the best: `repeat_and_select`.

Accounting by composition takes for granted that what is spent doesn't depend on what was found: which step follows may be
chosen by earlier answers, its noise and sampling rate may not, nor when to stop. So trials that differ in what they spend
are drawn ahead, at random; others may be proposed by earlier scores; and no trial is pruned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..data import FilmSet
from ..errors import KitError
from ..privacy import Gaussian, Ledger, SampledGaussian, epsilon
from ..privacy.accounting import History
from .budgets import ledger_path
from .plan import TrainingPlan
from .private import count_units
from .private_statistics import statistics_spends
from .site import Site
from .space import Space

SAME_SPENDS = {  # keys that change what a private trial does, and not what it spends
    "architecture", "norm", "pool", "optimizer", "learning_rate", "schedule", "warmup", "momentum", "weight_decay",
    "augmentation", "augmentation_multiplicity", "virtual_batch", "strategy", "proximal_mu", "scaffold_option",
    "server_learning_rate", "server_beta1", "server_beta2", "server_tau", "weighting", "ema", "pixel_mean", "pixel_std",
    "clipping_norm", "clipping", "clipping_quantile",
}  # fmt: skip


def spending_keys(space: Space) -> list[str]:
    """The keys of a space that may change what a trial spends; all that aren't known not to."""
    return [key for key in space if key not in SAME_SPENDS]


def check_separate(public: Sequence[Site], sites: Sequence[Site]) -> None:
    """Public films must be of nobody who is at a site: no patient's name and no film's pixels in both.

    A film that was saved anew (another size, other grays) isn't recognised, and a name is all that tells a patient.

    Raises: KitError that names the sites; neither patients nor films.
    """
    names = {patient for site in public for films in _all(site) for patient in films.patients}
    pixels = {digest for site in public for films in _all(site) for digest in _digests(films)}
    for site in sites:
        for films in _all(site):
            patients = len(names & set(films.patients))
            copies = sum(digest in pixels for digest in _digests(films))
            if patients or copies:
                what = f"{patients} patient(s) by name" if patients else f"{copies} film(s) by their pixels"
                raise KitError(
                    f"Of the public films, site {site.name} has {what} too: who is declared public is removed from all sites, "
                    "with all films, before anybody trains on them."
                )


def check_held_out(sites: Iterable[Site]) -> None:
    """Validation patients mustn't be trained on.

    Raises: KitError that names the site.
    """
    for site in sites:
        if both := len(set(site.train.patients) & set(site.validation.patients)):
            raise KitError(f"Site {site.name} has {both} patient(s) among its training and its validation films.")


def check_charged(plan: TrainingPlan, sites: Sequence[Site], score_noise: float, scored_on_public: bool) -> None:
    """Whether trials on private films can be charged.

    Args:
        sites: with their held-out films.

    Raises: KitError, a sentence on what isn't covered.
    """
    if not plan.private:
        raise KitError('The plan\'s privacy is "none", and only a private search is charged: leave charge out.')
    if plan.noise == "distributed":
        raise KitError(
            'noise is "distributed", whose cost goes by the network and the clipping norm too, so trials can\'t be compared in '
            'cost: charge a search with noise="local", or search on public films.'
        )
    if plan.target_epsilon:
        raise KitError(
            f"target_epsilon is {plan.target_epsilon:g}, which is the ledger's, so the first trial would use it up: give the "
            "plan a noise_multiplier, and the search a budget."
        )
    if scored_on_public and score_noise:
        raise KitError(f"score_noise is {score_noise:g}, and scores are on public films, which need none: set it to 0.")
    if not scored_on_public and not score_noise > 0:
        raise KitError(
            f"score_noise is {score_noise:g}, and trials are scored on private patients: give a noise multiplier for their "
            "confusion matrices, in which a patient counts 1, or public films to score on."
        )
    for site in sites:
        held = 0 if scored_on_public else count_units(site.validation, plan.privacy)
        units = count_units(site.train, plan.privacy) + held
        if plan.delta > 1 / (10 * units) * (1 + 1e-9):
            raise KitError(
                f"delta is {plan.delta:g}; for the {units} {plan.privacy}s of site {site.name}, {held} of them held out, it may "
                f"be {1 / (10 * units):.3g} at most."
            )


def trial_spends(plan: TrainingPlan, site: Site, score_noise: float) -> History:
    """What one trial spends at a site, if it takes part in every round."""
    units = count_units(site.train, plan.privacy)
    step = SampledGaussian(plan.sampling_rate(units), plan.noise_multiplier)
    score = [(Gaussian(score_noise), 1)] if score_noise else []
    return [*statistics_spends(plan), (step, plan.rounds * plan.private_steps(units)), *score]


def check_budget(plans: Sequence[TrainingPlan], sites: Sequence[Site], score_noise: float, ledgers: Path, budget: float) -> None:
    """All trials to come, beside what the ledgers hold, must stay within an ε at every site; before the first is made.

    Raises: KitError that names the site and both.
    """
    for site in sites if plans else ():
        path = ledger_path(ledgers, site.name)
        before = Ledger.open(path).history if path.exists() else []
        after = epsilon([*before, *(spend for plan in plans for spend in trial_spends(plan, site, score_noise))], plans[0].delta)
        if after > budget:
            raise KitError(
                f"{len(plans)} trial(s) would bring site {site.name}'s ledger to epsilon {after:.4g}, above the search's budget "
                f"of {budget:g}: nothing was spent. Make fewer or shorter trials, add noise, or search on public films."
            )


def ledger_epsilons(sites: Sequence[Site], ledgers: Path) -> dict[str, float]:
    """Site -> ε of its ledger."""
    paths = {site.name: ledger_path(ledgers, site.name) for site in sites}
    return {name: Ledger.open(path).epsilon() for name, path in paths.items() if path.exists()}


def _all(site: Site) -> list[FilmSet]:
    return [films for films in (site.train, site.validation, site.test) if films is not None]


def _digests(films: FilmSet) -> list[str]:
    return [hashlib.sha256(film.contiguous().numpy()).hexdigest() for film in films.images]
