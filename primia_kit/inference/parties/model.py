"""The model owner: serves data owners, and sees neither their images nor the answers.

Set-up, for each data owner (D); the model owner (M) has registered the model with the provider before:

    1. D -> M   describe
    2. M -> D   description: the model's id, the program's SHA-256, what is left of D's budget. D compares the SHA-256
                with the one that it expects before it asks for anything else
    3. D -> M   get_program; M -> D: the program's JSON, whose SHA-256 D computes itself
    4. D -> M   get_delta; M -> D: δ = W - b mod 2^k, once for each model. b's seed goes to the provider alone

An inference:

    1. D -> M   list: ids that D has seeds for; M -> D: those of them that M has material for, dealt for D
    2. D        takes an id out of its own store: used, on the disk
    3. D -> M   prepare: the id. M takes it out of its store, refuses it if it's used or another's; both prepare
    4. M -> D   prepared
    5. D -> M   start: the id. M counts the images against D's budget, on the disk
    6. D <-> M  the program's messages (`mpc`), D's first right behind `start`; M opens its share of the output to D
    7. M -> D   done

Whatever ends the connection between 2 and 7, the id stays used at both. A program's messages carry no length of the
parties' choice: both know each one's size from the program.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import KitError
from ...mpc.program import Program
from ..certificates import Peer
from ..store import ID_BYTES, Store, remove_private, write_private
from . import messages
from .budget import QueryBudget
from .channel import Channel, Refusal
from .dealing import Fetches, answer_list, register
from .engine import Engine, kit_engine, largest_message
from .events import LayerEvent, Layers
from .provider import IDLE_SECONDS, SEED_BYTES


class ModelService(Fetches):
    """Serves any number of data owners, each in a thread: `serve(channel)`; `keep_stocked` fetches what is dealt.

    Args:
        folder: the model's id and mask, dealt material, budgets. Kept across restarts; made anew for other weights.
        program, weights: of `compile_private`.
        limit: bytes that dealt material may take on the disk; no data owner may have more of it than stays free.
        budget: images that each data owner may ask about; None for no limit.
        engine: the kit's own by default.
        tell: called with a sentence when something of note has happened.
        watch: called with (peer, event) after each operation: the model owner's own view.
        wrap: what the engine's messages go through, e.g. a `ThrottledChannel`.
    """

    def __init__(
        self,
        folder: str | Path,
        program: Program,
        weights: Mapping[str, Any],
        *,
        limit: int = 8 << 30,
        budget: int | None = None,
        engine: Engine | None = None,
        tell: Callable[[str], None] = print,
        watch: Callable[[Peer, LayerEvent], None] | None = None,
        wrap: Callable[[Channel], Any] = lambda channel: channel,
    ):
        self.folder, self.program, self._tell, self._watch, self._wrap = Path(folder), program, tell, watch, wrap
        engine = engine or kit_engine()
        self.store = Store(self.folder / "dealt", limit)
        self.budget = QueryBudget(self.folder / "budget.json", budget)
        self.model, self._mask_seed = self._identity(program, weights)
        self._owner = engine.ModelOwner(program, weights)
        self._preparing = threading.Lock()  # an owner reuses memory
        self._delta = engine.delta(program, weights, self._mask_seed)
        self._program_text = program.to_json().encode()
        for id, meta in self.store.ready().items():
            if meta["model"] != self.model:  # dealt for other weights
                self.store.discard(id)

    def serve(self, channel: Channel) -> None:
        """Answer one data owner until it hangs up. Raises: KitError if it ends in trouble."""
        if channel.peer.role != "data":
            channel.abort("A model owner serves data owners.")
            raise Refusal(f"{channel.peer} has no business here.")
        _Visit(self, channel).serve()

    def close(self) -> None:
        self.store.close()

    # -- with the provider

    def register(self, channel: Channel) -> None:
        """Give the provider program and mask; it may know them already. Raises: KitError."""
        register(channel, self.program, self.model, self._mask_seed)

    def _begin(self, channel: Channel) -> None:
        self.register(channel)

    def _shares(self, room: int) -> dict[str, int]:
        """What may come for each data owner that has something here: as much as leaves it with no more than stays free.

        So one alone may fill half of the store, each of n the (n + 1)th part, and whoever comes next finds as much as the
        others have; no number of data owners has to be foreseen. Who has nothing here may have all that is free. (The rule is
        that of shared buffers in switches: Choudhury and Hahne, "Dynamic Queue Length Thresholds", 1998.)
        """
        held = self.store.held_by("data_owner")
        most = sorted(held, key=held.get, reverse=True)[: messages.MAX_OWNERS]
        return {owner: max(room - held[owner], 0) // 2 for owner in most}

    def _identity(self, program: Program, weights: Mapping[str, Any]) -> tuple[str, bytes]:
        """The model's id and the seed of its mask b: new ones for new weights, since δ of two models under one b would
        tell their difference."""
        path, digest = self.folder / "model.json", _digest(program, weights)
        if path.exists():
            known = json.loads(path.read_text())
            if known["digest"] == digest:
                return known["model"], bytes.fromhex(known["mask_seed"])
        record = {
            "model": secrets.token_bytes(ID_BYTES).hex(),
            "mask_seed": secrets.token_bytes(SEED_BYTES).hex(),
            "digest": digest,
        }
        remove_private(path)  # the old mask's seed: with δ it gives the old weights
        write_private(path, json.dumps(record).encode())
        return record["model"], bytes.fromhex(record["mask_seed"])


class _Visit:
    """One data owner's connection."""

    def __init__(self, service: ModelService, channel: Channel):
        self._service, self._channel = service, channel
        self._prepared: tuple[str, int, Any] | None = None

    def serve(self) -> None:
        names = ("describe", "get_program", "get_delta", "list", "prepare", "start")
        messages.serve(self._channel, {name: getattr(self, f"_{name}") for name in names}, IDLE_SECONDS)
        if self._prepared is not None:
            self._service._tell(f"{self._channel.peer} has gone before an inference that was prepared: its id stays used.")

    def _describe(self, message: dict) -> None:
        service, left = self._service, self._service.budget.left(self._channel.peer)
        messages.send(self._channel, "description", model=service.model, sha256=service.program.sha256, budget=left)

    def _get_program(self, message: dict) -> None:
        messages.send_content(self._channel, self._service._program_text, "program")

    def _get_delta(self, message: dict) -> None:
        messages.send_content(self._channel, self._service._delta, "delta")

    def _list(self, message: dict) -> None:
        answer_list(self._channel, self._service.store, message)

    def _prepare(self, message: dict) -> None:
        service, peer, id = self._service, self._channel.peer, bytes.fromhex(message["id"])
        meta = service.store.ready().get(id)
        if meta is None:
            was = "was used before" if service.store.is_used(id) else "was never dealt to the model owner"
            raise Refusal(f"The id {message['id']} {was}: an inference needs one of its own. List those that are ready.")
        if meta["data_owner"] != peer.identity:
            raise Refusal(f"The id {message['id']} was dealt for another data owner.")
        service.budget.check(peer, meta["batch"])
        self._prepared = None
        try:
            _, material = service.store.take(id)
        except KitError as error:
            raise Refusal(f"The id {message['id']} was taken by another connection.") from error
        seed, dealt = bytes(material[:SEED_BYTES]), np.frombuffer(material, np.uint8, offset=SEED_BYTES)
        with service._preparing:
            self._prepared = message["id"], meta["batch"], service._owner.prepare(seed, dealt, meta["batch"])
        messages.send(self._channel, "prepared")

    def _start(self, message: dict) -> None:
        service, channel = self._service, self._channel
        if self._prepared is None or self._prepared[0] != message["id"]:
            raise Refusal(f"The id {message['id']} isn't prepared on this connection: prepare it first.")
        (_, batch, prepared), self._prepared = self._prepared, None
        service.budget.spend(channel.peer, batch)
        watch = service._watch
        layers = Layers(
            channel, len(service.program.ops), lambda event: watch and watch(channel.peer, event), views=watch is not None
        )
        with channel.allowing(data=largest_message(service._owner, batch)):
            service._owner.infer(prepared, service._wrap(channel), on_op=layers)
        messages.send(channel, "done")
        if watch is None:
            channel.transcript.clear()  # nobody reads it, and a connection may last for thousands of inferences
        service._tell(f"An inference of {batch} image(s) for {channel.peer} is done.")


def _digest(program: Program, weights: Mapping[str, Any]) -> str:
    """SHA-256 of program and weights, each array with its name and shape."""
    found = hashlib.sha256(program.to_json().encode())
    for name in sorted(weights):
        arrays = weights[name] if isinstance(weights[name], tuple | list) else (weights[name],)
        for array in arrays:
            array = np.ascontiguousarray(array)
            found.update(json.dumps([name, array.dtype.str, array.shape]).encode())
            found.update(array.tobytes())
    return found.hexdigest()
