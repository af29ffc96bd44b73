"""The command line of the parties, and the three of them as processes."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from primia_kit.cli import main
from primia_kit.inference.certificates import make_certificates

from .conftest import ROOT


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("federation")
    make_certificates(folder, ["provider", "model", "data", "data:other"])
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data", "--connect-model", "localhost:1", "--cert", "CERT/data", "--store", "s"], "Name an --image"),
        (["data", "--connect-model", "localhost", "--cert", "CERT/data", "--store", "s", "--stock", "1"], "HOST:PORT"),
        (["data", "--connect-model", "localhost:1", "--cert", "CERT/data"], "Name either --connect-model and --store, or"),
        (["data", "--connect-server0", "localhost:1", "--cert", "CERT/data"], "Name either --connect-model and --store, or"),
        (
            ["server", "--index", "0", "--listen", "l:0", "--connect-provider", "h:1", "--cert", "CERT/data", "--store", "s"],
            "Server 0 connects to server 1",
        ),
        (["provider", "--listen", "localhost:0", "--cert", "CERT/data", "--store", "s"], "not of a crypto provider"),
        (["provider", "--listen", "localhost:0", "--cert", "nowhere", "--store", "s"], "primia certificates FOLDER provider"),
        (
            [
                "model",
                "--listen",
                "localhost:0",
                "--connect-provider",
                "h:1",
                "--cert",
                "CERT/model",
                "--store",
                "s",
                "--model",
                "m",
            ],
            "m can't be read",
        ),
    ],
)
def test_mistakes_on_the_command_line_are_sentences(arguments, words, federation, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["party", *(argument.replace("CERT", str(federation)) for argument in arguments)]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["certificates"],
        ["party"],
        ["party", "provider"],
        ["party", "model"],
        ["party", "data"],
        ["party", "server"],
        ["party", "share-model"],
    ],
)
def test_help_teaches(arguments, capsys):
    with pytest.raises(SystemExit):
        main([*arguments, "--help"])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100 and len(text) > 500


@pytest.fixture
def compiled_model(tmp_path):
    """A small network compiled to model.npz, and an image: network, program, images."""
    import torch
    from torch import nn

    from primia_kit.inference import compile_private
    from primia_kit.inference.model_file import save_compiled

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    images = torch.randn(4, 1, 12, 12)
    compiled = compile_private(net, images, classes=("normal", "bacterial", "viral"))
    save_compiled(tmp_path / "model.npz", compiled.program, compiled.weights)
    np.save(tmp_path / "image.npy", images[0].numpy())
    return compiled.program, net(images[:1]).detach().numpy()


@pytest.fixture
def processes(tmp_path):
    """(primia(*arguments) -> a command, start(*arguments) -> a service's address, options of a process)."""

    def primia(*arguments):
        return [sys.executable, "-m", "primia_kit.cli", *map(str, arguments)]

    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "text": True}
    running = []

    def start(*arguments):
        process = subprocess.Popen(primia("party", *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        running.append(process)
        for line in process.stdout:
            if found := re.search(r"listens at (\S+);", line):
                return found[1]
        raise AssertionError(f"{arguments[0]} has ended")

    yield primia, start, options
    for process in running:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def check_answer(ask, options, program, expected):
    done = subprocess.run(ask, capture_output=True, timeout=60, **options)
    assert done.returncode == 0, done.stderr
    found = [float(re.search(rf"{name} +(\S+)", done.stdout)[1]) for name in program.classes]
    assert np.allclose(found, expected, atol=5e-3)


def test_three_processes_and_an_answer(compiled_model, processes, tmp_path, monkeypatch, capsys):
    (program, expected), (primia, start, options) = compiled_model, processes
    monkeypatch.chdir(tmp_path)
    assert main(["certificates", "fed", "provider", "model", "data"]) == 0
    provider = start("provider", "--listen", "127.0.0.1:0", "--cert", "fed/provider", "--store", "p")
    model = start(
        *("model", "--listen", "127.0.0.1:0", "--connect-provider", provider, "--cert", "fed/model"),
        *("--store", "m", "--model", "model.npz", "--budget", "1"),
    )
    ask = primia(
        *("party", "data", "--connect-model", model, "--connect-provider", provider, "--cert", "fed/data"),
        *("--store", "d", "--image", "image.npy", "--expect", program.sha256),
    )
    check_answer(ask, options, program, expected)
    assert main(ask[3:]) == 2 and "query budget" in capsys.readouterr().err


def test_five_processes_and_an_answer_of_two_servers(compiled_model, processes, tmp_path, monkeypatch, capsys):
    (program, expected), (primia, start, options) = compiled_model, processes
    monkeypatch.chdir(tmp_path)
    assert main(["certificates", "fed", "provider", "model", "data", "server0", "server1"]) == 0
    provider = start("provider", "--listen", "127.0.0.1:0", "--cert", "fed/provider", "--store", "p")
    common = ("--listen", "127.0.0.1:0", "--connect-provider", provider, "--budget", "1")
    one = start("server", "--index", "1", *common, "--cert", "fed/server1", "--store", "s1")
    zero = start(
        *("server", "--index", "0", *common, "--cert", "fed/server0", "--store", "s0", "--connect-server1", one),
        *("--stock", "2"),
    )
    servers = ("--connect-server0", zero, "--connect-server1", one)
    ask = primia("party", "data", *servers, "--cert", "fed/data", "--image", "image.npy", "--expect", program.sha256)
    assert main(ask[3:]) == 2 and "No model has been shared" in capsys.readouterr().err
    share = ["party", "share-model", "--model", "model.npz", "--cert", "fed/model", "--connect-provider", provider, *servers]
    assert main([*share, "--pin-server1", "another"]) == 2 and "not 'another' as pinned" in capsys.readouterr().err
    pins = ["--pin-server0", "server0", "--pin-server1", "server1"]
    assert main([*share, *pins, "--pin-provider", "provider"]) == 0 and program.sha256 in capsys.readouterr().out
    assert main([*ask[3:], "--pin-server1", "another"]) == 2 and "not 'another' as pinned" in capsys.readouterr().err
    check_answer([*ask, *pins], options, program, expected)
    assert main(ask[3:]) == 2 and "query budget" in capsys.readouterr().err
    assert len(list((tmp_path / "s0/seeds/used").iterdir())) == len(list((tmp_path / "s1/dealt/used").iterdir())) == 1
