# SPDX-License-Identifier: Apache-2.0
"""Attention in the spellings of exporters.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.target import Target
from burnish.passes.fuse.attention.attention import attention
from burnish.testing import assert_refuses, assert_rewrites, parse, run_pass
from tests.passes.fuse.attention.conftest import (
    HALF,
    HEADER,
    LOWEST,
    NUMBERS,
    PLAIN,
    PRODUCT,
    SIGNATURE,
    WANTS,
    WANTS_MHA,
    WANTS_NONE,
    WIDE,
    Freeze,
    fused,
)


def test_attention() -> None:
    signature = HEADER + "g (float[N,4,2,8] q, float[N,4,3,8] k, float[N,4,3,8] v)"
    before = parse(
        signature + " => (float[N,4,2,8] y) <float c = {0.25}>"
        "{ t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t) z = Mul(s, c) p = Softmax(z)"
        " y = MatMul(p, v) }"
    )
    after = parse(
        signature + " => (float[N,4,2,8] y) { y = Attention<scale=0.25>(q, k, v) }",
    )
    assert_rewrites(attention, before, after, target=WANTS)


def test_attention_for_an_older_operator_set() -> None:
    signature = "g (float[N,4,2,8] q, float[N,4,3,8] k, float[N,4,3,8] v) => (float[N,4,2,8] y)"
    before = parse(
        signature + "{ t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t) p = Softmax(s)"
        " y = MatMul(p, v) }"
    )
    older = before.clone()
    assert fused(before) == ["Attention"]
    assert before.opset_imports[""] == 23
    operators = fused(older, WANTS_MHA)
    assert operators.count("MultiHeadAttention") == 1
    assert "Softmax" not in operators
    assert older.opset_imports[""] == 21


@pytest.mark.parametrize(
    ("q", "k", "v", "reason"),
    [
        ("1,4,2,8", "N,4,3,8", "N,4,3,8", "to have the same batch size"),
        ("N,H,2,8", "N,H,3,8", "N,H,3,8", "the number of heads is unknown"),
        ("4,2,8", "4,3,8", "1,4,3,8", "not of rank 4"),
    ],
)
def test_shapes_that_do_not_fit(q: str, k: str, v: str, reason: str) -> None:
    perm = "0,2,1" if q.count(",") == 2 else "0,1,3,2"
    model = parse(
        f"{HEADER} g (float[{q}] q, float[{k}] k, float[{v}] v) => (float[{q}] y)"
        f"{{ t = Transpose<perm=[{perm}]>(k) s = MatMul(q, t) p = Softmax(s) y = MatMul(p, v) }}"
    )
    assert_refuses(attention, model, reason, target=WANTS)


def test_a_target_that_does_not_want_it(freeze: Freeze) -> None:
    model = freeze(SIGNATURE + f"{{ {PRODUCT} z = Add(a, xb) {PLAIN} }}", opset=23, **NUMBERS)
    reason = "target cpu runs it no faster fused (0.93x)"
    assert_refuses(attention, model, reason, target=WANTS_NONE)


def test_the_operator_set_stays_where_attention_is_not_wanted() -> None:
    model = parse(
        "g (float[2,3] x, float[3,2] v) => (float[2,2] y) { p = Softmax(x) y = MatMul(p, v) }"
    )
    assert_refuses("attention-opset", model, "no faster fused", target=WANTS_NONE)


def test_the_operator_set_stays_where_the_target_would_not_run_all_of_it() -> None:
    model = parse(
        "g (float[2,3] x, float[3,2] v) => (float[2,2] y)"
        " { p = Softmax(x) m = MatMul(p, v) r = RandomNormalLike<scale=0.0>(m) y = Add(m, r) }"
    )
    reason = "target cpu does not run RandomNormalLike of float at 23"
    assert_refuses("attention-opset", model, reason, target=WANTS)


def test_the_operator_set_of_a_classifier_stays() -> None:
    model = parse(
        "g (float[2,3,1,1] x) => (float[2,3] y) <int64[2] s = {2, 3}>"
        "{ p = Softmax<axis=1>(x) y = Reshape(p, s) }"
    )
    run_pass("attention-opset", model, target=WANTS)
    assert model.opset_imports[""] == 21


FLAT = (
    "g (float[B,2,8] xq, float[B,3,8] xk, float[B,3,6] xv, float c, float zero, float low,"
    " float[%s] xb, bool[2,3] xm) => (float[B,2,6] y)"
)


@pytest.mark.parametrize("mask", ["B,2,3", "B,1,3", "2,3", "1,1,3"])
@pytest.mark.parametrize(
    "body",
    [
        "t = Transpose<perm=[0,2,1]>(xk) s = MatMul(xq, t) a = Mul(s, c) z = Add(a, xb)",
        "t = Transpose<perm=[0,2,1]>(xk) s = MatMul(xq, t) a = Sub(s, xb) z = Where(xm, a, low)",
    ],
)
@pytest.mark.parametrize("target", [WANTS, WANTS_MHA], ids=["standard", "microsoft"])
def test_heads_and_batches_on_one_axis(
    freeze: Freeze, mask: str, body: str, target: Target
) -> None:
    """As WavLM has them, and what torch's multi-head attention exports where it gives weights."""
    text = f"{FLAT % mask} {{ {body} p = Softmax<axis=-1>(z) y = MatMul(p, xv) }}"
    numbers = {"c": 0.25, "zero": 0.0, "low": LOWEST}
    operators = fused(freeze(text, opset=23, **numbers), target)
    assert "Softmax" not in operators
    assert len({"Attention", "MultiHeadAttention"} & set(operators)) == 1


def test_queries_and_values_of_different_types_are_refused(freeze: Freeze) -> None:
    body = f"{WIDE} p = Softmax(a) w = Cast<to=1>(xv) o = MatMul(p, w) y = Cast<to=10>(o)"
    model = freeze(f"{HALF} {{ {body} }}", opset=23, **NUMBERS)
    assert_refuses(attention, model, "different types", target=WANTS)


def test_bfloat16_is_left_where_no_kernel_is() -> None:
    signature = "g (bfloat16[N,4,2,8] q, bfloat16[N,4,3,8] k, bfloat16[N,4,3,8] v)"
    model = parse(
        f"{HEADER}{signature} => (bfloat16[N,4,2,8] y) {{ t = Transpose<perm=[0,1,3,2]>(k)"
        " s = MatMul(q, t) f = Cast<to=1>(s) p = Softmax(f) h = Cast<to=16>(p) y = MatMul(h, v) }"
    )
    reason = "target cpu does not run Attention of bfloat16 at opset 23"
    assert_refuses(attention, model, reason, target=WANTS)


REPEATED = {
    "expand": "u{0} = Unsqueeze(x{0}, two) e{0} = Expand(u{0}, many) r{0} = Reshape(e{0}, joined)",
    "tile": "u{0} = Unsqueeze(x{0}, two) e{0} = Tile(u{0}, times) r{0} = Reshape(e{0}, joined)",
    "gather": "r{0} = Gather<axis=1>(x{0}, runs)",
    "tile one": "r{0} = Tile(x{0}, once)",
    "expand one": "r{0} = Expand(x{0}, joined)",
    "concat one": "r{0} = Concat<axis=1>(x{0}, x{0}, x{0}, x{0})",
}
NOT_REPEATED = {
    "in turns": "r{0} = Tile(x{0}, once)",
    "in turns by concat": "r{0} = Concat<axis=1>(x{0}, x{0})",
    "in turns by gather": "r{0} = Gather<axis=1>(x{0}, turns)",
}


def repeated(freeze: Freeze, heads: int, spelling: str) -> ir.Model:
    """Attention of 4 heads of queries, whose keys and values are repeated."""
    times = 4 // heads
    return freeze(
        f"g (float[2,4,2,8] xq, float[2,{heads},3,8] xk, float[2,{heads},3,8] xv, int64[1] two,"
        " int64[5] many, int64[5] times, int64[4] joined, int64[4] once, int64[4] runs,"
        f" int64[4] turns) => (float[2,4,2,8] y) {{ {spelling.format('k')} {spelling.format('v')}"
        " t = Transpose<perm=[0,1,3,2]>(rk) s = MatMul(xq, t) p = Softmax(s) y = MatMul(p, rv) }",
        opset=23,
        two=2,
        many=np.array([2, heads, times, 3, 8]),
        times=np.array([1, 1, times, 1, 1]),
        joined=np.array([2, 4, 3, 8]),
        once=np.array([1, times, 1, 1]),
        runs=np.repeat(np.arange(heads), times),
        turns=np.tile(np.arange(heads), times),
    )


@pytest.mark.parametrize(
    ("heads", "spelling"),
    [
        *((heads, name) for name in ("expand", "tile", "gather") for heads in (1, 2)),
        *((1, name) for name in ("tile one", "expand one", "concat one")),
    ],
)
def test_heads_of_keys_that_several_queries_share(
    freeze: Freeze, heads: int, spelling: str
) -> None:
    model = repeated(freeze, heads, REPEATED[spelling])
    assert fused(model) == ["Attention"]


@pytest.mark.parametrize("spelling", NOT_REPEATED)
def test_heads_of_keys_in_turns_stay_repeated(freeze: Freeze, spelling: str) -> None:
    """Queries 0 and 2 share a head here, not 0 and 1."""
    operators = fused(repeated(freeze, 2, NOT_REPEATED[spelling]))
    assert "Attention" in operators
    assert len(operators) == 3


ONE_HEAD = (
    f"{HEADER} g (float[N,4,2,8] q, float[N,1,3,8] k, float[N,1,3,8] v) => (float[N,4,2,8] y)"
    "{ t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t) p = Softmax(s) y = MatMul(p, v) }"
)


def test_one_head_of_keys_that_all_queries_share() -> None:
    assert fused(parse(ONE_HEAD)) == ["Attention"]


def test_one_head_of_keys_is_not_for_multi_head_attention() -> None:
    reason = "queries and keys have different heads"
    assert_refuses(attention, parse(ONE_HEAD), reason, target=WANTS_MHA)
