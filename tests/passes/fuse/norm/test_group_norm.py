# SPDX-License-Identifier: Apache-2.0
"""GroupNormalization in the spellings of torch, Keras and the standard, and expanded again.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.backends.target import Target
from burnish.passes.fuse.norm.group_norm import expand_group_norm, group_norm, group_norm_spelled
from burnish.passes.fuse.norm.norm import FuseNorm
from burnish.testing import assert_refuses, assert_rewrites, assert_same_outputs, parse, run_pass

Freeze = Callable[..., ir.Model]

CPU = Target.parse("cpu")
WANTS = dataclasses.replace(CPU, preferences=())
SIGNATURE = "g (float[N,4,3,3] x) => (float[N,4,3,3] y) "
TORCH = (
    "{ r = Reshape(x, groups) i = InstanceNormalization<epsilon=0.001>(r, ones, zeros)"
    " y = Reshape(i, back) }"
)
CONSTANTS = (
    "<int64[3] groups = {0, %d, -1}, float[%d] ones = {1%s}, float[%d] zeros = {0%s},"
    " int64[4] back = {0, 4, 3, 3}>"
)


def torch_form(groups: int, signature: str = SIGNATURE, body: str = TORCH) -> ir.Model:
    more = groups - 1
    constants = CONSTANTS % (groups, groups, ", 1" * more, groups, ", 0" * more)
    return parse(signature + constants + body)


def operators(model: ir.Model, target: Target = CPU) -> list[str]:
    """Run the pass; check the numbers; return the operators that are left."""
    original = model.clone()
    run_pass(FuseNorm(), model, target=target)
    assert_same_outputs(original, model)
    return [node.op_type for node in model.graph]


# --- group-norm --------------------------------------------------------------------------------


def test_joined_channels_are_a_group_norm_where_the_target_wants_it() -> None:
    after = parse(
        SIGNATURE + "<float[4] w = {1, 1, 1, 1}, float[4] b = {0, 0, 0, 0}>"
        "{ y = GroupNormalization<num_groups=2, epsilon=0.001>(x, w, b) }"
    )
    assert_rewrites(group_norm, torch_form(2), after, target=WANTS)


def test_channels_alone_need_no_reshape() -> None:
    after = parse(
        SIGNATURE + "<float[4] w = {1, 1, 1, 1}, float[4] b = {0, 0, 0, 0}>"
        "{ y = InstanceNormalization<epsilon=0.001>(x, w, b) }"
    )
    assert_rewrites(group_norm, torch_form(4), after)


def test_sizes_that_are_asked_for(freeze: Freeze) -> None:
    model = freeze(
        "g (float[N,4,H,W] x, int64[3] groups, float[2] ones, float[2] zeros, float[4,1,1] w,"
        " float[1,4,1,1] b) => (float[N,4,H,W] y)"
        "{ r = Reshape(x, groups) i = InstanceNormalization(r, ones, zeros) s = Shape<start=0>(x)"
        " t = Reshape(i, s) u = Mul(t, w) y = Add(b, u) }",
        groups=[0, 2, -1],
        ones=1,
        zeros=0,
    )
    assert operators(model, WANTS) == ["GroupNormalization"]


@pytest.mark.parametrize(
    ("model", "target", "reason"),
    [
        (torch_form(2), CPU, "target cpu runs it no faster fused"),
        (
            torch_form(2, '<ir_version: 10, opset_import: ["" : 20]>' + SIGNATURE),
            WANTS,
            "GroupNormalization with a scale for each channel is of opset 21",
        ),
        (
            parse(
                "g (float[2,4,3,3] x, int64[4] back) => (float[A,B,C,D] y)"
                "<int64[3] groups = {0, 2, -1}, float[2] ones = {1, 1}, float[2] zeros = {0, 0}>"
                + TORCH
            ),
            WANTS,
            "the shape behind is not known to be the shape before",
        ),
        (
            parse(
                "g (float[2,4,3,3] x) => (float[2,4,3,3] y)"
                "<int64[3] groups = {1, 4, -1}, float[4] ones = {1, 1, 1, 1},"
                " float[4] zeros = {0, 0, 0, 0}, int64[4] back = {2, 4, 3, 3}>" + TORCH
            ),
            WANTS,
            "samples are not known to be kept apart",
        ),
    ],
)
def test_refuses(model: ir.Model, target: Target, reason: str) -> None:
    assert_refuses(group_norm, model, reason, target=target)


# --- expand-group-norm -------------------------------------------------------------------------


def test_it_is_expanded_where_the_target_runs_it_slower() -> None:
    before = parse(
        SIGNATURE + "<float[4] w = {1, 2, 3, 4}, float[4] b = {5, 6, 7, 8}>"
        "{ y = GroupNormalization<num_groups=2, epsilon=0.001>(x, w, b) }"
    )
    assert operators(before) == ["Reshape", "InstanceNormalization", "Reshape", "Mul", "Add"]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("sizes", ["N,4,3,3", "N,4,H,W", "2,4,L"])
def test_numbers_stay_when_it_is_expanded(freeze: Freeze, groups: int, sizes: str) -> None:
    model = freeze(
        f"g (float[{sizes}] x, float[4] w, float[4] x1) => (float[{sizes}] y)"
        f"{{ y = GroupNormalization<num_groups={groups}>(x, w, x1) }}"
    )
    assert "GroupNormalization" not in operators(model)


def test_a_scale_for_each_group_goes_into_the_operator(freeze: Freeze) -> None:
    text = (
        f"{SIGNATURE.replace(' x)', ' x, float[2] w, float[2] b)')}"
        "{ y = GroupNormalization<num_groups=2>(x, w, b) }"
    )
    model = freeze(text, opset=18)
    run_pass(expand_group_norm, model)  # no runtime runs the operator of opset 18
    reference = freeze(
        f"{SIGNATURE.replace(' x)', ' x, float[2] w, float[2] b, int64[3] s, int64[4] t)')}"
        "{ r = Reshape(x, s) i = InstanceNormalization(r, w, b) y = Reshape(i, t) }",
        s=[0, 2, -1],
        t=[0, 4, 3, 3],
    )
    assert_same_outputs(reference, model)


def test_it_stays_where_the_target_wants_it(freeze: Freeze) -> None:
    text = (
        f"{SIGNATURE.replace(' x)', ' x, float[4] w, float[4] b)')}"
        "{ y = GroupNormalization<num_groups=2>(x, w, b) }"
    )
    assert_refuses(expand_group_norm, freeze(text), "the target runs it as it is", target=WANTS)


# --- group-norm-spelled ------------------------------------------------------------------------

KERAS = (
    "g (float[N,3,3,4] x, int64[5] split, int64[4] back, int64[3] axes, float eps,"
    " float[1,1,1,2,2] w, float[1,1,1,2,2] b) => (float[N,3,3,4] y)"
    "{ r = Reshape(x, split) m = ReduceMean(r, axes) d = Sub(r, m) q = Mul(d, d)"
    " v = ReduceMean(q, axes) ve = Add(v, eps) sq = Sqrt(ve) i = Reciprocal(sq) s = Mul(i, w)"
    " n = Neg(m) p = Mul(r, s) t = Mul(n, s) u = Add(t, b) z = Add(p, u) y = Reshape(z, back) }"
)
LAST = {"split": [-1, 3, 3, 2, 2], "back": [-1, 3, 3, 4], "axes": [1, 2, 4], "eps": 1e-3}


@pytest.mark.parametrize(
    ("target", "norm"),
    [
        (CPU, ["Reshape", "InstanceNormalization", "Reshape", "Mul", "Add"]),
        (WANTS, ["GroupNormalization"]),
    ],
)
def test_grouped_channels_last(freeze: Freeze, target: Target, norm: list[str]) -> None:
    assert operators(freeze(KERAS, **LAST), target) == ["Transpose", *norm, "Transpose"]


@pytest.mark.parametrize(
    "scale",
    [
        "i = Reciprocal(sq) z = Mul(d, i)",
        "i = Reciprocal(sq) k = Mul(i, w) z = Mul(d, k)",
        "z = Div(d, sq)",
    ],
)
def test_grouped_channels_first(freeze: Freeze, scale: str) -> None:
    model = freeze(
        "g (float[N,4,3,3] x, int64[5] split, int64[4] back, int64[3] axes, float eps,"
        " float[2,2,1,1] w) => (float[N,4,3,3] y)"
        "{ r = Reshape(x, split) m = ReduceMean(r, axes) d = Sub(r, m) q = Mul(d, d)"
        " v = ReduceMean(q, axes) ve = Add(v, eps) sq = Sqrt(ve)"
        f" {scale} y = Reshape(z, back) }}",
        split=[0, 2, 2, 3, 3],
        back=[0, 4, 3, 3],
        axes=[2, 3, 4],
        eps=1e-3,
    )
    assert operators(model, WANTS) == ["GroupNormalization"]


@pytest.mark.parametrize(
    ("change", "given", "reason"),
    [
        ({}, {"axes": [1, 2, 3]}, "the mean is not over groups of channels"),
        ({}, {"back": [-1, 3, 12, 1]}, "the shape behind is not known to be the shape before"),
        (
            {"[1,1,1,2,2] w": "[3,1,1,2] w"},
            {},
            "the constant differs along more than the channels",
        ),
    ],
)
def test_other_groups_are_refused(
    freeze: Freeze, change: dict[str, str], given: dict[str, list[int]], reason: str
) -> None:
    text = KERAS
    for old, new in change.items():
        text = text.replace(old, new)
    text = text.replace("=> (float[N,3,3,4] y)", "=> (float[A,B,C,D] y)")
    assert_refuses(group_norm_spelled, freeze(text, **(LAST | given)), reason)
