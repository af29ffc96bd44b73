"""What a step of training takes where programs share the cores: one process, and as many at once as asked for.

With the kit's setting (GOMP_SPINCOUNT=1000, see primia_kit/__init__.py) and with that of GNU's OpenMP library, whose
threads spin far longer before they sleep. Every process trains the default model at 64 pixels, as a notebook does.

    python benchmarks/busy_machine.py [--json] [--processes 2] [--seconds 8]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

SETTINGS = {"kit": {}, "library": {"GOMP_SPINCOUNT": "300000"}}  # libgomp's own, while threads are no more than cores


def train(seconds: float) -> float:
    """Milliseconds a step."""
    import primia_kit  # noqa: F401, I001 - it comes before torch, as in a notebook
    import torch
    from torch.nn import functional as F

    from primia_kit.models import ModelSpec

    spec = ModelSpec(
        architecture="resnet9", classes=("a", "b", "c"), norm="batch", pool="max", size=64, geometry="pad", pixel_mean=0.5,
        pixel_std=0.2,
    )  # fmt: skip
    network = spec.build(0).to(memory_format=torch.channels_last).train()
    films, labels = torch.rand(16, 1, 64, 64), torch.arange(16) % 3
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    start, steps = time.perf_counter(), -3  # the first ones make buffers
    while steps < 0 or time.perf_counter() - start < seconds:
        if steps == 0:
            start = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(network(films), labels).backward()
        optimizer.step()
        steps += 1
    return (time.perf_counter() - start) / steps * 1e3


def at_once(processes: int, seconds: float, setting: dict[str, str]) -> float:
    command = [sys.executable, __file__, "--train", str(seconds)]
    running = [
        subprocess.Popen(command, env={**os.environ, **setting}, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    return statistics.mean(float(process.communicate()[0]) for process in running)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--processes", type=int, default=2, help="how many train at once")
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument("--train", type=float, metavar="SECONDS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        print(train(options.train))
        return
    found = {}
    for processes in (1, options.processes):
        for name, setting in SETTINGS.items():
            found[f"{name}_{processes}"] = at_once(processes, options.seconds, setting)
            print(f"{processes} process(es), {name}: {found[f'{name}_{processes}']:.0f} ms a step", file=sys.stderr)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
