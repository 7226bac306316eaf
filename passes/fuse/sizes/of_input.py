# SPDX-License-Identifier: Apache-2.0
"""Sizes asked of the graph input whose axis bears the same name.

Exporters ask the nearest tensor for a size that all tensors along the way share. Such a question
keeps a tensor in the graph that a fusion would make away with.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.fuse.forms.form import size_form
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


@rule(opset=(13, None))
def size_of_input(op: Any, x: Any, index: Any = const()) -> Any:
    """Gather(Shape(x), i) -> Gather(Shape(input), j) where the two axes have the same name.

    A size that is a sum of names becomes that sum.
    """
    return op.Gather(op.Shape(x, start=0, end=None, _shared=True), index, axis=0, _bind="size")


@size_of_input.also
def _(op: Any, x: Any, first: Any = const(), last: Any = const()) -> Any:
    shape = op.Shape(x, start=0, end=None, _shared=True)
    return op.Slice(shape, first, last, _more=True, _bind="size")


@size_of_input.also
def _(op: Any, x: Any) -> Any:
    return op.Shape(x, end=lambda end: end is not None, _bind="size")


@size_of_input.rewrite
def _(
    op: Builder,
    x: Operand,
    index: Operand | None,
    first: Operand | None,
    last: Operand | None,
    size: ir.Node,
) -> Replacement:
    if x.value.is_graph_input() or x.dims is None or size.graph is None:
        return NoMatch("it is an input already, or its rank is unknown")
    axes = np.arange(len(x.dims))
    if index is not None and index.array is not None:
        picked = axes[index.array]
    elif first is not None and last is not None and len(size.inputs) < 5:
        assert first.array is not None
        assert last.array is not None
        picked = axes[first.array.item() : last.array.item()]
    elif size.op_type == "Shape":
        picked = axes[op.attribute(size, "start") : op.attribute(size, "end")]
    else:
        return NoMatch("the slice has steps")
    if picked.size != 1:
        return NoMatch("not one size")
    dim = x.dims[int(picked.item())]
    if isinstance(dim, int):
        return op.Identity(op.constant(np.full(picked.shape, dim)))
    form, shape = size_form(dim), picked.shape
    if form is None:
        return NoMatch("its size is not a sum of names")
    summands: list[Any] = [np.full(shape, form.constant)] if form.constant else []
    for name, times in sorted(form.terms, key=str):
        asked = _asked(op, size.graph, str(name), shape)
        if asked is None:
            return NoMatch("no input has an axis of that name")
        summands.append(asked if times == 1 else op.Mul(asked, np.full(shape, times)))
    return functools.reduce(op.Add, summands)


def _asked(op: Builder, graph: ir.Graph, name: str, shape: tuple[int, ...]) -> Any:
    """Ask an input of the graph for the size of that name; None if no input has it."""
    for value in graph.inputs:
        for axis, dim in enumerate(value.shape.dims if value.shape else ()):
            if isinstance(dim, ir.SymbolicDim) and dim.value == name:
                return op.Gather(op.Shape(value), np.full(shape, axis))
    return None
