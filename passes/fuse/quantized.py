# SPDX-License-Identifier: Apache-2.0
"""Models that are quantized already: what only moves numbers, or bounds them, does so as integers.

Exporters quantize what comes out of every operator, and dequantize it for the next. Where both
sides have the same scale and zero point, nothing is rounded a second time, so that every rule here
is exact. The runtime does the same when it loads a model; other passes see through the file only
if it is done there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array, scalar_of
from burnish.passes.context import PassContext
from burnish.passes.fuse.rescale import epsilon, normal_range
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, RulePass, rule

# Their results are numbers of their first input, whatever those mean.
_MOVING = (
    *(
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "SpaceToDepth",
    ),
    *("Squeeze", "Tile", "Transpose", "Unsqueeze", "MaxPool"),
)
_SMALL = {ir.DataType.INT8: (-128, 127), ir.DataType.UINT8: (0, 255)}
_SMALL |= {ir.DataType.INT16: (-32768, 32767), ir.DataType.UINT16: (0, 65535)}


@rule(opset=(10, None))
def quantize_dequantized(op: Any, x: Any) -> Any:
    """QuantizeLinear(DequantizeLinear(x)) -> x where scales and zero points are the same."""
    inner = op.DequantizeLinear(x, _more=True, _bind="inner", _shared=True)
    return op.QuantizeLinear(inner, _more=True, _bind="outer")


@quantize_dequantized.rewrite
def _(op: Builder, x: Operand, inner: ir.Node, outer: ir.Node) -> Replacement:
    reason = _differ(op, inner, outer)
    return x if reason is None else NoMatch(reason)


@rule(opset=(10, None))
def move_quantized(op: Any, x: Any) -> Any:
    """QuantizeLinear(Reshape(DequantizeLinear(x))) -> Reshape(x), and all that moves numbers."""
    inner = op.DequantizeLinear(x, _more=True, _bind="inner", _shared=True)
    moved = op.one_of(*_MOVING)(inner, _more=True, _bind="moving")
    return op.QuantizeLinear(moved, _more=True, _bind="outer")


@move_quantized.rewrite
def _(
    op: Builder,
    ctx: PassContext,
    x: Operand,
    inner: ir.Node,
    moving: ir.Node,
    outer: ir.Node,
) -> Replacement:
    reason = _differ(op, inner, outer) or _bound_to_pair(ctx, x.dtype)
    if reason is not None:
        return NoMatch(reason)
    if _scale(inner).size > 1:
        return NoMatch("scales by channel would move with their axis")
    if moving.op_type == "MaxPool" and (_scale(inner) < 0).any():
        return NoMatch("the largest integer stands for the least number")
    if len(moving.outputs) > 1:
        return NoMatch("it has several outputs")
    return op.like(moving, x, *moving.inputs[1:])


@rule(opset=(10, None))
def concat_quantized(op: Any, x: Any) -> Any:
    """QuantizeLinear(Concat(DequantizeLinear(x), ...)) -> Concat(x, ...)."""
    inner = op.DequantizeLinear(x, _more=True, _bind="inner", _shared=True)
    joined = op.Concat(inner, _more=True, _bind="concat")
    return op.QuantizeLinear(joined, _more=True, _bind="outer")


@concat_quantized.rewrite
def _(op: Builder, ctx: PassContext, x: Operand, concat: ir.Node, outer: ir.Node) -> Replacement:
    makers = [None if value is None else value.producer() for value in concat.inputs]
    sources = []
    for maker in makers:
        if maker is None or maker.op_type != "DequantizeLinear" or maker.domain != "":
            return NoMatch("not all of it was quantized")
        reason = _differ(op, maker, outer) or _bound_to_pair(ctx, x.dtype)
        if reason is not None:
            return NoMatch(reason)
        if _scale(maker).size > 1:
            return NoMatch("scales by channel would move with their axis")
        sources.append(maker.inputs[0])
    return op.like(concat, *sources)


@rule(opset=(10, None))
def bound_by_quantizing(op: Any, x: Any) -> Any:
    """QuantizeLinear(Relu(x)) -> QuantizeLinear(x) where integers have those bounds; Clip too."""
    bounded = op.one_of("Relu", "Clip")(x, _more=True, _bind="clip")
    return op.QuantizeLinear(bounded, _more=True, _bind="q")


@bound_by_quantizing.rewrite
def _(op: Builder, x: Operand, clip: ir.Node, q: ir.Node) -> Replacement:
    bounds, kept = _clip(op, clip), _range(op, q)
    if bounds is None or kept is None:
        return NoMatch("a bound, the scale or the zero point is not one constant")
    if bounds[0] > kept[0] or bounds[1] < kept[1]:
        return NoMatch("integers reach further than the bounds")
    return op.like(q, x, *q.inputs[1:])


def _clip(op: Builder, node: ir.Node) -> tuple[float, float] | None:
    if node.op_type == "Relu":
        return 0.0, np.inf
    found: list[float] = []
    for index, (name, default) in enumerate((("min", -np.inf), ("max", np.inf)), 1):
        value = node.inputs[index] if len(node.inputs) > index else None
        number = scalar_of(value) if value is not None else op.attribute(node, name)
        if value is not None and number is None:
            return None
        found.append(default if number is None else number)
    return found[0], found[1]


def _range(op: Builder, node: ir.Node) -> tuple[float, float] | None:
    """Return the least and the largest number that integers stand for."""
    scale, zero = scalar_of(node.inputs[1]), 0.0
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        given = scalar_of(node.inputs[2])
        if given is None:
            return None
        zero = given
    limits = _SMALL.get(node.outputs[0].dtype or ir.DataType.FLOAT)
    if scale is None or scale <= 0 or limits is None:
        return None
    return (limits[0] - zero) * scale, (limits[1] - zero) * scale


def _scale(node: ir.Node) -> np.ndarray:
    array = as_array(node.inputs[1])
    assert array is not None
    return array


def _differ(op: Builder, inner: ir.Node, outer: ir.Node) -> str | None:
    """Say why quantizing as `outer` does not give back what `inner` dequantized, if so."""
    data = inner.inputs[0]
    if data is None or data.dtype not in _SMALL or data.dtype != outer.outputs[0].dtype:
        return "the integers are of another type, or wide"
    for index in (1, 2):
        ours, theirs = (
            as_array(node.inputs[index]) if len(node.inputs) > index else np.zeros(())
            for node in (inner, outer)
        )
        if ours is None or theirs is None:
            return "the scale or the zero point is not constant"
        if ours.size != theirs.size and (index == 1 or ours.any() or theirs.any()):
            return "the scale or the zero point differs"
        if (ours.reshape(-1) != theirs.reshape(-1)[: ours.size]).any():
            return "the scale or the zero point differs"
    scale = _scale(inner)
    least, most = normal_range(scale.dtype)
    if not (np.isfinite(scale).all() and (np.abs(scale) > least).all()):
        return "a scale is 0, or next to it"
    low, high = _SMALL[data.dtype]
    # A product and a quotient are rounded, each by half an epsilon.
    apart = (high - low) * epsilon(scale.dtype) < 0.5
    if not apart or (high - low) * float(np.abs(scale).max()) > most:
        return "the type of the scale does not hold all products apart"
    if scale.size > 1 and op.attribute(inner, "axis") != op.attribute(outer, "axis"):
        return "the scale or the zero point differs"
    if any(node.attributes.get_int("block_size", 0) for node in (inner, outer)):
        return "the scales are by blocks"
    return None


def _bound_to_pair(ctx: PassContext, dtype: ir.DataType | None) -> str | None:
    """Say why nothing may stand between Q and DQ, if so."""
    signed = dtype in (ir.DataType.INT8, ir.DataType.INT16)
    if signed and "sse4.1" in ctx.target.isa:
        return "the runtime makes signed pairs unsigned only where nothing stands between them"
    return None


@dataclass(frozen=True)
class FuseQuantized(RulePass):
    """Let what moves or bounds numbers of a quantized model do so as integers."""

    name: ClassVar[str] = "fuse-quantized"
    rules: ClassVar[tuple[Rule, ...]] = (
        quantize_dequantized,
        move_quantized,
        concat_quantized,
        bound_by_quantizing,
    )
