"""The command `primia compile`: a trained model and some films become the file that `primia party model` serves."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .errors import KitError

FEW = 8  # films that say too little of how large values get
_HELP = """\
Compile a trained model for encrypted inference: the file that `primia party model`
serves. MODEL.pt is what `TrainedModel.save` wrote (model.save("model.pt")).

  primia compile model.pt films/ -o model.npz
  primia compile model.pt --synthetic -o model.npz          a model of synthetic films
  primia compile model.pt films/ -o model.npz --reveal label

Under encryption there are whole numbers only, and each layer's range is measured
on calibration films: some dozens that are like those to come, from the model
owner's own training films. They need no labels; nothing of a film is kept but how
large each layer's values got. A value beyond its range would give a wrong answer
that nobody notices, so the table shows the headroom: how many times larger than in
calibration a value may be.

FILE holds the public program, which data owners will get, and the weights: it's for
the model owner alone (mode 0600). Tell data owners the program's SHA-256, over a
way that they trust; with --expect they refuse any other.
"""


def add_command(commands, plain) -> None:
    """Add `compile` to the command line's subparsers; `plain` is their formatter."""
    command = commands.add_parser(
        "compile", help="a trained model for encrypted inference", description=_HELP, formatter_class=plain
    )
    command.add_argument("model", type=Path, metavar="MODEL.pt")
    command.add_argument("films", type=Path, nargs="?", metavar="CALIBRATION_FOLDER", help="films, at any depth")
    command.add_argument("--synthetic", action="store_true", help="synthetic films instead of a folder")
    command.add_argument("-o", dest="output", required=True, type=Path, metavar="FILE", help="the compiled model")
    command.add_argument("--images", type=int, default=64, metavar="N", help="films to calibrate on, at most (64)")
    command.add_argument(
        "--reveal",
        choices=("logits", "probabilities", "label"),
        default="logits",
        help="what a data owner learns of an answer; label is least (logits)",
    )
    command.set_defaults(command=_compile)


def _compile(options: argparse.Namespace) -> int:
    if (options.films is None) != options.synthetic:
        raise KitError("Name a folder of films to calibrate on, or --synthetic; one of the two.")
    if options.images < 1:
        raise KitError(f"--images is {options.images}: calibration takes one film at least, and some dozens for good.")
    if options.films and not options.films.exists():
        raise KitError(f"There is no {options.films} to calibrate on.")
    from .inference import compile_private
    from .inference.model_file import save_compiled
    from .models.trained import load_model

    model = load_model(options.model)
    films, refused = calibration_films(_paths(options.films), model.spec.size, model.spec.geometry, options.images)
    if not len(films):
        first = f": {refused[0]}" if refused else "."
        raise KitError(f"{options.films} holds no film that can be read{first}")
    compiled = compile_private(model, films, reveal=options.reveal)
    save_compiled(options.output, compiled.program, compiled.weights)
    print(compiled)
    print(f"\nCalibrated on {len(films)} {'synthetic ' if options.synthetic else ''}film(s).")
    if refused:
        print(f"{len(refused)} file(s) were left out, the first: {refused[0]}")
    if len(films) < FEW:
        print(f"Fewer than {FEW} films say little of how large values get: a film unlike them may be answered wrongly.")
    print(f"Written: {options.output}. Serve it with: primia party model --model {options.output} …")
    print(f"Program {compiled.program.sha256}: tell it to the data owners (--expect).")
    print(f"Their films become square as in training: --geometry {model.spec.geometry}")
    return 0


def _paths(folder: Path | None) -> list[Path]:
    """Files that may be films: below a folder, or synthetic training films."""
    if folder is None:
        from .data import synthetic_hospitals
        from .progress import Progress

        manifest = synthetic_hospitals(patients=10, progress=Progress()).select(split="train")
        return [manifest.path_of(film) for film in manifest]
    from .data.discovery import files_below

    return files_below(folder) if folder.is_dir() else [folder]


def calibration_films(paths: Sequence[Path], size: int, geometry: str, count: int):
    """Up to `count` films out of files, spread over all of them.

    Returns: float32 tensor [n, 1, size, size] of pixels in [0, 1]; a sentence for each file met that is no film.
    """
    import numpy as np
    import torch

    from .data.images import read_film, resize
    from .seeds import numpy_generator

    films, refused = [], []
    for index in numpy_generator(0, "calibration films").permutation(len(paths)):
        if len(films) == count:
            break
        try:
            films.append(resize(read_film(paths[index]), size, geometry)[None])
        except KitError as error:
            refused.append(str(error))
    return torch.from_numpy(np.stack(films) if films else np.zeros((0, 1, size, size), np.float32)), refused
