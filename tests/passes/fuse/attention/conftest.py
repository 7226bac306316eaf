# SPDX-License-Identifier: Apache-2.0
"""Attentions and rotations written as text, in parts, and targets that want them fused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from burnish.backends.preferences import Preference
from burnish.backends.target import Target
from burnish.passes.fuse.attention.rotate_half import rotary
from burnish.testing import assert_same_outputs, run_pass

Freeze = Callable[..., ir.Model]

CPU = Target.parse("cpu")
WANTS = dataclasses.replace(CPU, preferences=())
WANTS_MHA = dataclasses.replace(CPU, preferences=(Preference("Attention", False, 0.5),))
WANTS_NONE = dataclasses.replace(
    CPU,
    preferences=(
        Preference("Attention", False, 0.93),
        Preference("microsoft.MultiHeadAttention", False, 0.93),
    ),
)
TURNS_SLOWLY = dataclasses.replace(
    CPU, preferences=(Preference("RotaryEmbedding", False, 0.9), *CPU.preferences)
)

LOWEST = float(np.finfo(np.float32).min)
HEADER = '<ir_version: 10, opset_import: ["" : 23]>\n'
# Queries, keys and values have 2, 3 and 3 tokens, 4 heads of 8.
SIGNATURE = (
    "g (float[N,4,2,8] xq, float[N,4,3,8] xk, float[N,4,3,8] xv, float c, float root, float zero,"
    " float low, float high, float minusinf, float thousands, bool[N,1,2,3] xm, float[N,4,2,3] xb)"
    " => (float[N,4,2,8] y)"
)
NUMBERS = {"c": 0.25, "root": 0.5, "zero": 0.0, "low": LOWEST, "high": -LOWEST, "minusinf": -np.inf}
NUMBERS |= {"thousands": -1e4}

PRODUCT = "t = Transpose<perm=[0,1,3,2]>(xk) s = MatMul(xq, t) a = Mul(s, c)"
GUARD = "p = Softmax(z) n = IsNaN(p) w = Where(n, zero, p) y = MatMul(w, xv)"
PLAIN = "p = Softmax(z) y = MatMul(p, xv)"
# In float16, where the softmax is in float32.
HALF = SIGNATURE.replace("float[N", "float16[N").replace("float16[N,4,2,3] xb", "float[N,4,2,3] xb")
WIDE = "t = Transpose<perm=[0,1,3,2]>(xk) s = MatMul(xq, t) f = Cast<to=1>(s) a = Mul(f, c)"

# --- rotations ---------------------------------------------------------------------------------

ROTARY = (
    "g (float[N,4,S,8] x, float[N,S,4] xa, float[N,S,8] xf, int64[1] zero, int64[1] one,"
    " int64[1] half, int64[1] end, int64[1] last, float two) => (float[N,4,S,8] y)"
)
ROTARY_NUMBERS = {"zero": 0, "one": 1, "half": 4, "end": 2**63 - 1, "last": 3, "two": 2}
ANGLES = "a = Concat<axis=-1>(xa, xa)"
TABLES = "c = Cos(a) s = Sin(a) cos = Unsqueeze(c, one) sin = Unsqueeze(s, one)"
HALVES = "x1 = Slice(x, zero, half, last, one) x2 = Slice(x, half, end, last, one)"
TURN = "n = Neg(x2) r = Concat<axis=-1>(n, x1) p = Mul(x, cos) q = Mul(r, sin) y = Add(p, q)"
# Neighbours swap places: [-x1, x0, -x3, x2, ...].
EVERY_OTHER = "x1 = Slice(x, zero, end, last, pair) x2 = Slice(x, one, end, last, pair)"
STACK = (
    "n = Neg(x2) u = Unsqueeze(n, back) w = Unsqueeze(x1, back) s2 = Concat<axis=-1>(u, w)"
    " r = Reshape(s2, whole) p = Mul(x, cos) q = Mul(r, sin) y = Add(p, q)"
)
BY_EXPAND = "b = Unsqueeze(xa, back) e = Expand(b, twice) a = Reshape(e, merged)"
ROTARY_PAIRED = ROTARY.replace(
    "float two)",
    "float two, int64[1] pair, int64[1] back, int64[4] whole,"
    " int64[4] twice, int64[4] copies, int64[3] merged, int64[1] second)",
)
ROTARY_SHAPES = {"pair": [2], "back": [-1], "whole": [0, 0, -1, 8], "twice": [1, 1, 1, 2]}
ROTARY_SHAPES |= {"copies": [1, 1, 1, 2], "merged": [0, 0, 8], "second": [2]}


def fused(model: ir.Model, target: Target = WANTS) -> list[str]:
    """Run the pass; check the numbers; return the operators that are left."""
    original = model.clone()
    run_pass("attention-opset,fuse-attention", model, target=target)
    assert_same_outputs(original, model)
    return [node.op_type for node in model.graph]


def paired(freeze: Freeze, *parts: str, signature: str = ROTARY_PAIRED) -> ir.Model:
    """Return a model of the parts of a rotation of neighbours, one behind another."""
    return freeze(
        signature + "{" + " ".join(parts) + "}", opset=23, **ROTARY_NUMBERS, **ROTARY_SHAPES
    )


def rotated(before: ir.Model) -> ir.Node:
    """Run the rule; check the numbers; return the one RotaryEmbedding."""
    original = before.clone()
    run_pass(rotary, before, target=WANTS)
    assert_same_outputs(original, before)
    (node,) = [node for node in before.graph if node.op_type == "RotaryEmbedding"]
    return node
