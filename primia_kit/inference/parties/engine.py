"""What the services ask of the protocol engine. They take it as an argument, `primia_kit.mpc` by default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ...mpc.layers import weight_shapes
from ...mpc.program import Program


class Engine(Protocol):
    """The names of `primia_kit.mpc` that parties use; servers of the outsourced mode take the kit's own."""

    Provider: Callable[..., Any]  # (program, mask_seed): .size(batch), .deal(data_seed, model_seed, batch, out)
    OutsourcedProvider: Callable[..., Any]  # likewise, where a model is outsourced
    DataOwner: Callable[..., Any]  # (program, delta): .prepare(seed, batch), .infer(prepared, images, channel, on_op)
    ModelOwner: Callable[..., Any]  # (program, weights): .prepare(seed, dealt, batch), .infer(prepared, channel, on_op)
    delta: Callable[..., bytes]  # (program, weights, mask_seed)


def kit_engine() -> Engine:
    from ... import mpc

    return mpc


def largest_message(owner: Any, batch: int) -> int:
    """Bytes of the largest message of an inference, with room for a `ThrottledChannel`'s clock."""
    return 64 + max(size for sizes in owner.dialogue(batch).messages for size in sizes)


def size_of_delta(program: Program) -> int:
    """Bytes that δ has at most: words of 8 bytes."""
    return sum(8 * first * second * height * width for first, second, height, width in weight_shapes(program).values())
