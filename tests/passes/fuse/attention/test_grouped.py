# SPDX-License-Identifier: Apache-2.0
"""GroupQueryAttention, for targets whose table prefers it.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from burnish.backends.preferences import Preference
from burnish.backends.target import Target
from burnish.passes.fuse.attention.grouped import (
    attention_to_grouped_query,
    cached_attention_to_grouped_query,
)
from burnish.testing import assert_refuses, assert_same_outputs, parse, run_pass

CPU = Target.parse("cpu")
WANTS = dataclasses.replace(
    CPU,
    preferences=(
        Preference("Attention", False, 0.5),
        Preference("microsoft.GroupQueryAttention", True, 1.5),
    ),
)
HEADER = '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>\n'
HEADS = "q_num_heads=4, kv_num_heads=2, scale=0.25"
FIRST = (
    HEADER + "g (float[N,S,32] q, float[N,S,16] k, float[N,S,16] v) => (float[N,S,32] y)"
    " { y = Attention<is_causal=%d, %s>(q, k, v) }"
)
NEXT = (
    HEADER + "g (float[%s,32] q, float[%s,16] k, float[%s,16] v, float[%s,2,P,8] pk,"
    " float[%s,2,P,8] pv) => (float[%s,32] y, float[%s,2,T,8] keys, float[%s,2,T,8] values)"
    " { y, keys, values = Attention<is_causal=1, %s>(q, k, v, , pk, pv) }"
)


def following(new: str) -> str:
    batch = new.split(",")[0]
    return NEXT % (new, new, new, batch, batch, new, batch, batch, HEADS)


def test_the_first_tokens() -> None:
    model = parse(FIRST % (1, HEADS))
    original = model.clone()
    run_pass(attention_to_grouped_query, model, target=WANTS)
    assert [node.op_type for node in model.graph].count("GroupQueryAttention") == 1
    rng = np.random.default_rng(0)
    sizes = {"q": 32, "k": 16, "v": 16}
    feeds = {n: rng.standard_normal((2, 5, size)).astype(np.float32) for n, size in sizes.items()}
    assert_same_outputs(original, model, feeds=feeds)


@pytest.mark.parametrize(("new", "batch", "tokens"), [("N,1", 3, 1), ("1,S", 1, 4)])
def test_tokens_behind_a_past(new: str, batch: int, tokens: int) -> None:
    model = parse(following(new))
    original = model.clone()
    run_pass(cached_attention_to_grouped_query, model, target=WANTS)
    assert [node.op_type for node in model.graph].count("GroupQueryAttention") == 1
    rng = np.random.default_rng(0)
    sizes: dict[str, tuple[int, ...]] = {"q": (batch, tokens, 32), "pk": (batch, 2, 6, 8)}
    sizes |= {"k": (batch, tokens, 16), "v": (batch, tokens, 16), "pv": (batch, 2, 6, 8)}
    feeds = {name: rng.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    assert_same_outputs(original, model, feeds=feeds)


def test_what_is_not_for_it() -> None:
    reason = "several tokens of several batches behind a past"
    model = parse(following("N,S"))
    assert_refuses(cached_attention_to_grouped_query, model, reason, target=WANTS)
    model = parse(
        HEADER + "g (float[N,4,S,8] q, float[N,2,S,8] k, float[N,2,S,8] v) => (float[N,4,S,8] y)"
        " { y = Attention<is_causal=1>(q, k, v) }"
    )
    reason = "not of three axes"
    assert_refuses(attention_to_grouped_query, model, reason, target=WANTS)


@pytest.mark.parametrize("target", [CPU, dataclasses.replace(CPU, preferences=())])
def test_targets_that_do_not_prefer_it(target: Target) -> None:
    reason = "does not prefer GroupQueryAttention"
    model = parse(FIRST % (1, HEADS))
    assert_refuses(attention_to_grouped_query, model, reason, target=target)
