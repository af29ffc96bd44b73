"""What the services ask of the protocol engine. They take it as an argument, the kit's own by default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ...mpc.program import Op, Program

OnOp = Callable[[Op, float, int, int, Any], None]


class Engine(Protocol):
    """The four names that a party may use: `primia_kit.mpc.engine` has them."""

    Provider: Callable[[Program, bytes], Any]  # (program, mask_seed): .deal(data_seed, model_seed, batch) -> uint8 array
    DataOwner: Callable[
        [Program, bytes], Any
    ]  # (program, delta): .prepare(seed, batch), .infer(prepared, images, channel, on_op)
    ModelOwner: Callable[[Program, Mapping[str, Any]], Any]  # (program, weights): .prepare(seed, dealt, batch), .infer(...)
    delta: Callable[[Program, Mapping[str, Any], bytes], Any]  # (program, weights, mask_seed) -> bytes for the data owner


def kit_engine() -> Engine:
    """Imported late: numba starts with it."""
    from ...mpc import engine

    return engine


def limit_of_messages(program: Program, batch: int) -> int:
    """No message of the engine is larger than this: 16 bytes for each value of the largest operation, and some room."""
    return 16 * batch * max(op.size for op in program.ops) * 9 + (1 << 20)


def size_of_weights(program: Program) -> int:
    """Bytes of all private weights in words of 8: no delta is larger."""
    shapes = {op.name: op for op in program.ops}
    words = 0
    for op in program.ops:
        if op.kind in ("conv", "conv_transposed"):
            height, width = op.attributes["kernel"]
            words += height * width * op.shape[2] * shapes[op.inputs[0]].shape[2] // int(op.attributes["groups"])
    return 8 * words
