# SPDX-License-Identifier: Apache-2.0
"""Attentions written as text, what is put around their scores, and targets that want them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from burnish.backends.preferences import Preference
from burnish.backends.target import Target
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


def fused(model: ir.Model, target: Target = WANTS) -> list[str]:
    """Run the pass; check the numbers; return the operators that are left."""
    original = model.clone()
    run_pass("attention-opset,fuse-attention", model, target=target)
    assert_same_outputs(original, model)
    return [node.op_type for node in model.graph]
