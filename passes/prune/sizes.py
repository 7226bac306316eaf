# SPDX-License-Identifier: Apache-2.0
"""Sizes that a graph computes with: an axis that is cut would change them.

Shape gives the sizes of a tensor; Gather, Slice and Concat pick them; Reshape, Expand and Resize
take them. Where what they are taken for is cut too, the number is written anew when cutting. All
other uses, arithmetic say, keep the axis whole.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.prune.coupling import Couplings, Dim, sizes_of

SHAPE_INPUT = {"Reshape": 1, "Expand": 1, "Resize": 3}
"""Operators that take the sizes of their result, and as which input."""

_Elements = list[frozenset[Dim]]
_REASON = "the graph computes with its size"
_PICKS = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


def read_sizes(graph: ir.Graph, couplings: Couplings) -> None:
    """Keep the dimensions whole whose size is computed with."""
    known: dict[ir.Value, _Elements] = {}
    for node in graph:
        if node.domain == "" and node.op_type == "Shape":
            if sizes_of(node.inputs[0]) is not None:
                known[node.outputs[0]] = _shape(node, couplings)
            continue
        if not any(value in known for value in node.inputs if value is not None):
            continue
        if node.domain == "" and SHAPE_INPUT.get(node.op_type) is not None:
            slot = SHAPE_INPUT[node.op_type]
            sizes = node.inputs[slot] if slot < len(node.inputs) else None
            others = [value for at, value in enumerate(node.inputs) if at != slot]
            if not any(value in known for value in others):
                _take(node, [] if sizes is None else known.get(sizes, []), couplings)
                continue
        picked = _pick(node, known)
        if picked is None:
            for value in node.inputs:
                if value is not None:
                    _keep(couplings, known.get(value, []))
        else:
            known[node.outputs[0]] = picked
    for value in graph.outputs:
        _keep(couplings, known.get(value, []))


def _keep(couplings: Couplings, elements: _Elements) -> None:
    for dim in frozenset().union(*elements):
        couplings.keep(dim, _REASON)


def _shape(node: ir.Node, couplings: Couplings) -> _Elements:
    value = node.inputs[0]
    sizes = sizes_of(value)
    if value is None or sizes is None:
        return []
    known = set(couplings.dims(value))
    elements: _Elements = [frozenset({(value, axis)} & known) for axis in range(len(sizes))]
    return elements[node.attributes.get_int("start", 0) : node.attributes.get_int("end", None)]


def _take(node: ir.Node, elements: _Elements, couplings: Couplings) -> None:
    """Sizes of axes that are numbers are written anew; of others the parts must not change."""
    result = sizes_of(node.outputs[0])
    for axis, dims in enumerate(elements):
        rewritten = result is not None and len(result) == len(elements)
        if not (rewritten and result is not None and isinstance(result[axis], int)):
            _keep(couplings, [dims])


def _pick(node: ir.Node, known: dict[ir.Value, _Elements]) -> _Elements | None:
    """Return the elements of a result that are elements of sizes; None if it computes."""
    if node.domain != "" or not node.inputs or node.inputs[0] is None:
        return None
    data = node.inputs[0]
    if node.op_type == "Concat":
        joined: _Elements = []
        for value in node.inputs:
            length = sizes_of(value)
            if value is None or length is None or len(length) != 1:
                return None
            if value in known:
                joined += known[value]
            elif isinstance(length[0], int):
                joined += [frozenset()] * length[0]
            else:
                return None
        return joined
    if data not in known or any(value in known for value in node.inputs[1:]):
        return None
    elements = known[data]
    if node.op_type in _PICKS:
        return elements
    constants = [None if v is None else as_array(v) for v in node.inputs[1:]]
    if any(constant is None for constant in constants):
        return None
    at = np.arange(len(elements))
    if node.op_type == "Gather":
        assert constants[0] is not None
        return [elements[index] for index in at[constants[0]].reshape(-1)]
    if node.op_type == "Slice" and len(constants) >= 2:
        numbers = [int(each.reshape(-1)[0]) for each in constants if each is not None]
        step = numbers[3] if len(numbers) > 3 else 1
        return elements[numbers[0] : numbers[1] : step]
    return None
