# SPDX-License-Identifier: Apache-2.0
"""Copies of a model, quantized but for some operators: what mixed precision is tried out on."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterator

import onnx_ir as ir

from burnish.passes.calibration import CalibrationSource
from burnish.passes.context import PassContext
from burnish.passes.instrument import Disable
from burnish.passes.quant.calibration.collect import Progress
from burnish.passes.quant.int8.fill import is_image
from burnish.passes.quant.int8.placement import COMPUTING, is_depthwise
from burnish.passes.quant.int8.static import OBSERVED, RESIDUAL
from burnish.passes.quant.ready import raise_opset
from burnish.passes.quant.recipe import Recipe
from burnish.passes.quant.search.sensitivity import SAMPLES, Reference, held_out
from burnish.passes.quant.weighted import KEEP, SLOWER, Weights, weights_of
from burnish.passes.shapes import infer_shapes
from burnish.passes.whole import open_session, skeleton

_OPS = ("Conv", "Gather", "Gemm", "MatMul")
_WORSE = 1.25
"""Residual sums in int8 may raise the error on samples by this factor."""
_FEW = 32
"""Channels: fewer fill a vector of int8 numbers badly."""


class Trials:
    """Copies of a model, quantized but for some operators, which go by their number in a walk.

    Attributes:
        model: In float, at the operator set that quantizing needs.
        regions: Numbers of the operators that are quantized if none has to stay float.
        between: Numbers of those without weights that are then computed in int8, too.
        opset: That operator set.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: ir.Model,
        ctx: PassContext,
        calibration: CalibrationSource | None,
    ) -> None:
        self.recipe, self.ctx = recipe, ctx
        self.model = _copy(model)
        self.calibration = calibration
        self.residual = False
        self.whole, self.regions, self.between = self._quantized((), ctx.progress)
        self.opset = self.whole.opset_imports.get("", 0)
        if self.opset > model.opset_imports.get("", 0):  # other nodes may stand in their places
            raise_opset(self.model, self.opset, self._context())
            infer_shapes(self.model)
            self.whole, self.regions, self.between = self._quantized((), ctx.progress)
        if OBSERVED in self.whole.meta:  # calibrated once
            self.model.meta[OBSERVED] = self.whole.meta[OBSERVED]

    @functools.cached_property
    def nodes(self) -> list[ir.Node]:
        """The operators of the float model, by number."""
        return _walk(self.model)

    def quantized(self, float_: Collection[int]) -> ir.Model:
        """Return a copy in which operators of these numbers stay float."""
        return self._quantized(float_)[0] if float_ else self.whole

    def float_depthwise(self, float_: Collection[int]) -> list[int]:
        """Return the depthwise convolutions that are float if these are: nothing beside is int8."""
        copy = _copy(self.model)
        nodes = _walk(copy)
        depthwise = [index for index, node in enumerate(nodes) if is_depthwise(node)]
        self._quantize(copy, nodes, float_)
        return [index for index in depthwise if _takes_float(nodes[index])]

    def try_residual(self, faster: Callable[[ir.Model, ir.Model], bool]) -> None:
        """Compute residual sums in int8 if that is faster and adds little to the error.

        Args:
            faster: Whether the second model is faster than the first.
        """
        if self.residual or self.ctx.calibration is None:
            return
        self.residual = True
        rounded, regions, between = self._quantized(())
        self.residual = (
            set(regions) >= set(self.regions)
            and skeleton(rounded) != skeleton(self.whole)
            and faster(self.whole, rounded)
            and self._error(rounded) <= _WORSE * self._error(self.whole)
        )
        if self.residual:
            self.whole, self.regions, self.between = rounded, regions, between
            if OBSERVED in rounded.meta:
                self.model.meta[OBSERVED] = rounded.meta[OBSERVED]

    def _error(self, model: ir.Model) -> float:
        with open_session(model) as session:
            return self._reference.compare(session.run).error

    @functools.cached_property
    def _reference(self) -> Reference:
        samples = self.ctx.calibration or ()
        with open_session(self.model) as session:
            return Reference(session.run, held_out(samples) or itertools.islice(samples, SAMPLES))

    def matching(self, model: ir.Model) -> dict[int, ir.Node]:
        """Return the operators by number in the model itself.

        If that was left at an older operator set, numbers may differ; then all of its operators
        that can be quantized bear those of the regions, which all stay float.
        """
        nodes = _walk(model)
        if len(nodes) == len(self.nodes):
            return dict(enumerate(nodes))
        weighted = [node for node in nodes if node.op_type in _OPS]
        return dict(zip(self.regions, weighted, strict=False))

    def beginnings(self) -> Iterator[list[int]]:
        """Yield the operators from the first on, up to each that gives maps of another size."""
        before: list[int] = []
        size: str | None = None
        for index in sorted({*self.regions, *self.between}):
            shape = self.nodes[index].outputs[0].shape
            if shape is None or shape.rank() < 3 or set(shape[2:]) == {1}:
                continue
            before.append(index)
            found = str(shape[2:])
            if size not in (None, found):
                yield list(before)
            size = found

    def describe(self, index: int) -> str:
        """Return the name of an operator."""
        node = self.nodes[index]
        return node.name or node.outputs[0].name or node.op_type

    def kind(self, index: int) -> str:
        """Return what decides how fast an operator is as int8, in words."""
        node = self.nodes[index]
        if node.op_type not in _OPS:
            return node.op_type
        weights = weights_of(node) if node.op_type != "Gather" else None
        if not isinstance(weights, Weights):
            return f"{node.op_type} of rows"
        shape = weights.array.shape
        if node.op_type != "Conv":
            return f"{node.op_type} to {'few' if weights.channels < _FEW else 'many'} channels"
        if is_depthwise(node):
            return f"depthwise {'x'.join(map(str, shape[2:]))} Conv"
        size = "1x1" if math.prod(shape[2:]) == 1 else "wide"
        if is_image(node, weights.array):
            return f"{size} Conv of an image"
        if node.attributes.get_int("group", 1) > 1:
            return f"grouped {size} Conv"
        return f"{size} Conv of {'few' if min(shape[:2]) < _FEW else 'many'} channels"

    def is_small(self, index: int) -> bool:
        """Whether int8 does not shrink the file: the operator has no weights, or few."""
        node = self.nodes[index]
        return node.op_type not in _OPS or is_depthwise(node)

    def _quantized(
        self, float_: Collection[int], progress: Progress | None = None
    ) -> tuple[ir.Model, list[int], list[int]]:
        copy = _copy(self.model)
        nodes = _walk(copy)
        ops = [node.op_type for node in nodes]  # some become others
        self._quantize(copy, nodes, float_, progress)
        int8 = [(i, ops[i]) for i, node in enumerate(nodes) if _is_int8(node)]
        regions = [i for i, op in int8 if op in _OPS]
        return copy, regions, [i for i, op in int8 if op in COMPUTING]

    def _quantize(
        self,
        copy: ir.Model,
        nodes: list[ir.Node],
        float_: Collection[int],
        progress: Progress | None = None,
    ) -> None:
        for index in float_:
            nodes[index].meta[KEEP] = SLOWER
        if self.residual:
            copy.meta[RESIDUAL] = True
        ctx = self._context()
        if progress is not None:
            ctx.progress = progress
        for item in self.recipe.quantizers():
            item.run(copy, ctx)

    def _context(self) -> PassContext:
        """Return a context of their own: what they report is no part of the build."""
        held = [item for item in self.ctx.instruments if isinstance(item, Disable)]
        ctx = PassContext(self.ctx.target, self.calibration, self.ctx.seed, held)
        ctx.strict = self.ctx.strict
        return ctx


def _copy(model: ir.Model) -> ir.Model:
    copy = model.clone()
    copy.meta.update(model.meta)
    return copy


def _walk(model: ir.Model) -> list[ir.Node]:
    return [node for graph in model.graphs() for node in graph]


def _takes_float(node: ir.Node) -> bool:
    """Whether an operator is there and its input is not dequantized."""
    maker = node.inputs[0].producer() if node.graph is not None and node.inputs[0] else None
    return node.graph is not None and (maker is None or maker.op_type != "DequantizeLinear")


def _is_int8(node: ir.Node) -> bool:
    """Whether an operator was replaced, or takes dequantized weights or, without any, input."""
    if node.graph is None:
        return True
    position = 1 if node.op_type in _OPS else 0
    value = node.inputs[position] if len(node.inputs) > position else None
    maker = None if value is None else value.producer()
    return maker is not None and maker.op_type == "DequantizeLinear"
