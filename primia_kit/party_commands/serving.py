"""What the other commands do: make certificates, share a model, and serve as a party until somebody stops it."""

from __future__ import annotations

import argparse
import signal
import threading

from ..errors import KitError
from .asking import say


def certificates(options: argparse.Namespace) -> int:
    from ..inference.certificates import fingerprint_of, make_certificates

    for folder in make_certificates(options.folder, options.parties, options.days):
        say(f"{folder}: take it to that party's machine. Fingerprint {fingerprint_of(folder)}")
    say(f"Keep {options.folder / 'ca.key'} offline: it can make new parties.")
    return 0


def provider(options: argparse.Namespace) -> int:
    from ..inference.certificates import Credentials
    from ..inference.parties.provider import ProviderService
    from ..inference.parties.tls import Listener

    mine = Credentials(options.cert, "provider")
    service = ProviderService(options.store, tell=say)
    listener = Listener(options.listen, mine, {"model", "data", "server0", "server1"}, service.serve, say, options.timeout)
    say(f"The crypto provider listens at {listener.address}; Ctrl-C stops it.")
    return _until_stopped(listener, service)


def model(options: argparse.Namespace) -> int:
    from ..inference.certificates import Credentials
    from ..inference.model_file import load_compiled
    from ..inference.parties.model import ModelService
    from ..inference.parties.tls import Listener, connect

    mine = Credentials(options.cert, "model")
    program, weights = load_compiled(options.model)
    limit = int(options.disk * 1e9)
    service = ModelService(options.store, program, weights, limit=limit, budget=options.budget, tell=say)
    stop = threading.Event()
    stocking = threading.Thread(
        target=service.keep_stocked,
        args=(lambda: connect(options.connect_provider, mine, "provider", options.timeout, pin=options.pin_provider), stop),
        daemon=True,
    )
    stocking.start()
    listener = Listener(options.listen, mine, {"data"}, service.serve, say, options.timeout)
    say(f"Program {program.sha256}: tell it to the data owners.")
    say(f"The model owner listens at {listener.address}; Ctrl-C stops it.")
    return _until_stopped(listener, service, stop)


def server(options: argparse.Namespace) -> int:
    from ..inference.certificates import Credentials
    from ..inference.parties.server import ServerService
    from ..inference.parties.tls import Listener, connect

    index, role = options.index, f"server{options.index}"
    if (index == 0) != bool(options.connect_server1):
        raise KitError("Server 0 connects to server 1: name it by --connect-server1, at server 0 alone.")
    mine, stop = Credentials(options.cert, role), threading.Event()

    def to_provider():
        return connect(options.connect_provider, mine, "provider", options.timeout, pin=options.pin_provider)

    service = ServerService(
        index,
        options.store,
        to_provider=to_provider,
        to_server1=lambda: connect(options.connect_server1, mine, "server1", options.timeout, pin=options.pin_server1),
        limit=int(options.disk * 1e9),
        budget=options.budget,
        tell=say,
    )
    work = (service.keep_stocked, (to_provider, stop)) if index else (service.keep_dealt, (options.stock, stop))
    threading.Thread(target=work[0], args=work[1], daemon=True).start()
    roles = {"model", "data"} | ({"server0"} if index else set())
    listener = Listener(options.listen, mine, roles, service.serve, say, options.timeout)
    say(f"Computing server {index} listens at {listener.address}; Ctrl-C stops it.")
    return _until_stopped(listener, service, stop)


def share(options: argparse.Namespace) -> int:
    from ..inference.model_file import load_compiled
    from ..inference.parties.sharing import share_over_tls

    program, weights = load_compiled(options.model)
    servers = options.connect_server0, options.connect_server1
    pins = options.pin_provider, options.pin_server0, options.pin_server1
    share_over_tls(program, weights, options.connect_provider, servers, options.cert, options.timeout, pins)
    say("Both servers have their shares; the model owner isn't needed any more.")
    say(f"Program {program.sha256}: tell it to the data owners.")
    return 0


def _until_stopped(listener, service, stop: threading.Event | None = None) -> int:
    """Serve until somebody stops the command; `stop` tells the threads beside it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what stops services; ids that are in use stay used
    try:
        threading.Event().wait()
    finally:
        if stop is not None:
            stop.set()
        listener.stop()
        service.close()
    return 0
