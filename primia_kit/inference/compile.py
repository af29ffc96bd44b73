"""A torch network -> a public program for encrypted inference, and the weights that its owner keeps.

trace        operators as torch.fx records them                            `tracing`, `operators`
fold         BatchNorm, paddings, divisors; activations after max pools    `folding`
calibrate    how large values get, on images that the model owner has      `calibration`
lower        fixed-point formats, truncations and masks                    `lowering`, `formats`
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import KitError, nearest
from ..models.trained import TrainedModel
from ..mpc.comparison import WINDOW
from ..mpc.costs import costs, total
from ..mpc.program import REVEALS, Op, Program
from .calibration import Range, calibrate
from .folding import fold
from .formats import Formats
from .lowering import Lowering, Weights
from .tracing import trace


@dataclass(frozen=True)
class CompiledModel:
    """A model in the form that encrypted inference runs.

    program: public
    weights: op name -> (int64 weights, int64 bias at the output's fraction bits); the model owner's secret
    headroom: op name -> how many times the largest calibrated value fits the operation's window
    """

    program: Program
    weights: Weights
    headroom: Mapping[str, float]

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"CompiledModel({len(self.program.ops)} operations, ring of {self.program.bits} bits)"

    def table(self) -> str:
        """Layer by layer: shape, fraction bits of values and weights, what it costs online for one image, and headroom."""
        rows = [("layer", "operation", "shape", "bits", "comparisons", "B to model", "B to data", "exchanges", "headroom")]
        parts = costs(self.program)
        for op, cost in zip(self.program.ops, parts):
            weight_bits = op.attributes.get("weight_bits")
            bits = f"{op.fraction_bits}" + ("" if weight_bits is None else f" ({weight_bits})")
            room = self.headroom.get(op.name)
            counts = (cost.comparisons, cost.to_model, cost.to_data, cost.exchanges)
            rows.append(
                (op.name, op.kind, "×".join(map(str, op.shape)), bits, *(f"{n:,}" if n else "" for n in counts),
                 "" if room is None else f"{room:.3g}×")
            )  # fmt: skip
        whole = total(parts)
        counts = (whole.comparisons, whole.to_model, whole.to_data, whole.exchanges)
        least = f"{min(self.headroom.values()):.3g}×" if self.headroom else ""
        rows.append(("total", f"ring of {self.program.bits} bits", "", "", *(f"{n:,}" for n in counts), least))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        aligned = [
            "  ".join(cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))).rstrip()
            for row in rows
        ]
        rule = "─" * len(aligned[0])
        return "\n".join([aligned[0], rule, *aligned[1:-1], rule, aligned[-1]])


def compile_private(
    model: nn.Module | TrainedModel,
    calibration_images: torch.Tensor,
    *,
    reveal: str = "logits",
    classes: Sequence[str] = (),
    margin: float = 2.0,
    precision: int = 13,
    split: int = 4,
) -> CompiledModel:
    """Compile a network for encrypted inference.

    Args:
        model: a network, or a `TrainedModel`, whose classes and pixel normalisation the program then holds.
        calibration_images: float [N, C, H, W], the images whose values decide the formats: like those to come, and a few
            dozen. A network gets them as they are; for a `TrainedModel` they are pixels in [0, 1].
        reveal: what the data owner learns: "logits", "probabilities" or "label".
        classes: names of the answer's channels.
        margin: how many times larger than in calibration a value may be; a larger one gives a wrong answer in silence.
        precision: fraction bits of values at most; fewer where they are large.
        split: a layer whose largest weight leaves the others that many bits fewer than are useful becomes two convolutions:
            more accurate, and more to deal and to compute.

    Raises: KitError that names the layer which encrypted inference can't carry, or whose values fit no format, and says
        what to do.
    """
    if reveal not in REVEALS:
        raise KitError(f"reveal is {reveal!r}{nearest(reveal, REVEALS)}: choose {', '.join(REVEALS)}.")
    if not isinstance(calibration_images, torch.Tensor) or calibration_images.ndim != 4 or not len(calibration_images):
        raise KitError("calibration_images is a tensor [N, C, H, W] with at least one image.")
    formats = Formats(margin, precision)
    images, pixels = calibration_images.detach().float().cpu(), {}
    network = model
    if isinstance(model, TrainedModel):
        network, classes = model.network(), tuple(classes) or model.spec.classes
        images = model.spec.normalise(images)
        pixels = {"pixel_mean": float(model.spec.pixel_mean), "pixel_std": float(model.spec.pixel_std)}
    network = copy.deepcopy(network).cpu().float().eval()
    layers = trace(network, images[:2])
    channels = layers.last.shape[2]
    if classes and len(classes) != channels:
        raise KitError(f"{len(classes)} classes are named, but the network answers with {channels} channels.")
    fold(layers)
    ranges, answers = calibrate(layers, images)
    _check_equal(network, images[:2], answers[:2])
    lowering = Lowering(layers, ranges, formats, reveal, split)
    program = lowering.program(tuple(classes), **pixels)
    return CompiledModel(program, lowering.weights, _headroom(program, lowering.layer_of, ranges))


def _check_equal(network: nn.Module, images: torch.Tensor, answers: torch.Tensor) -> None:
    """The layers as they were read and folded answer what the network answers."""
    with torch.no_grad():
        expected = network(images)
    if not torch.allclose(answers.reshape(expected.shape), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item()):
        raise KitError(
            f"{type(network).__name__}'s forward computes something else than the operators that torch.fx recorded: does it "
            "write to a value in place that is read again, or draw random numbers?"
        )


def _headroom(program: Program, layer_of: Mapping[str, str], ranges: Mapping[str, Range]) -> dict[str, float]:
    by_name, found = {op.name: op for op in program.ops}, {}
    for op in program.ops:
        limit = _limit(op, program.bits)
        if limit is not None:
            largest = ranges[layer_of[op.inputs[0]]].largest
            found[op.name] = limit / 2 ** by_name[op.inputs[0]].fraction_bits / largest if largest else float("inf")
    return found


def _limit(op: Op, ring: int) -> float | None:
    """What the values that an operation reads, as integers, have to stay below."""
    window = 2 ** (WINDOW - 2 + op.attributes.get("shift", 0))
    if op.kind in ("truncate", "relu"):
        return window
    if op.kind == "relu6":
        return window - (6 << op.fraction_bits + op.attributes["shift"])
    if op.kind == "max_pool":
        return window / 2
    if op.kind == "output":
        return {"logits": 2 ** (ring - 1), "probabilities": 2 ** (ring - 2), "label": window / 2}[op.attributes["reveal"]]
    return None
