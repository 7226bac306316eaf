# SPDX-License-Identifier: Apache-2.0
"""Products of which a logarithm is taken: what counts there is the ratio of a number to itself.

Int8 is off by a share of the largest number, so that the logarithm of small ones is off by any
amount. Of six front ends of speech recognizers (a Fourier transform, a bank of filters, a
logarithm) int8 changed the outputs of five by 58 to 196 %, of the sixth by 1.7 %.
"""

from __future__ import annotations

import onnx_ir as ir

from burnish.passes.constant import is_constant

REASON = "its logarithm is taken: small numbers count as much as large ones"
_MOST_NODES = 64
# They keep what is small small, and what is large large.
_SCALE = frozenset(
    {"Abs", "Add", "Cast", "Clip", "Concat", "Identity", "Max", "Mul", "Pad", "Pow", "ReduceL2"}
    | {"ReduceSum", "ReduceSumSquare", "Reshape", "Slice", "Split", "Sqrt", "Squeeze", "Sub"}
    | {"Transpose", "Unsqueeze"}
)
_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})


def is_under_logarithm(node: ir.Node) -> bool:
    """Whether a Log takes what a product gives, with nothing but scales and sums between."""
    seen: set[ir.Node] = set()
    pending = [node]
    while pending and len(seen) < _MOST_NODES:
        for value in pending.pop().outputs:
            for use in value.uses():
                user = use.node
                if user.op_type == "Log" and user.domain == "":
                    return True
                if user not in seen and _passes_on(user):
                    seen.add(user)
                    pending.append(user)
    return False


def _passes_on(node: ir.Node) -> bool:
    if node.domain != "":
        return False
    if node.op_type in _PRODUCTS:
        return len(node.inputs) > 1 and is_constant(node.inputs[1])
    return node.op_type in _SCALE
