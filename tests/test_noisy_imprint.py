"""An imprint read through differential privacy's noise: better than plainly, by as much as theory says, and no further."""

from dataclasses import replace

import pytest
import torch

from primia_kit.attacks import (
    ImprintSpec,
    bin_edges,
    brightness,
    compare_films,
    imprint_weights,
    psnr,
    read_imprint,
    read_noisy_imprint,
)
from primia_kit.data import load_films
from primia_kit.errors import KitError
from primia_kit.federation import Site, TrainingPlan
from primia_kit.federation.messages import RoundTask, SiteMemory
from primia_kit.federation.private import open_privacy

RATE = 0.1
PLAN = TrainingPlan(
    architecture="small_cnn", norm="none", size=32, privacy="patient", noise_multiplier=1.0, delta=1e-5, weighting="uniform",
    pixel_statistics="public", sync_every=1, augmentation="none", momentum=0.0, weight_decay=0.0, learning_rate=RATE,
    schedule="constant", virtual_batch=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def films(hospitals):
    """One of a patient: [n, 1, 32, 32] and labels, in a FilmSet."""
    every = load_films(hospitals.select(split="train"), size=32, geometry="pad")
    first = [every.patients.index(patient) for patient in dict.fromkeys(every.patients)]
    patients = tuple(every.patients[i] for i in first)
    return replace(every, images=every.images[first], labels=every.labels[first], patients=patients)


@pytest.fixture(scope="module")
def public(hospitals):
    return load_films(hospitals.select(split="test"), size=32, geometry="pad").images


def imprint(windowed, bins=256):
    return ImprintSpec.of(PLAN.model_spec(0.5, 0.25), bins=bins, windowed=windowed)


def rows_of(spec, images, factors, bins):
    """The imprint's part of a sum, by its definition: film by film into each row where it is active."""
    seen = spec.normalise(images).flatten(1).double()
    rows, entries = torch.zeros(spec.bins, seen.shape[1], dtype=torch.float64), torch.zeros(spec.bins, dtype=torch.float64)
    for x, a, b in zip(seen, factors, bins, strict=True):
        active = [b] if spec.windowed else range(b + 1)
        for i in active:
            rows[i] += a * x
            entries[i] += a
    return {"imprint.measure.weight": rows, "imprint.measure.bias": entries}


def clipped(spec, images, bins):
    """Factors with which each film's part has length 1; half of them negative."""
    k = torch.tensor([1.0 if spec.windowed else b + 1.0 for b in bins])
    length = (spec.normalise(images).flatten(1).square().sum(1) + 1).sqrt()
    return torch.tensor([(-1.0) ** i for i in range(len(bins))]) / (length * k.sqrt())


def with_noise(sums, std, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: part + std * torch.randn(part.shape, generator=generator, dtype=torch.float64) for name, part in sums.items()}


@pytest.mark.parametrize("windowed", [False, True])
def test_with_hardly_any_noise_it_reads_what_the_plain_one_reads(windowed, films, public):
    spec, bins = imprint(windowed, bins=32), [3, 9, 10, 20, 31]
    sums = rows_of(spec, films.images[:5], clipped(spec, films.images[:5], bins), bins)
    plain = read_imprint(spec, sums)
    assert plain.bins.tolist() == bins and (psnr(plain.images, films.images[:5]) > 80).all()
    for chosen in (None, bins):
        read = read_noisy_imprint(spec, with_noise(sums, 1e-7), public, clip=1.0, noise_multiplier=1e-7, bins=chosen)
        at = bins if chosen is None else range(5)
        assert (psnr(read.images[at], films.images[:5]) > 50).all()
        assert torch.allclose(read.unshrunk[at], films.images[:5], atol=5e-3)


def test_rows_between_full_bins_are_averaged(films, public):
    """Least squares of triangular rows is the difference of two means, so ten rows on each side take the noise's variance down
    to a tenth of that of the plain difference of two rows."""
    spec, bins, std = imprint(False, bins=30), [9, 19, 29], 1e-5
    sums = with_noise(rows_of(spec, films.images[:3], clipped(spec, films.images[:3], bins), bins), std)
    told, untold = (read_noisy_imprint(spec, sums, public, clip=1.0, noise_multiplier=std, bins=b) for b in (bins, None))
    true = spec.normalise(films.images[:2]).flatten(1)

    def grain(read):  # what isn't the film; an error in the film's scale, which all its pixels share, doesn't count
        seen = spec.normalise(read[:2]).flatten(1)
        return (seen - (seen * true).sum(1, keepdim=True) / true.square().sum(1, keepdim=True) * true).std(1)

    few, many = grain(told.unshrunk), grain(untold.unshrunk[bins])
    assert few / many == pytest.approx(10**-0.5, rel=0.1)


@pytest.mark.parametrize("windowed", [False, True])
def test_where_noise_hides_all_the_public_mean_is_left(windowed, films, public):
    spec = imprint(windowed, bins=8)
    sums = with_noise(rows_of(spec, films.images[:1], clipped(spec, films.images[:1], [4]), [4]), 100.0)
    read = read_noisy_imprint(spec, sums, public, clip=1.0, noise_multiplier=100.0)
    assert torch.allclose(read.images, public.mean(0).expand_as(read.images), atol=0.02)


def test_rounds_averaged_are_one_with_less_noise(films, public):
    """What composition says: 16 rounds at 4 z give away as much as one at z."""
    spec, bins, z = imprint(True, bins=16), list(range(10)), 0.05
    sums = rows_of(spec, films.images[:10], clipped(spec, films.images[:10], bins), bins)
    rounds = [with_noise(sums, 4 * z, seed) for seed in range(16)]
    mean = {name: sum(r[name] for r in rounds) / 16 for name in sums}
    qualities = [
        float(
            psnr(read_noisy_imprint(spec, given, public, clip=1.0, noise_multiplier=noise).images[:10], films.images[:10]).mean()
        )
        for given, noise in ((with_noise(sums, z, 99), z), (mean, z), (rounds[0], 4 * z))
    ]
    assert qualities[1] == pytest.approx(qualities[0], abs=0.4) and qualities[2] < qualities[0] - 1


def privately(films, spec, weights, z, folder):
    """The noised sum of clipped gradients, from an update that a hospital's real private training made."""
    plan = replace(PLAN, noise_multiplier=z, batch_size=len(films))
    memory = SiteMemory(privacy=open_privacy("A", films, plan, folder / f"ledger {z}"))
    update, _ = Site("A", films, films).update(RoundTask(plan, spec, 1, weights), memory)
    return {name: -part * len(films) / RATE for name, part in update.items()}


def test_a_hospital_s_private_training_is_read_at_a_large_epsilon_and_hidden_at_a_small_one(films, public, tmp_path):
    spec = imprint(True)
    weights, edges = imprint_weights(spec, public, spread=1e5), bin_edges(spec, public)
    bins = (torch.bucketize(brightness(spec, films.images), edges) - 1).clamp_min(0).tolist()
    alone = [i for i, b in enumerate(bins) if bins.count(b) == 1]
    candidates = torch.cat([films.images, public])
    found = {}
    for z in (0.01, 1.39):  # epsilon 5,425 and 3
        noised = privately(films, spec, weights, z, tmp_path)
        read = read_noisy_imprint(spec, noised, public, clip=1.0, noise_multiplier=z)
        looked_up = compare_films(read.unshrunk, films.images, candidates, pairs=bins)
        plain = read_imprint(spec, noised)
        place = {b: i for i, b in enumerate(plain.bins.tolist())}
        plainly = compare_films(plain.images, films.images, candidates, pairs=[place.get(b, -1) for b in bins])
        found[z] = psnr(read.images[bins], films.images)[alone].mean(), looked_up.match_rate, plainly
    of_mean = psnr(public.mean(0).expand_as(films.images), films.images)[alone].mean()
    quality, matched, plainly = found[0.01]
    assert quality > of_mean + 4 and matched > 0.6
    assert quality > torch.tensor(plainly.psnr)[alone].nanmean() + 2
    quality, matched, _ = found[1.39]
    assert abs(quality - of_mean) < 0.6 and matched < 0.3  # chance is a few percent; of so few films, a handful may hit


def test_a_film_s_clipped_gradient_lies_in_its_own_row(films, public, tmp_path):
    """Windowed, row b has nearly the whole length C; of ReLU's, all rows up to b share it."""
    one = replace(films, images=films.images[:2], labels=films.labels[:2], patients=films.patients[:2])
    bins = {}
    for windowed in (False, True):
        spec = imprint(windowed)
        noised = privately(one, spec, imprint_weights(spec, public, spread=1e5), 1e-4, tmp_path / str(windowed))
        lengths = noised["imprint.measure.weight"].norm(dim=1)
        bins[windowed] = lengths
    assert (bins[True] > 0.5).sum() == 2 and bins[True].topk(2).values.min() > 0.9
    assert bins[False].max() < 0.5


def test_readings_that_mean_nothing_are_refused(films, public):
    spec = imprint(True, bins=8)
    sums = rows_of(spec, films.images[:1], [1.0], [4])
    for options, sentence in (
        ({"clip": 0.0, "noise_multiplier": 1.0}, "above 0"),
        ({"clip": 1.0, "noise_multiplier": 0.0}, "exact"),
    ):
        with pytest.raises(KitError, match=sentence):
            read_noisy_imprint(spec, sums, public, **options)
    with pytest.raises(KitError, match=r"1 public film\(s\)"):
        read_noisy_imprint(spec, sums, public[:1], clip=1.0, noise_multiplier=1.0)
    with pytest.raises(KitError, match="it wasn't run"):
        read_noisy_imprint(imprint(True, bins=9), sums, public, clip=1.0, noise_multiplier=1.0)
