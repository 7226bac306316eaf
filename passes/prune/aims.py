# SPDX-License-Identifier: Apache-2.0
"""Which layers are fitted after a cut, in which order, and what each aims at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.edit import inputs_within
from burnish.passes.prune.survivors import Survivors
from burnish.passes.reconstruct.layer import Layer, bias_place, gram_bytes, layers_of

WIDEST = 2 << 30
"""Bytes of moments beyond which a layer is left as it is."""

# Operators that add up the numbers of a value.
_SUMS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum"})


@dataclass(frozen=True)
class Target:
    """A layer to fit.

    Attributes:
        layer: The layer.
        aims: Of each of its operators, what it aims at.
        movable: Whether there is a bias to fit as well.
    """

    layer: Layer
    aims: tuple[Aim, ...]
    movable: bool


@dataclass(frozen=True)
class Aim:
    """What one operator aims at: the whole model's `value` less this model's `other`.

    Attributes:
        fed: Name of the operator's input.
        value: Name of its result with its bias, or of the sum that this goes into.
        other: Name of what else goes into that sum.
    """

    fed: str
    value: str
    other: str | None


def waves_of(model: ir.Model, survivors: Survivors) -> Iterator[list[Target]]:
    """Yield layers to fit, those together that do not depend on one another."""
    depth: dict[ir.Value, int] = {}
    every = (*model.graph.inputs, *(value for node in model.graph for value in node.outputs))
    changed = {value for value in every if value.name in survivors.instead}
    layers = {layer.node: layer for layer in layers_of(model) if not layer.shared}
    last = {layer.nodes[-1]: layer for layer in layers.values()}
    found: list[tuple[int, Layer]] = []
    for node in model.graph:
        inputs = list(inputs_within(node))
        deep = max((depth.get(value, 0) for value in inputs), default=0)
        # Of a cut value, each number that is left is as it was, until some are summed.
        sums = node.op_type in _SUMS and (node.inputs[0] is not None)
        differs = any(value in changed for value in inputs) or (
            sums and _name(node.inputs[0]) in survivors.left
        )
        layer = last.get(node)
        if layer is not None and differs and gram_bytes(layer) <= WIDEST:
            fed = [depth.get(value, 0) for value in layer.inputs]
            deep = max([deep, *fed]) + 1
            found.append((deep, layer))
        for value in node.outputs:
            depth[value] = deep
            if differs:
                changed.add(value)
    found.sort(key=lambda each: each[0])
    for deep, together in groupby(found, key=lambda each: each[0]):
        yield [_target(layer, deep, depth) for _, layer in together]


def _target(layer: Layer, deep: int, depth: Mapping[ir.Value, int]) -> Target:
    place = bias_place(layer)
    if len(layer.nodes) > 1:
        aims = [Aim(_name(n.inputs[0]), _name(n.outputs[0]), None) for n in layer.nodes]
        return Target(layer, tuple(aims), False)
    result = (layer.node if place is None else place).outputs[0]
    fed = _name(layer.node.inputs[0])
    aim = Aim(fed, _name(result), None)
    if len(result.uses()) == 1 and not result.is_graph_output():
        ((user, slot),) = result.uses()
        other = user.inputs[1 - slot] if user.op_type == "Add" and user.domain == "" else None
        if (
            other is not None
            and other.shape is not None
            and other.shape == result.shape
            and as_array(other) is None
            and depth.get(other, 0) < deep
        ):
            aim = Aim(fed, _name(user.outputs[0]), _name(other))
    return Target(layer, (aim,), place is not None)


def _name(value: ir.Value | None) -> str:
    assert value is not None
    return value.name or ""
