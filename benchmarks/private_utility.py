"""What differential privacy costs on real films: test MCC at ε = 1, 3, 6 beside the same recipe without noise.

Three simulated hospitals of `$PRIMIA_DATA/kermany224` (Kermany et al. 2018), patients as the unit, δ = 1e-4, all through
`federate`: a ledger a hospital, secure sums, noise from the operating system. What each choice gave is in
docs/private-utility.md.

The recipe: EfficientNet-Lite0's ImageNet weights, frozen; features of three depths, whose projection is fitted to the kit's
synthetic films (`fit_public_features`); their mean over all patients, noised and charged; a softmax head by 40 steps of
DP-SGD from everybody, one a round, the weights averaged. No real film is public to it. The learning rate is the one choice
that depends on ε.

Who is who. A seed shuffles the 2,505 training patients. The first 375 are at no hospital: architecture and hyper-parameters
were chosen on them, with their labels, so they count as public. The last 500 are the *holdout*, which no choice has seen.
    published   the other 2,130 are at the hospitals, tested on the 299 published test films. An earlier recipe was tested on
                those once already: this is the second look.
    holdout     the 1,630 that remain are at the hospitals, tested on the films of the holdout: fewer patients to learn
                from, and a narrower interval.
Each is trained anew for each ε and seed (which stands for noise alone: it deals the same hospitals), each time as if it were
the only run. A hospital that did all of them would spend them all.

Rows: "epsilon 1" and so on; "no noise", the recipe of ε = 6 with so little noise that it promises nothing; "plain", the same
features and head, trained without clipping or noise until it learns no more. "choosing patients alone" and "…, plain" are
these two on the 375 public ones, whom a private run has to beat to have been worth it, and "synthetic alone" is plain, on the
synthetic films' labels. With --baseline also "resnet9", the kit's default at 64 pixels, pooled and
federated, on the same patients. Intervals are 95%, by patients, of the mean over the seeds; "sd" is over the seeds.

    PRIMIA_DATA=… python benchmarks/private_utility.py [--json] [--seeds 3] [--baseline]
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from primia_kit.data import FilmSet, Manifest, load_films, open_films, pool_films, share_out, synthetic_hospitals
from primia_kit.evaluation import PatientBootstrap, Predictions
from primia_kit.federation import Site, TrainingPlan, TrainingRun, federate, load_sites, pool_sites, predict_sites
from primia_kit.federation.device import CPU
from primia_kit.federation.local import model_input
from primia_kit.federation.trainable import head_inputs
from primia_kit.models import TrainedModel, fit_public_features, last_layer, weights_sha256
from primia_kit.models.public_features import PIXELS

CHOOSING, HOLDOUT, SHUFFLE = 375, 500, 2024
LEARNING_RATES = {1: 10.0, 3: 20.0, 6: 20.0}
CENTER_NOISE = {1: 10.0, 3: 3.9, 6: 2.2}  # about a tenth of the squared privacy loss, 1 / z^2, that ε allows
RECIPE = TrainingPlan(
    architecture="efficientnet_lite0_blocks", size=224, geometry="stretch", rounds=40, sync_every=1, learning_rate=20.0,
    schedule="constant", momentum=0.0, weight_decay=0.0, augmentation="none", frozen=("body",), feature_norm="l2_centred",
    ema=0.9, pixel_statistics="public", **PIXELS,
)  # fmt: skip
PLAIN = {"rounds": 20, "sync_every": 10, "learning_rate": 1.0, "momentum": 0.9, "ema": 0.0, "batch_size": 100_000}  # all films
RESNET = TrainingPlan(geometry="stretch", rounds=20)


def private(plan: TrainingPlan, epsilon: int, patients: int) -> TrainingPlan:
    return replace(
        plan, privacy="patient", weighting="patients", target_epsilon=float(epsilon), delta=1e-4, batch_size=patients,
        clipping_norm=0.6, statistics_noise=CENTER_NOISE[epsilon], learning_rate=LEARNING_RATES[epsilon],
    )  # fmt: skip


def noiseless(plan: TrainingPlan, patients: int) -> TrainingPlan:
    """All but noise: clipped, by patients, everybody in every step."""
    return replace(private(plan, 6, patients), target_epsilon=0.0, noise_multiplier=1e-3, statistics_noise=1e-3)


def without(films: FilmSet, patients: set[str], keep: bool = False) -> FilmSet:
    """The films of all patients but these; of these alone, with `keep`."""
    chosen = [i for i, patient in enumerate(films.patients) if (patient in patients) == keep]
    kept = tuple(films.patients[i] for i in chosen)
    return replace(films, images=films.images[chosen], labels=films.labels[chosen], patients=kept)


def settings(manifest: Manifest, plan: TrainingPlan) -> tuple[dict[str, list[Site]], Site]:
    """ "published" and "holdout" -> the hospitals, and the choosing patients as one site of its own."""
    order = np.random.default_rng(SHUFFLE).permutation(sorted({f.patient for f in manifest if f.split == "train"}))
    choosing, holdout = set(order[:CHOOSING].tolist()), set(order[-HOLDOUT:].tolist())
    real = share_out(replace(manifest, films=tuple(f for f in manifest if f.patient not in choosing)), sites=3, seed=0)
    published = load_sites(real, plan)
    held = [Site(s.name, without(s.train, holdout), without(s.train, holdout, keep=True)) for s in published]
    alone = replace(manifest, films=tuple(f for f in manifest if f.patient in choosing))
    chosen = load_films(alone, size=plan.size, geometry=plan.geometry, classes=plan.classes)
    return {"published": published, "holdout": held}, Site("choosing", chosen, published[0].test)


def answers(model: TrainedModel, films: FilmSet) -> Predictions:
    """As `predict_sites` has them, but the frozen layers' outputs are worked out once for all models."""
    network = model.network()
    layer = network.get_submodule(last_layer(network))
    with torch.no_grad():
        inputs = head_inputs(network, films, model.spec, model_input, CPU)
        logits = torch.nn.functional.linear(inputs, layer.weight, layer.bias)
    patients = films.patients
    return Predictions(films.labels.numpy(), logits.softmax(1).numpy(), patients, ["all"] * len(films), films.classes)


def row(models: Sequence[Predictions]) -> dict[str, float]:
    bootstrap = PatientBootstrap(models[0])
    interval, each = bootstrap.interval(models), [bootstrap.value([model]) for model in models]
    found = {
        "mcc": bootstrap.value(models),
        "low": interval.low,
        "high": interval.high,
        "accuracy": bootstrap.value(models, "accuracy"),
    }
    return found | {"seeds": each, "sd": float(np.std(each, ddof=1)) if len(each) > 1 else 0.0}


def measure(seeds: int, baseline: bool, say) -> dict:
    manifest = open_films(Path(os.environ["PRIMIA_DATA"]) / "kermany224")
    invented = load_sites(synthetic_hospitals(patients=150), RECIPE)
    public = pool_films([site.train for site in invented])
    start = fit_public_features(RECIPE.model_spec(RECIPE.pixel_mean, RECIPE.pixel_std), public.images)
    recipe = replace(RECIPE, start=weights_sha256(start))
    say(f"{len(public)} synthetic films, features fitted")
    at, choosing = settings(manifest, recipe)
    found: dict = {"synthetic_films": len(public), "settings": {}}
    elsewhere = {
        "choosing patients alone": once(noiseless(recipe, CHOOSING), [choosing], start).model,
        "choosing patients alone, plain": federate(replace(recipe, **PLAIN), [choosing], start=start).model,
        "synthetic alone": federate(replace(recipe, **PLAIN), invented, start=start).model,
    }
    for name, sites in at.items():
        found["settings"][name] = compared(name, sites, recipe, start, elsewhere, seeds, say)
        if baseline:
            for what, models in resnets(name, manifest, seeds).items():
                found["settings"][name]["rows"][what] = shown(name, what, row(models), say)
    return found


def compared(name: str, sites: list[Site], recipe: TrainingPlan, start, elsewhere, seeds: int, say) -> dict:
    """The rows of a setting; `elsewhere`: models that no hospital had a part in."""
    tested = pool_films([site.test for site in sites])
    patients = [len(set(site.train.patients)) for site in sites]
    plain = federate(replace(recipe, **PLAIN), sites, start=start).model
    if name == "published":
        whole = predict_sites(plain, sites)  # the network as it is, film by film
        assert np.allclose(whole.probabilities, answers(plain, tested).probabilities, atol=1e-4)
    unnoised = once(noiseless(recipe, min(patients)), sites, start).model
    rows = {
        what: shown(name, what, row([answers(model, tested)]), say)
        for what, model in {"plain": plain, "no noise": unnoised, **elsewhere}.items()
    }
    for epsilon in LEARNING_RATES:
        runs = [once(private(recipe, epsilon, min(patients)), sites, start, seed) for seed in range(seeds)]
        more = {"epsilon": max(run.largest_epsilon for run in runs), "seconds": [run.seconds for run in runs]}
        found = row([answers(run.model, tested) for run in runs]) | more
        rows[f"epsilon {epsilon}"] = shown(name, f"epsilon {epsilon}", found, say)
    return {"patients": patients, "test_films": len(tested), "rows": rows}


def shown(name: str, what: str, found: dict, say) -> dict:
    spent = f"  ledger {found['epsilon']:.4f}" if "epsilon" in found else ""
    say(f"{name:<10} {what:<30} MCC {found['mcc']:.3f} [{found['low']:.3f}, {found['high']:.3f}]  sd {found['sd']:.3f}{spent}")
    return found


def once(plan: TrainingPlan, sites: list[Site], start: dict[str, torch.Tensor], seed: int = 0) -> TrainingRun:
    with tempfile.TemporaryDirectory() as ledgers:
        return federate(replace(plan, seed=seed), sites, start=start, ledgers=ledgers)


def resnets(name: str, manifest: Manifest, seeds: int) -> dict[str, list[Predictions]]:
    sites = settings(manifest, RESNET)[0][name]
    ways = {"resnet9 pooled": [pool_sites(sites)], "resnet9 federated": sites}
    return {
        what: [predict_sites(federate(replace(RESNET, seed=seed), who).model, sites) for seed in range(seeds)]
        for what, who in ways.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--seeds", type=int, default=3, help="runs at each epsilon")
    parser.add_argument("--baseline", action="store_true", help="also train ResNet-9 at 64 pixels (an hour)")
    options = parser.parse_args()
    begun = time.perf_counter()
    found = measure(
        options.seeds, options.baseline, lambda text: print(f"{time.perf_counter() - begun:6.0f} s  {text}", flush=True)
    )
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
