"""The commands `primia certificates` and `primia party provider|model|data|server|share-model`."""

from __future__ import annotations

import argparse
import signal
import threading
import time
from pathlib import Path

from .errors import KitError

_CERTIFICATES_HELP = """\
Make a small certificate authority, and a key and certificate for each party of
an encrypted inference. The certificate names its role: a data owner's can't
play the provider.

  primia certificates federation provider model data
  primia certificates federation data:hospital-b          one more, later

Each folder below federation/ goes to its party's machine, over a way that you
trust; key.pem stays readable by its owner alone. federation/ca.key can make new
parties: keep it offline, at nobody who is a party.
"""
_PARTY_HELP = """\
One of the three parties of an encrypted inference. Each runs on a machine of its
own (or all on one, to try it):

  provider   deals randomness ahead of time; sees neither image nor model
  model      has the model; sees neither images nor answers
  data       has the images; alone learns the answers

The provider must work together with neither of the others: with the data owner
it would learn the model, with the model owner every image. `primia certificates`
makes the certificates by which the parties know each other.

Outsourced, two servers compute in place of data owner and model owner, and neither
of them sees image, model or answer. Provider and servers: no two together.

  server       one of the two servers
  share-model  the model owner shares its model between them, once
"""
_SERVER_HELP = """\
One of two servers that compute for data owners until they are stopped. Neither sees
image, model or answer; both together would, and so would one and the provider.

  primia party server --index 1 --listen 0.0.0.0:7002 --connect-provider provider.example:7000 \\
      --cert federation/server1 --store server1
  primia party server --index 0 --listen 0.0.0.0:7001 --connect-provider provider.example:7000 \\
      --connect-server1 server1.example:7002 --cert federation/server0 --store server0 --stock 20

--store keeps this server's share of the model, what the provider has dealt, and how
many images each data owner has asked about. --budget bounds that, at each server.
"""
_SHARE_HELP = """\
Share a compiled model between two servers. The model owner isn't needed afterwards.

  primia party share-model --model model.npz --cert federation/model \\
      --connect-provider provider.example:7000 \\
      --connect-server0 server0.example:7001 --connect-server1 server1.example:7002

Shares are drawn anew each time: share again after a server has lost its own, or has
another certificate. What was dealt before serves nobody then, and is wiped.
"""
_PROVIDER_HELP = """\
Deal correlated randomness to a model owner and data owners until it's stopped.

  primia party provider --listen 0.0.0.0:7000 --cert federation/provider --store provider

--store keeps programs, and two seeds for each inference until the model owner has
fetched its half. It never holds an image, a weight or an answer.
"""
_MODEL_HELP = """\
Serve a compiled model to data owners until it's stopped.

  primia party model --listen 0.0.0.0:7001 --connect-provider provider.example:7000 \\
      --cert federation/model --store model --model model.npz --budget 1000

--model is a file of `primia compile`. --store keeps the model's mask, what the provider has
dealt (--disk bounds it; a data owner may have no more of it than stays free, so
one alone half), and how many images each data owner has asked about:
answers leak a model bit by bit, so give a --budget.
"""
_DATA_HELP = """\
Ask a model about images, and show the answers.

  primia party data --connect-model model.example:7001 --connect-provider provider.example:7000 \\
      --cert federation/data --store data --image film.dcm

An image is a film (DICOM, PNG, JPEG, ...), or a .npy file with an array [C, H, W]
of pixels. Nothing of it leaves this machine but sums with random numbers that are
used once. The answer is a research demonstration, not a diagnosis.

Outsourced, name two servers instead of model owner and provider:

  primia party data --connect-server0 server0.example:7001 --connect-server1 server1.example:7002 \\
      --cert federation/data --image film.dcm

--stock N has the provider deal for N inferences ahead of time and stops: later
runs need no provider then. --expect names the program (its SHA-256) that you
agreed on with the model owner; another one is refused. --pin-model and
--pin-provider do the same for who is at the other end: a certificate's name, or
the fingerprint that `primia certificates` prints, which a new certificate changes.
"""


def add_commands(commands, plain) -> None:
    """Add `certificates` and `party` to the command line's subparsers; `plain` is their formatter."""
    make = commands.add_parser(
        "certificates", help="keys by which parties know each other", description=_CERTIFICATES_HELP, formatter_class=plain
    )
    make.add_argument("folder", type=Path, metavar="FOLDER")
    make.add_argument(
        "parties", nargs="+", metavar="ROLE[:NAME]", help="provider, model, data, server0, server1, or data:hospital-a"
    )
    make.add_argument("--days", type=int, default=365, help="how long they hold (default: 365)")
    make.set_defaults(command=_certificates)

    party = commands.add_parser(
        "party", help="a party of an encrypted inference", description=_PARTY_HELP, formatter_class=plain
    ).add_subparsers(required=True, metavar="ROLE")
    provider = party.add_parser("provider", help="deals randomness", description=_PROVIDER_HELP, formatter_class=plain)
    model = party.add_parser("model", help="has the model", description=_MODEL_HELP, formatter_class=plain)
    data = party.add_parser("data", help="has the images", description=_DATA_HELP, formatter_class=plain)
    server = party.add_parser("server", help="computes with shares", description=_SERVER_HELP, formatter_class=plain)
    share = party.add_parser("share-model", help="shares a model", description=_SHARE_HELP, formatter_class=plain)
    for command in (provider, model, server):
        command.add_argument("--listen", required=True, metavar="HOST:PORT", help="where others connect to; port 0: any")
    for command in (provider, model, data, server, share):
        command.add_argument("--cert", required=True, type=Path, metavar="FOLDER", help="key.pem, cert.pem, ca.pem")
        command.add_argument("--timeout", type=float, default=60.0, metavar="S", help="longest wait for a message (60)")
    for command in (provider, model, data, server):
        needed = command is not data  # outsourced, a data owner keeps nothing
        command.add_argument("--store", required=needed, type=Path, metavar="FOLDER", help="this party's own folder")
    for command in (model, server, share):
        command.add_argument("--connect-provider", required=True, metavar="HOST:PORT")
    for command in (model, share):
        command.add_argument("--model", required=True, type=Path, metavar="FILE", help="the compiled model")
    for command in (model, server):
        command.add_argument("--budget", type=int, metavar="N", help="images that each data owner may ask about (no limit)")
        command.add_argument("--disk", type=float, default=8.0, metavar="GB", help="what dealt material may take (8)")
    server.add_argument("--index", type=int, choices=(0, 1), required=True, help="which of the two")
    server.add_argument("--connect-server1", metavar="HOST:PORT", help="server 0 needs it")
    server.add_argument("--stock", type=int, default=0, metavar="N", help="server 0: have so many dealt ahead (0)")
    share.add_argument("--connect-server0", required=True, metavar="HOST:PORT")
    share.add_argument("--connect-server1", required=True, metavar="HOST:PORT")
    for command in (model, data):
        command.add_argument("--pin-provider", metavar="WHO", help="name or fingerprint of the one provider to talk to (any)")
    data.add_argument("--pin-model", metavar="WHO", help="name or fingerprint of the one model owner to ask (any)")
    data.add_argument("--connect-model", metavar="HOST:PORT")
    data.add_argument("--connect-provider", metavar="HOST:PORT")
    data.add_argument("--connect-server0", metavar="HOST:PORT", help="outsourced")
    data.add_argument("--connect-server1", metavar="HOST:PORT", help="outsourced")
    data.add_argument("--image", type=Path, action="append", default=[], metavar="FILE", help="may be repeated")
    data.add_argument("--geometry", choices=("pad", "stretch"), default="pad", help="how films become square (pad)")
    data.add_argument("--expect", metavar="SHA256", help="the program that was agreed on")
    data.add_argument("--stock", type=int, default=0, metavar="N", help="deal for N inferences ahead of time")
    data.add_argument("--layers", action="store_true", help="a line for each layer")
    provider.set_defaults(command=_provider)
    model.set_defaults(command=_model)
    data.set_defaults(command=_data)
    server.set_defaults(command=_server)
    share.set_defaults(command=_share)


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def _certificates(options: argparse.Namespace) -> int:
    from .inference.certificates import fingerprint_of, make_certificates

    for folder in make_certificates(options.folder, options.parties, options.days):
        _say(f"{folder}: take it to that party's machine. Fingerprint {fingerprint_of(folder)}")
    _say(f"Keep {options.folder / 'ca.key'} offline: it can make new parties.")
    return 0


def _provider(options: argparse.Namespace) -> int:
    from .inference.certificates import Credentials
    from .inference.parties.provider import ProviderService
    from .inference.parties.tls import Listener

    mine = Credentials(options.cert, "provider")
    service = ProviderService(options.store, tell=_say)
    listener = Listener(options.listen, mine, {"model", "data", "server0", "server1"}, service.serve, _say, options.timeout)
    _say(f"The crypto provider listens at {listener.address}; Ctrl-C stops it.")
    return _until_stopped(listener, service)


def _model(options: argparse.Namespace) -> int:
    from .inference.certificates import Credentials
    from .inference.model_file import load_compiled
    from .inference.parties.model import ModelService
    from .inference.parties.tls import Listener, connect

    mine = Credentials(options.cert, "model")
    program, weights = load_compiled(options.model)
    limit = int(options.disk * 1e9)
    service = ModelService(options.store, program, weights, limit=limit, budget=options.budget, tell=_say)
    stop = threading.Event()
    stocking = threading.Thread(
        target=service.keep_stocked,
        args=(lambda: connect(options.connect_provider, mine, "provider", options.timeout, pin=options.pin_provider), stop),
        daemon=True,
    )
    stocking.start()
    listener = Listener(options.listen, mine, {"data"}, service.serve, _say, options.timeout)
    _say(f"Program {program.sha256}: tell it to the data owners.")
    _say(f"The model owner listens at {listener.address}; Ctrl-C stops it.")
    return _until_stopped(listener, service, stop)


def _server(options: argparse.Namespace) -> int:
    from .inference.certificates import Credentials
    from .inference.parties.server import ServerService
    from .inference.parties.tls import Listener, connect

    index, role = options.index, f"server{options.index}"
    if (index == 0) != bool(options.connect_server1):
        raise KitError("Server 0 connects to server 1: name it by --connect-server1, at server 0 alone.")
    mine, stop = Credentials(options.cert, role), threading.Event()

    def to_provider():
        return connect(options.connect_provider, mine, "provider", options.timeout)

    service = ServerService(
        index,
        options.store,
        to_provider=to_provider,
        to_server1=lambda: connect(options.connect_server1, mine, "server1", options.timeout),
        limit=int(options.disk * 1e9),
        budget=options.budget,
        tell=_say,
    )
    work = (service.keep_stocked, (to_provider, stop)) if index else (service.keep_dealt, (options.stock, stop))
    threading.Thread(target=work[0], args=work[1], daemon=True).start()
    roles = {"model", "data"} | ({"server0"} if index else set())
    listener = Listener(options.listen, mine, roles, service.serve, _say, options.timeout)
    _say(f"Computing server {index} listens at {listener.address}; Ctrl-C stops it.")
    return _until_stopped(listener, service, stop)


def _share(options: argparse.Namespace) -> int:
    from .inference.model_file import load_compiled
    from .inference.parties.sharing import share_over_tls

    program, weights = load_compiled(options.model)
    servers = options.connect_server0, options.connect_server1
    share_over_tls(program, weights, options.connect_provider, servers, options.cert, options.timeout)
    _say("Both servers have their shares; the model owner isn't needed any more.")
    _say(f"Program {program.sha256}: tell it to the data owners.")
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


def _data(options: argparse.Namespace) -> int:
    outsourced = options.connect_server0, options.connect_server1
    direct = options.connect_model, options.store
    if any(outsourced) == any((*direct, options.connect_provider)) or not (all(outsourced) or all(direct)):
        raise KitError("Name either --connect-model and --store, or --connect-server0 and --connect-server1.")
    if any(outsourced) and (options.stock or options.layers or options.pin_model or options.pin_provider):
        raise KitError(
            "Outsourced, the servers have inferences dealt, they alone see layers, and a data owner meets neither model owner "
            "nor provider: leave --stock, --layers and --pin-… out."
        )
    if not options.image and not options.stock:
        raise KitError("Name an --image to ask about, or --stock N to deal ahead.")
    if any(outsourced):
        return _ask_servers(outsourced, options)
    from .inference.parties.data import open_session

    with open_session(
        options.connect_model,
        options.connect_provider,
        options.cert,
        options.store,
        sha256=options.expect,
        timeout=options.timeout,
        patience=10.0,
        pin_model=options.pin_model,
        pin_provider=options.pin_provider,
    ) as session:
        _say(f"Program {session.program.sha256}, {len(session.program.ops)} operations.")
        if session.budget >= 0:
            _say(f"The model owner answers {session.budget} more image(s).")
        if options.stock:
            session.stock(options.stock)
            _say(f"Dealt for {options.stock} inference(s).")
        for path in options.image:
            _ask(session, path, options)
    return 0


def _ask_servers(servers: tuple[str, str], options: argparse.Namespace) -> int:
    from .inference.parties.outsourced import open_outsourced

    with open_outsourced(servers, options.cert, sha256=options.expect, timeout=options.timeout, patience=10.0) as session:
        _say(f"Program {session.program.sha256}, {len(session.program.ops)} operations.")
        if session.budget >= 0:
            _say(f"The servers answer {session.budget} more image(s).")
        for path in options.image:
            image = _read(path, session.program.ops[0].shape, options.geometry)
            begin = time.perf_counter()
            session.prepare()
            ready = time.perf_counter()
            answer = session.infer(image)
            _say(f"{path}: {time.perf_counter() - ready:.3f} s online, {ready - begin:.3f} s of preparation")
            _say(_shown(session.program, answer))
    return 0


def _ask(session, path: Path, options: argparse.Namespace) -> None:
    image = _read(path, session.program.ops[0].shape, options.geometry)
    begin = time.perf_counter()
    session.prepare()
    ready = time.perf_counter()
    inference, sent, received, exchanges = session.run(image), 0, 0, 0
    for event in inference:
        sent, received, exchanges = sent + event.sent, received + event.received, exchanges + event.exchanges
        if options.layers:
            _say(
                f"{event.index:4}/{event.count}  {event.name:<28} {event.kind:<12} {event.seconds * 1e3:8.2f} ms "
                f"{event.sent / 1024:10.1f} KiB out {event.received / 1024:10.1f} KiB in {event.exchanges:4} exchanges"
            )
    took = time.perf_counter() - ready
    _say(
        f"{path}: {took:.3f} s online, {ready - begin:.3f} s of preparation, {sent / 1e6:.2f} MB out, "
        f"{received / 1e6:.2f} MB in, {exchanges} exchanges"
    )
    _say(_shown(session.program, inference.answer))


def _shown(program, answer) -> str:
    """A small answer in words, a large one (segmentation) by its shape."""
    values, classes = answer.reshape(-1), program.classes
    if len(values) > 32:
        return f"  an answer of shape {list(answer.shape)}"
    if program.ops[-1].attributes["reveal"] == "label":
        return "  " + ", ".join(classes[int(v)] if int(v) < len(classes) else str(int(v)) for v in values)
    names = classes if len(classes) == len(values) else range(len(values))
    return "\n".join(f"  {name!s:<20} {value:.4f}" for name, value in zip(names, values, strict=True))


def _read(path: Path, shape, geometry: str):
    """float [C, H, W], pixels in [0, 1] of a film; of a .npy file as they are."""
    import numpy as np

    if path.suffix == ".npy":
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise KitError(f"{path} can't be read ({error}).") from error
    from .data.images import read_film, resize

    height, width, channels = shape
    if height != width:
        raise KitError(f"The model takes {height} x {width} pixels, and a film becomes square: give it as a .npy file.")
    return np.repeat(np.asarray(resize(read_film(path), height, geometry))[None], channels, axis=0)
