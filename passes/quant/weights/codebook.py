# SPDX-License-Identifier: Apache-2.0
"""Weights as indices into a small codebook: smaller files for the same memory and speed.

A weight becomes `Gather(levels, Cast(indices))`, where levels are float32 and indices uint4 or
uint8; with a codebook for each channel, `GatherElements`. Nothing in it depends on an input, so a
runtime that folds constants computes the float weights once, as it loads the model (ONNX Runtime
does from its basic optimizations on): the file is smaller, and what runs is the float model with
rounded weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from burnish.errors import InputError
from burnish.passes.base import Pass
from burnish.passes.constant import tensor_of
from burnish.passes.context import PassContext
from burnish.passes.fuse.rescale import LAZY_BYTES
from burnish.passes.options import option
from burnish.passes.quant.insert import add_initializer, add_tensor, drop_unused, make_node
from burnish.passes.quant.ready import raise_opset
from burnish.passes.quant.weighted import excluded
from burnish.passes.quant.weights.blocks import Array, pieces
from burnish.passes.quant.weights.levels import METHODS, Levels, Sample, nearest
from burnish.passes.report import ModelStats

# Operators whose weights are worth it -> the input that has them, and the axis of channels.
_WEIGHTS = {"Conv": (1, 0), "ConvTranspose": (1, 0), "Gather": (0, 0), "Gemm": (1, 1)}
_WEIGHTS["MatMul"] = (1, -1)

# Smaller weights are left alone: nothing is gained.
_SMALL = 1 << 12
# Levels are found on at most so many weights, evenly spaced.
_SAMPLE = 1 << 22
# Float numbers in a codebook for each of the weights it stands for.
_LARGEST_SHARE = 1 / 8
_OPSETS = {4: 21, 8: 11}  # the first with 4-bit integers; with GatherElements
# Operators that only pass weights on.
_VIEWS = frozenset({"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"})

IR_VERSION = 10
"""The first with 4-bit integers."""


@dataclass(frozen=True)
class Codebook(Pass):
    """Non-uniform weights: each becomes one of 16 or 256 levels of its tensor or channel.

    Files get smaller; memory and speed stay those of float, since runtimes look the levels up once
    when they load the model. The report's details have the relative RMS error of each weight.
    """

    name: ClassVar[str] = "codebook"
    rule_names: ClassVar[tuple[str, ...]] = ("codebook",)
    lossless: ClassVar[bool] = False

    bits: int = option(4, help="width of an index: 4 or 8", min=4, max=8)
    levels: str = option("kmeans", help="how the levels are found", choices=tuple(METHODS))
    scope: str = option("tensor", help="what has levels of its own", choices=("tensor", "channel"))
    exclude: tuple[str, ...] = option((), help="glob patterns of names of nodes that stay float")

    def __post_init__(self) -> None:
        """Validate the options.

        Raises:
            InputError: an option is out of range.
        """
        super().__post_init__()
        if self.bits not in _OPSETS:
            raise InputError(f"option 'bits': {self.bits} is neither 4 nor 8")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Replace weight by weight, in subgraphs too."""
        before = ModelStats.of(model).bytes
        chosen = list(self._choose(model, ctx))
        if chosen and model.opset_imports.get("", 0) < _OPSETS[self.bits]:
            if not raise_opset(model, _OPSETS[self.bits], ctx):
                return
            chosen = list(self._choose(model, None))  # the upgrade may have replaced nodes
        errors = {}
        for value, axis in ctx.progress(chosen, len(chosen), "codebook"):
            with ctx.rewrite("codebook", value) as go:
                if go:
                    name = value.name or ""
                    errors[name] = self._replace(model, value, axis)
        if errors:
            after = ModelStats.of(model).bytes
            ctx.details["bytes"] = {"before": before, "after": after, "ratio": after / before}
            ctx.details["weight errors"] = errors

    def _choose(self, model: ir.Model, ctx: PassContext | None) -> Iterator[tuple[ir.Value, int]]:
        """Yield the weights to replace, each once, with their axis of channels."""
        seen: set[ir.Value] = set()
        for graph in model.graphs():
            for node in graph:
                if node.op_type not in _WEIGHTS or node.domain != "":
                    continue
                index, axis = _WEIGHTS[node.op_type]
                value = _root(node.inputs[index])
                tensor = tensor_of(value)
                if value is None or tensor is None or value in seen:
                    continue
                if tensor.dtype != ir.DataType.FLOAT or tensor.size < _SMALL:
                    continue
                seen.add(value)
                if node.op_type == "Gemm":
                    axis -= node.attributes.get_int("transB", 0)
                axis = axis % len(tensor.shape) if value is node.inputs[index] else 0
                reason = self._obstacle(node, value, tensor, axis)
                if reason is None:
                    yield value, axis
                elif ctx is not None:
                    ctx.refuse("codebook", node, reason)

    def _obstacle(
        self, node: ir.Node, value: ir.Value, tensor: ir.TensorProtocol, axis: int
    ) -> str | None:
        if excluded(node, self.exclude):
            return "excluded by name"
        if value.is_graph_output():
            return "its weights are an output of the model"
        share = 2**self.bits / tensor.size
        if self.scope == "channel":
            share *= tensor.shape.numpy()[axis]
        if share > _LARGEST_SHARE:
            return "few weights for so many levels"
        array = tensor.numpy()
        if not all(np.isfinite(array[part]).all() for part in pieces(array)):
            return "its weights are not finite"
        return None

    def _replace(self, model: ir.Model, value: ir.Value, axis: int) -> float:
        tensor = tensor_of(value)
        assert tensor is not None
        own = axis if self.scope == "channel" else None
        coded = encode(tensor.numpy(), 2**self.bits, self.levels, own)
        _write(model, value, coded)
        return coded.error


@dataclass(frozen=True)
class Coded:
    """Weights as indices of levels.

    Attributes:
        weights: The float weights, perhaps mapped from a file.
        levels: float32 `[levels]`, or `[channels, levels]`; sorted.
        axis: Of the channels, first or last; None with one set of levels for all.
        error: Relative RMS error of the weights.
    """

    weights: Array
    levels: Levels
    axis: int | None
    error: float

    def indices(self) -> Array:
        """Return uint8 indices in the shape of the weights."""
        result = np.empty(self.weights.shape, np.uint8)
        if self.axis is None:
            for part in pieces(self.weights):
                result[part] = nearest(self.weights[part], self.levels)
            return result
        weights, rows = np.moveaxis(self.weights, self.axis, 0), np.moveaxis(result, self.axis, 0)
        for channel, levels in enumerate(self.levels):
            rows[channel] = nearest(weights[channel], levels)
        return result

    def decoded(self) -> Array:
        """Return the float32 weights that the indices stand for."""
        if self.axis is None:
            return self.levels[self.indices()]
        rows = np.moveaxis(self.indices(), self.axis, 0)
        return np.moveaxis(
            np.stack([levels[row] for levels, row in zip(self.levels, rows, strict=True)]),
            0,
            self.axis,
        )


def encode(weights: Array, count: int, method: str = "kmeans", axis: int | None = None) -> Coded:
    """Find levels for weights.

    Args:
        weights: Finite floating-point numbers of any shape.
        count: Number of levels, at most 256.
        method: One of `burnish.passes.quant.weights.levels.METHODS`.
        axis: Of channels that have levels of their own; None for one set of levels.
    """
    rows = [weights] if axis is None else list(np.moveaxis(weights, axis, 0))
    found, squared_error, squared_sum = [], 0.0, 0.0
    for row in rows:
        flat = row.reshape(-1)
        sample = Sample.of(flat[:: -(-flat.size // _SAMPLE)])
        found.append(METHODS[method](sample, count))
        squared_error += sample.error(found[-1].astype(np.float64))
        squared_sum += float(sample.squares[-1])
    error = (squared_error / squared_sum) ** 0.5 if squared_sum else 0.0
    return Coded(weights, found[0] if axis is None else np.stack(found), axis, error)


def _write(model: ir.Model, value: ir.Value, coded: Coded) -> None:
    """Put indices, levels and the operators that combine them in place of a weight."""
    graph = value.graph
    assert isinstance(graph, ir.Graph)
    shape = coded.weights.shape
    flat = _flat(shape, coded.axis)
    bits = 4 if coded.levels.shape[-1] <= 16 else 8
    dtype = ir.DataType.UINT4 if bits == 4 else ir.DataType.UINT8

    def compute() -> ir.TensorProtocol:
        return ir.tensor(coded.indices().reshape(flat).astype(dtype.numpy()), dtype=dtype)

    lazy = coded.weights.nbytes >= LAZY_BYTES
    tensor = ir.LazyTensor(compute, dtype, ir.Shape(flat)) if lazy else compute()
    indices = add_tensor(graph, f"{value.name}_indices", tensor)
    levels = coded.levels if coded.axis in (None, 0) else np.ascontiguousarray(coded.levels.T)
    book = add_initializer(graph, f"{value.name}_levels", levels)
    nodes: list[ir.Node] = []

    def emit(
        op: str, inputs: list[ir.Value], attributes: dict[str, int], to: ir.DataType
    ) -> ir.Value:
        dims = shape if op == "Reshape" else flat
        outputs = {f"{value.name}/{op}_out": (to, ir.Shape(dims))}
        base = value.name or op
        nodes.append(make_node(graph, op, inputs, outputs, attributes=attributes, base=base))
        return nodes[-1].outputs[0]

    integer, real = ir.DataType.INT32, ir.DataType.FLOAT
    wide = emit("Cast", [indices], {"to": int(integer)}, integer)
    if coded.axis is None:
        result = emit("Gather", [book, wide], {}, real)
    else:
        result = emit("GatherElements", [book, wide], {"axis": int(coded.axis == 0)}, real)
    if flat != shape:
        target = add_initializer(graph, f"{value.name}_shape", np.array(shape, np.int64))
        result = emit("Reshape", [result, target], {}, real)
    graph.insert_before(graph[0], nodes)
    value.replace_all_uses_with(result)
    drop_unused([value])
    if bits == 4:
        model.ir_version = max(model.ir_version, IR_VERSION)


def _flat(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    """Return the shape indices are held in: two axes if channels have levels of their own."""
    if axis is None or len(shape) == 2:
        return shape
    rest = math.prod(shape) // shape[axis]
    return (shape[0], rest) if axis == 0 else (rest, shape[axis])


def _root(value: ir.Value | None) -> ir.Value | None:
    """Return the constant at the end of a chain of views, if there is one."""
    while value is not None and tensor_of(value) is None:
        node = value.producer()
        if node is None or node.domain != "" or node.op_type not in _VIEWS:
            return None
        value = node.inputs[0]
    return value
