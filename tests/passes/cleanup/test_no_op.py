# SPDX-License-Identifier: Apache-2.0
"""Operators that only pass their input on: each rule fires, refuses, and keeps the numbers."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from burnish.passes.cleanup import no_op
from burnish.passes.rule import Rule
from burnish.testing import assert_refuses, assert_rewrites, parse, rewrites, run_pass

YES, NO, MIXED = "bool {1}", "bool {0}", "bool[4] {1, 0, 1, 1}"
ZEROS = "int64[6] {0, 0, 0, 0, 0, 0}"


def label(item: object) -> str:
    """Name a test by its rule, opset and expression."""
    return item.name if isinstance(item, Rule) else "" if isinstance(item, dict) else str(item)


def model(expression: str, opset: int, **constants: str) -> ir.Model:
    """Return a model that computes an expression of `a`, which is computed itself."""
    nodes = "  ".join(f"{name} = Constant<value = {text}>()" for name, text in constants.items())
    return parse(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[2,3,4] x, int64[1] n) => (y) '
        f"{{ {nodes}  a = Abs(x)  b = {expression}  y = Neg(b) }}"
    )


@pytest.mark.parametrize(
    ("rule", "opset", "expression", "constants"),
    [
        (no_op.identity, 21, "Identity(a)", {}),
        (no_op.dropout, 21, "Dropout(a)", {}),
        (no_op.dropout, 7, "Dropout<ratio = 0.5>(a)", {}),
        (no_op.dropout, 13, "Dropout(a, half, no)", {"half": "float {0.5}", "no": NO}),
        (no_op.cast_to_same, 21, "Cast<to = 1>(a)", {}),
        (no_op.cast_to_same, 21, "CastLike(a, x)", {}),
        (no_op.reshape_to_same, 21, "Reshape(a, s)", {"s": "int64[3] {2, 3, 4}"}),
        (no_op.reshape_to_same, 7, "Reshape(a, s)", {"s": "int64[3] {0, -1, 4}"}),
        (no_op.reshape_to_same, 21, "Expand(a, s)", {"s": "int64[2] {1, 1}"}),
        (no_op.reshape_to_same, 8, "Expand(a, s)", {"s": "int64[3] {2, 3, 4}"}),
        (no_op.reshape_to_same, 13, "Tile(a, s)", {"s": "int64[3] {1, 1, 1}"}),
        (no_op.transpose_to_same, 21, "Transpose<perm = [0, 1, 2]>(a)", {}),
        (
            no_op.slice_everything,
            21,
            "Slice(a, lo, hi, axes)",
            {
                "lo": "int64[2] {0, 0}",
                "hi": "int64[2] {9223372036854775807, 3}",
                "axes": "int64[2] {0, 1}",
            },
        ),
        (
            no_op.slice_everything,
            13,
            "Slice(a, lo, hi, axes, steps)",
            {
                "lo": "int64[1] {0}",
                "hi": "int64[1] {4}",
                "axes": "int64[1] {-1}",
                "steps": "int64[1] {1}",
            },
        ),
        (no_op.slice_everything, 9, "Slice<starts = [0], ends = [4], axes = [2]>(a)", {}),
        (no_op.slice_everything, 9, "Slice<starts = [0, 0], ends = [2, 3]>(a)", {}),
        (no_op.pad_nothing, 21, "Pad(a, pads)", {"pads": ZEROS}),
        (no_op.pad_nothing, 10, 'Pad<mode = "edge", pads = [0, 0, 0, 0, 0, 0]>(a)', {}),
        (no_op.combine_one, 21, "Concat<axis = 1>(a)", {}),
        (no_op.combine_one, 21, "Max(a)", {}),
        (no_op.combine_one, 8, "Sum(a)", {}),
        (no_op.split_into_one, 21, "Split<axis = 1, num_outputs = 1>(a)", {}),
        (no_op.split_into_one, 11, "Split<axis = 1>(a)", {}),
        (no_op.where_decided, 21, "Where(c, a, x)", {"c": YES}),
        (no_op.where_decided, 21, "Where(c, x, a)", {"c": NO}),
    ],
    ids=label,
)
def test_fires(rule: Rule, opset: int, expression: str, constants: dict[str, str]) -> None:
    before = model(expression, opset, **constants)
    after = model("Identity(a)", opset)
    (identity,) = [node for node in after.graph if node.op_type == "Identity"]
    identity.outputs[0].replace_all_uses_with(identity.inputs[0])  # type: ignore[arg-type]
    after.graph.remove(identity, safe=True)
    assert_rewrites(rule, before, after)


@pytest.mark.parametrize(
    ("rule", "opset", "expression", "constants", "reason"),
    [
        (no_op.dropout, 13, "Dropout(a, p, c)", {"p": "float {0}", "c": YES}, "training"),
        (no_op.cast_to_same, 21, "Cast<to = 11>(a)", {}, "the type changes"),
        (no_op.reshape_to_same, 21, "Reshape(a, s)", {"s": "int64[3] {3, 2, 4}"}, "changes"),
        (no_op.reshape_to_same, 21, "Reshape(a, s)", {"s": "int64[2] {2, -1}"}, "changes"),
        (no_op.reshape_to_same, 21, "Expand(a, s)", {"s": "int64[4] {1, 1, 1, 1}"}, "changes"),
        (no_op.reshape_to_same, 21, "Tile(a, s)", {"s": "int64[3] {1, 2, 1}"}, "changes"),
        (no_op.transpose_to_same, 21, "Transpose(a)", {}, "the axes move"),
        (no_op.transpose_to_same, 21, "Transpose<perm = [0, 2, 1]>(a)", {}, "the axes move"),
        (
            no_op.slice_everything,
            21,
            "Slice(a, lo, hi)",
            {"lo": "int64[1] {0}", "hi": "int64[1] {1}"},
            "leaves something out",
        ),
        (
            no_op.slice_everything,
            21,
            "Slice(a, lo, hi, axes, steps)",  # everything, but backwards
            {
                "lo": "int64[1] {-1}",
                "hi": "int64[1] {-9}",
                "axes": "int64[1] {2}",
                "steps": "int64[1] {-1}",
            },
            "leaves something out",
        ),
        (
            no_op.slice_everything,
            21,
            "Slice(a, n, hi)",
            {"hi": "int64[1] {3}"},
            "not constant",
        ),
        (no_op.slice_everything, 9, "Slice<starts = [1], ends = [9]>(a)", {}, "leaves something"),
        (no_op.pad_nothing, 21, "Pad(a, p)", {"p": "int64[6] {0, 0, 0, 0, 1, 0}"}, "it pads"),
        (no_op.pad_nothing, 21, "Pad(a, p)", {"p": "int64[6] {0, 1, 0, 0, -1, 0}"}, "it pads"),
        (no_op.where_decided, 21, "Where(c, a, x)", {"c": MIXED}, "the condition is mixed"),
        (
            no_op.where_decided,
            21,
            "Where(c, n, i)",
            {"c": YES, "i": "int64[2] {1, 2}"},
            "broadcast",
        ),
    ],
    ids=label,
)
def test_refuses(
    rule: Rule, opset: int, expression: str, constants: dict[str, str], reason: str
) -> None:
    assert_refuses(rule, model(expression, opset, **constants), reason)


def test_dropout_with_a_mask_in_use_stays() -> None:
    before = parse(
        "g (float[4] x) => (float[4] y, bool[4] mask) { a, mask = Dropout(x)  y = Neg(a) }"
    )
    assert not rewrites(run_pass(no_op.dropout, before))


def test_dropout_of_old_trains_by_default_and_stays() -> None:
    before = parse(
        '<ir_version: 3, opset_import: ["" : 6]> g (float[4] x) => (float[4] y) { y = Dropout(x) }'
    )
    assert not rewrites(run_pass(no_op.dropout, before))


@pytest.mark.parametrize(
    "body",
    [
        "y = Identity(x)",  # from an input
        "z = Abs(x)  y = Identity(z)",  # of another output
        "y = Identity(w)",  # from a constant
    ],
)
def test_identity_that_names_an_output_stays(body: str) -> None:
    before = parse(
        f"g (float[4] x) => (float[4] y, float[4] z) <float[4] w = {{1, 2, 3, 4}}> "
        f"{{ {body if 'z =' in body else body + '  z = Abs(x)'} }}"
    )
    assert_refuses(no_op.identity, before, "an output of the graph needs a node of its own")


def test_identity_before_an_output_hands_over_its_name() -> None:
    before = parse("g (float[4] x) => (float[4] y) { a = Abs(x)  y = Identity(a) }")
    run_pass(no_op.identity, before)
    assert [node.op_type for node in before.graph] == ["Abs"]
    assert [value.name for value in before.graph.outputs] == ["y"]


def test_identity_out_of_an_inner_graph_stays() -> None:
    before = parse(
        """g (bool c, float[4] x) => (float[4] y) {
            y = If(c) <then_branch = t () => (float[4] a) { a = Identity(x) },
                       else_branch = e () => (float[4] b) { b = Neg(x) }>
        }"""
    )
    assert_refuses(no_op.identity, before, "an output of the graph needs a node of its own")
