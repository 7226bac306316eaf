# SPDX-License-Identifier: Apache-2.0
"""Some nodes of a graph as a small model of their own, which can be run and timed.

Its weights are stand-ins, random numbers or zeros, so that none is read. Nodes are in an order
that depends on their structure alone: two layers alike give the same model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import tensor_of

MAX_NODES = 256
"""Parts with more nodes are not measured."""

_REAL_BYTES = 1 << 16
"""Constants up to this size are taken as they are; larger ones are replaced by random numbers."""


class CannotMeasure(Exception):
    """A part cannot be run on its own; says why, short and stable."""


@dataclass(eq=False)
class Part:
    """Some nodes as a model of their own.

    Attributes:
        members: The nodes.
        swap: What is taken in place of a value.
        exits: The outputs, before `swap`.
        nodes: The members that the exits need, in canonical order; set by `trace`.
        inputs: Values that enter; set by `trace`.
        constants: Constants that enter, with their tensors; set by `trace`.
    """

    members: set[ir.Node]
    swap: Mapping[ir.Value, ir.Value]
    exits: tuple[ir.Value, ...]
    nodes: list[ir.Node] = field(default_factory=list)
    inputs: list[ir.Value] = field(default_factory=list)
    constants: dict[ir.Value, ir.TensorProtocol] = field(default_factory=dict)

    def seen(self, value: ir.Value) -> ir.Value:
        """Return what stands for a value on this side of the rewrite."""
        return self.swap.get(value, value)

    def trace(self) -> None:
        """Walk up from the exits; the order depends on the structure alone.

        Raises:
            CannotMeasure: a node holds a subgraph, or belongs to a function.
        """
        done: set[ir.Value] = set()
        placed: set[ir.Node] = set()
        pending = [(self.seen(value), False) for value in reversed(self.exits)]
        while pending:
            value, ready = pending.pop()
            node = value.producer()
            if ready:
                assert node is not None
                if node not in placed:
                    placed.add(node)
                    self.nodes.append(node)
            elif value not in done:
                done.add(value)
                tensor = constant_of(value)
                if tensor is not None:
                    self.constants[value] = tensor
                elif node in self.members and node is not None:
                    _check_attributes(node)
                    above = [self.seen(item) for item in node.inputs if item is not None]
                    pending.append((value, True))
                    pending += [(item, False) for item in reversed(above)]
                else:
                    self.inputs.append(value)


def model_of(
    part: Part,
    names: Mapping[ir.Value, str],
    opset_imports: Mapping[str, int],
    *,
    values: bool = True,
) -> ir.Model:
    """Copy some nodes into a model.

    Args:
        part: The nodes.
        names: Those of its inputs, and of outputs that have to bear one.
        opset_imports: Version of each domain.
        values: Whether large weights are numbers; else they are zeros, which take no memory.
    """
    copies: dict[ir.Value, ir.Value] = {}
    rng = np.random.default_rng(1) if values else None

    def copy(value: ir.Value, name: str) -> ir.Value:
        copies[value] = ir.Value(name=name, shape=value.shape, type=value.type)
        return copies[value]

    inputs = [copy(value, names[value]) for value in part.inputs]
    weights = []
    for index, (value, tensor) in enumerate(part.constants.items()):
        made = copy(value, f"w{index}")
        made.const_value = _stand_in(tensor, rng)
        made.shape, made.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
        weights.append(made)
    nodes = [
        ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else copies[part.seen(value)] for value in node.inputs],
            node.attributes.values(),
            outputs=[
                copy(value, "" if value.name == "" else names.get(value, f"v{index}_{place}"))
                for place, value in enumerate(node.outputs)
            ],
            name=f"n{index}",
        )
        for index, node in enumerate(part.nodes)
    ]
    outputs = [copies[part.seen(value)] for value in part.exits]
    opsets = {"": 1, **opset_imports}
    graph = ir.Graph(
        inputs, outputs, nodes=nodes, initializers=weights, opset_imports=opsets, name="region"
    )
    return ir.Model(graph, ir_version=10)


def _check_attributes(node: ir.Node) -> None:
    for attribute in node.attributes.values():
        if attribute.is_ref():
            raise CannotMeasure("it is part of a function")
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            raise CannotMeasure("it holds a subgraph")


def check_types(values: Iterable[ir.Value]) -> None:
    """Refuse values that cannot be drawn at random.

    Raises:
        CannotMeasure: a value is no tensor of numbers of a known type.
    """
    for value in values:
        if value.dtype is None or value.dtype is ir.DataType.STRING:
            raise CannotMeasure("a type is unknown or not numeric")


def _stand_in(tensor: ir.TensorProtocol, rng: np.random.Generator | None) -> ir.TensorProtocol:
    """Return a small tensor itself; for a large one, which is not read, numbers or zeros."""
    from burnish.backends.feeds import random_array

    if tensor.nbytes <= _REAL_BYTES:
        return tensor
    shape = tensor.shape.numpy()
    if rng is None:
        array = np.zeros(shape, tensor.dtype.numpy())
    else:  # the same few again and again: drawing millions takes longer than timing
        array = np.resize(random_array(rng, "", tensor.dtype, (_REAL_BYTES,)), shape)
    return ir.tensor(array, dtype=tensor.dtype)


def constant_of(value: ir.Value) -> ir.TensorProtocol | None:
    """Return the tensor of a constant, also of one that is not in the graph yet."""
    new = value.graph is None and value.producer() is None
    return value.const_value if new else tensor_of(value)
