"""The data owner: has the images, and alone learns the answers. The steps stand in `model` and `provider`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import KitError
from ...mpc.program import Program
from ...mpc.ring import Ring
from ..certificates import Credentials
from ..encoding import encode_images
from ..store import Store, write_private
from . import messages
from .channel import Channel, Message
from .dealing import common, deal
from .engine import Engine, kit_engine, largest_message, size_of_delta
from .provider import PROGRAM_LIMIT
from .run import Inference
from .tls import connect

SEEDS_LIMIT = 64 << 20


class Session:
    """A data owner's connections to a model owner and a provider: `connect` makes one.

    Args:
        model: the channel to the model owner.
        provider: the channel to the provider; None if what was dealt before is enough.
        folder: this party's own: seeds dealt to it, and δ of models that it knows.
        sha256: the program that is expected; None takes the one that the model owner names.
        wrap: what the engine's messages go through, e.g. a `ThrottledChannel`.

    Attributes:
        program: the public program
        budget: images that may still be asked about, when the session began; -1 for no limit
        open: whether inferences can be run; any that stops half-way closes the session

    Raises: KitError if the program isn't the expected one, or a peer breaks the protocol.
    """

    def __init__(
        self,
        model: Channel,
        provider: Channel | None,
        folder: str | Path,
        *,
        sha256: str | None = None,
        engine: Engine | None = None,
        wrap: Callable[[Channel], Any] = lambda channel: channel,
    ):
        self._model, self._provider, self._folder, self._wrap = model, provider, Path(folder), wrap
        self._ready: tuple[str, int, Any] | None = None
        self._dealt: set[bytes] = set()  # in this session
        self.open, self._store = True, None
        try:
            messages.greet(model)
            messages.send(model, "describe")
            found = messages.receive(model, "description")
            self.budget, self._model_id, self._sha256 = found["budget"], found["model"], found["sha256"]
            if sha256 is not None and sha256 != self._sha256:
                raise KitError(
                    f"The model owner's program has the SHA-256 {self._sha256}, not {sha256} as expected: ask which is right."
                )
            self._store = Store(self._folder / "seeds", SEEDS_LIMIT)
            self.program, delta = self._known() or self._learn()
            self._owner = (engine or kit_engine()).DataOwner(self.program, delta)
            for id, meta in self._store.ready().items():
                if meta["model"] != self._model_id:  # dealt for other weights
                    self._store.discard(id)
            if provider is not None:
                messages.greet(provider)
        except BaseException as error:
            self.close(str(error) if isinstance(error, KitError) else "")
            raise

    @property
    def transcript(self) -> list[Message]:
        """What this party sent and received: first with the provider, then with the model owner, in order.

        Of the engine's messages, those of the last inference.
        """
        return (self._provider.transcript if self._provider else []) + self._model.transcript

    def stock(self, count: int, batch: int = 1) -> None:
        """Have the provider deal for `count` inferences of `batch` images each, ahead of time.

        Raises: KitError if there's no provider, or it refuses.
        """
        if self._provider is None:
            raise KitError("This session has no provider: connect with one, or use what was dealt before.")
        self._check_open()
        with self._or_close():
            for start in range(0, count, messages.MAX_COUNT):
                self._stock(min(messages.MAX_COUNT, count - start), batch)

    def _stock(self, count: int, batch: int) -> None:
        self._dealt |= set(deal(self._provider, self._store, self._model_id, self._sha256, count, batch))

    def prepare(self, batch: int = 1, patience: float = 120.0) -> None:
        """Do all that needs no image: take an id (used from here on), and compute this party's share of each layer.

        Args: as `wait`.
        Raises: KitError as `wait`, or if the budget is spent.
        """
        self._check_open()
        if self._ready is not None and self._ready[1] == batch:
            return
        id = self.wait(batch, patience)
        with self._or_close():
            _, seed = self._store.take(bytes.fromhex(id))
            messages.send(self._model, "prepare", id=id)
            prepared = self._owner.prepare(bytes(seed), batch)
            messages.receive(self._model, "prepared")
        self._ready = id, batch, prepared

    def wait(self, batch: int = 1, patience: float = 120.0) -> str:
        """Wait until both this party and the model owner have what was dealt for an inference; has one dealt if need be.

        Args:
            batch: images of that inference.
            patience: seconds in which the model owner may still fetch its half.

        Returns: the id that `prepare` takes next; it isn't used yet.
        Raises: KitError if nothing dealt is left at both, or a peer is gone.
        """
        self._check_open()
        end, pause = time.monotonic() + patience, 0.005
        while not (common := self._common(batch)):
            mine = {id for id, meta in self._store.ready().items() if meta["batch"] == batch}
            if self._provider is not None and not mine & self._dealt:
                self.stock(1, batch)  # what earlier sessions left may be lost on its way to the model owner
            elif not mine:
                raise KitError(f"Nothing dealt for {batch} image(s) is left: connect with the provider, too.")
            elif time.monotonic() > end:
                raise KitError(
                    f"The model owner has fetched nothing in {patience:g} s: does it reach the provider, and has it room?"
                )
            elif self._provider is not None:
                with self._or_close():
                    self._provider.look()  # whoever waits for what a dead provider had would wait for nothing
            time.sleep(pause)
            pause = min(1.5 * pause, 0.1)
        return common

    def run(self, images, views: bool = False) -> Inference:
        """Begin an inference; iterate over what is returned for a `LayerEvent` a layer, then read its `answer`.

        Args:
            images: [C, H, W] or [N, C, H, W], pixels as the model was compiled for (`encode_images` normalises them);
                or uint64 ring elements [N, H, W, C].
            views: whether events hold this party's own view; a copy of every share costs time.

        Returns: the inference, which hasn't sent anything yet.
        Raises: KitError for another shape, numbers that don't fit, or what `prepare` raises.
        """
        words = self.encode(images)
        self.prepare(len(words))
        (id, batch, prepared), self._ready = self._ready, None
        self._model.transcript[:] = [message for message in self._model.transcript if message.kind != "data"]

        def infer(channel, on_op):
            with self._model.allowing(data=largest_message(self._owner, batch)):
                messages.send(self._model, "start", id=id)
                outputs = self._owner.infer(prepared, words, self._wrap(channel), on_op=on_op)
            messages.receive(self._model, "done")
            return outputs

        return Inference(self._model, len(self.program.ops), infer, self.close, views)

    def infer(self, images) -> np.ndarray:
        """The answer, without looking at layers. Raises: as `run`."""
        inference = self.run(images)
        for _ in inference:
            pass
        return inference.answer

    def encode(self, images) -> np.ndarray:
        """uint64 [N, H, W, C] ring elements. Raises: KitError for another shape, or numbers that don't fit."""
        return ring_elements(self.program, images)

    def close(self, why: str = "") -> None:
        """End the session; with a reason, the peers are told that it ends before its time."""
        self.open = False
        for channel in (self._model, self._provider):
            if channel is not None:
                channel.abort("The data owner has ended the session.") if why else channel.close()
        if self._store is not None:
            self._store.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    @contextlib.contextmanager
    def _or_close(self):
        """A talk that breaks off closes the session: nobody knows any more whose turn it is."""
        try:
            yield
        except BaseException as error:
            self.close(str(error) if isinstance(error, KitError) else "interrupted")
            raise

    def _check_open(self) -> None:
        if not self.open:
            raise KitError("This session has ended: connect again. Ids that were begun stay used.")

    def _common(self, batch: int) -> str | None:
        with self._or_close():
            return common(self._model, self._store, batch)

    def _known(self) -> tuple[Program, bytes] | None:
        """Program and δ of a model that this party met before."""
        place = self._folder / "models" / self._model_id
        try:
            program = Program.from_json((place / "program.json").read_text())
            delta, digest = (place / "delta").read_bytes(), json.loads((place / "digest").read_text())
        except (OSError, ValueError, KitError):
            return None
        whole = program.sha256 == self._sha256 and hashlib.sha256(delta).hexdigest() == digest
        return (program, delta) if whole else None

    def _learn(self) -> tuple[Program, bytes]:
        """Program and δ from the model owner, kept for the next time."""
        program = learn_program(self._model, self._sha256)
        messages.send(self._model, "get_delta")
        delta = messages.receive_content(self._model, size_of_delta(program), "delta")
        place = self._folder / "models" / self._model_id
        if place.parent.exists():  # models of before: this owner has one at a time, and δ is large
            shutil.rmtree(place.parent)
        write_private(place / "program.json", program.to_json().encode())
        write_private(place / "delta", delta)
        write_private(place / "digest", json.dumps(hashlib.sha256(delta).hexdigest()).encode())
        return program, delta


def ring_elements(program: Program, images) -> np.ndarray:
    """Images as `Session.run` takes them -> uint64 [N, H, W, C]. Raises: KitError for another shape, or what doesn't fit."""
    images = np.asarray(images)
    if images.dtype != np.uint64:
        words = encode_images(program, images[None] if images.ndim == 3 else images)
    elif images.ndim == 4 and images.shape[1:] == tuple(program.ops[0].shape):
        words = Ring(program.bits).reduce(np.ascontiguousarray(images))
    else:
        raise KitError(f"Ring elements are [N, {', '.join(map(str, program.ops[0].shape))}], not {list(images.shape)}.")
    if not 1 <= len(words) <= messages.MAX_BATCH:
        raise KitError(f"One inference takes 1 to {messages.MAX_BATCH} images, not {len(words)}.")
    return words


def learn_program(channel: Channel, sha256: str) -> Program:
    """The public program from the peer that has named its SHA-256. Raises: KitError if it's another one."""
    messages.send(channel, "get_program")
    text = messages.receive_content(channel, PROGRAM_LIMIT, "program")
    try:
        program = Program.from_json(text.decode())
    except (UnicodeDecodeError, RecursionError) as error:
        raise KitError(f"The program of {channel.peer} isn't text in UTF-8.") from error
    if program.sha256 != sha256:
        raise KitError(f"The program of {channel.peer} has the SHA-256 {program.sha256}, but {sha256} was named.")
    return program


def open_session(
    model: str,
    provider: str | None,
    certificates: str | Path,
    folder: str | Path,
    *,
    sha256: str | None = None,
    timeout: float = 60.0,
    patience: float = 0.0,
    engine: Engine | None = None,
    pin_model: str | None = None,
    pin_provider: str | None = None,
) -> Session:
    """Connect a data owner to its peers over TLS.

    Args:
        model, provider: "HOST:PORT"; the provider may be None if enough was dealt before.
        certificates: the data owner's folder of `primia certificates`.
        folder, sha256: as `Session`.
        timeout: seconds that any wait for a message may last.
        patience: seconds in which refused connections are tried again.
        pin_model, pin_provider: the ones wanted, by name or fingerprint of their certificates; None takes any of the role.

    Raises: KitError if a peer doesn't answer, isn't who it should be, or runs another program.
    """
    mine = Credentials(certificates, "data")
    to_model = connect(model, mine, "model", timeout, patience, pin_model)
    try:
        to_provider = connect(provider, mine, "provider", timeout, patience, pin_provider) if provider else None
    except KitError:
        to_model.close()
        raise
    return Session(to_model, to_provider, folder, sha256=sha256, engine=engine)
