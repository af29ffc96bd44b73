"""The parties' processes for `benchmarks/encrypted_inference.py`: each is the shipped service behind a TLS listener."""

import functools
import multiprocessing
import threading
import time
from pathlib import Path

import primia_kit  # noqa: F401 - before torch: it sets how its threads wait

ROLES = {"direct": ("provider", "model", "data"), "outsourced": ("provider", "server1", "server0", "data")}
COMPUTING = {"direct": ("data", "model"), "outsourced": ("server0", "server1")}
EVERYBODY = {"model", "data", "server0", "server1"}


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
