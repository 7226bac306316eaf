# SPDX-License-Identifier: Apache-2.0
"""Past keys and values as inputs of Attention.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import numpy as np
import pytest

from burnish.passes.fuse.attention.absorbed_heads import cached_attention_joins_heads
from burnish.passes.fuse.attention.cache import attention_with_past
from burnish.passes.fuse.attention.causal import causal_attention
from burnish.testing import assert_refuses, assert_rewrites, assert_same_outputs, parse, run_pass
from tests.passes.fuse.attention.conftest import HEADER, WANTS

SIGNATURE = (
    HEADER + "g (float[N,4,S,8] q, float[N,2,S,8] k, float[N,2,S,6] v, float[N,2,P,8] pk,"
    " float[N,2,P,6] pv) => (float[N,4,S,6] y, float[N,2,T,8] keys, float[N,2,T,6] values)"
)
JOINED = "keys = Concat<axis=2>(pk, k) values = Concat<axis=-2>(pv, v)"


def test_attention_with_past() -> None:
    before = parse(f"{SIGNATURE} {{ {JOINED} y = Attention<scale=0.25>(q, keys, values) }}")
    after = parse(f"{SIGNATURE} {{ y, keys, values = Attention<scale=0.25>(q, k, v, , pk, pv) }}")
    assert_rewrites(attention_with_past, before, after, target=WANTS)


def test_present_keys_need_not_be_outputs() -> None:
    signature = SIGNATURE.replace(", float[N,2,T,8] keys, float[N,2,T,6] values", "")
    before = parse(f"{signature} {{ {JOINED} y = Attention<scale=0.25>(q, keys, values) }}")
    original = before.clone()
    run_pass(attention_with_past, before, target=WANTS)
    assert [node.op_type for node in before.graph] == ["Attention"]
    assert_same_outputs(original, before)


@pytest.mark.parametrize(
    ("signature", "body", "reason"),
    [
        (
            SIGNATURE,
            f"{JOINED} y = Attention<scale=0.25, is_causal=1>(q, keys, values)",
            "the causal flag would count from the end of the past",
        ),
        (
            SIGNATURE.replace("float[N,2,P,6] pv", "float[N,2,R,6] pv"),
            f"{JOINED} y = Attention<scale=0.25>(q, keys, values)",
            "not known to be of as many tokens",
        ),
        (
            SIGNATURE,
            "keys = Concat<axis=2>(pk, k) values = Concat<axis=1>(pv, v)"
            " y = Attention<scale=0.25>(q, keys, values)",
            "attribute axis of Concat differs",
        ),
    ],
    ids=["causal", "lengths", "axis"],
)
def test_what_is_no_past(signature: str, body: str, reason: str) -> None:
    assert_refuses(attention_with_past, parse(f"{signature} {{ {body} }}"), reason, target=WANTS)


POSITIONS = (
    "sp = Shape<start=2, end=3>(pk) sn = Shape<start=2, end=3>(q) P = Squeeze(sp) S = Squeeze(sn)"
    " T = Add(P, S) i0 = Range(zero, S, one) i1 = Add(i0, P) i = Unsqueeze(i1, column)"
    " j = Range(zero, T, one) m = LessOrEqual(j, i)"
)


def test_the_causal_flag_counts_the_past() -> None:
    body = f"{POSITIONS} y, keys, values = Attention<scale=0.25>(q, k, v, m, pk, pv)"
    constants = "<int64 zero = {0}, int64 one = {1}, int64[1] column = {1}>"
    before = parse(f"{SIGNATURE} {constants} {{ {body} }}")
    after = parse(
        f"{SIGNATURE} {{ y, keys, values = Attention<scale=0.25, is_causal=1>(q, k, v, , pk, pv) }}"
    )
    rng = np.random.default_rng(0)
    sizes = {"q": (2, 4, 3, 8), "k": (2, 2, 3, 8), "v": (2, 2, 3, 6), "pk": (2, 2, 5, 8)}
    sizes["pv"] = (2, 2, 5, 6)
    feeds = {name: rng.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    assert_rewrites(causal_attention, before, after, target=WANTS, feeds=feeds)


def test_heads_of_new_keys_are_joined() -> None:
    header = (
        HEADER + "g (float[N,S,4,8] q, float[N,S,2,8] k, float[N,S,2,8] v, float[N,2,P,8] pk,"
        " float[N,2,P,8] pv) => (float[N,S,4,8] y, float[N,2,T,8] keys, float[N,2,T,8] values)"
    )
    before = parse(
        header + "{ a = Transpose<perm=[0,2,1,3]>(q) b = Transpose<perm=[0,2,1,3]>(k)"
        " c = Transpose<perm=[0,2,1,3]>(v) d, keys, values = Attention(a, b, c, , pk, pv)"
        " y = Transpose<perm=[0,2,1,3]>(d) }"
    )
    after = parse(
        header + "<int64[3] j = {0, 0, -1}, int64[4] s = {0, 0, 4, -1}>"
        "{ a = Reshape(q, j) b = Reshape(k, j) c = Reshape(v, j) d, keys, values ="
        " Attention<q_num_heads=4, kv_num_heads=2>(a, b, c, , pk, pv) y = Reshape(d, s) }"
    )
    assert_rewrites(cached_attention_joins_heads, before, after, target=WANTS)


def test_heads_that_are_not_counted_stay_apart() -> None:
    before = parse(
        HEADER + "g (float[N,S,H,8] q, float[N,S,H,8] k, float[N,S,H,8] v, float[N,H,P,8] pk,"
        " float[N,H,P,8] pv) => (float[N,S,H,8] y, float[N,H,T,8] keys, float[N,H,T,8] values)"
        "{ a = Transpose<perm=[0,2,1,3]>(q) b = Transpose<perm=[0,2,1,3]>(k)"
        " c = Transpose<perm=[0,2,1,3]>(v) d, keys, values = Attention(a, b, c, , pk, pv)"
        " y = Transpose<perm=[0,2,1,3]>(d) }"
    )
    reason = "the number of heads is unknown"
    assert_refuses(cached_attention_joins_heads, before, reason, target=WANTS)
