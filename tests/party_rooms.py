"""The three parties over local channels, for tests: services in threads, and what became of them."""

import threading

from primia_kit.errors import KitError
from primia_kit.inference.certificates import Peer
from primia_kit.inference.parties.data import Session
from primia_kit.inference.parties.model import ModelService
from primia_kit.inference.parties.provider import ProviderService
from primia_kit.inference.parties.teaching import local_pair

from . import party_engine

DATA, OTHER_DATA, MODEL, PROVIDER = (
    Peer(role, name, f"{n:064x}")
    for n, (role, name) in enumerate((("data", "data"), ("data", "other"), ("model", "model"), ("provider", "provider")))
)


class Room:
    """Services in a folder; `session()` connects a data owner to them. `ends` collects how each connection ended."""

    def __init__(self, folder, timeout=5.0, **model):
        self.folder, self.timeout, self.ends, self.told = folder, timeout, [], []
        self.provider = ProviderService(folder / "provider", engine=party_engine, tell=self.told.append)
        self.model = ModelService(
            folder / "model", party_engine.PROGRAM, party_engine.WEIGHTS, engine=party_engine, tell=self.told.append, **model
        )
        self.threads = []
        self.to_provider, at_provider = local_pair(MODEL, PROVIDER, timeout)
        self.start(self.provider.serve, at_provider)
        self.model.register(self.to_provider)

    def start(self, serve, channel):
        def run():
            try:
                serve(channel)
                self.ends.append(None)
            except KitError as error:
                self.ends.append(str(error))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.threads.append(thread)
        return thread

    def session(self, who=DATA, **options):
        to_model, at_model = local_pair(who, MODEL, self.timeout)
        to_provider, at_provider = local_pair(who, PROVIDER, self.timeout)
        self.at_model = at_model
        self.model_thread = self.start(self.model.serve, at_model)
        self.start(self.provider.serve, at_provider)
        return Session(to_model, to_provider, self.folder / who.name, engine=party_engine, **options)

    def stock(self, session, count=1, batch=1):
        session.stock(count, batch)
        while self.model.store.room and self.provider.store.ready():
            assert self.model.fetch(self.to_provider)

    def close(self):
        self.to_provider.close()
        for thread in self.threads:
            thread.join(5)
            assert not thread.is_alive(), "a service hangs"
        self.model.close()
        self.provider.close()
