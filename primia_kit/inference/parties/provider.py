"""The crypto provider: deals correlated randomness ahead of time, and sees neither image nor model.

Set-up, with the model owner (M), once for a model:

    1. M -> P   register: the model's id, the program and its SHA-256, the seed of the mask b of the weights
    2. P -> M   registered: P has recomputed the SHA-256, and keeps program and seed (mode 0600)

Dealing, asked for by a data owner (D), before there is an image:

    1. D -> P   deal: model, SHA-256, batch, count. P refuses if its program has another SHA-256
    2. P        for each inference a random id of 16 bytes, data_seed and model_seed from the operating system's
                generator; keeps (id, data_seed, model_seed) until M has fetched its half
    3. P -> D   dealt: ids and data_seeds, to D alone, which are in no other message
    4. M -> P   fetch, when M has room: how much, and how much for each D that has some there already; P answers `nothing`
                after a while if nothing fits
    5. P        takes the id out of its store (used for ever), computes M's half
    6. P -> M   material: id, batch, D's name, model_seed, and the dealt bytes, to M alone

Each half leaves once. If a message of 3 or 6 is lost with a connection, its ids are lost too: nothing is dealt again.
P forgets data_seed and model_seed in step 5. P with D together would learn the model, P with M together every image.

Outsourced, M's `register` names the certificates of two servers. Server 0 takes D's part in dealing, server 1 M's, and P
deals for this model to them alone.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import KitError
from ...mpc.program import Program
from ..certificates import Peer
from ..store import ID_BYTES, Store, remove_left, remove_private, write_private
from . import messages
from .channel import Channel, Refusal
from .engine import Engine, kit_engine

SEED_BYTES = 32
PROGRAM_LIMIT = 16 << 20
PENDING = 256  # inferences that one data owner may have waiting for the model owner
FETCH_SECONDS = 2.0
IDLE_SECONDS = 3600.0


class ProviderService:
    """Serves any number of connections, each in a thread: `serve(channel)`.

    Args:
        folder: models, and the seeds of what a model owner hasn't fetched yet.
        limit: bytes that those seeds may take (about 200 each).
        engine: the kit's own by default.
        tell: called with a sentence when something of note has happened.
    """

    def __init__(
        self,
        folder: str | Path,
        limit: int = 16 << 20,
        engine: Engine | None = None,
        tell: Callable[[str], None] = print,
    ):
        self.folder, self._engine, self._tell = Path(folder), engine or kit_engine(), tell
        self.store = Store(self.folder / "seeds", limit)
        self._models = self.folder / "models"
        remove_left(self._models)
        self._dealing, self._news = threading.Lock(), threading.Condition()
        self._stopping = False
        self._dealers: dict[str, Any] = {}

    def serve(self, channel: Channel) -> None:
        """Answer one party until it hangs up. Raises: KitError if it ends in trouble."""
        register, fetch, deal = (
            lambda message, call=call: call(channel, message) for call in (self._register, self._fetch, self._deal)
        )
        calls = {
            "model": {"register": register, "fetch": fetch},
            "data": {"deal": deal},
            "server0": {"deal": deal},
            "server1": {"fetch": fetch},
        }.get(channel.peer.role)
        if calls is None:
            channel.abort("A crypto provider serves a model owner, data owners and two servers.")
            raise Refusal(f"{channel.peer} has no business here.")
        messages.serve(channel, calls, IDLE_SECONDS)

    def stop(self) -> None:
        """Let nobody wait any longer for something to fetch."""
        self._stopping = True
        with self._news:
            self._news.notify_all()

    def close(self) -> None:
        self.stop()
        self.store.close()

    # -- the model owner's calls

    def _register(self, channel: Channel, message: dict) -> None:
        if len(message["servers"]) not in (0, 2):
            raise Refusal("A model is outsourced to two servers, or to none.")
        if message["bytes"] > PROGRAM_LIMIT:
            raise Refusal(f"A program of {message['bytes']} bytes is too large: at most {PROGRAM_LIMIT} are read.")
        with channel.allowing(bytes=PROGRAM_LIMIT):
            text = bytes(channel.receive_bytes(message["bytes"], "program"))
        program = program_of(text)
        if program.sha256 != message["sha256"]:
            raise Refusal(f"The program's SHA-256 is {program.sha256}, not {message['sha256']} as announced.")
        record = {
            "owner": channel.peer.identity,
            "model": message["model"],
            "mask_seed": message["mask_seed"],
            "program": program.to_json(),
            "servers": message["servers"],
        }
        with self._dealing:
            known = self._record(message["model"])
            if known and known != record:
                raise Refusal("This model's id stands for another program, mask or owner: take a new id for a new model.")
            for old in self._records_of(channel.peer):
                if old["model"] != message["model"]:
                    self._forget(old["model"])
            if not known:
                write_private(self._models / message["model"], json.dumps(record).encode())
                self._tell(f"Registered a model of {len(program.ops)} operations for {channel.peer}.")
        messages.send(channel, "registered")

    def _fetch(self, channel: Channel, message: dict) -> None:
        record = self._record(message["model"])
        servers = record["servers"] if record else ()
        wanted = record and (servers[1] if servers else record["owner"])
        if not record or wanted != (channel.peer.fingerprint if servers else channel.peer.identity):
            raise Refusal("This model isn't registered: register it first.")
        end = time.monotonic() + FETCH_SECONDS
        while True:
            channel.look()  # whoever has gone meanwhile would take a half with it
            half, dealt, needed = self._next_half(record, message["room"], message["shares"])
            if half:
                messages.send(channel, "material", **half, bytes=len(dealt))
                return channel.send_bytes(dealt, "dealt")
            left = end - time.monotonic()
            if left <= 0 or self._stopping:
                return messages.send(channel, "nothing", needed=needed)
            with self._news:
                self._news.wait(min(left, 0.5))

    def _next_half(self, record: dict, room: int, shares: dict[str, int]) -> tuple[dict, np.ndarray | None, int]:
        """The model owner's half of one that waits and fits: what goes with it, the dealt bytes, 0.

        shares: bytes that may come for data owners that have some there; for others it's `room`. Who may have most comes
            first, so that nobody waits behind another's stock.

        If none fits, ({}, None, the bytes that the smallest needs, 0 if nothing waits).
        """
        with self._dealing:  # chosen and taken at once: another connection may fetch the same model's
            pending = self._pending(record["model"])
            if not pending:
                return {}, None, 0
            dealer = self._dealer(record)
            sizes = {batch: dealer.size(batch) for batch in {meta["batch"] for _, meta in pending}}
            spare = {meta["data_owner"]: shares.get(meta["data_owner"], room) for _, meta in pending}
            fitting = [(id, meta) for id, meta in pending if sizes[meta["batch"]] <= spare[meta["data_owner"]]]
            if not fitting:
                return {}, None, min(sizes.values())
            id, meta = max(fitting, key=lambda found: spare[found[1]["data_owner"]])
            _, seeds = self.store.take(id)
            data_seed, model_seed = bytes(seeds[:SEED_BYTES]), bytes(seeds[SEED_BYTES:])
            dealt = dealer.deal(data_seed, model_seed, meta["batch"], out=np.empty(sizes[meta["batch"]], np.uint8))
        half = {"id": id.hex(), "batch": meta["batch"], "data_owner": meta["data_owner"], "seed": model_seed.hex()}
        return half, dealt, 0

    # -- the data owner's call

    def _deal(self, channel: Channel, message: dict) -> None:
        meta = {"model": message["model"], "batch": message["batch"], "data_owner": channel.peer.identity}
        ids, seeds = [], []
        with self._dealing:  # a model retired meanwhile would leave ids that nobody fetches; two calls could pass the bound
            self._check_deal(channel.peer, message)
            for _ in range(message["count"]):
                id, data_seed = secrets.token_bytes(ID_BYTES), secrets.token_bytes(SEED_BYTES)
                self.store.put(id, meta, data_seed, secrets.token_bytes(SEED_BYTES))
                ids.append(id.hex())
                seeds.append(data_seed.hex())
        messages.send(channel, "dealt", ids=ids, seeds=seeds)
        with self._news:
            self._news.notify_all()

    def _check_deal(self, peer: Peer, message: dict) -> None:
        record = self._record(message["model"])
        if not record:
            raise Refusal("This model isn't registered: the model owner must connect to the provider first.")
        server = next(iter(record["servers"]), None)
        if server != (None if peer.role == "data" else peer.fingerprint):
            raise Refusal("This model's owner has named another party to deal for.")
        sha256 = Program.from_json(record["program"]).sha256
        if sha256 != message["sha256"]:
            raise Refusal(f"The provider's program of this model has the SHA-256 {sha256}, not {message['sha256']}.")
        waiting = sum(meta["data_owner"] == peer.identity for meta in self.store.ready().values())
        if waiting + message["count"] > PENDING:
            raise Refusal(f"{waiting} inferences wait for the model owner to fetch them; at most {PENDING} may.")

    # -- what is kept

    def _pending(self, model: str) -> list[tuple[bytes, Any]]:
        return [(id, meta) for id, meta in self.store.ready().items() if meta["model"] == model]

    def _record(self, model: str) -> dict | None:
        path = self._models / model
        return _read(path) if path.exists() else None

    def _records_of(self, owner: Peer) -> list[dict]:
        records = [_read(path) for path in self._models.glob("[0-9a-f]*")]
        return [record for record in records if record["owner"] == owner.identity]

    def _forget(self, model: str) -> None:
        """A model owner has one model at a time; what was dealt for an older one serves nobody."""
        for id, _ in self._pending(model):
            self.store.discard(id)
        remove_private(self._models / model)  # it holds the seed of b
        self._dealers.pop(model, None)

    def _dealer(self, record: dict):
        if record["model"] not in self._dealers:
            program = Program.from_json(record["program"])
            kind = self._engine.OutsourcedProvider if record["servers"] else self._engine.Provider
            self._dealers[record["model"]] = kind(program, bytes.fromhex(record["mask_seed"]))
        return self._dealers[record["model"]]


def _read(path: Path) -> dict:
    return {"servers": [], **json.loads(path.read_text())}  # before servers could be named, there were none


def program_of(text: bytes) -> Program:
    """Raises: Refusal if a peer's text is no program."""
    try:
        return Program.from_json(text.decode())
    except (UnicodeDecodeError, RecursionError) as error:
        raise Refusal("The program isn't text in UTF-8.") from error
    except KitError as error:
        raise Refusal(str(error)) from error
