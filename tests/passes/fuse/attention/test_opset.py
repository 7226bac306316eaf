# SPDX-License-Identifier: Apache-2.0
"""The operator set of Attention, and models and targets that stay below it.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

from burnish.testing import assert_refuses, parse, run_pass
from tests.passes.fuse.attention.conftest import WANTS, WANTS_MHA, WANTS_NONE, fused


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
