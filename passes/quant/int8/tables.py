# SPDX-License-Identifier: Apache-2.0
"""Int8 embedding tables: a quarter of the size, a scale for each row, and no data needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.constant import as_array
from burnish.passes.context import PassContext
from burnish.passes.edit import remove_unused, replace_value
from burnish.passes.options import option
from burnish.passes.quant.insert import add_initializer, make_node
from burnish.passes.quant.ready import mark_quantized, passed_through
from burnish.passes.quant.scheme import weight_params
from burnish.passes.quant.weighted import kept_float, rule_of
from burnish.passes.shapes import infer_shapes

# Smaller tables are left alone: nothing is gained.
_SMALL_TABLE = 1 << 16


@dataclass(frozen=True)
class QuantTables(Pass):
    """Int8 tables: rows gathered from constant float weights are stored as int8 with a scale.

    Only the rows looked up are turned back into float, so it costs next to no time.
    """

    name: ClassVar[str] = "quant-tables"
    rule_names: ClassVar[tuple[str, ...]] = ("quant-gather",)
    lossless: ClassVar[bool] = False

    exclude: tuple[str, ...] = option((), help="glob patterns of names of nodes that stay float")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Replace each Gather of rows, in subgraphs too."""
        if passed_through(model, ctx):
            return
        infer_shapes(model)
        made: dict[tuple[ir.Graph, ir.Value], tuple[ir.Value, ir.Value]] = {}
        for graph in model.graphs():
            for node in tuple(graph):
                if node.op_type != "Gather" or node.domain != "":
                    continue
                table = as_array(node.inputs[0])
                if table is None or table.dtype != np.float32 or table.size < _SMALL_TABLE:
                    continue
                reason = _obstacle(node, table) or kept_float(node, self.exclude)
                if not ctx.target.int8.tables:
                    reason = "the target gathers from no int8 table"
                if reason is not None:
                    ctx.refuse(rule_of(node), node, reason)
                    continue
                with ctx.rewrite(rule_of(node), node) as go:
                    if go:
                        _quantize(node, table, made)
                        mark_quantized(model)


def _obstacle(node: ir.Node, table: np.ndarray) -> str | None:
    if not _takes_rows(node):
        return "it gathers along another axis than the first"
    if table.ndim != 2:
        return f"its table has rank {table.ndim}, not 2"
    if not np.isfinite(table).all():
        return "its table is not finite"
    assert node.inputs[0] is not None
    for user, index in node.inputs[0].uses():
        if user.op_type != "Gather" or index != 0 or not _takes_rows(user):
            return "its table is used by other operators too"
    return None


def _takes_rows(node: ir.Node) -> bool:
    return node.attributes.get_int("axis", 0) == 0


def _quantize(
    node: ir.Node,
    table: np.ndarray,
    made: dict[tuple[ir.Graph, ir.Value], tuple[ir.Value, ir.Value]],
) -> None:
    """Replace `Gather(table, i)` by `Cast(Gather(table_int8, i)) * Gather(scale, i)`."""
    graph, old, indices, y = node.graph, node.inputs[0], node.inputs[1], node.outputs[0]
    assert isinstance(graph, ir.Graph)
    assert old is not None
    assert indices is not None
    if (graph, old) not in made:
        scheme = weight_params(table, 0)
        made[graph, old] = (
            add_initializer(graph, f"{old.name}_int8", scheme.quantize(table)),
            add_initializer(graph, f"{old.name}_scale", scheme.scale.reshape(-1, 1)),
        )
    held, scale = made[graph, old]
    base = node.name or y.name or node.op_type
    rows = None if y.shape is None else ir.Shape([*y.shape[:-1], 1])

    def emit(
        op: str, inputs: list[ir.Value], dtype: ir.DataType, shape: ir.Shape | None
    ) -> ir.Value:
        attributes = {"to": int(dtype)} if op == "Cast" else {}
        outputs = {f"{base}/{op}_out": (dtype, shape)}
        new = make_node(graph, op, inputs, outputs, attributes=attributes, base=base)
        graph.insert_before(node, new)
        return new.outputs[0]

    integers = emit("Gather", [held, indices], ir.DataType.INT8, y.shape)
    scales = emit("Gather", [scale, indices], ir.DataType.FLOAT, rows)
    real = emit("Cast", [integers], ir.DataType.FLOAT, y.shape)
    result = emit("Mul", [real, scales], ir.DataType.FLOAT, y.shape)
    result.name = None  # takes over the name of what it replaces
    replace_value(y, result)
    remove_unused([node])
