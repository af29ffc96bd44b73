"""`primia compile`: from a trained model's file to one that a model owner serves."""

import numpy as np
import pytest
import torch
from PIL import Image

from primia_kit.cli import main
from primia_kit.compile_command import calibration_films
from primia_kit.inference import compile_private
from primia_kit.inference.model_file import load_compiled
from primia_kit.models import ModelSpec, TrainedModel

SPEC = ModelSpec("small_cnn", ("normal", "bacterial", "viral"), "batch", "max", 28, "stretch", 0.4, 0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and ten films among other files."""
    folder = tmp_path_factory.mktemp("compile")
    TrainedModel(SPEC, SPEC.build().state_dict()).save(folder / "model.pt")
    chance = np.random.default_rng(0)
    for number in range(10):
        place = folder / "films" / f"{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (40, 30), np.uint8)).save(place / f"{number}.png")
    (folder / "films/notes.txt").write_text("no film")
    return folder


def test_what_is_written_is_what_compile_private_makes(folder, tmp_path, capsys):
    target = tmp_path / "model.npz"
    assert main(["compile", str(folder / "model.pt"), str(folder / "films"), "-o", str(target), "--reveal", "label"]) == 0
    said = capsys.readouterr().out
    program, weights = load_compiled(target)
    films, refused = calibration_films(sorted((folder / "films").rglob("*.png")), 28, "stretch", 64)
    model = TrainedModel(SPEC, SPEC.build().state_dict())
    expected = compile_private(model, films, reveal="label")
    assert (len(films), refused) == (10, []) and program == expected.program
    assert all((weights[n][i] == expected.weights[n][i]).all() for n in expected.weights for i in (0, 1))
    assert program.classes == SPEC.classes and target.stat().st_mode & 0o777 == 0o600
    assert str(expected) in said and program.sha256 in said and "--geometry stretch" in said
    assert "Calibrated on 10 film(s)" in said and "1 file(s) were left out" in said and "notes.txt" in said


def test_films_are_drawn_from_all_and_not_more_than_asked(folder):
    paths = sorted((folder / "films").rglob("*.png"))
    some, _ = calibration_films(paths, 28, "stretch", 6)
    every, _ = calibration_films(paths, 28, "stretch", 64)
    again, _ = calibration_films(paths, 28, "stretch", 6)
    assert some.shape == (6, 1, 28, 28) and every.shape == (10, 1, 28, 28) and torch.equal(some, again)
    assert some.min() >= 0 and some.max() <= 1 and some.dtype == torch.float32


def test_few_films_are_said_to_be_few(folder, tmp_path, capsys):
    arguments = ["compile", str(folder / "model.pt"), str(folder / "films"), "-o", str(tmp_path / "m.npz"), "--images", "3"]
    assert main(arguments) == 0
    assert "Fewer than 8 films" in capsys.readouterr().out


def test_synthetic_films_calibrate(folder, hospitals, tmp_path, capsys):
    assert main(["compile", str(folder / "model.pt"), "--synthetic", "-o", str(tmp_path / "m.npz"), "--images", "12"]) == 0
    assert "12 synthetic film(s)" in capsys.readouterr().out and load_compiled(tmp_path / "m.npz")[0].classes == SPEC.classes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.pt", "-o", "x"], "Name a folder of films to calibrate on, or --synthetic"),
        (["model.pt", "films", "--synthetic", "-o", "x"], "one of the two"),
        (["model.pt", "films", "-o", "x", "--images", "0"], "--images is 0"),
        (["model.pt", "nowhere", "-o", "x"], "There is no nowhere"),
        (["films/notes.txt", "films", "-o", "x"], "is not a model saved by the kit"),
        (["model.pt", "films/notes.txt", "-o", "x"], "holds no film that can be read"),
        (["model.pt", "films", "-o", "model.pt/x"], "Can't write model.pt/x"),
    ],
)
def test_mistakes_are_sentences(arguments, words, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["compile", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and len(said.splitlines()) == 1
    assert not (folder / "x").exists()


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["compile", "--help"])
    text = capsys.readouterr().out
    assert "headroom" in text and "primia party model" in text and max(map(len, text.splitlines())) <= 100
