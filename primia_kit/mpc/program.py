"""What all parties of an encrypted inference agree on: the operations in their order, with shapes and fixed-point formats.

A program holds no weight. It's public: it shows architecture, shapes and each layer's precision, hence roughly the range
that it was calibrated to.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import KitError

# kind -> (inputs, attributes). Shapes are of one image, (H, W, C); a batch is a leading axis of every array.
# Every value is shared additively modulo 2^k, data owner + model owner. It's *masked* if the data owner's share x_0
# is what its seed gives, so that the provider knows x_0 too and the model owner holds x - x_0: `input` and `mask`
# make masked values, and what is public and linear (`LINEAR`) keeps them so. All others are merely *shared*.
KINDS: dict[str, tuple[int | None, frozenset[str]]] = {
    "input": (0, frozenset()),
    "mask": (1, frozenset()),  # shared -> masked: the data owner sends y_0 - x_0
    # masked -> shared, with the model owner's private weights and bias. A linear layer is a 1 x 1 convolution of a value
    # of shape (1, 1, C). weight_bits is the weights' number of fraction bits; the output has the input's more.
    "conv": (1, frozenset({"kernel", "stride", "padding", "dilation", "groups", "weight_bits"})),
    "conv_transposed": (1, frozenset({"kernel", "stride", "padding", "output_padding", "dilation", "groups", "weight_bits"})),
    # Comparisons; the value after dropping `shift` fraction bits lies within ±2^20 (22-bit window with two guard bits).
    "truncate": (1, frozenset({"shift"})),
    "relu": (1, frozenset({"shift"})),
    "relu6": (1, frozenset({"shift"})),  # clipped at 6 * 2^fraction_bits
    "max_pool": (1, frozenset({"kernel", "stride", "padding"})),  # padding counts as the smallest value; separable
    # Public and linear.
    "sum_pool": (1, frozenset({"kernel", "stride", "padding"})),  # sum over windows, padding is zero
    "multiply": (1, frozenset({"factor", "bits"})),  # by factor / 2^bits, a whole public factor: adds `bits` fraction bits
    "add": (None, frozenset({"shifts"})),  # each input is shifted left by its shift (a list), to equal fraction bits
    "concat": (None, frozenset({"shifts"})),  # along channels
    "reshape": (1, frozenset()),  # row-major over (H, W, C)
    "upsample_nearest": (1, frozenset({"scale"})),
    # rows [OH][H] and columns [OW][W]: whole numbers, each interpolation weight times 2^(bits / 2); adds `bits`.
    "upsample_linear": (1, frozenset({"rows", "columns", "bits"})),
    # Opened to the data owner alone. reveal: "logits"; "probabilities" (the logits plus one random number that nobody
    # knows, the same for all channels: what a softmax tells, no more); "label" (the channel of the largest value at
    # each pixel, by comparisons, the lowest channel among equals).
    "output": (1, frozenset({"reveal"})),
}
LINEAR = frozenset({"sum_pool", "multiply", "add", "concat", "reshape", "upsample_nearest", "upsample_linear"})
PRIVATE = frozenset({"conv", "conv_transposed"})  # have weights
REVEALS = ("logits", "probabilities", "label")


@dataclass(frozen=True)
class Op:
    """One operation and the value that it makes.

    name: unique in the program; of a traced layer its path, e.g. "layer1.0.conv1"
    kind: of `KINDS`
    inputs: names of operations before this one
    shape: (H, W, C) of the value
    fraction_bits: the value is an integer over 2^fraction_bits
    attributes: as `KINDS` says; pairs are [height, width] lists, so that JSON gives them back as they were
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, int, int]
    fraction_bits: int
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Values of one image."""
        height, width, channels = self.shape
        return height * width * channels


@dataclass(frozen=True)
class Program:
    """Operations in an order in which they can be computed; the first is the input, the last the output.

    bits: k, of the ring Z_2^k that shares are in, from 23 to 52
    classes: what the output's channels stand for
    pixel_mean, pixel_std: the data owner encodes (pixel - pixel_mean) / pixel_std, in clear and before any padding
    """

    bits: int
    ops: tuple[Op, ...]
    classes: tuple[str, ...] = ()
    pixel_mean: float = 0.0
    pixel_std: float = 1.0

    def __post_init__(self):
        """Checks that a peer's program can be run: names, kinds, attributes, masked inputs. Raises KitError."""
        check(self)

    @property
    def masked(self) -> frozenset[str]:
        """Names of the masked values."""
        found: set[str] = set()
        for op in self.ops:
            if op.kind in ("input", "mask") or (op.kind in LINEAR and all(name in found for name in op.inputs)):
                found.add(op.name)
        return frozenset(found)

    @property
    def sha256(self) -> str:
        """Of the canonical JSON: parties compare it before anything else."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Program:
        """Raises: KitError if the text is no program."""
        try:
            raw = json.loads(text, parse_constant=_no_constant)
            ops = tuple(Op(**{**op, "inputs": tuple(op["inputs"]), "shape": tuple(op["shape"])}) for op in raw["ops"])
            return cls(raw["bits"], ops, tuple(raw["classes"]), float(raw["pixel_mean"]), float(raw["pixel_std"]))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise KitError(f"This is no program of an encrypted inference: {error}.") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def check(program: Program) -> None:
    """Raises KitError for a program that no party should begin to run."""
    if not 23 <= program.bits <= 52:
        raise KitError(f"A program's ring has 23 to 52 bits, not {program.bits}.")
    if not (math.isfinite(program.pixel_mean) and 0 < program.pixel_std < math.inf):
        raise KitError(f"Pixels can't be normalised by mean {program.pixel_mean} and deviation {program.pixel_std}.")
    if not program.ops or program.ops[0].kind != "input" or program.ops[-1].kind != "output":
        raise KitError("A program begins with its input and ends with its output.")
    for op in program.ops:
        if not (isinstance(op.name, str) and op.name):  # each operation's masks are expanded for its name
            raise KitError(f"Operations are named by non-empty strings, not {op.name!r}.")
    masked, seen = program.masked, {}
    for op in program.ops:
        if op.kind not in KINDS:
            raise KitError(f"{op.name}: unknown operation {op.kind!r}.")
        count, attributes = KINDS[op.kind]
        if op.name in seen or any(name not in seen for name in op.inputs):
            raise KitError(f"{op.name}: names must be unique, and inputs ({', '.join(op.inputs)}) come before.")
        if (count is not None and len(op.inputs) != count) or (count is None and not op.inputs):
            raise KitError(f"{op.name}: a {op.kind} has {count or 'at least one'} input(s), not {len(op.inputs)}.")
        if set(op.attributes) != attributes:
            raise KitError(f"{op.name}: a {op.kind} is described by {sorted(attributes)}, not {sorted(op.attributes)}.")
        if op.kind in PRIVATE and op.inputs[0] not in masked:
            raise KitError(f"{op.name}: private weights multiply masked values; put a mask before it.")
        if op.kind == "mask" and op.inputs[0] in masked:
            raise KitError(f"{op.name}: {op.inputs[0]} is masked already.")
        if (op is not program.ops[0] and op.kind == "input") or (op is not program.ops[-1] and op.kind == "output"):
            raise KitError(f"{op.name}: one {op.kind} is what a program has.")
        seen[op.name] = op
