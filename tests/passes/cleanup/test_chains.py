# SPDX-License-Identifier: Apache-2.0
"""Two of a kind in a row: Transpose, Cast, Slice, and operators that undo or repeat themselves."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.cleanup import chains
from burnish.passes.cleanup.chains import _holds
from burnish.passes.rule import Rule
from burnish.testing import assert_refuses, assert_rewrites, parse, rewrites, run_pass

HEADER = '<ir_version: 8, opset_import: ["" : {}]> '


def label(item: object) -> str:
    """Name a test by its rule and expression."""
    return item.name if isinstance(item, Rule) else str(item)


def model(opset: int, nodes: str, inputs: str = "float[2,3,4] x") -> ir.Model:
    """Return a model whose nodes compute `y` from `x`."""
    return parse(f"{HEADER.format(opset)} g ({inputs}) => (y) {{ {nodes} }}")


@pytest.mark.parametrize(
    ("rule", "opset", "before", "after"),
    [
        (
            chains.transpose_transpose,
            21,
            "a = Transpose<perm = [1, 2, 0]>(x)  b = Transpose<perm = [2, 0, 1]>(a)  y = Abs(b)",
            "y = Abs(x)",
        ),
        (
            chains.transpose_transpose,
            9,
            "a = Transpose<perm = [1, 2, 0]>(x)  y = Transpose<perm = [1, 0, 2]>(a)",
            "y = Transpose<perm = [2, 1, 0]>(x)",
        ),
        (
            chains.transpose_transpose,
            21,
            "a = Transpose(x)  y = Transpose<perm = [1, 0, 2]>(a)",
            "y = Transpose<perm = [1, 2, 0]>(x)",
        ),
        (
            chains.transpose_transpose,
            21,
            "a = Transpose(x)  b = Transpose(a)  y = Abs(b)",
            "y = Abs(x)",
        ),
        (
            chains.cast_cast,
            21,
            "a = Cast<to = 11>(x)  y = Cast<to = 10>(a)",
            "y = Cast<to = 10>(x)",
        ),
        (
            chains.cast_cast,
            9,
            "a = Cast<to = 11>(x)  b = Cast<to = 1>(a)  y = Abs(b)",
            "y = Abs(x)",
        ),
        (
            chains.slice_slice,
            9,
            "a = Slice<starts = [1], ends = [9], axes = [2]>(x) "
            "y = Slice<starts = [-2], ends = [3], axes = [1]>(a)",
            "y = Slice<starts = [-2, 1], ends = [3, 9], axes = [1, 2]>(x)",
        ),
        (
            chains.slice_slice,
            9,
            "a = Slice<starts = [1], ends = [9], axes = [-1]>(x) "
            "y = Slice<starts = [1], ends = [2], axes = [2]>(a)",
            "y = Slice<starts = [2], ends = [3], axes = [2]>(x)",
        ),
    ],
    ids=label,
)
def test_fires(rule: Rule, opset: int, before: str, after: str) -> None:
    assert_rewrites(rule, model(opset, before), model(opset, after))


def test_slices_whose_bounds_are_inputs() -> None:
    constants = (
        "int64[1] one = {1}, int64[1] three = {3}, int64[1] two = {2}, int64[1] zero = {0}, "
        "int64[1] back = {-1}, int64[1] low = {-9}"
    )
    before = parse(
        f"g (float[2,3,4] x) => (y) <{constants}> "
        "{ a = Slice(x, one, three, two)  y = Slice(a, back, low, one, back) }"
    )
    after = parse(
        "g (float[2,3,4] x) => (y) <int64[2] s = {-1, 1}, int64[2] e = {-9, 3}, "
        "int64[2] a = {1, 2}, int64[2] t = {-1, 1}> { y = Slice(x, s, e, a, t) }"
    )
    assert_rewrites(chains.slice_slice, before, after)


@pytest.mark.parametrize(
    ("rule", "opset", "nodes", "reason"),
    [
        (chains.cast_cast, 21, "a = Cast<to = 10>(x)  y = Cast<to = 1>(a)", "rounds or wraps"),
        (chains.cast_cast, 21, "a = Cast<to = 11>(x)  y = Cast<to = 6>(a)", "out of range"),
        (
            chains.slice_slice,
            9,
            "a = Slice<starts = [1], ends = [9], axes = [2]>(x) "
            "y = Slice<starts = [-2], ends = [9], axes = [2]>(a)",
            "count from its end",
        ),
        (
            chains.transpose_transpose,
            21,
            "a = Transpose(x)  z = Abs(a)  y = Transpose(a)",
            "used elsewhere too",
        ),
    ],
    ids=label,
)
def test_refuses(rule: Rule, opset: int, nodes: str, reason: str) -> None:
    assert_refuses(rule, model(opset, nodes), reason)


@pytest.mark.parametrize(("low", "high"), list(itertools.product(range(4), range(1, 5))))
def test_a_slice_of_a_slice_takes_the_same_elements(low: int, high: int) -> None:
    for start, end in itertools.product(range(4), range(1, 6)):
        before = model(
            9,
            f"a = Slice<starts = [{low}], ends = [{high}], axes = [0]>(x) "
            f"y = Slice<starts = [{start}], ends = [{end}], axes = [0]>(a)",
            "float[4] x",
        )
        run_pass(chains.slice_slice, before)
        (merged,) = before.graph
        window = slice(
            merged.attributes["starts"].as_ints()[0], merged.attributes["ends"].as_ints()[0]
        )
        assert list(range(4))[window] == list(range(4))[low:high][start:end]


@pytest.mark.parametrize("op_type", ["Neg", "Not", "Abs", "Ceil", "Floor", "Relu", "Round"])
def test_twice_is_once_or_never(op_type: str) -> None:
    (rule,) = [rule for rule in chains.RULES if rule.name == f"{op_type}-{op_type}".lower()]
    kind = "bool" if op_type == "Not" else "float"
    text = "g ({0}[4] x) => ({0}[4] y) {{ i = Identity(x)  {1} }}"
    undone = op_type in ("Neg", "Not")
    before = parse(text.format(kind, f"a = {op_type}(i)  b = {op_type}(a)  y = Identity(b)"))
    after = parse(
        text.format(kind, "y = Identity(i)" if undone else f"a = {op_type}(i)  y = Identity(a)")
    )
    feeds = {} if kind == "bool" else {"x": np.array([-1.5, -0.0, np.nan, 2.5], np.float32)}
    assert_rewrites(rule, before, after, feeds=feeds or None)


NUMBERS = [
    kind
    for kind in ir.DataType
    if kind.name in chains._FLOATS or (kind.name.rstrip("0123456789") in ("INT", "UINT", "BOOL"))
    if kind.name == "BOOL" or kind.bitwidth >= 8
]


@pytest.mark.parametrize("narrow", NUMBERS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("wide", NUMBERS, ids=lambda kind: kind.name)
def test_a_type_holds_another_if_its_extremes_come_back(
    wide: ir.DataType, narrow: ir.DataType
) -> None:
    """The table of what a Cast keeps, against what the types in fact do."""
    if narrow == ir.DataType.BOOL:
        extremes = np.array([False, True])
    elif narrow.is_integer():
        limits = np.iinfo(narrow.numpy())
        extremes = np.array([limits.min, limits.max, limits.max - 1], narrow.numpy())
    else:
        limit = ml_dtypes.finfo(narrow.numpy())  # type: ignore[no-untyped-call]
        one = np.array(1, narrow.numpy())
        extremes = np.array([limit.max, limit.smallest_subnormal, one + limit.eps], narrow.numpy())
    with np.errstate(all="ignore"):
        there = extremes.astype(wide.numpy())
        exact = [int(x) if narrow.is_integer() else float(x) for x in extremes]
        kept = all(
            np.isfinite(float(y)) and (int(y) if narrow.is_integer() else float(y)) == x
            for x, y in zip(exact, there, strict=True)
        )
    if wide == ir.DataType.BOOL and narrow != ir.DataType.BOOL:
        kept = False
    assert _holds(wide, narrow) == kept


def test_casts_in_an_old_opset_are_left_alone() -> None:
    before = parse(
        '<ir_version: 3, opset_import: ["" : 5]> g (float[4] x) => (double[4] y) '
        '{ a = Cast<to = "DOUBLE">(x)  y = Cast<to = "DOUBLE">(a) }'
    )
    assert not rewrites(run_pass("simplify", before))


def test_windows_of_a_window_that_all_read() -> None:
    """As a map is cut into a checkerboard, whose rows are picked first."""
    constants = "int64[1] z = {0}, int64[1] o = {1}, int64[1] e = {9}, int64[1] a = {2}"
    more = ", int64[1] t = {2}, int64[2] zo = {0, 1}, int64[2] zz = {0, 0}"
    wide = ", int64[2] ee = {9, 9}, int64[2] aa = {1, 2}, int64[2] tt = {2, 2}"
    signature = f"g (float[2,3,4] x) => (p, q) <{constants}{more}{wide}> "
    rows = "r = Slice(x, z, e, o, t) "
    before = parse(signature + f"{{ {rows} p = Slice(r, z, e, a, t) q = Slice(r, o, e, a, t) }}")
    after = parse(signature + "{ p = Slice(x, zz, ee, aa, tt) q = Slice(x, zo, ee, aa, tt) }")
    assert_rewrites(chains.slice_slice, before, after)


def test_a_window_that_is_read_as_it_is_stays() -> None:
    constants = "int64[1] o = {1}, int64[1] e = {9}, int64[1] a = {2}"
    body = "r = Slice(x, o, e, o)  p = Slice(r, o, e, a)  q = Neg(r)"
    model = parse(f"g (float[2,3,4] x) => (p, q) <{constants}> {{ {body} }}")
    assert_refuses(chains.slice_slice, model, "other operators need the first one")
