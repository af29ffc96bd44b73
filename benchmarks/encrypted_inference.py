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
"""

import argparse
import functools
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

import primia_kit  # noqa: F401 - before torch: it sets how its threads wait

ROLES = {"direct": ("provider", "model", "data"), "outsourced": ("provider", "server1", "server0", "data")}
COMPUTING = {"direct": ("data", "model"), "outsourced": ("server0", "server1")}
EVERYBODY = {"model", "data", "server0", "server1"}
GROWTH = [(size, 1) for size in (32, 64, 112, 224, 448)] + [(112, 4), (112, 16)]


def peak_mb() -> float:
    """Largest memory of this process, in MB. (getrusage's maximum would count that of the process that started it.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def provider(folder: Path, pipe, threads: int) -> None:
    """The crypto provider's process."""
    from primia_kit.inference.certificates import Credentials
    from primia_kit.inference.parties.provider import ProviderService
    from primia_kit.inference.parties.tls import Listener
    from primia_kit.mpc.threads import set_threads

    set_threads(threads)
    service = ProviderService(folder / "p", tell=lambda sentence: None)
    listener = Listener("127.0.0.1:0", Credentials(folder / "provider", "provider"), EVERYBODY, service.serve, print, 600)
    pipe.send(listener.address)
    pipe.recv()
    pipe.send(peak_mb())


def model(folder: Path, pipe, threads: int) -> None:
    """The model owner's process."""
    from primia_kit.inference.certificates import Credentials
    from primia_kit.inference.model_file import load_compiled
    from primia_kit.inference.parties.model import ModelService
    from primia_kit.inference.parties.tls import Listener, connect
    from primia_kit.mpc.threads import set_threads

    set_threads(threads)
    mine, to_provider = Credentials(folder / "model", "model"), pipe.recv()
    service = ModelService(folder / "m", *load_compiled(folder / "model.npz"), tell=lambda sentence: None)
    stop = threading.Event()
    fetching = (lambda: connect(to_provider, mine, "provider", 600), stop)
    threading.Thread(target=service.keep_stocked, args=fetching, daemon=True).start()
    pipe.send(Listener("127.0.0.1:0", mine, {"data"}, service.serve, print, 600).address)
    pipe.recv()
    stop.set()
    pipe.send(peak_mb())


def data(folder: Path, pipe, threads: int) -> None:
    """The data owner's process: asks as often as it is told to, and says what it took."""
    import numpy as np

    from primia_kit.inference.encoding import decode_outputs  # noqa: F401 - imports torch before anything is timed
    from primia_kit.inference.parties.data import open_session
    from primia_kit.mpc.threads import set_threads

    set_threads(threads)
    to_model, to_provider = pipe.recv()
    images = np.load(folder / "images.npy")
    with open_session(to_model, to_provider, folder / "data", folder / "d", timeout=600, patience=60) as session:
        words = session.encode(images)
        batch = len(words)
        pipe.send(session.program.sha256)
        while pipe.recv():
            start = time.perf_counter()
            session.stock(1, batch)
            session.wait(batch)
            dealt = time.perf_counter()
            session.prepare(batch)
            ready = time.perf_counter()
            inference = session.run(words)
            events = list(inference)
            end = time.perf_counter()
            layers = [(e.name, e.kind, e.seconds, e.sent, e.received, e.exchanges) for e in events]
            pipe.send((dealt - start, ready - dealt, end - ready, layers, np.asarray(inference.answer)))
    pipe.send(peak_mb())


def server(index: int, folder: Path, pipe, threads: int) -> None:
    """The process of one of two servers. Server 0 deals when it is told to, and says what layers took."""
    from primia_kit.inference.certificates import Credentials
    from primia_kit.inference.parties import dealing, messages
    from primia_kit.inference.parties.engine import largest_message
    from primia_kit.inference.parties.events import Layers
    from primia_kit.inference.parties.server import ServerService
    from primia_kit.inference.parties.tls import Listener, connect
    from primia_kit.mpc.threads import set_threads

    class Timed(ServerService):
        """Keeps what each layer took, without copies of what was seen."""

        def infer(self, shared, prepared, share, channel):
            self.layers = []
            layers = Layers(channel, len(shared.program.ops), self.layers.append)
            with channel.allowing(data=largest_message(shared.server, prepared.batch)):
                return shared.server.infer(prepared, share, channel, on_op=layers)

    set_threads(threads)
    mine, addresses = Credentials(folder / f"server{index}", f"server{index}"), pipe.recv()
    ways = [lambda who=who: connect(addresses[who], mine, who, 600) for who in ("provider", "server1")]
    service = Timed(index, folder / f"s{index}", to_provider=ways[0], to_server1=ways[1], tell=lambda sentence: None)
    stop = threading.Event()
    if index:
        threading.Thread(target=service.keep_stocked, args=(ways[0], stop), daemon=True).start()
    pipe.send(Listener("127.0.0.1:0", mine, EVERYBODY, service.serve, print, 600).address)
    other = None
    while batch := pipe.recv():
        if other is None:
            other = ways[1]()
            messages.greet(other)
        start = time.perf_counter()
        service.stock(1, batch)
        while not dealing.common(other, service.store, batch):
            time.sleep(0.005)
        pipe.send(time.perf_counter() - start)
        pipe.recv()  # an inference is over
        pipe.send([(e.name, e.kind, e.seconds, e.sent, e.received, e.exchanges) for e in service.layers])
    stop.set()
    pipe.send(peak_mb())


def outsourced_data(folder: Path, pipe, threads: int) -> None:
    """The data owner's process, outsourced."""
    import numpy as np

    from primia_kit.inference.parties.outsourced import open_outsourced
    from primia_kit.mpc.threads import set_threads

    set_threads(threads)
    addresses = pipe.recv()
    images = np.load(folder / "images.npy")
    with open_outsourced([addresses["server0"], addresses["server1"]], folder / "data", timeout=600) as session:
        pipe.send(session.program.sha256)
        while pipe.recv():
            start = time.perf_counter()
            session.prepare(len(images))
            ready = time.perf_counter()
            answer = session.infer(images)
            pipe.send((ready - start, time.perf_counter() - ready, np.asarray(answer)))
    pipe.send(peak_mb())


class Running:
    """The parties' processes. `turn()` is one inference: seconds of dealing, preparing, online; layers; the answer."""

    def __init__(self, mode: str, folder: Path, compiled, batch: int, threads: int):
        context = multiprocessing.get_context("spawn")
        works = {"provider": provider, "model": model, "data": data}
        if mode == "outsourced":
            works = {"provider": provider, "data": outsourced_data}
            works |= {f"server{index}": functools.partial(server, index) for index in (0, 1)}
        self.mode, self.batch, self.processes, self.pipes = mode, batch, [], {}
        for role in ROLES[mode]:
            self.pipes[role], theirs = context.Pipe()
            some = 2 if role == "provider" else threads
            self.processes.append(context.Process(target=works[role], args=(folder, theirs, some), daemon=True))
            self.processes[-1].start()
        pipes, to_provider = self.pipes, self.pipes["provider"].recv()
        if mode == "direct":
            pipes["model"].send(to_provider)
            pipes["data"].send((pipes["model"].recv(), to_provider))
        else:
            from primia_kit.inference.parties.sharing import share_over_tls

            addresses = {"provider": to_provider}
            for role in ("server1", "server0"):
                pipes[role].send(dict(addresses))
                addresses[role] = pipes[role].recv()
            servers = [addresses["server0"], addresses["server1"]]
            share_over_tls(compiled.program, compiled.weights, to_provider, servers, folder / "model", 600)
            pipes["data"].send(addresses)
        assert pipes["data"].recv() == compiled.program.sha256

    def turn(self):
        if self.mode == "direct":
            self.pipes["data"].send(True)
            return self.pipes["data"].recv()
        first = self.pipes["server0"]
        first.send(self.batch)
        dealing = first.recv()
        self.pipes["data"].send(True)
        preparing, online, answer = self.pipes["data"].recv()
        first.send(True)
        return dealing, preparing, online, first.recv(), answer

    def end(self) -> dict[str, float]:
        """Each process's largest memory, in MB."""
        peaks = {}
        for role in reversed(ROLES[self.mode]):
            self.pipes[role].send(False)
            peaks[role] = self.pipes[role].recv()
        for process in self.processes:
            process.terminate()
        return peaks


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
    parser.add_argument("--growth", action="store_true", help="sizes and batches instead of one of each")
    options = parser.parse_args()
    if options.backend != "auto":
        os.environ["PRIMIA_KERNELS"] = options.backend  # the parties' processes inherit it
    cases = GROWTH if options.growth else [(options.size, options.batch)]
    found = {}
    for size, batch in cases:
        figures = measure(options.mode, options.model, size, batch, options.processes, options.repeats)
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
    if options.json:
        print(json.dumps(found if options.growth else figures))


if __name__ == "__main__":
    main()
