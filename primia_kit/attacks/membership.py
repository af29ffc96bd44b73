"""Membership inference: was this child among those that the model was trained on?

An attacker who can ask a model about a film looks at how sure it is of the film's true label. Overfitted models are
surer of what they have seen. How much is normal for this film, models tell that never saw it: the attacker's own
reference models, trained by the same recipe on other children (Shokri et al. 2017, arXiv 1610.05820).

    x, z      a film in question; a film of the population, of a child whom no model has seen
    p(x)      the target's confidence in x's true label;  p_out(x) the mean over the reference models without x
    phi(p)    log(p / (1 - p))

    attack    score of x, the higher the likelier a member                            paper
    loss      log p(x)                                                                Yeom et al. 2018, arXiv 1709.01604
    rmia      share of z with (p(x) / m(x)) / (p(z) / m(z)) >= gamma,                 Zarifzadeh, Liu & Shokri 2024,
              m(x) = ((1 + a) p_out(x) + 1 - a) / 2                                   arXiv 2312.03262, offline
    lira      (phi(p(x)) - mean of phi(p_out(x))) / s, s one for all films            Carlini et al. 2022,
                                                                                      arXiv 2112.03570, offline

Membership goes by the patient: a child's films are all in a training set or all out of it. So do the intervals, which
draw patients (see `primia_kit.evaluation.bootstrap`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import rankdata

from ..errors import KitError, nearest
from ..evaluation import Interval, PatientBootstrap, Predictions, hits_at, metric_named
from ..evaluation.bootstrap import RESAMPLES, summarise

MEMBER = "member"
SIDES = ("outsider", MEMBER)  # labels 0 and 1
A, GAMMA = 0.3, 2.0  # RMIA's, as in the paper's experiments on CIFAR-10


@dataclass(frozen=True, eq=False)
class MembershipGame:
    """What the attacker gets to see, and the truth that only the referee knows.

    confidences: float64 [models, films], each model's probability of each film's true label, in (0, 1). The first
        `targets` models are attacked, the others are the attacker's references.
    members: bool [models, films], whether the film was trained on. A row of a target is the truth to be found.
    population: bool [films], films of patients whom no model was trained on.
    patients: whose each film is.

    Raises: KitError if the shapes don't fit, a patient is torn, a reference is missing, or the population was trained on.
    """

    confidences: np.ndarray
    members: np.ndarray
    population: np.ndarray
    patients: tuple[str, ...]
    targets: int = 1

    def __post_init__(self) -> None:
        for name, kind in (("confidences", np.float64), ("members", bool), ("population", bool)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=kind))
        models, films = self.confidences.shape
        if self.members.shape != (models, films) or self.population.shape != (films,) or len(self.patients) != films:
            raise KitError(
                f"Confidences are {[models, films]}, members {list(self.members.shape)}, population "
                f"{list(self.population.shape)}, patients [{len(self.patients)}]: they must be of the same films."
            )
        if not 1 <= self.targets <= models:
            raise KitError(f"targets is {self.targets}; of {models} models, 1 to {models} can be attacked.")
        if not ((self.confidences > 0) & (self.confidences < 1)).all():
            raise KitError("A confidence lies outside (0, 1): clip it, e.g. to [1e-15, 1 - 1e-15].")
        if (self.members & self.population).any():
            raise KitError("A film of the population was trained on: the population must be strangers to every model.")
        names, first, patient = np.unique(self.patients, return_index=True, return_inverse=True)
        sides = np.concatenate([self.members, self.population[None]])
        torn = (sides != sides[:, first][:, patient]).any(0)
        if torn.any():
            raise KitError(f"Some films of patient {names[patient[torn.argmax()]]} are members and some aren't.")

    @property
    def asked(self) -> np.ndarray:
        """bool [films]: those that are asked about, all but the population's."""
        return ~self.population

    def scores(self, attack: str = "rmia", **parameters: float) -> np.ndarray:
        """Each target's scores, float64 [targets, films asked about]; the higher, the likelier a member.

        Args:
            attack: "loss", "rmia" or "lira". parameters: RMIA's a and gamma.

        Raises: KitError for an unknown attack, and if a film has too few references without it.
        """
        if attack not in ATTACKS:
            raise KitError(f"There is no attack {attack!r}{nearest(attack, ATTACKS)}; there are {', '.join(ATTACKS)}.")
        references, out = self.confidences[self.targets :], ~self.members[self.targets :]
        targets = self.confidences[: self.targets]
        return np.stack([ATTACKS[attack](p, references, out, self.population, **parameters)[self.asked] for p in targets])

    def attack(self, attack: str = "rmia", *, resamples: int = RESAMPLES, seed: int = 0, **parameters: float) -> MembershipResult:
        """How well an attack does. Arguments: see `scores`; resamples and seed are those of the intervals."""
        truth, patients = self.members[: self.targets, self.asked], np.array(self.patients)[self.asked]
        found = zip(self.scores(attack, **parameters), truth, strict=True)
        return MembershipResult(attack, tuple(_answers(score, member, patients) for score, member in found), resamples, seed)


@dataclass(frozen=True, eq=False)
class MembershipResult:
    """An attack's answers against the truth; every figure is a mean over the targets, with its 95% interval by patients.

    answers: one a target, for the same films in the same order. Label 1 is a member; the probability is the score's
        rank among all, since only its order counts.
    """

    attack: str
    answers: tuple[Predictions, ...]
    resamples: int = RESAMPLES
    seed: int = 0

    @property
    def members(self) -> int:
        """Films that a target was trained on: the fewest over the targets."""
        return min(int((answer.labels == 1).sum()) for answer in self.answers)

    @property
    def outsiders(self) -> int:
        """Films asked about that a target wasn't trained on: the fewest over the targets."""
        return min(int((answer.labels == 0).sum()) for answer in self.answers)

    @cached_property
    def auc(self) -> Interval:
        """The chance that a member's film scores higher than an outsider's; 0.5 is guessing."""
        value, drawn = self._distribution(metric_named(f"auc.{MEMBER}", SIDES))
        return summarise(float(value), drawn, "auc")

    def tpr(self, fpr: float) -> Interval:
        """The share of members' films that pass a threshold which a share `fpr` of the outsiders' pass; `fpr` is guessing.

        Raises: KitError if that share is less than one film.
        """
        if not 0 < fpr <= 1:
            raise KitError(f"fpr is {fpr}; it's a share of the films that weren't trained on, above 0 and at most 1.")
        if fpr * self.outsiders < 1:
            raise KitError(f"fpr {fpr:g} needs {1 / fpr:,.0f} films that weren't trained on; there are {self.outsiders:,}.")
        value, drawn = self._distribution(lambda answer, weights: hits_at(answer, MEMBER, np.array([fpr]), weights)[:, 0])
        return summarise(float(value), drawn, "tpr")

    def roc(self, points: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The curve, for a log axis: float64 [points] each.

        Returns: false positive rates from one outsider's film to all, the true positive rate at each, and the low and
            high ends of its interval, point by point.
        """
        grid = np.geomspace(1 / self.outsiders, 1, points)
        value, drawn = self._distribution(lambda answer, weights: hits_at(answer, MEMBER, grid, weights))
        return grid, value, *np.nanquantile(drawn, [0.025, 0.975], axis=0)

    def _distribution(self, statistic: Callable) -> tuple[np.ndarray, np.ndarray]:
        """statistic(answer, weights [b, films]) -> [b, ...], its mean over the targets: on the films as they are, and on
        the resamples."""

        def mean(weights: np.ndarray) -> np.ndarray:
            return np.mean([statistic(answer, weights) for answer in self.answers], axis=0)

        bootstrap = PatientBootstrap(self.answers[0], resamples=self.resamples, seed=self.seed)
        return mean(np.ones((1, len(self.answers[0]))))[0], bootstrap.replicate(mean)


def loss_scores(target: np.ndarray, references: np.ndarray, out: np.ndarray, population: np.ndarray) -> np.ndarray:
    """The target's own confidence alone, which asks nothing of references. Arguments: see `rmia_scores`."""
    return np.log(target)


def rmia_scores(
    target: np.ndarray, references: np.ndarray, out: np.ndarray, population: np.ndarray, *, a: float = A, gamma: float = GAMMA
) -> np.ndarray:
    """RMIA, offline: how many of the population does this film stand out from?

    1. p_out(x) <- mean confidence of the references that were not trained on x.
    2. m(x) <- ((1 + a) p_out(x) + (1 - a)) / 2, in place of the mean over references with and without x: those that
       were trained on x would be surer, by a line from (p_out, 1) at a = 0 to (p_out, p_out) at a = 1.
    3. The score is the share of population films z with (p(x) / m(x)) / (p(z) / m(z)) >= gamma.

    4. Films with equal shares are put in order by p(x) / m(x), all of them below the next share.

    The share rises with p(x) / m(x) and depends on nothing else of x. So population and gamma say what a score means (how
    many strangers would be taken for members with x), and step 4, which isn't the paper's, saves the order from being lost
    where the population is small or gamma beyond all ratios; the ROC then doesn't depend on either.

    Args:
        target: float64 [films], its confidence in each true label. references: float64 [references, films].
        out: bool [references, films], whether the reference was not trained on the film.
        population: bool [films], nobody's training films. a: in [0, 1]. gamma: above 0.

    Returns: float64 [films] in (0, 1): (population films in step 3's share + a part below 1) / (population films + 1).
    Raises: KitError for a film that every reference was trained on, an empty population, or a parameter out of range.
    """
    if not 0 <= a <= 1 or not gamma > 0:
        raise KitError(f"RMIA's a is {a} and gamma {gamma}; a lies in [0, 1], gamma is above 0.")
    if not population.any():
        raise KitError("RMIA compares with films of a population that no model was trained on, and there are none.")
    mean_out = (references * out).sum(0) / _references_without(out, least=1)
    ratio = target / (((1 + a) * mean_out + 1 - a) / 2)
    below = np.searchsorted(np.sort(ratio[population]), ratio / gamma, side="right")
    return (below + ratio / (1 + ratio)) / (population.sum() + 1)


def lira_scores(target: np.ndarray, references: np.ndarray, out: np.ndarray, population: np.ndarray) -> np.ndarray:
    """LiRA, offline, with one variance for all films, as its authors advise below 64 references.

    1. phi(p) <- log(p / (1 - p)), about normal over models.
    2. mu(x) <- mean of phi over the references that were not trained on x; s^2 <- mean over films of its unbiased variance.
    3. The score is (phi(p(x)) - mu(x)) / s: the quantile of x's confidence among models that never saw x.

    Arguments and result: see `rmia_scores`. Raises: KitError for a film with fewer than two references without it.
    """
    count = _references_without(out, least=2)
    mu = (log_odds(references) * out).sum(0) / count
    variance = (np.square(log_odds(references) - mu) * out).sum(0) / (count - 1)
    return (log_odds(target) - mu) / np.sqrt(variance.mean() or 1.0)


ATTACKS = {"loss": loss_scores, "rmia": rmia_scores, "lira": lira_scores}


def log_odds(confidences: np.ndarray) -> np.ndarray:
    """log(p / (1 - p))."""
    return np.log(confidences) - np.log1p(-confidences)


def membership_table(results: Mapping[str, MembershipResult], fprs: Sequence[float] = (0.01, 0.001)):
    """A pandas table: what was attacked -> films, AUC, and true positive rates at these false positive rates, each with
    its 95% interval; none where a rate would be less than one film."""
    import pandas as pd

    rows = {}
    for name, result in results.items():
        row = {"attack": result.attack, "members": result.members, "outsiders": result.outsiders, "AUC": str(result.auc)}
        for fpr in fprs:
            found = result.tpr(fpr) if fpr * result.outsiders >= 1 else None
            row[f"TPR at {100 * fpr:g}% FPR"] = "too few films" if found is None else in_percent(found)
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def in_percent(interval: Interval) -> str:
    return f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def _references_without(out: np.ndarray, least: int) -> np.ndarray:
    """How many references weren't trained on each film: int [films]."""
    count = out.sum(0)
    if count.min() < least:
        raise KitError(
            f"For film {count.argmin()} there are {count.min()} reference models that weren't trained on it; the attack "
            f"needs {least}. Train more references."
        )
    return count


def _answers(scores: np.ndarray, members: np.ndarray, patients: np.ndarray) -> Predictions:
    rank = (rankdata(scores) - 0.5) / len(scores)
    return Predictions(members, np.stack([1 - rank, rank], axis=1), patients, [""] * len(scores), SIDES)
