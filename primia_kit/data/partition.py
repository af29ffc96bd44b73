"""Who holds which patient: one data set becomes the films of several sites.

A patient's films go to one site, whatever their labels, and every split is partitioned in the same
proportions: a site's test films look like its training films. Skew by label follows Hsu, Qi, Brown 2019
(arXiv 1909.06335); skew by quantity draws the sites' sizes from a Dirichlet distribution, as do Li et
al. 2022 (arXiv 2102.02079).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ..errors import KitError, nearest
from ..seeds import numpy_generator
from .manifest import SPLITS, Film, Manifest

PARTITIONS = ("iid", "acquisition", "label_skew", "quantity_skew")
OTHERS = "other sites"
_LARGEST_ALPHA = 1e9  # beyond it the draws overflow, and nobody could tell the result from no skew at all


def partition(
    manifest: Manifest, sites: int = 3, how: str = "iid", *, alpha: float = 0.5, minimum: int = 1, seed: int = 0
) -> Manifest:
    """Give every patient to one site.

    Args:
        manifest: films, whatever sites they had before.
        sites: how many simulated hospitals; "acquisition" doesn't ask for it.
        how: "iid": evenly, every label spread alike.
            "acquisition": to where the patient was filmed (`Film.acquired`), or most often filmed.
                Places with fewer than `minimum` training patients form one site, "other sites".
            "label_skew": every site draws its mix of labels from a Dirichlet distribution around the mix of
                all; sites are of about equal size. A patient counts by its most frequent label.
            "quantity_skew": the sites' sizes are drawn from a Dirichlet distribution; labels are spread alike.
        alpha: concentration of either Dirichlet distribution, above 0: 0.1 is strong skew, 100 hardly any.
        minimum: training patients that every site gets at least. Of test patients it gets one at least.
        seed: the same seed gives the same partition.

    Returns: the manifest with every film's `site` set, and a note that says how.
    Raises: KitError for an unknown `how`, an `alpha` that isn't above 0, more sites than there are patients
        for, or films that don't tell where they were taken.
    """
    if how not in PARTITIONS:
        raise KitError(f"how is {how!r}{nearest(str(how), PARTITIONS)}; films can be shared out by {', '.join(PARTITIONS)}.")
    if isinstance(minimum, bool) or not isinstance(minimum, int) or minimum < 1:
        raise KitError(f"minimum is {minimum!r}; a site needs at least one training patient.")
    if how == "acquisition":
        return _by_acquisition(manifest, minimum)
    _check_sites(manifest, sites, minimum)
    if how == "iid":
        return share_out(manifest, sites, seed)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
        raise KitError(f"alpha is {alpha!r}; the concentration of a Dirichlet distribution is a number above 0.")
    draw = _label_skew if how == "label_skew" else _quantity_skew
    site_of = draw(manifest, site_names(sites), min(alpha, _LARGEST_ALPHA), seed)
    for split in SPLITS:
        at_least = minimum if split == "train" else 1
        _fill_up(manifest.select(split=split), site_names(sites), site_of, at_least)
    return _with_sites(
        manifest, site_of, f"Shared out to {sites} sites by {how.replace('_', ' ')}, alpha {alpha:g}, seed {seed}."
    )


def share_out(manifest: Manifest, sites: int, seed: int) -> Manifest:
    """Give every patient to one of `sites` simulated hospitals, evenly and stratified by label (IID).

    Training, validation and test films are shared out separately, so that each site gets its part of each.

    Raises: KitError if the training or the test split has fewer patients than there are sites.
    """
    _check_sites(manifest, sites, minimum=1)
    names = site_names(sites)
    site_of: dict[str, str] = {}
    for split in SPLITS:
        site_of |= deal_patients(manifest.select(split=split), dict.fromkeys(names, 1 / sites), seed, f"share out {split}")
    return _with_sites(manifest, site_of, f"Shared out evenly to {sites} simulated sites, seed {seed}.")


def site_names(count: int) -> tuple[str, ...]:
    """Names for simulated hospitals: A, B, C, …; H01, H02, … beyond 26."""
    if count <= 26:
        return tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count])
    return tuple(f"H{i:0{len(str(count))}d}" for i in range(1, count + 1))


def majority_labels(films: Iterable[Film]) -> dict[str, str]:
    """Each patient's most frequent label (the alphabetically first of equals)."""
    return _majority(films, "label")


def majority_places(films: Iterable[Film]) -> dict[str, str]:
    """Where each patient was filmed most often, "" where that isn't known."""
    return _majority(films, "acquired")


def deal_patients(manifest: Manifest, shares: dict[str, float], seed: int, purpose: str) -> dict[str, str]:
    """Deal patients to named hands, stratified by majority label.

    Args:
        shares: each hand's share; they add up to 1.
        seed, purpose: name the shuffle.

    Returns: {patient: hand}. Every label's patients are shuffled, then go one by one to the hand that is
    furthest behind its share, counted over all labels dealt so far: hand sizes differ from their shares
    by less than one patient, and every label is spread as evenly as whole patients allow.
    """
    dealt: dict[str, str] = {}
    total = Counter()
    for label, patients in _by_label(manifest).items():
        for patient in _shuffled(patients, seed, purpose, label):
            n = len(dealt) + 1
            hand = max(shares, key=lambda h: (shares[h] * n - total[h], h))
            total[hand] += 1
            dealt[patient] = hand
    return dealt


def _by_acquisition(manifest: Manifest, minimum: int) -> Manifest:
    silent = [film.path for film in manifest if not film.acquired]
    if silent:
        raise KitError(
            f"{len(silent)} of {len(manifest)} films don't tell where they were taken (the first is {silent[0]}): share them "
            'out with how="iid", or name each film\'s place in the column "acquired" of a manifest.csv.'
        )
    site_of = majority_places(manifest)
    training = Counter(site_of[patient] for patient in {film.patient for film in manifest.select(split="train")})
    small = {site for site in site_of.values() if training[site] < minimum}
    site_of = {patient: OTHERS if site in small else site for patient, site in site_of.items()}
    if small and sum(training[site] for site in small) < minimum:
        raise KitError(
            f"{', '.join(sorted(small)[:3])}{', …' if len(small) > 3 else ''}: fewer than {minimum} training patient(s) were "
            'filmed there. Lower minimum, share out with how="iid", or leave these films out.'
        )
    pooled = f"; {len(small)} place(s) with fewer than {minimum} training patients form {OTHERS!r}" if small else ""
    return _with_sites(manifest, site_of, f"Every patient is at the site where it was filmed{pooled}.")


def _label_skew(manifest: Manifest, names: tuple[str, ...], alpha: float, seed: int) -> dict[str, str]:
    """Site s wants labels in proportions q_s ~ Dirichlet(alpha * p), p being the mix of all films (Hsu et al., 2.1).

    The wishes can't all be met, since every patient is at exactly one site: they are scaled, rows and columns
    in turn, until the sites are of one size and every label is used up (iterative proportional fitting).
    """
    by_label = _by_label(manifest.select(split="train"))
    mix = np.array([len(patients) for patients in by_label.values()]) / sum(map(len, by_label.values()))
    wishes = numpy_generator(seed, "label skew").dirichlet(alpha * mix, size=len(names))  # [sites, labels]
    wishes = np.maximum(wishes, 1e-9)  # a wish of 0 everywhere would leave a label's patients without a site
    for _ in range(200):
        wishes /= wishes.sum(1, keepdims=True) * len(names)
        wishes *= mix / wishes.sum(0)
    shares = dict(zip(by_label, (wishes / wishes.sum(0)).T, strict=True))
    site_of = {}
    for split in SPLITS:
        for label, patients in _by_label(manifest.select(split=split)).items():
            share = shares.get(label, np.full(len(names), 1 / len(names)))  # a label that is not trained on
            sites = np.repeat(names, _whole_numbers(share * len(patients)))
            site_of |= zip(_shuffled(patients, seed, "label skew", split, label), sites.tolist(), strict=True)
    return site_of


def _quantity_skew(manifest: Manifest, names: tuple[str, ...], alpha: float, seed: int) -> dict[str, str]:
    shares = numpy_generator(seed, "quantity skew").dirichlet([alpha] * len(names))
    site_of = {}
    for split in SPLITS:
        site_of |= deal_patients(
            manifest.select(split=split), dict(zip(names, shares.tolist(), strict=True)), seed, f"quantity {split}"
        )
    return site_of


def _fill_up(part: Manifest, names: tuple[str, ...], site_of: dict[str, str], at_least: int) -> None:
    """Move patients from the largest site to those that have fewer than `at_least`, as far as there are any."""
    at = {name: [] for name in names}
    for patient, label in sorted(majority_labels(part).items()):
        at[site_of[patient]].append((patient, label))
    for name in names:
        while len(at[name]) < at_least:
            giver = max(names, key=lambda n: (len(at[n]), n))
            if len(at[giver]) <= at_least:
                return
            labels = Counter(label for _, label in at[giver])
            common = max(labels, key=lambda label: (labels[label], label))
            moved = next(pair for pair in at[giver] if pair[1] == common)
            at[giver].remove(moved)
            at[name].append(moved)
            site_of[moved[0]] = name


def _whole_numbers(wanted: np.ndarray) -> np.ndarray:
    """Round so that the sum stays: the largest remainders go up. float [n] -> int [n]."""
    whole = np.floor(wanted + 1e-9).astype(int)
    short = round(wanted.sum()) - whole.sum()
    whole[np.argsort(whole - wanted, kind="stable")[:short]] += 1
    return whole


def _check_sites(manifest: Manifest, sites: int, minimum: int) -> None:
    if isinstance(sites, bool) or not isinstance(sites, int):
        raise KitError(f"sites is {sites!r}; it is a whole number.")
    if sites < 1:
        raise KitError(f"sites is {sites}; a study needs at least one.")
    for split, each in (("train", minimum), ("test", 1)):  # a site can do without validation films
        patients = len({film.patient for film in manifest.select(split=split)})
        if patients < sites * each and (patients or split == "train"):
            with_each = f" with {each} patients each" if each > 1 else ""
            raise KitError(
                f"The {split} split has {patients} patient(s), too few for {sites} sites{with_each}: choose fewer sites."
            )


def _by_label(manifest: Manifest) -> dict[str, list[str]]:
    """{label: patients with this majority label}, both in alphabetical order."""
    by_label = defaultdict(list)
    for patient, label in sorted(majority_labels(manifest).items()):
        by_label[label].append(patient)
    return dict(sorted(by_label.items()))


def _majority(films: Iterable[Film], column: str) -> dict[str, str]:
    counts: dict[str, Counter] = defaultdict(Counter)
    for film in films:
        counts[film.patient][getattr(film, column)] += 1
    return {patient: min(c, key=lambda value: (-c[value], value)) for patient, c in counts.items()}


def _shuffled(patients: list[str], seed: int, *purpose: str) -> list[str]:
    return [patients[i] for i in numpy_generator(seed, *purpose).permutation(len(patients))]


def _with_sites(manifest: Manifest, site_of: dict[str, str], note: str) -> Manifest:
    films = tuple(replace(film, site=site_of[film.patient]) for film in manifest)
    return replace(manifest, films=films, notes=(*manifest.notes, note))
