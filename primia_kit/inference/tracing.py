"""torch network -> layers: what `torch.fx` records of a network in evaluation, operator by operator.

Modules, functions and methods of one name share one reader, `_Reader.conv2d` and so on, with the arguments of torch's
function. The network is run on the way, so that a shape that `forward` computes with is a number here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from ..errors import KitError
from .layers import Layer, Layers
from .modules import INSTEAD, MODULES
from .operators import Operators, Unsupported

_CARRIED = (
    "Encrypted inference carries convolutions, linear layers, BatchNorm, ReLU, ReLU6, max and average pools, nearest and "
    "bilinear upsampling, sums, concatenations and flattening."
)
_SIZES = {"size", "dim", "getattr", "numel"}  # what may be asked of a value whose pixels are secret


def trace(network: nn.Module, images: torch.Tensor) -> Layers:
    """Read a network in evaluation mode.

    Args:
        images: float [n, C, H, W], what it takes; two or three are enough.

    Raises: KitError that names the layer which encrypted inference can't carry, and says what to use instead.
    """
    try:
        graph = fx.symbolic_trace(network)
    except Exception as error:  # tracing calls the network's own code, which may raise anything
        raise KitError(
            f"torch.fx can't trace {type(network).__name__}: {str(error).splitlines()[0] if str(error) else error!r} "
            "A network's forward may not depend on pixels' values: write it without if, for or while over them."
        ) from error
    needed = [node.name for node in graph.graph.find_nodes(op="placeholder") if not node.args]
    if len(needed) != 1:
        raise KitError(
            f"{type(network).__name__} takes {', '.join(needed)}; encrypted inference carries one image to one answer."
        )
    with torch.no_grad():
        reader = _Reader(graph)
        try:
            reader.run(images)
        except (RuntimeError, ValueError, IndexError) as error:
            raise KitError(
                f"{type(network).__name__} fails on images {list(images.shape)}: {str(error).splitlines()[0]} "
                "Give it calibration images of the size and channels that it was trained for."
            ) from error
    return reader.layers


class _Reader(fx.Interpreter):
    """Runs the traced graph, and makes layers of its nodes."""

    def __init__(self, graph: fx.GraphModule):
        super().__init__(graph, garbage_collect_values=False)
        self.layers = Layers()
        self.read: dict[fx.Node, Layer] = {}  # nodes whose values are maps that depend on the image
        self.orders: dict[str, np.ndarray] = {}

    def run_node(self, node: fx.Node) -> Any:
        if node.op == "output":
            return self._finish(node)
        value = super().run_node(node)
        if node.op == "placeholder":
            if self.read:
                return value  # an argument's default
            _, channels, height, width = value.shape
            self.read[node] = self.layers.add(Layer(node.name, "input", (), (height, width, channels)))
        elif any(given in self.read for given in node.all_input_nodes):
            self._read(node, value)
        return value

    def _read(self, node: fx.Node, value: Any) -> None:
        name, operator, arguments, keywords = self._call(node)
        if not isinstance(value, torch.Tensor):
            if operator in _SIZES:
                return
            raise KitError(f"{name}: {operator} gives {type(value).__name__}, not a map; encrypted inference can't carry it.")
        try:
            if operator in INSTEAD and not hasattr(Operators, operator):
                raise Unsupported(INSTEAD[operator])
            reader = getattr(Operators(self.layers, self.orders, name, value), operator, None)
            if reader is None:
                raise Unsupported(f"has no encrypted form. {_CARRIED}")
            self.read[node] = reader(*arguments, **keywords)
        except Unsupported as error:
            raise KitError(f"{name}: {operator} {str(error).rstrip('.')}.") from error
        except (TypeError, AttributeError) as error:  # arguments that the reader doesn't know
            raise KitError(f"{name}: {operator} can't be carried in this form ({error}). {_CARRIED}") from error

    def _call(self, node: fx.Node) -> tuple[str, str, list, dict]:
        """(layer name, operator, arguments with layers for values, keywords)"""
        arguments, keywords = fx.node.map_arg((node.args, node.kwargs), lambda n: self.read.get(n, self.env.get(n)))
        if node.op == "call_module":
            module = self.fetch_attr(node.target)
            name = node.target
            operator = type(module).__name__
            for kind, (operator_of_kind, attributes) in MODULES.items():
                if type(module) is kind:
                    operator = operator_of_kind
                    keywords = {**keywords, **{to: getattr(module, attribute) for to, attribute in attributes.items()}}
        else:
            operator = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
            operator = operator.strip("_")
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            name = ".".join(part for part in (stack[-1][0] if stack else "", operator) if part)
        return self._unique(name), operator, list(arguments), dict(keywords)

    def _unique(self, name: str) -> str:
        return next(candidate for candidate in _numbered(name) if candidate not in self.layers)

    def _finish(self, node: fx.Node) -> Any:
        (answer,) = node.args
        if not isinstance(answer, fx.Node) or answer not in self.read:
            raise KitError("The network returns one map of logits that depends on the image; this one returns something else.")
        last = self.read[answer]
        if last.name in self.orders:
            raise KitError(f"{last.name}: the answer is a flattened map; return the map itself.")
        keep, todo = set(), [last.name]
        while todo:
            name = todo.pop()
            if name not in keep:
                keep.add(name)
                todo += self.layers[name].inputs
        for name in [name for name in self.layers if name not in keep and self.layers[name].kind != "input"]:
            del self.layers[name]
        self.layers.add(self.layers.pop(last.name))
        return super().run_node(node)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1
