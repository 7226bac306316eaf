# SPDX-License-Identifier: Apache-2.0
"""Rows of a table, picked by indices that were put in one row for it: `torch.index_select`."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from burnish.passes.cleanup.dims import same_dim
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


@rule(opset=(13, None))
def gather_of_rows(op: Any, table: Any, index: Any, flat: Any, shape: Any) -> Any:
    """Reshape(Gather(table, Reshape(i, [-1]))) -> Gather(table, i)."""
    row = op.Reshape(index, flat, _bind="row", _shared=True)
    return op.Reshape(op.Gather(table, row, axis=0), shape, _bind="whole")


@gather_of_rows.rewrite
def _(op: Builder, table: Operand, index: Operand, row: ir.Node, whole: ir.Node) -> Replacement:
    result, flat = whole.outputs[0].shape, row.outputs[0].shape
    if table.dims is None or index.dims is None or result is None or flat is None:
        return NoMatch("a rank is unknown")
    if len(flat) != 1:
        return NoMatch("the indices are not in one row")
    wanted = (*index.dims, *table.dims[1:])
    if len(wanted) != len(result) or not all(map(same_dim, wanted, result.dims)):
        return NoMatch("the result is not known to have the axes of the indices")
    return op.Gather(table, index, axis=0)
