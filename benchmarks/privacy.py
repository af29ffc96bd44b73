"""ε by a hospital's ledger against another accountant and published figures, and what noise costs.

Each setting is spent in a ledger's file, in 20 parts, opened anew for each. "ledger" is what it says then, "prv" what
Opacus's PRV accountant says of the whole, both upper bounds. "published" is a figure that others have printed for the
setting; they used looser accountants, so the ledger's may be below it, and not above.

"noise_seconds" is for noise on that many values (`NoiseSource.noised`), "torch_randn" for as many unprotected normal draws,
both on one thread; shortest of some repeats. "spend_seconds" is one spend with its budget check, at 200 steps so far.
"step_seconds" compares a private training step with a plain one (see private_steps.py).

    python benchmarks/privacy.py [--json]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import private_steps
import torch

from primia_kit.privacy import Ledger, NoiseSource, SampledGaussian, epsilon

ABADI = "Abadi et al. 2016 (CCS): moments accountant"
TF_PRIVACY = "TensorFlow Privacy, tutorials/README.md, table 'Select Parameters': RDP accountant"
MNIST = 256 / 60_000  # sampling rate of the tutorial; an epoch is 234 steps
SETTINGS = (  # q, σ, steps, δ, a published ε, where
    (0.01, 4.0, 10_000, 1e-5, 1.26, ABADI),
    (MNIST, 1.12, 60 * 234, 1e-5, 2.92, TF_PRIVACY),
    (MNIST, 0.6, 30 * 234, 1e-5, 9.74, TF_PRIVACY),
    (MNIST, 1.2, 10 * 234, 1e-5, 1.20, TF_PRIVACY),
    # Hospitals of some hundred patients have no published figures: expected batches of 32 and 64 of 640, 120 and 200 steps.
    (0.05, 1.1, 120, 1e-4, None, None),
    (0.1, 1.0, 200, 1e-4, None, None),
    (1.0, 20.0, 100, 1e-4, None, None),
)
PARTS = 20


def accounted(q: float, sigma: float, steps: int, delta: float) -> dict[str, float]:
    """ε by a ledger that is opened anew for each of 20 spends, and by Opacus."""
    mechanism = SampledGaussian(q, sigma)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        head = Ledger.create(path, site="A", delta=delta, budget=None, patients=1000).head
        for part in range(PARTS):
            head = Ledger.open(path, head).spend(mechanism, steps // PARTS, purpose=f"part {part + 1}")
        found = Ledger.open(path, head).epsilon()
    return {"ledger": found, "prv": epsilon([(mechanism, steps)], delta, "prv")}


def noise_seconds(count: int, repeats: int = 5) -> dict[str, float]:
    values, source = torch.zeros(count), NoiseSource()
    ways = {"noised": lambda: source.noised(values, 2.0), "torch_randn": lambda: torch.randn(count)}
    return {name: _shortest(way, repeats) for name, way in ways.items()}


def spend_seconds() -> float:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.create(Path(folder) / "ledger.jsonl", site="A", delta=1e-4, budget=20.0, patients=1000)
        ledger.spend(SampledGaussian(0.1, 1.0), 200, purpose="before")
        start = time.perf_counter()
        ledger.spend(SampledGaussian(0.1, 1.0), 10, purpose="round 21")
        return time.perf_counter() - start


def step_seconds() -> dict:
    """{"private", "plain", "ratio"} of a ResNet-9's step and, under "head", of one of a last layer."""
    found = private_steps.step_seconds()
    return found["resnet9"] | {"head": found["head"]}


def _shortest(run, repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = []
    for q, sigma, steps, delta, published, source in SETTINGS:
        row = {"q": q, "sigma": sigma, "steps": steps, "delta": delta, **accounted(q, sigma, steps, delta)}
        settings.append(row | {"published": published, "source": source})
        beside = f"   published {published:.2f}" if published else ""
        print(f"q {q:<8.4g} σ {sigma:<5g} {steps:>6} steps  δ {delta:g}   ", end="")
        print(f"ledger {row['ledger']:7.4f}   PRV {row['prv']:7.4f}{beside}", flush=True)
    found = {
        "settings": settings,
        "noise_seconds": {str(count): noise_seconds(count) for count in (308_000, 1_200_000, 11_200_000)},
        "spend_seconds": spend_seconds(),
        "step_seconds": step_seconds(),
    }
    for count, seconds in found["noise_seconds"].items():
        print(f"noise on {int(count):>10,} values   {seconds['noised']:.3f} s   torch.randn {seconds['torch_randn']:.3f} s")
    print(f"a spend {found['spend_seconds']:.3f} s")
    for what, step in {"ResNet-9": found["step_seconds"], "last layer": found["step_seconds"]["head"]}.items():
        print(f"a step, {what:<10}   private {step['private']:.4f} s   plain {step['plain']:.4f} s   {step['ratio']:.1f} x")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
