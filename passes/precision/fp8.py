# SPDX-License-Identifier: Apache-2.0
"""`fp8`: eight-bit floating point (E4M3) by explicit Q/DQ pairs, as TensorRT takes it.

Inputs of products pass through QuantizeLinear and DequantizeLinear of type float8e4m3fn; weights
are stored in it, with a DequantizeLinear behind them (P. Micikevicius et al., "FP8 Formats for Deep
Learning", 2022):

    q = float8(clip(x / scale, -448, 448)),  rounded half to even          x ~ scale * q

The scale takes the largest magnitude seen to 448, the largest number of the format; unlike with
integers, small numbers keep their relative precision, so nothing is gained by clipping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import ml_dtypes
import numpy as np
import onnx_ir as ir

from burnish.errors import InputError
from burnish.passes.base import Pass
from burnish.passes.constant import as_array
from burnish.passes.context import PassContext
from burnish.passes.fuse.rescale import LAZY_BYTES
from burnish.passes.options import option
from burnish.passes.precision.limits import Peak
from burnish.passes.quant.calibration.collect import collect
from burnish.passes.quant.insert import (
    add_initializer,
    add_tensor,
    drop_unused,
    insert_pair,
    make_node,
)
from burnish.passes.quant.ready import mark_quantized, passed_through, raise_opset
from burnish.passes.quant.weighted import WEIGHTED, Weights, excluded, weights_of
from burnish.passes.report import ModelStats
from burnish.passes.shapes import infer_shapes

LARGEST = 448.0
"""The largest finite number of E4M3."""

OPSET = 19
"""The first with QuantizeLinear to float8."""

IR_VERSION = 9
"""The first with float8."""

_TYPE = ir.DataType.FLOAT8E4M3FN
# Scales and their reciprocals stay normal float32 numbers.
_LEAST_SCALE = 2.0**-100


@dataclass(frozen=True)
class Fp8(Pass):
    """Q/DQ pairs of float8 (E4M3) around products with constant weights, from calibration data.

    For runtimes that fuse such pairs into float8 products, as TensorRT does from compute capability
    8.9 on; others compute in float32 in between, and get slower. Biases stay float32.
    """

    name: ClassVar[str] = "fp8"
    rule_names: ClassVar[tuple[str, ...]] = tuple(f"fp8-{op.lower()}" for op in WEIGHTED)
    lossless: ClassVar[bool] = False

    per_channel: bool = option(False, help="one scale for each output channel of the weights")
    ops: tuple[str, ...] = option(WEIGHTED, help="operators to quantize", choices=WEIGHTED)
    exclude: tuple[str, ...] = option((), help="glob patterns of names of nodes that stay float")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Observe the inputs of products, then edit operator by operator.

        Raises:
            InputError: there is no calibration data, or it does not fit the model.
        """
        if passed_through(model, ctx):
            return
        infer_shapes(model)
        before = ModelStats.of(model).bytes
        chosen = self._choose(model, ctx)
        if not chosen:
            return
        if ctx.calibration is None:
            raise InputError("fp8 needs calibration data", hint="give sample inputs with --calib")
        if model.opset_imports.get("", 0) < OPSET:
            if not raise_opset(model, OPSET, ctx):
                return
            chosen = self._choose(model, None)  # the upgrade may have replaced nodes
        peaks = {node.inputs[0].name or "": Peak() for node in chosen if node.inputs[0]}
        watchers = {name: [peak] for name, peak in peaks.items()}
        collect(model, watchers, ctx.calibration, progress=ctx.progress)
        editor = _Editor(model.graph, peaks, self.per_channel)
        for node in chosen:
            with ctx.rewrite(f"fp8-{node.op_type.lower()}", node) as go:
                if go:
                    editor.quantize(node)
                    model.ir_version = max(model.ir_version, IR_VERSION)
                    mark_quantized(model)
        after = ModelStats.of(model).bytes
        ctx.details["bytes"] = {"before": before, "after": after, "ratio": after / before}
        if ctx.target.provider == "CPUExecutionProvider":
            ctx.warn(
                f"target {ctx.target.name} does not fuse float8 pairs: with basic optimizations it "
                "computes in float32 between them and gets slower, with all it may refuse them"
            )

    def _choose(self, model: ir.Model, ctx: PassContext | None) -> list[ir.Node]:
        chosen: list[ir.Node] = []
        for node in model.graph:
            if node.op_type not in self.ops or node.domain != "":
                continue
            weights = weights_of(node)
            if weights is None:
                continue
            if excluded(node, self.exclude):
                weights = "excluded by name"
            if isinstance(weights, Weights):
                chosen.append(node)
            elif ctx is not None:
                ctx.refuse(f"fp8-{node.op_type.lower()}", node, weights)
        return chosen


def fp8_scale(peak: float | np.ndarray) -> np.ndarray:
    """Return the float32 scale that takes a magnitude to `LARGEST`; 1 for zero."""
    size = np.asarray(peak, np.float64)
    scale = np.where(size > 0, np.maximum(size / LARGEST, _LEAST_SCALE), 1.0)
    return np.asarray(scale.astype(np.float32))


def to_fp8(array: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Round numbers to float8 (E4M3), saturating, as ONNX's QuantizeLinear does.

    Args:
        array: float32.
        scale: float32, broadcasts to the array.
    """
    scaled = np.clip(array / scale, -LARGEST, LARGEST)
    return np.asarray(scaled.astype(ml_dtypes.float8_e4m3fn))


class _Editor:
    """Puts Q/DQ pairs in place; an input or weights that several share get one pair."""

    def __init__(self, graph: ir.Graph, peaks: dict[str, Peak], per_channel: bool) -> None:
        self.graph = graph
        self.peaks = peaks
        self.per_channel = per_channel
        self._inputs: dict[ir.Value, ir.Value] = {}
        self._weights: dict[tuple[ir.Value, int | None], ir.Value] = {}

    def quantize(self, node: ir.Node) -> None:
        """Let a product take its input and its weights through float8."""
        x, w = node.inputs[0], node.inputs[1]
        weights = weights_of(node)
        assert x is not None
        assert w is not None
        assert isinstance(weights, Weights)
        axis = weights.axis if self.per_channel else None
        if x not in self._inputs:
            self._inputs[x] = self._pair(x)
        if (w, axis) not in self._weights:
            self._weights[w, axis] = self._stored(w, axis, node)
        node.replace_input_with(0, self._inputs[x])
        node.replace_input_with(1, self._weights[w, axis])
        drop_unused([w])

    def _pair(self, x: ir.Value) -> ir.Value:
        """Put Q and DQ behind an input."""
        scale = add_initializer(
            self.graph, f"{x.name}_scale", fp8_scale(self.peaks[x.name or ""].largest)
        )
        zero = self._zero(f"{x.name}_zero_point", ())
        base = x.name or "input"
        names = f"{base}/quantized", f"{base}/dequantized"
        return insert_pair(x, self.graph, scale, zero, dtype=_TYPE, names=names)

    def _stored(self, w: ir.Value, axis: int | None, node: ir.Node) -> ir.Value:
        """Store weights as float8, with DQ behind them."""
        array = as_array(w)
        assert array is not None
        others = tuple(i for i in range(array.ndim) if i != axis) if axis is not None else None
        scale = fp8_scale(np.maximum(array.max(axis=others), -array.min(axis=others)))
        shape = [1] * array.ndim
        if axis is not None:
            shape[axis] = -1
        along = scale.reshape(shape)

        def compute() -> ir.TensorProtocol:
            return ir.tensor(to_fp8(array, along), dtype=_TYPE)

        lazy = array.nbytes >= LAZY_BYTES
        base = w.name or "weights"
        tensor = ir.LazyTensor(compute, _TYPE, ir.Shape(array.shape)) if lazy else compute()
        held = add_tensor(self.graph, f"{base}_float8", tensor)
        inputs = [
            held,
            add_initializer(self.graph, f"{base}_scale", scale),
            self._zero(f"{base}_zero_point", scale.shape),
        ]
        dq = make_node(
            self.graph,
            "DequantizeLinear",
            inputs,
            {f"{base}/dequantized": (ir.DataType.FLOAT, held.shape)},
            attributes={} if axis is None else {"axis": axis},
            base=base,
        )
        self.graph.insert_before(self.graph[0], dq)
        return dq.outputs[0]

    def _zero(self, name: str, shape: tuple[int, ...]) -> ir.Value:
        zeros = np.zeros(shape, ml_dtypes.float8_e4m3fn)
        return add_tensor(self.graph, name, ir.tensor(zeros, dtype=_TYPE))
