# SPDX-License-Identifier: Apache-2.0
"""May a model be quantized? Not twice, and not below the opset that the new operators need."""

from __future__ import annotations

import re
from collections import Counter

import onnx_ir as ir

from burnish.passes.context import PassContext
from burnish.passes.report import all_graphs
from burnish.passes.upgrade import Upgrade

# Operators of the standard domain and of ONNX Runtime's that take or give quantized tensors.
_QUANTIZED = re.compile(
    r"QuantizeLinear|DequantizeLinear|DynamicQuantize\w+|QLinear\w+|ConvInteger|MatMulInteger\w*"
    r"|MatMulNBits|MatMulFpQ4|MatMulBnb4|GatherBlockQuantized|QGemm|QAttention|QMoE"
    r"|QEmbedLayerNormalization|QOrdered\w+"
)
# On a model quantized by a pass of this very run, so that the next one may quantize the rest. It
# is not written to files.
_MARK = "burnish.quantized"


def is_quantized(model: ir.Model) -> str | None:
    """Return what operators on quantized tensors a model has, such as "3 MatMulInteger", or None.

    A single one is enough: what it takes and gives would be quantized twice.
    """
    counts = Counter(
        node.op_type
        for graph in all_graphs(model)
        for node in graph
        if _QUANTIZED.fullmatch(node.op_type)
    )
    return ", ".join(f"{n} {op}" for op, n in sorted(counts.items())) if counts else None


def passed_through(model: ir.Model, ctx: PassContext) -> bool:
    """Whether a model came in quantized and has to be left alone; the user is told so."""
    found = None if was_quantized(model) else is_quantized(model)
    if found is not None:
        ctx.warn(f"the model is already quantized ({found}): it is passed through as it is")
    return found is not None


def mark_quantized(model: ir.Model) -> None:
    """Remember that the quantized operators of a model were made in this run."""
    model.meta[_MARK] = True


def was_quantized(model: ir.Model) -> bool:
    """Whether a pass of this run quantized a model."""
    return bool(model.meta.get(_MARK))


def raise_opset(model: ir.Model, opset: int, ctx: PassContext) -> bool:
    """Upgrade a model that is below `opset`; returns whether it reaches it now."""
    if model.opset_imports.get("", 0) < opset:
        Upgrade(opset=opset).apply(model, ctx)
    return model.opset_imports.get("", 0) >= opset
