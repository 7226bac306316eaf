# SPDX-License-Identifier: Apache-2.0
"""One spelling for a size: that of the graph input whose axis bears the same name.

Exporters ask the nearest tensor for a size that all tensors along the way share. Such a question
keeps a tensor in the graph that a fusion would make away with.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup import Cleanup
from burnish.passes.constant import as_array
from burnish.passes.context import PassContext
from burnish.passes.fuse.attention.opset import has_attention
from burnish.passes.fuse.forms.form import size_form
from burnish.passes.fuse.forms.numbers import form_of
from burnish.passes.pattern import const
from burnish.passes.rewrite import apply_rules
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, RulePass, rule
from burnish.passes.shapes import forget_shapes, infer_shapes


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


def _one(index: Operand, rank: int) -> int | None:
    """Return the one axis that a Gather from a shape picks, counted from 0."""
    array = index.array
    return None if array is None or array.size != 1 else int(array.item()) % rank


@rule(opset=(13, None))
def size_before_transpose(op: Any, x: Any, index: Any = const()) -> Any:
    """Gather(Shape(Transpose(x)), i) -> Gather(Shape(x), perm[i])."""
    moved = op.Transpose(x, _bind="transpose", _shared=True)
    return op.Gather(op.Shape(moved, start=0, end=None, _shared=True), index, axis=0)


@size_before_transpose.rewrite
def _(op: Builder, x: Operand, index: Operand, transpose: ir.Node) -> Replacement:
    perm = op.attribute(transpose, "perm")
    axis = None if perm is None else _one(index, len(perm))
    if axis is None or index.array is None:
        return NoMatch("not one size")
    return op.Gather(op.Shape(x), np.full(index.array.shape, perm[axis]))


@rule(opset=(23, None))
def size_before_attention(op: Any, q: Any, k: Any, v: Any, index: Any = const()) -> Any:
    """Gather(Shape(Attention(q, k, v)), i) -> Gather(Shape(q), i), or of v for the last axis."""
    y = op.Attention(q, k, v, _more=True, _shared=True)
    return op.Gather(op.Shape(y, start=0, end=None, _shared=True), index, axis=0)


@size_before_attention.rewrite
def _(op: Builder, q: Operand, v: Operand, index: Operand) -> Replacement:
    axis = _one(index, 4) if q.rank == 4 else None
    if axis is None or index.array is None:
        return NoMatch("not one size of four")
    return op.Gather(op.Shape(q if axis < 3 else v), np.full(index.array.shape, axis))


@rule(opset=(13, None))
def size_or_one(op: Any, sizes: Any, minus: Any = const(), ones: Any = const()) -> Any:
    """Where(Concat(sizes) == -1, 1, Concat(sizes)) -> Concat(sizes), with a 1 for each -1.

    So TorchScript spells the target of an Expand, in which -1 leaves a size as it is.
    """
    return op.Where(op.Equal(sizes, minus), ones, sizes)


@size_or_one.also
def _(op: Any, sizes: Any, which: Any = const(), ones: Any = const()) -> Any:
    return op.Where(which, ones, sizes)


@size_or_one.rewrite
def _(
    op: Builder, sizes: Operand, minus: Operand | None, which: Operand | None, ones: Operand
) -> Replacement:
    concat = sizes.value.producer()
    if concat is None or concat.op_type != "Concat" or sizes.dtype != ir.DataType.INT64:
        return NoMatch("not sizes put one behind another")
    if minus is not None and (minus.array is None or (minus.array != -1).any()):
        return NoMatch("what is chosen is not where a size is -1")
    if ones.array is None or (ones.array != 1).any():
        return NoMatch("what is chosen is not 1")
    parts: list[Any] = []
    for part in concat.inputs:
        known, place = as_array(part), len(parts)
        if part is None or part.shape is None or part.shape.dims != (1,):
            return NoMatch("the sizes are not put together one by one")
        if which is not None:
            if which.array is None or which.array.shape != (len(concat.inputs),):
                return NoMatch("the choice is not made for each size")
            parts.append(np.array([1]) if which.array[place] else part)
        elif known is not None:
            parts.append(np.where(known == -1, 1, known))
        elif is_size(part):
            parts.append(part)
        else:
            return NoMatch("a size might be -1")
    return op.Concat(*parts, axis=0)


def is_size(value: ir.Value) -> bool:
    """Whether a value certainly is a sum of sizes, which is not negative."""
    form = form_of(value)
    return form is not None and form.constant >= 0 and all(n > 0 for _, n in form.terms)


@rule(opset=(13, None))
def size_times_over(op: Any, size: Any, times: Any = const(), parts: Any = const()) -> Any:
    """Div(Mul(size, n), n) -> size: whole numbers; also of (n size + rest) / n, as of a chunk."""
    return op.Div(op.Mul(size, times, _shared=True), parts)


@size_times_over.also
def _(op: Any, size: Any, times: Any = const(), rest: Any = const(), parts: Any = const()) -> Any:
    return op.Div(op.Add(op.Mul(size, times, _shared=True), rest, _shared=True), parts)


@size_times_over.rewrite
def _(
    op: Builder, size: Operand, times: Operand, rest: Operand | None, parts: Operand
) -> Replacement:
    if size.dtype != ir.DataType.INT64 or times.array is None or parts.array is None:
        return NoMatch("not whole numbers")
    numbers = times.array, parts.array
    if any(item.size != 1 for item in numbers) or not numbers[1].all():
        return NoMatch("not by one number other than 0")
    if numbers[0].item() != numbers[1].item():
        return NoMatch("multiplied and divided by different numbers")
    if size.rank is None or any(item.ndim > size.rank for item in numbers):
        return NoMatch("the number has more axes")
    if rest is not None:
        number = None if rest.array is None or rest.array.size != 1 else rest.array.item()
        if number is None or not 0 <= number < parts.array.item() or not is_size(size.value):
            return NoMatch("what is added is not less than a part, or the size may be negative")
    return op.Identity(size)


RULES = (
    size_of_input,
    size_before_transpose,
    size_before_attention,
    size_or_one,
    size_times_over,
)


@dataclass(frozen=True)
class KnownSizes(RulePass):
    """Spell sizes in one way in models that ask for them, so that all shapes are inferred."""

    name: ClassVar[str] = "known-sizes"
    rules: ClassVar[tuple[Rule, ...]] = RULES

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Rewrite all graphs and fold what is known by that, while it makes sizes known."""
        left = None
        while has_attention(model) or _asks_for_sizes(model):
            with inferred_again(model):
                apply_rules(model, self.rules, ctx)
            infer_shapes(model)
            if left == (left := _unknown(model)) or not left:
                return
            Cleanup().run(model, ctx)


def _asks_for_sizes(model: ir.Model) -> bool:
    """Whether there is a Shape of a value that is computed."""
    return any(
        node.op_type == "Shape" and node.inputs[0] is not None and node.inputs[0].producer()
        for node in model.graph
    )


def _unknown(model: ir.Model) -> int:
    """Count values of which inference does not know all sizes by the names that inputs bear."""
    is_known = _known_sizes(model)
    return sum(
        value.shape is None or not all(map(is_known, value.shape.dims))
        for node in model.graph
        for value in node.outputs
    )


# --- sizes of no meaning -----------------------------------------------------------------------


@contextlib.contextmanager
def inferred_again(model: ir.Model) -> Iterator[None]:
    """Infer shapes anew, now and once more when they are next asked for.

    What the graph's outputs are declared to be is kept.
    """
    declared = [value.shape for value in model.graph.outputs]
    _forget_invented(model)
    infer_shapes(model)
    yield
    _forget_invented(model)
    for value, shape in zip(model.graph.outputs, declared, strict=True):
        value.shape = shape


def _forget_invented(model: ir.Model) -> None:
    """Forget sizes whose names no input bears: what exporters, or inference, made up.

    TorchScript declares the outputs of a graph with names of its own, and inference keeps what is
    declared. They are inferred again, from what is known by then.
    """
    is_known = _known_sizes(model)
    for node in model.graph:
        for value in node.outputs:
            dims = value.shape.dims if value.shape is not None else ()
            if not all(map(is_known, dims)):
                value.shape = ir.Shape([dim if is_known(dim) else None for dim in dims])
    forget_shapes(model)


def _known_sizes(model: ir.Model) -> Callable[[int | ir.SymbolicDim], bool]:
    """Return what tells numbers, and sizes made of names that inputs bear, from all others."""
    symbols = frozenset(
        symbol
        for value in model.graph.inputs
        for dim in (value.shape.dims if value.shape is not None else ())
        if isinstance(dim, ir.SymbolicDim)
        for symbol in dim.free_symbols()
    )
    known: dict[str | None, bool] = {None: False}

    def is_known(dim: int | ir.SymbolicDim) -> bool:
        if isinstance(dim, int):
            return True
        if dim.value not in known:
            known[dim.value] = dim.free_symbols() <= symbols
        return known[dim.value]

    return is_known
