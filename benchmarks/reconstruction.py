"""What gradient inversion and the imprint recover of synthetic films.

models    One film's gradient, unprotected, for each model and seed (a seed draws the film and the first weights): PSNR,
          SSIM, match rate among all patients' films, and seconds. Beside them the mean of the other films, which needs no
          attack, and how many films the imprint reads exactly through the secure sum of three hospitals: all of whose
          films make one step; windowed; windowed, after a whole pass of many steps.
defences  Both attacks under each defence, with the match rate that chance would give.
rounds    A hospital's whole round of three steps (FedAvg), turned round: of one film, and of four.
private   The imprint, its plain reading and the best that the kit has, where a hospital trains by `train_privately`: one
          film a patient, all patients in every step, so that epsilon is the Gaussian mechanism's own. "Looked up" is how
          many films are found again by what was read of their bin, among the films of all patients and others.

    python benchmarks/reconstruction.py [--json] [--parts models defences rounds private] [--seeds 3] [--steps 300]
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from dp_accounting import get_sigma_gaussian

from primia_kit import attacks
from primia_kit.data import FilmSet, pool_films, synthetic_hospitals
from primia_kit.federation import Federation, Site, TrainingPlan, load_sites
from primia_kit.federation.fields import update_fields
from primia_kit.federation.messages import RoundTask, SiteMemory
from primia_kit.federation.private import open_privacy
from primia_kit.secagg import SecureSum

MODELS = (  # architecture, norm, pool, side in pixels
    ("small_cnn", "none", "avg", 32),
    ("small_cnn", "none", "max", 32),
    ("small_cnn", "none", "avg", 64),
    ("resnet9", "none", "avg", 32),
    ("resnet9", "none", "max", 32),
    ("resnet9", "group", "avg", 32),
    ("resnet9", "batch", "avg", 32),
    ("resnet9", "none", "avg", 64),
)
NOISE = (0.0001, 0.001, 0.01, 0.1, 1.0)  # sigma, of one release
EPSILONS = (10_000, 1_000, 100, 30, 10, 3)
DELTA = 1e-5
SPREAD = 1e5  # far above the secure sum's rounding, and nearly all of a film's clipped gradient
RATE = 0.1


def federation_of(architecture: str, norm: str, pool: str, size: int) -> tuple[Federation, FilmSet]:
    plan = TrainingPlan(
        architecture=architecture, norm=norm, pool=pool, size=size, sync_every=1, batch_size=10_000, augmentation="none"
    )
    federation = Federation(plan, load_sites(synthetic_hospitals(patients=20), plan))
    return federation, pool_films([site.train for site in federation.sites])


def rounded(found: dict) -> dict:
    return {name: round(float(value), 3) for name, value in found.items()}


def models(seeds: int, steps: int) -> dict:
    results = {}
    for model in MODELS:
        federation, films = federation_of(*model)
        trials = attacks.run_attacks(
            films, federation.spec, attacks=["inversion"], defences={"nothing": attacks.Defence()}, seeds=range(seeds),
            settings=attacks.Inversion(steps=steps),
        )  # fmt: skip
        row = attacks.attack_table(trials).loc["inversion", "nothing"]
        others = [(films.images.sum(0, keepdim=True) - trial.originals) / (len(films) - 1) for trial in trials]
        mean_psnr = np.mean([float(attacks.psnr(mean, t.originals)) for mean, t in zip(others, trials, strict=True)])
        seconds = sum(trial.seconds for trial in trials) / seeds
        found = {
            "psnr": row["PSNR"],
            "ssim": row["SSIM"],
            "matched": row["matched"],
            "mean_film_psnr": mean_psnr,
            "seconds": seconds,
        }
        whole = {"sync_every": 0, "local_epochs": 1, "batch_size": 8, "learning_rate": 0.01}
        results[" ".join(map(str, model))] = shown = rounded(found) | {
            "films": len(films), "imprint_exact": through_secure_sum(federation, films),
            "windowed_exact": through_secure_sum(federation, films, windowed=True),
            "windowed_exact_after_a_pass": through_secure_sum(federation, films, windowed=True, **whole),
        }  # fmt: skip
        show(" ".join(map(str, model)), shown)
    return results


def through_secure_sum(federation: Federation, films: FilmSet, *, windowed: bool = False, **changes) -> int:
    """Films read exactly, if hospitals run the imprint without looking at what they approved."""
    spec = attacks.ImprintSpec.of(federation.spec, windowed=windowed)
    public = pool_films([site.test for site in federation.sites]).images
    plan = replace(federation.plan, **changes)
    weights = attacks.imprint_weights(spec, public, **({"spread": SPREAD} if windowed else {}))
    task = replace(federation.task(), plan=plan, spec=spec, weights=weights)
    updates = {site.name: replace(site, approved="").update(task)[0] for site in federation.sites}
    total = SecureSum().sum("round 1 update", updates, update_fields(updates["A"], len(films), len(updates)))
    return attacks.compare_films(attacks.read_imprint(spec, total).images, films.images, films.images).exact


def defences(seeds: int, steps: int) -> dict:
    federation, films = federation_of(*MODELS[0])
    tried = {name: defence for name, defence in attacks.DEFENCES.items() if not defence.noise_multiplier}
    tried |= {f"noise {sigma:g}": attacks.Defence(noise_multiplier=sigma) for sigma in NOISE}
    settings = attacks.Inversion(steps=steps)
    trials = attacks.run_attacks(films, federation.spec, defences=tried, seeds=range(seeds), settings=settings)
    results = {}
    for (attack, defence), row in attacks.attack_table(trials, tried).iterrows():
        results[f"{attack}, {defence}"] = rounded(
            row.rename({"ε": "epsilon"})[lambda r: r < np.inf].to_dict()  # JSON has no infinity
        )
        show(f"{attack}, {defence}", results[f"{attack}, {defence}"])
    return results


def rounds(seeds: int, steps: int) -> dict:
    federation, films = federation_of(*MODELS[0])
    task = replace(federation.task(), plan=replace(federation.plan, sync_every=3, learning_rate=0.02))
    results = {}
    for count in (1, 4):
        scores = []
        for seed in range(seeds):
            chosen = torch.randperm(len(films), generator=torch.Generator().manual_seed(seed))[:count]
            few = replace(
                films, images=films.images[chosen], labels=films.labels[chosen], patients=tuple(films.patients[i] for i in chosen)
            )
            update, _ = Site("A", few, few).update(replace(task, weights=federation.spec.build(seed).state_dict()))
            found = attacks.invert_update(
                replace(task, weights=federation.spec.build(seed).state_dict()), update, site="A", labels=few.labels,
                settings=attacks.Inversion(steps=steps), seed=seed,
            )  # fmt: skip
            scores.append(attacks.compare_films(found.images, few.images, films.images))
        every = {"psnr": "psnr", "ssim": "ssim", "matched": "match_rate", "chance": "chance"}
        results[f"{count} film(s)"] = rounded({k: np.mean([getattr(s, name) for s in scores]) for k, name in every.items()})
        show(f"three steps, {count} film(s)", results[f"{count} film(s)"])
    return results


def private(seeds: int, steps: int) -> dict:
    plan = TrainingPlan(
        architecture="small_cnn", norm="none", size=32, privacy="patient", delta=DELTA, noise_multiplier=1.0, weighting="uniform",
        pixel_statistics="public", sync_every=1, augmentation="none", momentum=0.0, weight_decay=0.0, learning_rate=RATE,
        schedule="constant", batch_size=2, virtual_batch=8,
    )  # fmt: skip
    hospitals = load_sites(synthetic_hospitals(patients=20), plan)
    everyone, public = (pool_films([getattr(site, part) for site in hospitals]) for part in ("train", "test"))
    first = [everyone.patients.index(patient) for patient in dict.fromkeys(everyone.patients)]
    patients = tuple(everyone.patients[i] for i in first)
    films = replace(everyone, images=everyone.images[first], labels=everyone.labels[first], patients=patients)
    candidates = torch.cat([everyone.images, public.images])
    mean = attacks.compare_films(public.images.mean(0, keepdim=True).repeat(len(films), 1, 1, 1), films.images, candidates)
    results = {
        "films": len(films), "candidates": len(candidates),
        "mean_film": rounded({"psnr": np.nanmean(mean.psnr), "ssim": np.nanmean(mean.ssim)}),
    }  # fmt: skip
    show("the public films' mean", results["mean_film"])
    plan = replace(plan, batch_size=len(films))
    for epsilon in EPSILONS:
        for windowed, number in ((False, 1), (True, 1), (True, 10)):
            z = get_sigma_gaussian(epsilon, DELTA) * number**0.5
            found = [
                under_privacy(replace(plan, noise_multiplier=z, rounds=number), films, public.images, candidates, windowed, seed)
                for seed in range(seeds)
            ]
            name = f"epsilon {epsilon}, {'windowed' if windowed else 'ReLU'}, {number} round(s)"
            results[name] = rounded({key: np.mean([f[key] for f in found]) for key in found[0]})
            show(name, results[name])
    return results


def under_privacy(plan: TrainingPlan, films: FilmSet, public, candidates, windowed: bool, seed: int) -> dict:
    """Every round the server sends the same weights; what it gets is averaged and read."""
    spec = attacks.ImprintSpec.of(plan.model_spec(plan.pixel_mean, plan.pixel_std), windowed=windowed)
    weights, total = attacks.imprint_weights(spec, public, spread=SPREAD, seed=seed), {}
    with tempfile.TemporaryDirectory() as folder:
        memory = SiteMemory(privacy=open_privacy("A", films, plan, Path(folder) / "ledger"))
        for number in range(1, plan.rounds + 1):
            update, training = Site("A", films, films).update(RoundTask(plan, spec, number, weights), memory)
            for name, part in update.items():
                total[name] = total.get(name, 0) - part * len(films) / RATE / plan.rounds  # the noised sum of clipped gradients
    bins = torch.bucketize(attacks.brightness(spec, films.images), attacks.bin_edges(spec, public)) - 1
    z = plan.noise_multiplier / plan.rounds**0.5
    full = None if windowed else sorted(set(bins[bins >= 0].tolist()))  # ReLU's rows are averaged if one knows where to
    read = attacks.read_noisy_imprint(spec, total, public, clip=plan.clipping_norm, noise_multiplier=z, bins=full)
    place = {b: i for i, b in enumerate(read.bins.tolist())}
    pairs = [place.get(b, -1) for b in bins.tolist()]
    seen, looked_up = (
        attacks.compare_films(images, films.images, candidates, pairs=pairs) for images in (read.images, read.unshrunk)
    )
    plain = attacks.read_imprint(spec, total)
    of_plain = {b: i for i, b in enumerate(plain.bins.tolist())}
    plainly = attacks.compare_films(plain.images, films.images, candidates, pairs=[of_plain.get(b, -1) for b in bins.tolist()])
    return {
        "psnr": np.nanmean(seen.psnr), "ssim": np.nanmean(seen.ssim), "looked_up": looked_up.match_rate,
        "chance": looked_up.chance, "plain_psnr": np.nanmean(plainly.psnr), "plain_looked_up": plainly.match_rate,
        "ledger": training.epsilon,
    }  # fmt: skip


def show(name: str, found: dict) -> None:
    print(f"{name:<40}", "  ".join(f"{key} {value:g}" for key, value in found.items()), flush=True)


PARTS = {"models": models, "defences": defences, "rounds": rounds, "private": private}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3, help="films and first weights")
    parser.add_argument("--steps", type=int, default=300, help="of each inversion")
    options = parser.parse_args()
    results = {part: PARTS[part](options.seeds, options.steps) for part in options.parts}
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
