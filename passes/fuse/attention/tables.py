# SPDX-License-Identifier: Apache-2.0
"""Scores that are masked by a table of zeros and ones: a choice, spelled as a sum of products."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array, scalar_of
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule

_LARGEST = 1 << 24  # elements of a table that is read
_DEPTH = 4  # operators between a table and its product, or between that and the softmax


def _is_table(array: np.ndarray) -> bool:
    """Whether an array is a mask of zeros and ones that has both."""
    if array.ndim < 2 or not 1 < array.size <= _LARGEST:
        return False
    ones = array == 1
    return bool(ones.any() and not ones.all() and ((array == 0) | ones).all())


@rule(opset=(13, None))
def choice_by_table(op: Any, x: Any, b: Any, low: Any = const()) -> Any:
    """X * b + low * (1 - b) -> Where(b, x, low), where b is a constant of zeros and ones.

    So GPT and GPT-2 hide later tokens. The table may be cut from a larger one.
    """
    rest = op.Mul(op.Sub(1.0, b, _shared=True), low, _shared=True)
    return op.Add(op.Mul(x, b), rest, _bind="choice")


@choice_by_table.also
def _(op: Any, x: Any, b: Any, high: Any = const()) -> Any:
    rest = op.Mul(op.Sub(1.0, b, _shared=True), high, _shared=True)
    return op.Sub(op.Mul(x, b), rest, _bind="choice")


@choice_by_table.also
def _(op: Any, x: Any, b: Any = const(_is_table), rest: Any = const()) -> Any:
    return op.Add(op.Mul(x, b), rest, _bind="choice")  # what is added has been computed


@choice_by_table.rewrite
def _(
    op: Builder,
    x: Operand,
    b: Operand,
    low: Operand | None,
    high: Operand | None,
    rest: Operand | None,
    choice: ir.Node,
) -> Replacement:
    if x.dtype is None:
        return NoMatch("the type of the scores is unknown")
    if not _goes_into_softmax(choice.outputs[0]):
        return NoMatch("what is chosen goes into no softmax")
    table = _table(b.value)
    if table is None:
        return NoMatch("what is multiplied is no table of zeros and ones")
    if rest is not None:
        fill = _fill_of(table, rest.array)
    else:
        given = low or high
        assert given is not None
        number = scalar_of(given.value)
        fill = None if number is None else number if high is None else -number
    if fill is None:
        return NoMatch("what is added is not one number where the table is 0, and 0 elsewhere")
    condition = op.Cast(b, to=ir.DataType.BOOL)
    return op.Where(condition, x, np.asarray(fill, x.dtype.numpy()))


def _table(value: ir.Value | None) -> np.ndarray | None:
    """Return the table of zeros and ones that a value is, or is cut from."""
    for _ in range(_DEPTH):
        array, node = as_array(value), None if value is None else value.producer()
        if array is not None:
            return array if _is_table(array) else None
        if node is None or node.domain != "" or node.op_type not in ("Slice", "Cast", "Unsqueeze"):
            return None
        value = node.inputs[0]
    return None


def _fill_of(table: np.ndarray, rest: np.ndarray | None) -> float | None:
    """Return the number that `rest` is where the table is 0, if it is 0 where the table is 1."""
    if rest is None or rest.shape != table.shape or not rest.size:
        return None
    fill = float(rest.flat[int(np.argmin(table))])
    return fill if np.array_equal(np.where(table == 1, 0, rest.dtype.type(fill)), rest) else None


def _goes_into_softmax(value: ir.Value) -> bool:
    users = value.consumers()
    for _ in range(_DEPTH):
        if any(user.op_type == "Softmax" for user in users):
            return True
        users = tuple(
            after
            for user in users
            if user.op_type in ("Add", "Sub", "Where", "Max", "Cast", "Reshape")
            for after in user.outputs[0].consumers()
        )
    return False
