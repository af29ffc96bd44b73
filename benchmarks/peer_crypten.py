"""The same inference by CrypTen 0.4.1 (Knott et al. 2021): two processes, image and weights both shared, over loopback.

An optional peer, which nothing of the kit needs; `benchmarks/encrypted_inference.py` runs it where it's installed:

    .venv/bin/pip install --no-deps crypten==0.4.1 omegaconf antlr4-python3-runtime==4.9.3 onnx ml_dtypes protobuf
    python benchmarks/peer_crypten.py [--model resnet18] [--size 224] [--repeats 2]

CrypTen gets the network as the kit compiles it, with BatchNorm folded and each ReLU after its max pool, which spares it work.
Its provider is the one that it has by default: party 0 deals. `provider_seconds` is the time to fill its cache of tuples,
`prepare_seconds` isn't apart from that. Its bytes are those that it counts itself, both ways of both parties, over two.
"""

import argparse
import functools
import json
import multiprocessing
import os
import sys
import tempfile
import time
import types

import primia_kit  # noqa: F401 - before torch: it sets how its threads wait


def import_crypten():
    """CrypTen beside a torch that is newer than it: its ONNX reader, which isn't used here, wants a module that is gone."""
    import torch.onnx
    import torch.onnx._internal

    gone = "torch.onnx._internal.registration"
    if gone not in sys.modules:
        sys.modules[gone] = types.SimpleNamespace(registry=None)
    if not hasattr(torch.onnx, "OperatorExportTypes"):
        torch.onnx.OperatorExportTypes = None
    import crypten

    return crypten


def layers_of(name: str, size: int, batch: int):
    """The folded network, one image or more, and the clear answer."""
    import torch
    from encrypted_inference import build

    from primia_kit.inference.folding import fold
    from primia_kit.inference.tracing import trace

    network, calibration, images = build(name, size, batch)
    layers = trace(network, calibration)
    fold(layers)
    with torch.inference_mode():
        return layers, images, network(images)


def infer(layers, weights, image):
    """One pass over shares; the answer is a CrypTensor."""
    crypten, values, last_use = import_crypten(), {}, {g: layer.name for layer in layers.values() for g in layer.inputs}
    for layer in layers.values():
        given, kind, attributes = [values[name] for name in layer.inputs], layer.kind, layer.attributes
        if kind == "input":
            value = image
        elif kind == "conv":
            weight, bias = weights[layer.name]
            value = given[0].conv2d(weight, **attributes) + bias
        elif kind == "relu":
            value = given[0].relu()
        elif kind == "max_pool":
            value = given[0].max_pool2d(attributes["kernel"], stride=attributes["stride"], padding=attributes["padding"])
        elif kind == "sum_pool":
            area = attributes["kernel"][0] * attributes["kernel"][1]
            pooled = given[0].avg_pool2d(attributes["kernel"], stride=attributes["stride"], padding=attributes["padding"])
            value = pooled * area
        elif kind == "scale":
            value = given[0] * attributes["factor"]
        elif kind == "add":
            value = functools.reduce(lambda a, b: a + b, given)
        elif kind == "concat":
            value = crypten.cat(given, 1)
        elif kind == "reshape":
            value = given[0].permute(0, 2, 3, 1).reshape(given[0].size(0), -1, 1, 1)
        else:
            raise SystemExit(f"{layer.name}: a {kind} isn't written for CrypTen here.")
        values[layer.name] = value
        for name in set(layer.inputs):
            if last_use[name] == layer.name:
                del values[name]
    return value


def party(rank: int, meeting: str, name: str, size: int, batch: int, repeats: int, pipe) -> None:
    """One of the two processes: party 0 has the image, party 1 the weights."""
    import torch
    from inference_parties import peak_mb

    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "RENDEZVOUS": meeting, "DISTRIBUTED_BACKEND": "gloo"}
    crypten = import_crypten()
    crypten.init()
    communicator = crypten.communicator.get()
    layers, images, expected = layers_of(name, size, batch)
    provider, found = crypten.mpc.get_default_provider(), []
    with crypten.no_grad(), torch.no_grad():
        weights = {}
        for layer in layers.values():
            if layer.weight is not None:
                weight, bias = (crypten.cryptensor(value, src=1) for value in (layer.weight, layer.bias))
                weights[layer.name] = weight, bias.reshape(1, -1, 1, 1)
        for turn in range(repeats + 1):
            start = time.perf_counter()
            if turn:
                provider.trace(False)
                provider.fill_cache()
            else:  # the first says which tuples are needed, and counts bytes
                provider.trace(True)
                crypten.config.cfg.communicator.verbose = True
                communicator.reset_communication_stats()
            communicator.barrier()
            dealt = time.perf_counter()
            answer = infer(layers, weights, crypten.cryptensor(images, src=0)).get_plain_text(dst=0)
            end = time.perf_counter()
            if turn == 0:
                counted, rounds = communicator.comm_bytes, communicator.comm_rounds
                crypten.config.cfg.communicator.verbose = False
            else:
                error = float((answer.flatten() - expected.flatten()).abs().max()) if rank == 0 else 0.0
                found.append((dealt - start, end - dealt, error))
    pipe.send((found, counted, rounds, peak_mb()))


def measure(name: str, size: int, batch: int, repeats: int) -> dict:
    from encrypted_inference import spread

    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes = []
        for rank in (0, 1):
            mine, theirs = context.Pipe()
            arguments = (rank, f"file://{folder}/meeting", name, size, batch, repeats, theirs)
            process = context.Process(target=party, args=arguments, daemon=True)
            process.start()
            theirs.close()
            pipes.append(mine)
        (found, counted, rounds, peak), (_, counted_1, _, peak_1) = (pipe.recv() for pipe in pipes)
    dealing, online, errors = zip(*found, strict=True)
    return {
        "online_seconds": spread(online),
        "provider_seconds": spread(dealing),
        "prepare_seconds": None,
        "bytes_each_way": {"data": counted / 2, "model": counted_1 / 2},
        "bytes_dealt": None,
        "exchanges": rounds,
        "peak_mb": {"data": peak, "model": peak_1},
        "max_abs_error": max(errors),
        "backend": "torch int64",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="an architecture of primia_kit.models")
    parser.add_argument("--size", type=int, default=224, help="side of the image, pixels")
    parser.add_argument("--batch", type=int, default=1, help="images at a time")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    print(json.dumps(measure(options.model, options.size, options.batch, options.repeats)))


if __name__ == "__main__":
    main()
