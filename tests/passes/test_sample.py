# SPDX-License-Identifier: Apache-2.0
"""Graphs drawn from every rule's own patterns, and near misses, keep their outputs.

Tolerances: 1e-5 (float32, float64) and 4e-3 (float16) of the largest number on the way, since
sums may cancel; whole numbers may differ by one where such a number was cut off.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.backends.onnxruntime import session
from burnish.passes.base import Pass
from burnish.passes.pipeline import Pipeline
from burnish.passes.rule import Rule, RulePass
from burnish.passes.sample import Sample, sample
from burnish.testing import rewrites, run_pass

PIPELINE = "cleanup,fuse"
OPSETS = (9, 11, 13, 18, 20, 21, 23)


def rules_of(passes: tuple[Pass, ...]) -> dict[str, tuple[Rule, RulePass]]:
    found: dict[str, tuple[Rule, RulePass]] = {}
    for item in passes:
        found |= rules_of(getattr(item, "members", ()))
        if isinstance(item, RulePass):
            found |= {rule.name: (rule, item) for rule in item.rules}
    return found


RULES = rules_of(Pipeline.parse(PIPELINE).expand().passes)

# What the pattern of these leaves open is too much to guess: their own tests compose whole models.
BEYOND_CHANCE = {
    *("attention", "attention-joins-heads", "attention-to-grouped-query", "attention-with-past"),
    *("cached-attention-joins-heads", "cached-attention-to-grouped-query", "causal-attention"),
    *("rotary", "halves-of-gather", "swap-last-axes"),
    *("size-of-input", "size-before-attention", "size-before-transpose", "size-or-one"),
    *("bound-by-quantizing", "concat-quantized", "move-quantized", "quantize-dequantized"),
    *("group-norm", "group-norm-spelled", "expand-group-norm"),
    *("gather-into-conv", "merge-convs", "shift-between-convs", "conv-of-upsampled"),
    *("pointwise-before-resize", "split-concat", "bias-before-split", "matmul-of-joined"),
    *("matmul-of-rows", "rotary-joins-heads", "rotary-part", "size-times-over"),
    *("bound-again", "gather-all", "choice-by-table", "values-side-by-side", "rotary-pairs"),
    *("activation-before-depth-to-space", "conv-of-upsampled-parts", "depth-to-space-by-runs"),
    *("depth-to-space-by-rows", "mean-in-blocks", "phases-first", "pixel-shuffle"),
    *("transposed-pair", "channel-shuffle"),
    *("softmax-before-merge", "prelu-in-blocks", "product-of-batches", "vector-of-size"),
    # Written for targets that prefer them alone.
    *("bias-gelu", "embed-layer-norm", "skip-layer-norm", "skip-rms-norm"),
}


TOLERANCES = {"float32": 1e-5, "float64": 1e-5, "float16": 4e-3, "int32": 1, "int64": 1, "bool": 0}


def assert_same(drawn: Sample, after: ir.Model) -> None:
    with session(drawn.model) as old, session(after) as new:
        expected, actual = old.run(drawn.feeds), new.run(drawn.feeds)
    assert list(expected) == list(actual)
    for name, array in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (array.dtype, array.shape)
        scale = drawn.magnitude if array.dtype.kind == "f" else 1
        tolerance = TOLERANCES[array.dtype.name] * scale
        np.testing.assert_allclose(
            actual[name].astype(np.float64), array.astype(np.float64), rtol=0, atol=tolerance
        )


@pytest.mark.parametrize("name", sorted(RULES.keys() - BEYOND_CHANCE))
def test_a_rule_fires_on_what_its_pattern_describes(name: str) -> None:
    rule, owner = RULES[name]
    fired = 0
    for seed in range(120):
        # A second pattern, now and then, so that the first is not the output of the graph.
        drawn = sample([rule], seed, opset=OPSETS[seed % len(OPSETS)], length=1 + seed % 2)
        if drawn is None:
            continue
        after = drawn.model.clone()
        fired += rewrites(run_pass(owner, after)).get(name, 0)
        assert_same(drawn, after)
        if fired > 8:
            return
    assert fired


@settings(deadline=None, max_examples=400)
@given(
    seed=st.integers(0, 2**32),
    opset=st.sampled_from(OPSETS),
    length=st.integers(1, 6),
    near_miss=st.booleans(),
)
def test_chains_of_patterns_keep_their_outputs(
    seed: int, opset: int, length: int, near_miss: bool
) -> None:
    rules = [rule for rule, _ in RULES.values()]
    drawn = sample(rules, seed, opset=opset, length=length, near_miss=near_miss)
    if drawn is None:
        return
    after = drawn.model.clone()
    run_pass(PIPELINE, after)
    assert_same(drawn, after)


def test_a_seed_gives_one_graph() -> None:
    rules = [rule for rule, _ in RULES.values()]
    first, second = (sample(rules, 5, length=4) for _ in range(2))
    assert first is not None
    assert second is not None
    assert ir.to_onnx_text(first.model) == ir.to_onnx_text(second.model)


def test_a_near_miss_is_no_longer_what_the_rule_wants() -> None:
    rule, owner = RULES["gelu"]
    drawn = [sample([rule], seed, near_miss=True) for seed in range(40)]
    fired = [rewrites(run_pass(owner, item.model)) for item in drawn if item is not None]
    assert len(fired) > 20
    assert sum(map(len, fired)) < 5
