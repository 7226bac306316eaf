# SPDX-License-Identifier: Apache-2.0
"""Dynamic int8: inputs are quantized as they come, so no calibration data is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.edit import remove_unused, replace_value
from burnish.passes.options import option
from burnish.passes.quant.insert import add_initializer, digest, make_node
from burnish.passes.quant.int8 import recurrent
from burnish.passes.quant.ready import is_quantized, mark_quantized, passed_through, raise_opset
from burnish.passes.quant.scheme import weight_bits, weight_params
from burnish.passes.quant.weighted import Weights, in_functions, kept_float, rule_of, weights_of
from burnish.passes.shapes import infer_shapes

OPS = ("MatMul", "Gemm")
"""Operators quantized. Conv never is: its dynamic form, ConvInteger, is slower than float."""

OPSET = 11
"""The first with DynamicQuantizeLinear."""

# With fewer output channels, quantizing the inputs costs about what the integer product saves.
_FEW_CHANNELS = 16


@dataclass(frozen=True)
class QuantDynamic(Pass):
    """Dynamic int8: products with constant weights are computed by MatMulInteger, LSTMs likewise.

    The scale of an input is taken from its least and largest number each time, over the whole
    batch; weights are int8. ONNX Runtime fuses what is written here into a single kernel.
    """

    name: ClassVar[str] = "quant-dynamic"
    rule_names: ClassVar[tuple[str, ...]] = ("quant-matmul", "quant-gemm", "quant-lstm")
    lossless: ClassVar[bool] = False

    per_channel: bool = option(True, help="one scale for each output channel of the weights")
    exclude: tuple[str, ...] = option((), help="glob patterns of names of nodes that stay float")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Replace operator by operator, in subgraphs too."""
        if passed_through(model, ctx):
            return
        if not ctx.target.int8.dynamic:
            if is_quantized(model) is None:  # by the static pass before this one
                ctx.warn(
                    f"target {ctx.target.name} has no dynamic int8: products stay float; sample "
                    "inputs (--calib) let quant{mode=static} quantize them"
                )
            return
        infer_shapes(model)
        chosen = self._choose(model, ctx.refuse)
        if chosen and model.opset_imports.get("", 0) < OPSET:
            if not raise_opset(model, OPSET, ctx):
                return
            chosen = self._choose(model, lambda *_: None)  # the upgrade may have replaced nodes
        bits = weight_bits(ctx.target.int8_accumulator_bits)
        editor = _Editor(self.per_channel, bits)
        for node in chosen:
            with ctx.rewrite(rule_of(node), node) as go:
                if go:
                    editor.quantize(node)
                    mark_quantized(model)
        self._recurrent(model, ctx, bits)

    def _recurrent(self, model: ir.Model, ctx: PassContext, bits: int) -> None:
        """Quantize LSTMs, and say of what is like them why it stays float."""
        held: recurrent.Held = {}
        for graph in model.graphs():
            for node in tuple(graph):
                if node.op_type not in recurrent.OPS or node.domain != "":
                    continue
                reason = kept_float(node, self.exclude) or recurrent.unsuitable(node, ctx.target)
                if reason is not None:
                    ctx.refuse("quant-lstm", node, reason)
                    continue
                with ctx.rewrite("quant-lstm", node) as go:
                    if go:
                        recurrent.quantize(
                            model, node, held, per_channel=self.per_channel, bits=bits
                        )
                        mark_quantized(model)
        for node in in_functions(model, recurrent.OPS):
            ctx.refuse("quant-lstm", node, "inside a function of the model")

    def _choose(
        self, model: ir.Model, refuse: Callable[[str, ir.Node, str], None]
    ) -> list[ir.Node]:
        chosen: list[ir.Node] = []
        for graph in model.graphs():
            for node in graph:
                if node.op_type not in OPS or node.domain != "":
                    continue
                weights = weights_of(node)
                if weights is None:
                    continue
                kept = kept_float(node, self.exclude)
                if kept is not None:
                    weights = kept
                elif not isinstance(weights, str) and weights.channels < _FEW_CHANNELS:
                    weights = "few output channels: int8 is no faster"
                if isinstance(weights, str):
                    refuse(rule_of(node), node, weights)
                else:
                    chosen.append(node)
        for node in in_functions(model, OPS):
            refuse(rule_of(node), node, "inside a function of the model")
        return chosen


class _Editor:
    """Replaces products; an input or weights that several share are quantized once a graph."""

    def __init__(self, per_channel: bool, bits: int) -> None:
        self.per_channel = per_channel
        self.bits = bits
        self.inputs: dict[tuple[ir.Graph, ir.Value], ir.Node] = {}
        self.weights: dict[tuple[ir.Graph, tuple[int, ...], bytes], tuple[ir.Value, ir.Value]] = {}

    def quantize(self, node: ir.Node) -> None:
        """Replace `MatMul(x, w)`, or `Gemm(x, w, b)`, by this.

        q, scale, zero = DynamicQuantizeLinear(x)
        y = Cast(MatMulInteger(q, w_int8, zero)) * (scale * w_scale) + b
        """
        graph, x, y = node.graph, node.inputs[0], node.outputs[0]
        assert isinstance(graph, ir.Graph)
        assert x is not None
        weights = weights_of(node)
        assert isinstance(weights, Weights)
        held, weight_scale = self._weights(graph, node, weights)
        q, scale, zero = self._quantized(graph, x, node).outputs

        def emit(op: str, *inputs: ir.Value, to: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
            shape = weight_scale.shape if inputs[0] is scale else y.shape
            made = make_node(
                graph,
                op,
                inputs,
                {f"{y.name}/{op}_out": (to, shape)},
                attributes={"to": to} if op == "Cast" else {},
                base=node.name or y.name or node.op_type,
            )
            graph.insert_before(node, made)
            return made.outputs[0]

        product = emit("MatMulInteger", q, held, zero, to=ir.DataType.INT32)
        result = emit("Mul", emit("Cast", product), emit("Mul", scale, weight_scale))
        if weights.bias is not None:
            assert node.inputs[2] is not None
            bias = add_initializer(graph, f"{node.inputs[2].name}_row", weights.bias)
            result = emit("Add", result, bias)
        result.name = None  # takes over the name of what it replaces
        replace_value(y, result)
        remove_unused([node])

    def _quantized(self, graph: ir.Graph, x: ir.Value, before: ir.Node) -> ir.Node:
        """Return the DynamicQuantizeLinear of an input."""
        found = self.inputs.get((graph, x))
        if found is None:
            found = make_node(
                graph,
                "DynamicQuantizeLinear",
                [x],
                {
                    f"{x.name}_quantized": (ir.DataType.UINT8, x.shape),
                    f"{x.name}_scale": (ir.DataType.FLOAT, ir.Shape([])),
                    f"{x.name}_zero_point": (ir.DataType.UINT8, ir.Shape([])),
                },
                base=x.name or "",
            )
            graph.insert_before(before, found)
            self.inputs[graph, x] = found
        return found

    def _weights(
        self, graph: ir.Graph, node: ir.Node, weights: Weights
    ) -> tuple[ir.Value, ir.Value]:
        """Return int8 weights [inputs, channels] and their scales [channels] or []."""
        old = node.inputs[1]
        assert old is not None
        array = weights.array if weights.axis == 1 else weights.array.T
        scheme = weight_params(array, 1 if self.per_channel else None, self.bits)
        integers = np.ascontiguousarray(scheme.quantize(array))
        key = (graph, integers.shape, digest(integers, scheme.scale))
        found = self.weights.get(key)
        if found is None:
            found = (
                add_initializer(graph, f"{old.name}_int8", integers),
                add_initializer(graph, f"{old.name}_scale", scheme.scale),
            )
            self.weights[key] = found
        return found
