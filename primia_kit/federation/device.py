"""Where a site computes, and in which precision: no part of the plan, since neither changes what is computed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from ..errors import KitError, nearest

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Device:
    """A place to compute.

    kind: "cpu", "cuda", "cuda:1", "mps". precision: of convolutions and products, a name in PRECISIONS; weights,
    gradients, optimizer and everything that a site sends are float32 all the same (mixed precision).
    """

    kind: str = "cpu"
    precision: str = "float32"

    def autocast(self) -> AbstractContextManager:
        low = PRECISIONS[self.precision]
        return nullcontext() if low is None else torch.autocast(self.kind.split(":")[0], dtype=low)

    def widened(self, logits: torch.Tensor) -> torch.Tensor:
        """The network's answers in the precision that losses are formed in."""
        return logits if self.precision == "float32" else logits.float()

    def scaler(self, scale: float | None = None) -> torch.amp.GradScaler | None:
        """fp16's gradients underflow unless the loss is scaled up, by `scale` at first; bf16 has float32's range."""
        return torch.amp.GradScaler(self.kind.split(":")[0], init_scale=scale or 2.0**16) if self.precision == "fp16" else None

    def generators(self) -> list[int]:
        """The accelerators whose generator dropout draws from, as `torch.random.fork_rng` wants them."""
        return [torch.device(self.kind).index or 0] if self.kind.startswith("cuda") else []


CPU = Device()


def choose_device(device: str = "auto", precision: str = "auto") -> Device:
    """The device to train on.

    Args:
        device: "cpu", "cuda", "cuda:N" or "mps"; "auto" takes a GPU if torch sees one.
        precision: "float32", "bf16" or "fp16"; "auto" is bf16 on a CUDA GPU that has it, fp16 on an older one,
            and float32 elsewhere.

    On a CPU the same plan gives the same result to the bit, at the same number of threads. A GPU adds up in an order
    of its own: there a run, resumed or repeated, is equal up to rounding.

    Raises: KitError for an unknown name, or a device that torch doesn't see.
    """
    if precision not in ("auto", *PRECISIONS):
        raise KitError(f"precision is {precision!r}{nearest(str(precision), PRECISIONS)}; it's auto, {', '.join(PRECISIONS)}.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = str(device).partition(":")
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind not in counts or not (number or "0").isdecimal() or str(device).endswith(":"):
        raise KitError(f"device is {device!r}{nearest(kind, counts)}; it's auto, cpu, cuda, cuda:N or mps.")
    if int(number or 0) >= counts[kind]:
        raise KitError(f'device is {device!r}, and torch sees {counts[kind] or "no"} such device(s) here: use device="auto".')
    if precision == "auto":
        precision = ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if kind == "cuda" else "float32"
    return Device(device, precision)
