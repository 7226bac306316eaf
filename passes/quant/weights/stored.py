# SPDX-License-Identifier: Apache-2.0
"""Int8 in the file, float when it runs: weights of operators that are no faster as int8.

A squeeze-and-excitation gate computes one pixel with as many weights as a layer has; as int8 it is
no faster, but in the file it is four times as large. What is written in place of its weights
depends on no input, so that the runtime computes it once, when it loads the model:

    weights   Mul(Cast(int8), scale)   a scale for each row, no smaller than largest / 127, so that
                                        nothing is cut off
    others    Cast(float16)             biases, those scales, and weights whose rows are short

In a small model most tensors are so small that these operators would take what they save. Those of
one shape but for their first axis, such as all biases, are therefore stored as one, and a Split
takes them apart.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.constant import as_array
from burnish.passes.context import PassContext
from burnish.passes.options import option
from burnish.passes.quant.insert import add_initializer, drop_unused, make_node
from burnish.passes.quant.ready import passed_through
from burnish.passes.quant.weighted import SLOWER, kept_float

INT8, FLOAT16 = "store-int8", "store-float16"
"""The two ways, and the rules that write them."""

OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose weights, and biases, are stored."""

_SHORT = 16
"""Numbers in a row; of fewer, as in 3 x 3 depthwise convolutions, the errors hardly cancel out."""
_LARGE = 1 << 16
"""Numbers in a tensor that is stored by itself: to take it from others would cost a copy."""
_NODE = 100
"""Bytes that an operator takes in the file, most of them for names."""
_LEAST, _MOST = 2.0**-10, 65504.0
"""Largest number of a tensor for which float16 is precise enough, and does not overflow."""


@dataclass(frozen=True)
class StoreInt8(Pass):
    """Store weights of operators that stay float as int8, where others of the model are int8.

    It costs no time when the model runs. A weight is off by at most 1/250 of the largest number of
    its tensor, a bias by 2**-11 of itself. What stays float for the sake of accuracy is left alone.
    """

    name: ClassVar[str] = "store-int8"
    rule_names: ClassVar[tuple[str, ...]] = (INT8, FLOAT16)
    lossless: ClassVar[bool] = False

    exclude: tuple[str, ...] = option((), help="glob patterns of names of nodes that stay float")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Replace constants of the main graph, several at once."""
        if not ctx.target.int8.results or passed_through(model, ctx):
            return
        if not any(node.op_type == "QuantizeLinear" for node in model.graph):
            return
        users = {node: None for node in model.graph if self._may_round(node)}
        found: dict[str, list[ir.Value]] = {INT8: [], FLOAT16: []}
        for value, array in _constants(users):
            biased = any(slot == 2 for _, slot in value.uses())
            rule = FLOAT16 if biased or math.prod(array.shape[1:]) < _SHORT else INT8
            reason = _obstacle(value, array, users)
            if reason is None:
                found[rule].append(value)
            else:
                ctx.refuse(rule, value.consumers()[0], reason)
        for values in self._batches(INT8, found[INT8], ctx):
            with ctx.rewrite(INT8, values[0].consumers()[0]) as go:
                if go:
                    found[FLOAT16].append(_store_int8(model.graph, values))
        for values in self._batches(FLOAT16, found[FLOAT16], ctx):
            with ctx.rewrite(FLOAT16, values[0].consumers()[0]) as go:
                if go:
                    _store_float16(model.graph, values)

    def _batches(
        self, rule: str, values: Sequence[ir.Value], ctx: PassContext
    ) -> list[list[ir.Value]]:
        """Return constants that are stored together, and leave those of which it saves nothing."""
        batches: dict[tuple[object, ...], list[ir.Value]] = {}
        for value in values:
            first, *row = _shape(value)
            alone = value if first * math.prod(row) >= _LARGE else None
            batches.setdefault((*row, alone), []).append(value)
        kept = []
        for batch in batches.values():
            if _saved(rule, [_shape(value) for value in batch]) > 0:
                kept.append(batch)
                continue
            for value in batch:
                ctx.refuse(rule, value.consumers()[0], "it would save nothing")
        return kept

    def _may_round(self, node: ir.Node) -> bool:
        known = node.domain == "" and node.op_type in OPS
        return known and kept_float(node, self.exclude) in (None, SLOWER)


def _constants(users: Collection[ir.Node]) -> Iterator[tuple[ir.Value, np.ndarray]]:
    """Yield the float32 weights and biases of operators, each once."""
    seen = set()
    for node in users:
        for value in node.inputs[1:3]:
            if value is None or value in seen or value.dtype != ir.DataType.FLOAT:
                continue
            seen.add(value)
            array = as_array(value)
            if array is not None and array.ndim and array.size:
                yield value, array


def _obstacle(value: ir.Value, array: np.ndarray, users: Collection[ir.Node]) -> str | None:
    """Return why a constant has to stay as it is, or None."""
    if value.is_graph_output() or not all(
        user in users and slot in (1, 2) for user, slot in value.uses()
    ):
        return "other operators read the same numbers"
    largest = float(np.abs(array).max())
    if not math.isfinite(largest):
        return "its numbers are not finite"
    if largest and not _LEAST <= largest <= _MOST:
        return "its numbers are too large or too small for float16"
    return None


def _shape(value: ir.Value) -> tuple[int, ...]:
    if value.shape is not None and value.shape.is_static():
        return value.shape.numpy()
    array = as_array(value)  # which may have to be computed
    assert array is not None
    return array.shape


def _saved(rule: str, shapes: Sequence[tuple[int, ...]]) -> int:
    """Return how many bytes it saves to store constants of these shapes together."""
    numbers = sum(map(math.prod, shapes))
    rows = sum(shape[0] for shape in shapes)
    several = len(shapes) > 1
    stored = numbers + 2 * rows if rule == INT8 else 2 * numbers
    nodes = (2 if rule == INT8 else 1) + several
    return 4 * numbers - stored - nodes * _NODE - 8 * len(shapes) * several


def _store_int8(graph: ir.Graph, values: Sequence[ir.Value]) -> ir.Value:
    """Replace weights with equal rows by what restores them from int8; returns their scales."""
    arrays = [array for value in values if (array := as_array(value)) is not None]
    scales = [row_scales(array) for array in arrays]
    integers = np.concatenate([quantize(*pair) for pair in zip(arrays, scales, strict=True)])
    held = add_initializer(graph, "int8", integers)
    base = held.name or "int8"
    scale = add_initializer(graph, f"{base}.scale", np.concatenate(scales).astype(np.float32))
    cast = _node(graph, base, "Cast", [held], [integers.shape], to=int(ir.DataType.FLOAT))
    scaled = _node(graph, base, "Mul", [cast.outputs[0], scale], [integers.shape])
    _hand_out(graph, base, [cast, scaled], values)
    return scale


def _store_float16(graph: ir.Graph, values: Sequence[ir.Value]) -> None:
    """Replace constants with equal rows by what restores them from float16."""
    arrays = [array for value in values if (array := as_array(value)) is not None]
    numbers = np.concatenate(arrays).astype(np.float16)
    held = add_initializer(graph, "float16", numbers)
    base = held.name or "float16"
    cast = _node(graph, base, "Cast", [held], [numbers.shape], to=int(ir.DataType.FLOAT))
    _hand_out(graph, base, [cast], values)


def _hand_out(
    graph: ir.Graph, base: str, nodes: Sequence[ir.Node], values: Sequence[ir.Value]
) -> None:
    """Let those who read each of some constants read its part of what nodes restore.

    The nodes come first in the graph, so that those inserted later may restore what these read.
    """
    parts: Sequence[ir.Value] = nodes[-1].outputs
    if len(values) > 1:
        shapes = [_shape(value) for value in values]
        lengths = np.array([shape[0] for shape in shapes], np.int64)
        sizes = add_initializer(graph, f"{base}.sizes", lengths)
        split = _node(graph, base, "Split", [*parts, sizes], shapes, axis=0)
        nodes, parts = [*nodes, split], split.outputs
    graph.insert_before(graph[0], nodes)
    for old, new in zip(values, parts, strict=True):
        name = old.name
        old.replace_all_uses_with(new)
        drop_unused([old])
        if old.graph is None:  # nothing bears its name any more
            new.name = name


def _node(
    graph: ir.Graph,
    base: str,
    op_type: str,
    inputs: Sequence[ir.Value],
    shapes: Sequence[tuple[int, ...]],
    **attributes: int,
) -> ir.Node:
    outputs = {
        f"{base}.{op_type}{i or ''}": (ir.DataType.FLOAT, ir.Shape(shape))
        for i, shape in enumerate(shapes)
    }
    return make_node(graph, op_type, inputs, outputs, attributes=attributes, base=base)


def row_scales(array: np.ndarray) -> np.ndarray:
    """Return the least float16 scale of each row, `[rows, 1, ...]`, that cuts nothing off."""
    least = np.abs(array.reshape(len(array), -1)).max(axis=1) / np.float32(127)
    scale = least.astype(np.float16)
    scale = np.where(scale < least, np.nextafter(scale, np.float16(np.inf)), scale)
    scale = np.where(least == 0, np.float16(1), scale)
    return np.reshape(scale, (-1, *[1] * (array.ndim - 1)))


def quantize(array: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Round numbers to int8 of the scales that `row_scales` gives."""
    integers: np.ndarray = np.rint(array / scale.astype(np.float32)).astype(np.int8)
    return integers
