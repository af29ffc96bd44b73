"""Encrypted inference through the shipped TLS channels: three processes on one machine, and PyTorch in clear beside them.

A network of random weights (whose BatchNorm has seen some batches) is compiled, and answers one image, or a batch, again
and again. Each time: the provider deals and delivers (`provider_seconds`, until the model owner's half is on its disk), both
parties take their halves from the store and expand them (`prepare_seconds`), then the image is there (`online_seconds`,
first byte to opened answer). PyTorch's turns stand between them, so that a busy machine slows both.

    python benchmarks/encrypted_inference.py [--json] [--mode direct] [--model resnet18] [--size 224] [--repeats 7]

`--mode outsourced` has two servers compute on shares in place of data owner and model owner; the data owner's process then
does nothing but share the image and add up the answer. Online is its wall clock, from the first byte to the opened answer.

`--processes 2` gives each of the two computing parties one thread, as on a machine of two cores; the provider, who works
when they don't, has two. `--growth` measures sizes 32 to 448, and batches of 1, 4 and 16 at 112.

Where CrypTen is installed (`benchmarks/peer_crypten.py` says how), it does the same, as `peers.crypten`; `--peers none` spares
the minutes that this takes.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from inference_parties import COMPUTING, ROLES, Running

import primia_kit  # noqa: F401 - before torch: it sets how its threads wait

GROWTH = [(size, 1) for size in (32, 64, 112, 224, 448)] + [(112, 4), (112, 16)]


def build(name: str, size: int, batch: int):
    """A network whose BatchNorm has statistics of its own, and images: float [batch, 1, size, size]."""
    import torch

    from primia_kit.models.architectures import ARCHITECTURES

    torch.manual_seed(0)
    network = ARCHITECTURES[name](3, "batch", "max", 1)
    calibration = torch.randn(8, 1, size, size)
    network.train()
    with torch.no_grad():
        for _ in range(8):
            network(torch.randn(8, 1, min(size, 112), min(size, 112)))
    return network.eval(), calibration, torch.randn(batch, 1, size, size)


def clear_seconds(network, images, threads: int) -> float:
    """One pass of PyTorch's, in the memory layout that it is faster in."""
    import torch

    torch.set_num_threads(threads)
    best = float("inf")
    for layout in (torch.contiguous_format, torch.channels_last):
        network, images = network.to(memory_format=layout), images.to(memory_format=layout)
        with torch.inference_mode():
            network(images)
            start = time.perf_counter()
            network(images)
        best = min(best, time.perf_counter() - start)
    return best


def spread(seconds: list[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def measure(mode: str, name: str, size: int, batch: int, processes: int, repeats: int) -> dict:
    """All figures of one network at one size."""
    import numpy as np
    import torch

    from primia_kit.inference import compile_private
    from primia_kit.inference.certificates import make_certificates
    from primia_kit.inference.model_file import save_compiled
    from primia_kit.mpc import kernels
    from primia_kit.mpc.dealt import Layout

    network, calibration, images = build(name, size, batch)
    start = time.perf_counter()
    compiled = compile_private(network, calibration)
    compiling = time.perf_counter() - start
    with torch.inference_mode():
        expected = network(images).movedim(1, -1).numpy().reshape(batch, -1)  # channels last, as answers are
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_certificates(folder, sorted({"model", *ROLES[mode]}), 1)
        save_compiled(folder / "model.npz", compiled.program, compiled.weights)
        np.save(folder / "images.npy", images.numpy())
        start = time.perf_counter()
        running = Running(mode, folder, compiled, batch, 1 if processes == 2 else 2)
        setting_up = time.perf_counter() - start
        turns, plain = [], {"1": [], "2": []}
        for turn in range(repeats + 1):
            answered = running.turn()
            for count, seconds in plain.items():
                seconds.append(clear_seconds(network, images, int(count)))
            if turn:  # the first compiles kernels and touches memory
                turns.append(answered)
        peaks = running.end()
    dealing, preparing, online, layers, answers = zip(*turns, strict=True)
    kinds: dict[str, float] = {}
    for layer in layers:
        for _, kind, seconds, *_ in layer:
            kinds[kind] = kinds.get(kind, 0.0) + seconds / len(turns)
    error = max(float(np.abs(answer.reshape(batch, -1) - expected).max()) for answer in answers)
    return {
        "plain_seconds": {count: spread(seconds[1:]) for count, seconds in plain.items()},
        "online_seconds": spread(list(online)),
        "provider_seconds": spread(list(dealing)),
        "prepare_seconds": spread(list(preparing)),
        "online_over_plain_2": statistics.median(online) / statistics.median(plain["2"][1:]),
        "bytes_each_way": {role: sum(e[at] for e in layers[0]) for role, at in zip(COMPUTING[mode], (3, 4))},
        "bytes_dealt": Layout(compiled.program, batch).size,
        "exchanges": sum(e[5] for e in layers[0]),
        "peak_mb": peaks,
        "max_abs_error": error,
        "largest_logit": float(np.abs(expected).max()),
        "backend": {"online": kernels.choose(), "long": kernels.choose(short=False)},
        "ring_bits": compiled.program.bits,
        "seconds_by_kind": {kind: round(seconds, 4) for kind, seconds in sorted(kinds.items(), key=lambda item: -item[1])},
        "compile_seconds": compiling,
        "setup_seconds": setting_up,
    }


def measure_peers(name: str, size: int, batch: int) -> dict:
    """Other systems' figures, of those that are installed."""
    if importlib.util.find_spec("crypten") is None:
        return {}
    peer = Path(__file__).with_name("peer_crypten.py")
    command = [sys.executable, str(peer), "--model", name, "--size", str(size), "--batch", str(batch)]
    return {"crypten": json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--mode", default="direct", choices=tuple(ROLES), help="outsourced: two servers compute on shares")
    parser.add_argument("--model", default="resnet18", help="an architecture of primia_kit.models")
    parser.add_argument("--size", type=int, default=224, help="side of the image, pixels")
    parser.add_argument("--batch", type=int, default=1, help="images at a time")
    parser.add_argument("--processes", type=int, default=2, choices=(1, 2), help="2: a core for each computing party")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--backend", default="auto", help="int16, ifma, float64 or torch")
    parser.add_argument("--peers", default="installed", choices=("installed", "none"), help="measure other systems beside")
    parser.add_argument("--growth", action="store_true", help="sizes and batches instead of one of each")
    options = parser.parse_args()
    if options.backend != "auto":
        os.environ["PRIMIA_KERNELS"] = options.backend  # the parties' processes inherit it
    cases = GROWTH if options.growth else [(options.size, options.batch)]
    found = {}
    for size, batch in cases:
        figures = measure(options.mode, options.model, size, batch, options.processes, options.repeats)
        if options.mode == "direct" and not options.growth and options.peers == "installed":
            figures["peers"] = measure_peers(options.model, size, batch)
        found[f"{size}x{batch}"] = figures
        print(f"{options.model}, {options.mode}, {size} x {size}, batch of {batch}")
        print(f"  {'ring, kernels':<26} {figures['ring_bits']} bits, {figures['backend']}")
        for key in ("plain_seconds", "online_seconds", "provider_seconds", "prepare_seconds"):
            parts = figures[key] if key == "plain_seconds" else {"": figures[key]}
            for count, part in parts.items():
                label = f"{key} {count and count + ' threads'}"
                print(f"  {label:<26} {part['median']:.3f}  ({part['min']:.3f} to {part['max']:.3f})")
        for key in ("online_over_plain_2", "bytes_each_way", "bytes_dealt", "exchanges", "max_abs_error", "largest_logit"):
            print(f"  {key:<26} {figures[key]}")
        print(f"  {'peak_mb':<26} {figures['peak_mb']}\n  {'seconds_by_kind':<26} {figures['seconds_by_kind']}")
        for peer, theirs in figures.get("peers", {}).items():
            online, dealing = (theirs[key]["median"] for key in ("online_seconds", "provider_seconds"))
            print(f"  {peer:<26} online {online:.2f}, dealing {dealing:.2f}")
    if options.json:
        print(json.dumps(found if options.growth else figures))


if __name__ == "__main__":
    main()
