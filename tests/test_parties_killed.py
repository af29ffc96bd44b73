"""Each party's process is killed, at every step and layer: the others say so and go on, and no id serves twice.

After each kill the victim starts again from its own folder, an id that was begun is refused by whoever holds it, what was
dealt for it lies nowhere any more, and the next inference is right.
"""

import signal
import time

import numpy as np
import pytest
import torch

from primia_kit.errors import KitError
from primia_kit.inference import compile_private
from primia_kit.inference.certificates import make_certificates
from primia_kit.inference.model_file import save_compiled
from primia_kit.models.small_cnn import small_cnn

from .party_processes import PATIENCE, House, Kill

OPERATIONS = 17  # of the small CNN's program
STORE, MESSAGES, PARTIES = "inference.store", "inference.parties.messages:send", "inference.parties"
PROMPT = 45.0  # seconds in which a survivor has noticed on a busy machine; less than any time-out
GONE = "has gone|has stopped|doesn't answer"


def around(place, number=1, argument=None):
    return [Kill(place, when, number, argument) for when in ("before", "after")]


def operations(party):
    """Before the first operation, and after each, which is before the next."""
    place = f"mpc.{party}:_Inference._compute"
    return [Kill(place, "before"), *(Kill(place, "after", number) for number in range(1, OPERATIONS + 1))]


def parameters(kills, fast):
    """The kills, those in `fast` in every run of the tests, the others in the slow ones."""
    return [pytest.param(kill, id=str(kill), marks=() if kill in fast else pytest.mark.slow) for kill in kills]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return small_cnn(3).eval(), torch.randn(4, 1, 28, 28)


@pytest.fixture(scope="module")
def house(network, tmp_path_factory):
    net, images = network
    compiled = compile_private(net, images)
    assert len(compiled.program.ops) == OPERATIONS
    house = House(tmp_path_factory.mktemp("house"))
    make_certificates(house.folder / "certificates", ["provider", "model", "data"])
    save_compiled(house.folder / "model.npz", compiled.program, compiled.weights)
    np.save(house.folder / "image.npy", images[0].numpy())
    house.start("provider")
    house.start("model")
    yield house
    house.close()
    said = [line for role in ("provider", "model", "data") for line in (house.folder / f"{role}.log").read_text().splitlines()]
    assert not [line for line in said if "defect" in line or "Traceback" in line], said


@pytest.fixture
def asks(house, network):
    """One inference from beginning to end, over a session of its own, compared with the network's answer."""
    net, images = network

    def ask():
        with house.session() as session, torch.no_grad():
            answer = session.infer(images[0].numpy())
            assert np.allclose(answer.reshape(-1), net(images[:1]).numpy().reshape(-1), atol=5e-3)

    return ask


def stocked(house):
    """Have one inference dealt, and both halves fetched. Returns: its id, and what each party has for it, to look for."""
    with house.session() as session:
        for id in session._store.ready():
            session._store.discard(id)
        session.stock(1)
        (id,) = house.ids("data", "ready")
        until(lambda: id in house.ids("model", "ready"))
    seed, material = house.material("data", id), house.material("model", id)
    assert house.holds(seed) and house.holds(material[:32]) and house.holds(material[32:96])
    return id, (seed, material[:32], material[32:96])


def until(holds, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.01)


def one_sentence(error) -> str:
    text = str(error)
    assert "\n" not in text and text.rstrip().endswith((".", "?")) and "Error" not in text, text
    return text


def check_stores(house):
    """Nobody can use an id again, whichever of the two asks; and each half left the provider once."""
    used = {role: house.ids(role, "used") for role in ("model", "data", "provider")}  # whoever is last in line first
    ready = {role: house.ids(role, "ready") for role in used}
    for role, ids in used.items():
        assert not ids & ready[role], role
        place = house.folder / role / ("dealt" if role == "model" else "seeds") / "used"
        # A service at work may be between the steps of `take`: what a kill has left would stay.
        until(lambda place=place: not any(path.stat().st_size for path in place.iterdir()), PROMPT)
    assert used["model"] <= used["data"], "the model owner has begun what the data owner could begin again"
    assert used["model"] <= used["provider"], "the provider could deal a half twice"
    fetched = house.ids("model", "ready")
    assert fetched <= house.ids("provider", "used"), "the provider could deal a half twice"


def check_refused(house, id):
    """By the data owner itself; and by the model owner, if it had begun, to a data owner whose disk was set back."""
    with house.session() as session:
        assert bytes.fromhex(id) not in session._store.ready()
        session._common = lambda batch: id
        with pytest.raises(KitError, match=f"{id} was used before"):
            session.prepare()
    if id in house.ids("model", "used"):
        with house.session() as session:
            session._common, session._store.take = lambda batch: id, lambda taken: ({}, bytes(32))
            with pytest.raises(KitError, match=f"The id {id} was used before"):
                session.prepare()


def check_after(house, asks, begun, secrets):
    """What holds once the killed one runs again; a data owner does so here."""
    house.session().close()
    check_stores(house)
    if begun in house.ids("data", "used"):
        check_refused(house, begun)
        assert not house.holds(secrets[0])
    if begun in house.ids("model", "used"):
        assert not [secret for secret in secrets if house.holds(secret)]
    asks()
    check_stores(house)


# -- the data owner

DATA = [
    *around(f"{STORE}:Store.take"),
    Kill(f"{STORE}:wipe", "before"),  # the id is used, its seed still there
    *around(MESSAGES, argument="prepare"),
    *around("mpc:DataOwner.prepare"),
    *around(MESSAGES, argument="start"),
    *operations("data_owner"),
]
DATA_FAST = [DATA[2], DATA[4], DATA[-9]]


@pytest.mark.parametrize("kill", parameters(DATA, DATA_FAST))
def test_a_data_owner_killed_in_an_inference(house, asks, kill):
    id, secrets = stocked(house)
    model = house.parties["model"]
    told = len(model.lines)
    assert house.ask("--image", house.folder / "image.npy", kill=kill).ended() == -signal.SIGKILL
    if id in house.ids("model", "used"):
        until(lambda: len(model.lines) > told, PROMPT)
        (sentence,) = model.lines[told:]
        assert "data owner" in one_sentence(sentence)
    check_after(house, asks, id, secrets)


LEARNING = [kill for number in (1, 2, 3) for kill in around(f"{PARTIES}.data:write_private", number)]
STOCKING = [*around(MESSAGES, argument="deal"), *around(f"{STORE}:Store.put"), *around(f"{STORE}:Store.put", 2)]


@pytest.mark.parametrize("kill", parameters([*LEARNING, *STOCKING], [STOCKING[1], STOCKING[3]]))
def test_a_data_owner_killed_while_it_learns_the_program_or_stocks(house, asks, kill):
    """What is half written counts as not there; of seeds that came, some may be lost, and others are dealt."""
    if kill in LEARNING:
        (place,) = (house.folder / "data/models").iterdir() if (house.folder / "data/models").exists() else [None]
        for name in ("program.json", "delta", "digest"):
            if place is not None:
                (place / name).unlink(missing_ok=True)
    assert house.ask("--stock", "2", kill=kill).ended() == -signal.SIGKILL
    house.session().close()
    check_stores(house)
    asks()
    check_stores(house)


# -- the model owner

MODEL = [
    *around(f"{STORE}:Store.take"),
    Kill(f"{STORE}:wipe", "before"),
    *around("mpc:ModelOwner.prepare"),
    *around(MESSAGES, argument="prepared"),
    *around(f"{PARTIES}.budget:QueryBudget.spend"),
    *operations("model_owner"),
    *around(MESSAGES, argument="done"),
]
MODEL_FAST = [MODEL[2], MODEL[8], MODEL[-9]]


@pytest.fixture
def restarts(house):
    """A service that is to be killed, in place of the one that runs; and one that isn't, afterwards."""

    def restart(role, kill=None):
        house.parties[role].stop()
        return house.start(role, kill)

    yield restart
    for role in ("provider", "model"):
        if house.parties[role].process.exitcode is not None:
            house.start(role)


@pytest.mark.parametrize("kill", parameters(MODEL, MODEL_FAST))
def test_a_model_owner_killed_in_an_inference(house, asks, restarts, kill):
    id, secrets = stocked(house)
    victim, error = restarts("model", kill), None
    with house.session() as session:
        start = time.monotonic()
        try:
            session.infer(np.zeros((1, 28, 28)))
        except KitError as found:
            error = found
        assert time.monotonic() - start < PROMPT
        assert victim.ended() == -signal.SIGKILL
        if error is None:  # it had sent all that it had to
            assert kill == MODEL[-1]
        else:
            assert "The model owner has" in one_sentence(error) and not session.open
    house.start("model")
    assert id in house.ids("data", "used")
    check_after(house, asks, id, secrets)


FETCHING = [*around(MESSAGES, argument="fetch"), *around(f"{STORE}:Store.put"), Kill(f"{STORE}:sync_folder", "before")]


@pytest.mark.parametrize("kill", parameters(FETCHING, [FETCHING[2]]))
def test_a_model_owner_killed_while_it_fetches(house, asks, restarts, kill):
    provider = house.parties["provider"]
    told = len(provider.lines)
    victim = restarts("model", kill)
    try:
        with house.session() as session:
            session.stock(1)
            victim.ended()
    except KitError as error:
        assert "The model owner" in one_sentence(error)
    assert victim.ended() == -signal.SIGKILL
    assert all(one_sentence(line) for line in provider.lines[told:])
    house.start("model")
    check_stores(house)
    asks()
    check_stores(house)


# -- the provider

DEALING = [*around(f"{STORE}:Store.put"), *around(MESSAGES, argument="dealt")]
DELIVERING = [
    *around(f"{STORE}:Store.take"),
    Kill(f"{STORE}:wipe", "before"),
    *around("mpc:Provider.deal"),
    *around(MESSAGES, argument="material"),
    Kill(f"{PARTIES}.channel:Channel.send_bytes", "after"),
]


@pytest.mark.parametrize("kill", parameters([*DEALING, *DELIVERING], [DEALING[1], DELIVERING[5]]))
def test_a_provider_killed_while_it_deals(house, asks, restarts, kill):
    """At once or by the time that the model owner's half is missing, the data owner hears who has gone."""
    with house.session() as session:
        for id in session._store.ready():
            session._store.discard(id)
    model, victim = house.parties["model"], restarts("provider", kill)
    told, start = len(model.lines), time.monotonic()
    try:
        with house.session() as session:
            session.infer(np.zeros((1, 28, 28)))
        assert kill == DELIVERING[-1]  # both halves had arrived
    except KitError as error:
        assert "The crypto provider" in one_sentence(error)
    assert time.monotonic() - start < 2 * PROMPT
    assert victim.ended() == -signal.SIGKILL
    until(lambda: len(model.lines) > told, PROMPT)
    assert all(one_sentence(line) for line in model.lines[told:])
    house.start("provider")
    asks()
    check_stores(house)


LAYERS = [pytest.param(n, marks=() if n == 9 else pytest.mark.slow) for n in range(1, OPERATIONS + 1)]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_provider_killed_in_an_inference_is_not_missed(house, asks, network, layer):
    net, images = network
    id, secrets = stocked(house)
    with house.session() as session, torch.no_grad():
        inference = session.run(images[1].numpy())
        for event in inference:
            if event.index == layer:
                house.parties["provider"].kill()
        assert np.allclose(inference.answer.reshape(-1), net(images[1:2]).numpy().reshape(-1), atol=5e-3)
        with pytest.raises(KitError, match=rf"The crypto provider ({GONE})"):
            session.stock(1)
    house.start("provider")
    check_after(house, asks, id, secrets)


# -- at the beginning


@pytest.mark.parametrize("kill", around(f"{PARTIES}.model:write_private") + around(MESSAGES, argument="register"), ids=str)
@pytest.mark.slow
def test_a_model_owner_killed_while_it_makes_its_mask(house, tmp_path, kill):
    """Other weights want another mask: whoever dies with the old or the new one half written starts again."""
    other = House(tmp_path)
    for name in ("certificates", "model.npz", "image.npy"):
        (tmp_path / name).symlink_to(house.folder / name)
    try:
        other.start("provider")
        assert other.start("model", kill).ended() == -signal.SIGKILL
        other.start("model")
        assert other.ask("--image", tmp_path / "image.npy").ended() == 0
        assert not list((tmp_path / "model").glob(".*"))
    finally:
        other.close()
