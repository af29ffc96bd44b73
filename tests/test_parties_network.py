"""Certificates and TLS, and what the network model says beside what was counted."""

import os
import threading
import time

import numpy as np
import pytest

from primia_kit.errors import KitError
from primia_kit.inference.certificates import Credentials, make_certificates
from primia_kit.inference.network_model import LAN, WAN, seconds_over
from primia_kit.inference.parties.events import LayerEvent
from primia_kit.inference.parties.teaching import TeachingSession, local_pair
from primia_kit.inference.parties.tls import Listener, address_of, connect

from .party_rooms import DATA, MODEL


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("federation")
    make_certificates(folder, ["provider", "model", "data", "data:other"])
    return folder


def serve_echo(channel):
    with channel.allowing(data=1 << 26):
        while True:
            size = int.from_bytes(channel.receive(8), "big")
            body = channel.receive(size)
            channel.send(body)


@pytest.fixture
def echo(federation):
    told = []
    listener = Listener("127.0.0.1:0", Credentials(federation / "model", "model"), {"data"}, serve_echo, told.append, 3.0)
    listener.told = told
    yield listener
    listener.stop()


def test_tls_carries_large_messages_both_ways_at_once(echo, federation):
    channel = connect(echo.address, Credentials(federation / "data", "data"), "model", 10.0)
    assert channel._socket.version() == "TLSv1.3" and "GCM" in channel._socket.cipher()[0]
    assert channel.peer.role == "model" and channel.peer.name == "model"
    body = os.urandom(8 << 20)
    with channel.allowing(data=1 << 26):
        for _ in range(3):
            channel.send(len(body).to_bytes(8, "big"))
            channel.send(body)
            assert channel.receive(len(body)) == body
    channel.close()


def test_two_parties_that_both_send_first_dont_wait_for_each_other():
    left, right_end = local_pair(DATA, MODEL, 10.0)
    body = os.urandom(16 << 20)  # far more than sockets hold

    def other():
        with right_end.allowing(data=1 << 26):
            right_end.send(body)
            assert right_end.receive(len(body)) == body

    thread = threading.Thread(target=other)
    thread.start()
    with left.allowing(data=1 << 26):
        left.send(body)
        assert left.receive(len(body)) == body
    thread.join(10)
    assert not thread.is_alive()


def test_roles_authorities_and_open_keys_are_checked(echo, federation, tmp_path):
    with pytest.raises(KitError, match="shows the certificate of the model owner; here a crypto provider is wanted"):
        connect(echo.address, Credentials(federation / "data", "data"), "provider", 2.0)
    channel = connect(echo.address, Credentials(federation / "provider", "provider"), "model", 2.0)
    with pytest.raises(KitError, match="model owner"), channel.allowing(data=100):
        channel.receive(1)
    make_certificates(tmp_path, ["data", "model"])  # another federation
    with pytest.raises(KitError, match="no party of this federation"):
        connect(echo.address, Credentials(tmp_path / "data", "data"), "model", 2.0)
    (tmp_path / "data" / "ca.pem").write_bytes((federation / "ca.pem").read_bytes())  # it trusts us; we don't trust it
    channel = connect(echo.address, Credentials(tmp_path / "data", "data"), "model", 2.0)
    with pytest.raises(KitError, match="model owner"), channel.allowing(data=100):
        channel.receive(1)
    with pytest.raises(KitError, match="is of the data owner, not of a crypto provider"):
        Credentials(federation / "data", "provider")
    key = federation / "data:other".replace("data:", "") / "key.pem"
    assert key.stat().st_mode & 0o777 == 0o600 and (federation / "ca.key").stat().st_mode & 0o777 == 0o600
    key.chmod(0o644)
    with pytest.raises(KitError, match="can be read by others"):
        Credentials(key.parent, "data")
    key.chmod(0o600)
    time.sleep(0.2)
    assert len(echo.told) >= 3, echo.told


@pytest.mark.parametrize(
    ("party", "words"), [("doctor", "a party is one of"), ("data:../x", "letters"), ("data", "name of its own")]
)
def test_certificates_of_odd_parties_are_refused(federation, party, words):
    with pytest.raises(KitError, match=words):
        make_certificates(federation, [party])


@pytest.mark.parametrize("text", ["", "host", "host:", ":7", "host:x", "host:70000"])
def test_odd_addresses(text):
    with pytest.raises(KitError, match="HOST:PORT"):
        address_of(text)
    assert address_of("[::1]:7") == ("::1", 7)


# -- the network model


def test_seconds_over_a_network():
    event = LayerEvent(1, 1, "a", "relu", (1, 1, 1), 0.5, 1_000_000, 3_000_000, 4, None)
    assert seconds_over(LAN, [event, event]) == pytest.approx(2 * (0.5 + 4 * 0.5e-3 + 24e6 / 1e9))
    assert seconds_over(WAN, [event]) == pytest.approx(0.5 + 0.16 + 0.24)


def test_exchanges_that_were_counted_are_those_that_the_protocol_foresees():
    """The messages' own clock, against the dialogue that both parties work out from the program; with the kit's engine."""
    import torch
    from torch import nn

    from primia_kit.inference import compile_private
    from primia_kit.mpc import Dialogue

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3))
    images = torch.randn(4, 1, 8, 8)
    compiled = compile_private(net, images)
    with TeachingSession(compiled.program, compiled.weights) as lesson:
        run = lesson.run(images.numpy())
        events = [event.data_owner for event in run]
        assert np.allclose(run.answer.reshape(4, 3), net(images).detach(), atol=5e-3)
    foreseen = Dialogue(compiled.program, 4)
    assert sum(event.exchanges for event in events) == foreseen.exchanges
    sizes = [sum(13 + size for size in sizes) for sizes in foreseen.messages]  # with the frames' headers
    assert [sum(event.sent for event in events), sum(event.received for event in events)] == sizes
