# SPDX-License-Identifier: Apache-2.0
"""Arithmetic that gives back the sizes it was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.fuse.forms.numbers import form_of
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


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
    if which is not None and (which.array is None or which.array.shape != (len(concat.inputs),)):
        return NoMatch("the choice is not made for each size")
    parts: list[Any] = []
    for place, part in enumerate(concat.inputs):
        known = as_array(part)
        if part is None or part.shape is None or part.shape.dims != (1,):
            return NoMatch("the sizes are not put together one by one")
        if which is not None and which.array is not None:
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
