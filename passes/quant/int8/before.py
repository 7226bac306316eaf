# SPDX-License-Identifier: Apache-2.0
"""Where Q/DQ pairs go for TensorRT, decided before anything is edited: only before operators.

Its optimizer moves a pair over what commutes with rounding (pooling by maximum, reshaping, Concat)
and takes what follows a product into the product's kernel: the activation, the sum with a residual,
and the rounding for the next operator. So, by NVIDIA's "Q/DQ Placement Recommendations":

- Conv, MatMul and Gemm with constant weights have their input and their weights quantized, and not
  their result.
- A sum that takes the result of a quantized Conv has its other operand quantized: it is then added
  within that convolution's kernel, read as int8. Of two such results the later one is computed with
  the sum.
- Everything else stays as it is.
"""

from __future__ import annotations

import onnx_ir as ir

from burnish.passes.quant.int8.placement import Plan, Refuse, Step
from burnish.passes.quant.weighted import (
    WEIGHTED,
    kept_float,
    refuse_elsewhere,
    rule_of,
    weights_of,
)


def place_before(
    model: ir.Model,
    *,
    ops: tuple[str, ...] = WEIGHTED,
    exclude: tuple[str, ...] = (),
    refuse: Refuse = lambda *_: None,
) -> Plan:
    """Decide what to quantize in the main graph of a model; arguments as for `placement.place`."""
    plan = Plan()
    convolved: dict[ir.Value, ir.Node] = {}  # the result of each quantized Conv
    order = {node: index for index, node in enumerate(model.graph)}
    for node in model.graph:
        if node.domain != "":
            continue
        if node.op_type in ops:
            weights = weights_of(node)
            reason = kept_float(node, exclude) or (weights if isinstance(weights, str) else None)
            if reason is not None:
                refuse(rule_of(node), node, reason)
            elif weights is not None:
                plan.steps.append(Step(node, (0,), None, weighted=True))
                if node.op_type == "Conv":
                    convolved[node.outputs[0]] = node
        elif node.op_type == "Add" and not kept_float(node, exclude):
            index = _residual(node, convolved, order)
            if index is not None:
                plan.steps.append(Step(node, (index,), None))
    refuse_elsewhere(model, ops, refuse)
    return plan


def _residual(
    node: ir.Node, convolved: dict[ir.Value, ir.Node], order: dict[ir.Node, int]
) -> int | None:
    """Return which operand of a sum to quantize: the one not computed together with it."""
    (a, b) = node.inputs
    if a is None or b is None or a is b or a.shape is None or a.shape != b.shape:
        return None
    with_sum = [
        (order[convolved[value]], index)
        for index, value in enumerate((a, b))
        if value in convolved and len(value.uses()) == 1 and not value.is_graph_output()
    ]
    return None if not with_sum else 1 - max(with_sum)[1]
