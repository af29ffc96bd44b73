"""What gradient inversion and the imprint recover of synthetic films, for models of different making.

One film's gradient, unprotected, for each model and seed (a seed draws the film and the first weights): PSNR, SSIM,
match rate among all patients' films, and seconds. Beside them the mean of the other films, which needs no attack, and
the imprint through the secure sum of three hospitals, all of whose films make one step.

    python benchmarks/reconstruction.py [--json] [--seeds 3] [--steps 300]
"""

import argparse
import json
from dataclasses import replace

from primia_kit import attacks
from primia_kit.data import pool_films, synthetic_hospitals
from primia_kit.federation import Federation, TrainingPlan, load_sites
from primia_kit.federation.fields import update_fields
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


def measure(architecture: str, norm: str, pool: str, size: int, seeds: int, steps: int) -> dict:
    plan = TrainingPlan(
        architecture=architecture, norm=norm, pool=pool, size=size, sync_every=1, batch_size=10_000, augmentation="none"
    )
    sites = load_sites(synthetic_hospitals(patients=20), plan)
    federation, films = Federation(plan, sites), pool_films([site.train for site in sites])
    trials = attacks.run_attacks(
        films, federation.spec, attacks=["inversion"], defences={"nothing": attacks.Defence()}, seeds=range(seeds),
        settings=attacks.Inversion(steps=steps),
    )  # fmt: skip
    row = attacks.attack_table(trials).loc["inversion", "nothing"]
    others = [(films.images.sum(0, keepdim=True) - trial.originals) / (len(films) - 1) for trial in trials]
    mean_psnr = sum(float(attacks.psnr(mean, t.originals)) for mean, t in zip(others, trials, strict=True)) / len(trials)
    found = {
        "psnr": row["PSNR"], "ssim": row["SSIM"], "matched": row["matched"], "mean_film_psnr": mean_psnr,
        "seconds": sum(t.seconds for t in trials) / seeds,
    }  # fmt: skip
    return {name: round(float(value), 3) for name, value in found.items()} | imprint(federation, films)


def imprint(federation: Federation, films) -> dict:
    spec = attacks.ImprintSpec.of(federation.spec)
    public = pool_films([site.test for site in federation.sites]).images
    task = replace(federation.task(), spec=spec, weights=attacks.imprint_weights(spec, public))
    updates = {site.name: replace(site, approved="").update(task)[0] for site in federation.sites}
    total = SecureSum().sum("round 1 update", updates, update_fields(updates["A"], len(films), len(updates)))
    score = attacks.compare_films(attacks.read_imprint(spec, total).images, films.images, films.images)
    return {"imprint_exact": score.exact, "imprint_films": len(films)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--seeds", type=int, default=3, help="films and first weights")
    parser.add_argument("--steps", type=int, default=300, help="of each inversion")
    options = parser.parse_args()
    results = {}
    for model in MODELS:
        name = " ".join(map(str, model))
        results[name] = found = measure(*model, options.seeds, options.steps)
        print(f"{name:<24}", "  ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
