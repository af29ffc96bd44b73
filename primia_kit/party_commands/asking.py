"""What `primia party data` does: a data owner asks about images, and shows the answers."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ..errors import KitError


def say(sentence: str) -> None:
    """A line, at once: whoever reads it may be another program."""
    print(sentence, flush=True)


def ask(options: argparse.Namespace) -> int:
    """Ask about images, of a model owner or of two servers, and show the answers. Raises: KitError."""
    outsourced = options.connect_server0, options.connect_server1
    direct = options.connect_model, options.store
    if any(outsourced) == any((*direct, options.connect_provider)) or not (all(outsourced) or all(direct)):
        raise KitError("Name either --connect-model and --store, or --connect-server0 and --connect-server1.")
    if any(outsourced) and (options.stock or options.layers or options.pin_model or options.pin_provider):
        raise KitError(
            "Outsourced, the servers have inferences dealt, they alone see layers, and a data owner meets neither model owner "
            "nor provider: leave --stock, --layers, --pin-model and --pin-provider out."
        )
    if not options.image and not options.stock:
        raise KitError("Name an --image to ask about, or --stock N to deal ahead.")
    if any(outsourced):
        return _ask_servers(outsourced, options)
    from ..inference.parties.data import open_session

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
        say(f"Program {session.program.sha256}, {len(session.program.ops)} operations.")
        if session.budget >= 0:
            say(f"The model owner answers {session.budget} more image(s).")
        if options.stock:
            session.stock(options.stock)
            say(f"Dealt for {options.stock} inference(s).")
        for path in options.image:
            _ask_model_owner(session, path, options)
    return 0


def _ask_servers(servers: tuple[str, str], options: argparse.Namespace) -> int:
    from ..inference.parties.outsourced import open_outsourced

    pins = options.pin_server0, options.pin_server1
    with open_outsourced(
        servers, options.cert, sha256=options.expect, timeout=options.timeout, patience=10.0, pins=pins
    ) as session:
        say(f"Program {session.program.sha256}, {len(session.program.ops)} operations.")
        if session.budget >= 0:
            say(f"The servers answer {session.budget} more image(s).")
        for path in options.image:
            image = _read(path, session.program.ops[0].shape, options.geometry)
            begin = time.perf_counter()
            session.prepare()
            ready = time.perf_counter()
            answer = session.infer(image)
            say(f"{path}: {time.perf_counter() - ready:.3f} s online, {ready - begin:.3f} s of preparation")
            say(_shown(session.program, answer))
    return 0


def _ask_model_owner(session, path: Path, options: argparse.Namespace) -> None:
    image = _read(path, session.program.ops[0].shape, options.geometry)
    begin = time.perf_counter()
    session.prepare()
    ready = time.perf_counter()
    inference, sent, received, exchanges = session.run(image), 0, 0, 0
    for event in inference:
        sent, received, exchanges = sent + event.sent, received + event.received, exchanges + event.exchanges
        if options.layers:
            say(
                f"{event.index:4}/{event.count}  {event.name:<28} {event.kind:<12} {event.seconds * 1e3:8.2f} ms "
                f"{event.sent / 1024:10.1f} KiB out {event.received / 1024:10.1f} KiB in {event.exchanges:4} exchanges"
            )
    took = time.perf_counter() - ready
    say(
        f"{path}: {took:.3f} s online, {ready - begin:.3f} s of preparation, {sent / 1e6:.2f} MB out, "
        f"{received / 1e6:.2f} MB in, {exchanges} exchanges"
    )
    say(_shown(session.program, inference.answer))


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
    from ..data.images import read_film, resize

    height, width, channels = shape
    if height != width:
        raise KitError(f"The model takes {height} x {width} pixels, and a film becomes square: give it as a .npy file.")
    return np.repeat(np.asarray(resize(read_film(path), height, geometry))[None], channels, axis=0)
