"""How fast the arithmetic of encrypted inference is, beside float32: convolutions over Z_2^k, comparisons, expansion.

Convolutions are all of ResNet-18's at 224 × 224, one gray channel. Backends and torch's float32 take turns layer by
layer, and each counts its best of several turns, so that a busy machine slows all alike. "dgemm" and "sgemm" are numpy's
matrix product of two 1,024 × 1,024 matrices on one thread, what float64 limbs and float32 could reach at best.

    python benchmarks/ring_kernels.py [--json] [--bits 38] [--turns 9] [--backends int16 float64 torch]
"""

import argparse
import json
import os
import time

import numpy as np
import torch

from primia_kit.mpc import expand, kernels, pack_words, unpack_words
from primia_kit.mpc.comparison import CompareTuples, LiftTuples, lift, mask_digits, mask_sign, mask_value, open_value, relu
from primia_kit.mpc.threads import set_threads

# name, Cin, Cout, kernel, stride, side, how often
RESNET18 = (
    ("stem", 1, 64, 7, 2, 224, 1),
    ("layer1", 64, 64, 3, 1, 56, 4),
    ("layer2", 128, 128, 3, 1, 28, 3),
    ("layer3", 256, 256, 3, 1, 14, 3),
    ("layer4", 512, 512, 3, 1, 7, 3),
    ("layer2 stride", 64, 128, 3, 2, 56, 1),
    ("layer3 stride", 128, 256, 3, 2, 28, 1),
    ("layer4 stride", 256, 512, 3, 2, 14, 1),
    ("layer2 shortcut", 64, 128, 1, 2, 56, 1),
    ("layer3 shortcut", 128, 256, 1, 2, 28, 1),
    ("layer4 shortcut", 256, 512, 1, 2, 14, 1),
)
COMPARISONS = 2_900_000  # of ResNet-18 at 224 × 224, with separable max-pooling
SEEDS = os.urandom(32), os.urandom(32)


def best(works: dict, turns: int) -> dict:
    """name -> least seconds of several turns; the works take turns."""
    for work in works.values():
        work()
    seconds = dict.fromkeys(works, float("inf"))
    for _ in range(turns):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def measure_convolutions(bits: int, backends: list[str], threads: int, turns: int) -> dict:
    """Seconds of the network's convolutions for each way, and GMAC/s of each layer."""
    set_threads(threads)
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    total: dict[str, float] = {}
    rates: dict[str, dict[str, float]] = {}
    macs = 0.0
    for name, inputs, outputs, kernel, stride, side, times in RESNET18:
        x = rng.integers(0, 2**63, (1, side, side, inputs), np.uint64)
        image = torch.randn(1, inputs, side, side).contiguous(memory_format=torch.channels_last)
        filters = torch.randn(outputs, inputs, kernel, kernel).contiguous(memory_format=torch.channels_last)
        works = {"float32": lambda i=image, f=filters, s=stride, k=kernel: torch.conv2d(i, f, None, s, k // 2)}
        for kind in ("short", "long"):
            bound = 2**15 if kind == "short" else 2**62
            weights = rng.integers(1 - bound, bound, (outputs, inputs, kernel, kernel))
            for backend in backends:
                packed = kernels.pack(weights, bits, short=kind == "short", stride=stride, padding=kernel // 2, backend=backend)
                works[f"{backend} {kind}"] = lambda packed=packed, x=x: packed.conv(x)
        one = packed.geometry.macs(side, side) / 1e9
        macs += times * one
        for way, seconds in best(works, turns).items():
            total[way] = total.get(way, 0.0) + times * seconds
            rates.setdefault(way, {})[name] = round(one / seconds, 2)
    return {
        way: {
            "seconds": round(seconds, 4),
            "gmacs": round(macs / seconds, 2),
            "times_float32": round(seconds / total["float32"], 2),
            "layers": rates[way],
        }
        for way, seconds in total.items()
    }


def measure_comparisons(bits: int, threads: int, turns: int, count: int = 1 << 20) -> dict:
    """Nanoseconds a comparison for each step of one party, and for the provider."""
    set_threads(threads)
    z = expand(np.empty(count, np.uint64), SEEDS[0], "z")
    dealt = CompareTuples.deal(count, bits, *SEEDS, "benchmark")
    dealt_lift = LiftTuples.deal(count, bits, *SEEDS, "benchmark")
    room, other_room = (np.empty(CompareTuples.room_size(count, bits), np.uint8) for _ in range(2))
    own = CompareTuples.expand(count, bits, SEEDS[0], "benchmark", room=room)
    c = mask_value(z, own, 16, 0)
    p = mask_digits(c, own, 0)
    t = mask_sign(p, c, own, 0)
    wire = pack_words(z, bits)
    works = {
        "deal": lambda: CompareTuples.deal(count, bits, *SEEDS, "benchmark", out=dealt),
        "deal truncation": lambda: LiftTuples.deal(count, bits, *SEEDS, "benchmark", out=dealt_lift),
        "expand, party 0": lambda: CompareTuples.expand(count, bits, SEEDS[0], "benchmark", room=room),
        "unpack, party 1": lambda: CompareTuples.unpack(dealt, count, bits, SEEDS[1], "benchmark", room=other_room),
        "1 mask value": lambda: mask_value(z, own, 16, 0),
        "open value": lambda: open_value(c, c),
        "2 mask digits": lambda: mask_digits(c, own, 0),
        "3 mask sign": lambda: mask_sign(p, c, own, 0),
        "4 relu": lambda: relu(t, c, own, 0),
        "4 lift": lambda: lift(c, own, 0),
        "pack 22 bits": lambda: pack_words(c, 22),
        "pack 1 bit": lambda: pack_words(t, 1),
        f"pack a wire of {bits} bits": lambda: pack_words(z, bits),
        f"unpack a wire of {bits} bits": lambda: unpack_words(wire, bits, count, out=z),
    }
    found = {name: round(seconds / count * 1e9, 2) for name, seconds in best(works, turns).items()}
    online = sum(found[step] for step in ("1 mask value", "open value", "2 mask digits", "3 mask sign", "4 relu"))
    return {
        "ns": found,
        "online_ns": round(online, 2),
        "online_seconds_resnet18": round(online * COMPARISONS / 1e9, 4),
        "dealt_bytes": round(dealt.size / count, 2),
        "dealt_bytes_truncation": round(dealt_lift.size / count, 2),
    }


def measure_floor(turns: int) -> dict:
    """What matrix products and expansion reach on one thread."""
    from threadpoolctl import threadpool_limits

    room = np.empty(1 << 22, np.uint64)
    matrices = [np.random.default_rng(0).random((1024, 1024)).astype(kind) for kind in (np.float64, np.float32)]
    with threadpool_limits(1, user_api="blas"):
        works = {name: lambda m=m: m @ m for name, m in zip(("dgemm", "sgemm"), matrices)}
        found = best(works | {"expansion": lambda: expand(room, SEEDS[0], "benchmark")}, turns)
    return {
        "dgemm_gmacs": round(1024**3 / found["dgemm"] / 1e9, 1),
        "sgemm_gmacs": round(1024**3 / found["sgemm"] / 1e9, 1),
        "expansion_gigabytes_a_second": round(room.nbytes / found["expansion"] / 1e9, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--bits", type=int, default=38, help="k of the ring")
    parser.add_argument("--turns", type=int, default=9, help="turns of each way, the best counts")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--backends", nargs="+", default=[name for name in kernels.available() if name != "torch"])
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    result = {"bits": options.bits, "floor": measure_floor(options.turns)}
    for threads in options.threads:
        result[f"{threads} threads"] = {
            "convolutions": measure_convolutions(options.bits, options.backends, threads, options.turns),
            "comparisons": measure_comparisons(options.bits, threads, options.turns),
        }
    if options.json:
        print(json.dumps(result))
        return
    print(
        "floor, 1 thread: {dgemm_gmacs} GMAC/s dgemm, {sgemm_gmacs} sgemm; {expansion_gigabytes_a_second} GB/s".format(
            **result["floor"]
        )
    )
    for threads in options.threads:
        found = result[f"{threads} threads"]
        print(f"\n{threads} threads: ResNet-18's convolutions at 224 × 224, ring of {options.bits} bits")
        for way, row in found["convolutions"].items():
            print("  {0:15s} {seconds:7.4f} s {gmacs:6.2f} GMAC/s {times_float32:6.2f} × float32".format(way, **row))
        print("  ns a comparison: " + ", ".join(f"{name} {ns}" for name, ns in found["comparisons"]["ns"].items()))
        print("  online {online_ns} ns, {online_seconds_resnet18} s; {dealt_bytes} bytes dealt".format(**found["comparisons"]))


if __name__ == "__main__":
    main()
