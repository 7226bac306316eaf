# SPDX-License-Identifier: Apache-2.0
"""Layers: Conv, MatMul and Gemm as one matrix of weights for each group, read and written back.

What one output channel sums over is a row: `[groups, outputs / groups, K]`, with K the fan-in. A
layer computes `Y = rows X`, X being the columns that `burnish.passes.reconstruct.gram` sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array, is_constant
from burnish.passes.edit import drop_initializer, remove_unused
from burnish.passes.quant.insert import add_initializer
from burnish.passes.quant.weighted import WEIGHTED, Weights, excluded, weights_of
from burnish.passes.reconstruct.gram import Patches, Rows, vectors
from burnish.passes.sketch import Array

Refuse = Callable[[ir.Node, str], None]


@dataclass(frozen=True)
class Layer:
    """Operators that use the same weights, in the same way.

    Attributes:
        nodes: The operators, in the order of the graph; usually one.
        groups: Of a Conv, G; otherwise 1.
        shared: Something else uses the weights too, so that they cannot be replaced.
    """

    nodes: tuple[ir.Node, ...]
    groups: int
    shared: bool

    @property
    def node(self) -> ir.Node:
        """The first of its operators."""
        return self.nodes[0]

    @property
    def name(self) -> str:
        """The name of its first operator, or of what that gives."""
        return self.node.name or self.node.outputs[0].name or ""

    @property
    def inputs(self) -> tuple[ir.Value, ...]:
        """What its operators are fed, each once."""
        return tuple({node.inputs[0]: None for node in self.nodes if node.inputs[0] is not None})

    @property
    def weights(self) -> Weights:
        """Weights as they are stored, a Gemm's alpha multiplied in."""
        found = weights_of(self.node)
        assert isinstance(found, Weights)
        return found

    @property
    def rows(self) -> Array:
        """Weights as float32 [G, O / G, K]; perhaps a view of a file, not to be written to."""
        weights = self.weights
        array = weights.array if weights.axis == 0 else weights.array.T
        return array.reshape(self.groups, array.shape[0] // self.groups, -1)

    @property
    def fan_in(self) -> int:
        """How many numbers an output channel sums over, K."""
        weights = self.weights
        return weights.array.size // weights.channels

    @property
    def cut(self) -> Rows:
        """What cuts an input into the columns its weights meet."""
        if self.node.op_type != "Conv":
            return vectors
        return Patches.of(self.node, self.weights.array.shape[2:], self.groups)

    def stored(self, rows: Array) -> Array:
        """Return rows [G, O / G, K] in the shape in which the weights are stored."""
        weights = self.weights
        flat = rows.reshape(weights.channels, -1)
        if weights.axis == 1:
            return np.ascontiguousarray(flat.T)
        return np.ascontiguousarray(flat.reshape(weights.array.shape))

    def replace(self, rows: Array) -> None:
        """Put other weights [G, O / G, K] in place of its own; they must not be `shared`."""
        self._put(1, self.stored(rows.astype(np.float32)))

    def replace_bias(self, bias: Array) -> None:
        """Put another bias, one number for each output channel, in its Conv or Gemm.

        It is added if there was none.
        """
        self._put(2, bias.astype(np.float32))

    def _put(self, index: int, array: Array) -> None:
        weights = self.weights
        graph = self.node.graph
        old = self.node.inputs[index] if index < len(self.node.inputs) else None
        assert isinstance(graph, ir.Graph)
        name = f"{self.name}/{'bias' if index == 2 else 'weights'}"
        made = add_initializer(graph, name if old is None or not old.name else old.name, array)
        for node in self.nodes:
            if node.op_type == "Gemm":
                self._absorb(node, index, weights)
            node.resize_inputs(max(index + 1, len(node.inputs)))
            node.replace_input_with(index, made)
        _drop(old)

    def _absorb(self, node: ir.Node, index: int, weights: Weights) -> None:
        """Let what `index` leaves untouched keep its meaning: alpha and beta go."""
        alpha = node.attributes.pop("alpha", None)
        beta = node.attributes.pop("beta", None)
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        for place, factor, array in ((1, alpha, weights.array), (2, beta, weights.bias)):
            if (
                place != index
                and factor is not None
                and factor.as_float() != 1
                and array is not None
            ):
                old = node.inputs[place]
                made = add_initializer(graph, (old.name if old else "") or self.name, array)
                node.replace_input_with(place, made)
                _drop(old)


def layers_of(
    model: ir.Model,
    refuse: Refuse | None = None,
    *,
    ops: Iterable[str] = WEIGHTED,
    exclude: tuple[str, ...] = (),
) -> list[Layer]:
    """Return the layers of the main graph, in the order of the graph.

    Args:
        model: The model; layers in subgraphs and functions cannot be observed, and are refused.
        refuse: Told why an operator is none, or is left alone.
        ops: Operators to look at.
        exclude: Glob patterns of names of nodes to leave alone.
    """
    say = refuse or (lambda *_: None)
    wanted = frozenset(ops)
    found: dict[tuple[object, ...], list[ir.Node]] = {}
    for graph in model.graphs():
        for node in graph:
            if node.op_type not in wanted or node.domain != "":
                continue
            weights = weights_of(node)
            if weights is None:
                continue
            if isinstance(weights, str):
                say(node, weights)
            elif excluded(node, exclude):
                say(node, "excluded by name")
            elif graph is not model.graph:
                say(node, "inside a subgraph, where activations cannot be observed")
            else:
                found.setdefault((node.inputs[1], *_manner(node)), []).append(node)
    layers = []
    for nodes in found.values():
        groups = nodes[0].attributes.get_int("group", 1) if nodes[0].op_type == "Conv" else 1
        layers.append(Layer(tuple(nodes), groups or 1, _is_shared(nodes)))
    return layers


def _manner(node: ir.Node) -> tuple[object, ...]:
    """Return what operators on the same weights must have in common."""
    if node.op_type == "MatMul":
        return ("MatMul",)
    kept = sorted((name, repr(attribute.value)) for name, attribute in node.attributes.items())
    return (node.op_type, tuple(kept), node.inputs[2] if len(node.inputs) > 2 else None)


def _is_shared(nodes: list[ir.Node]) -> bool:
    """Whether anything but these operators uses their weights, or what those are a view of."""
    value = nodes[0].inputs[1]
    assert value is not None
    own = set(nodes)
    while True:
        if value.is_graph_output() or any(user not in own for user, _ in value.uses()):
            return True
        above = value.producer()
        if above is None or above.op_type == "Constant" or above.inputs[0] is None:
            return False
        own, value = {above}, above.inputs[0]


def _drop(value: ir.Value | None) -> None:
    if value is None or value.uses():
        return
    producer = value.producer()
    if producer is not None:
        remove_unused([producer])
    else:
        drop_initializer(value)


def bias_place(layer: Layer) -> ir.Node | None:
    """Return where the bias of a layer is added, or None: itself, or the Add behind a MatMul.

    A Conv or Gemm takes a bias even if it has none yet.
    """
    if layer.node.op_type != "MatMul":
        return layer.node if len(layer.nodes) == 1 else None
    (y,) = layer.node.outputs
    if len(layer.nodes) > 1 or y.is_graph_output() or len(y.uses()) != 1:
        return None
    ((user, index),) = y.uses()
    if user.op_type != "Add" or user.domain != "":
        return None
    other = user.inputs[1 - index]
    if not is_constant(other):
        return None
    array = as_array(other)
    channels = layer.weights.channels
    plain = array is not None and array.dtype == np.float32 and array.size == channels
    return user if plain and array is not None and array.shape[-1:] == (channels,) else None


def shift_bias(layer: Layer, shift: Array) -> bool:
    """Add one number for each output channel to the bias of a layer; returns whether it has one."""
    place = bias_place(layer)
    if place is None:
        return False
    if place is layer.node:
        bias = layer.weights.bias
        layer.replace_bias((0 if bias is None else bias.astype(np.float64)) + shift)
        return True
    index = 1 if place.inputs[0] is layer.node.outputs[0] else 0
    old, graph = place.inputs[index], place.graph
    array = as_array(old)
    assert array is not None
    assert old is not None
    assert isinstance(graph, ir.Graph)
    moved = (array + shift.reshape(array.shape)).astype(np.float32)
    place.replace_input_with(index, add_initializer(graph, old.name or layer.name, moved))
    _drop(old)
    return True


def gram_bytes(layer: Layer) -> int:
    """Return about how many bytes the Gram matrices of a layer take while they are summed."""
    return 2 * 8 * layer.groups * math.prod([layer.fan_in + 1] * 2)
