# SPDX-License-Identifier: Apache-2.0
"""`float16` and `bfloat16`: half the file, and on hardware that has it half the time.

A target with kernels for products in the narrow type gets a converted model: `regions` chooses the
operators, `convert` turns them, `limits` keeps out what the type cannot hold. A target without them
would cast back and forth around each operator, and run slower than before; there only weights are
stored narrow, and turned back to float32 by a Cast that the runtime folds when it loads the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from burnish.backends.kernels import Support
from burnish.backends.target import Target
from burnish.errors import BurnishError
from burnish.passes.base import Pass
from burnish.passes.calibration import CalibrationSource
from burnish.passes.constant import tensor_of
from burnish.passes.context import PassContext
from burnish.passes.edit import use_count
from burnish.passes.guard import OTHER_IO
from burnish.passes.options import option
from burnish.passes.precision.convert import Converter
from burnish.passes.precision.limits import Peak, in_type, largest, obstacle, stand_in
from burnish.passes.precision.regions import Region, choose
from burnish.passes.precision.signature import Signature, is_float
from burnish.passes.quant.calibration.collect import collect
from burnish.passes.quant.insert import add_tensor, drop_unused, make_node
from burnish.passes.quant.ready import passed_through, raise_opset
from burnish.passes.quant.weighted import excluded
from burnish.passes.report import ModelStats
from burnish.passes.shapes import infer_shapes

OPSET = 13
"""The first where Cast and most operators take bfloat16."""

# Values nearer to the largest number than this factor stay float32: other inputs may reach further.
_HEADROOM = 1.5
# Smaller constants are not worth a Cast.
_SMALL = 1 << 8


@dataclass(frozen=True)
class Half(Pass):
    """What `float16` and `bfloat16` share."""

    dtype: ClassVar[ir.DataType]
    lossless: ClassVar[bool] = False

    scope: str = option(
        "auto",
        help="all operators, or only the stored weights; auto is what the target computes in",
        choices=("auto", "all", "weights"),
    )
    keep_io: bool = option(True, help="inputs and outputs of the model stay float32")
    check: bool = option(True, help="run the model to find values that overflow")
    exclude: tuple[str, ...] = option((), help="glob patterns of names of nodes that stay float32")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Convert the main graph, or store weights narrow, in subgraphs too."""
        if passed_through(model, ctx):
            return
        if not raise_opset(model, OPSET, ctx):
            ctx.warn(f"{self.name}: the model is left as it is: it does not import opset {OPSET}")
            return
        before = ModelStats.of(model).bytes
        infer_shapes(model)
        fast = _computes(ctx.target, model, self.dtype)
        if self.scope == "all" or (self.scope == "auto" and fast):
            self._convert(model, ctx)
            if not fast:
                ctx.warn(
                    f"target {ctx.target.name} has no {self.name} kernels for products: casts "
                    "around them make the model slower than float32"
                )
        else:
            self._store(model, ctx)
            if self.scope == "auto":
                ctx.warn(
                    f"target {ctx.target.name} has no {self.name} kernels for products: weights "
                    f"are stored as {self.name} and become float32 when the model is loaded, for "
                    "half the file at the same speed; scope=all converts the rest, and is slower "
                    "there"
                )
        after = ModelStats.of(model).bytes
        ctx.details["bytes"] = {"before": before, "after": after, "ratio": after / max(before, 1)}

    def _convert(self, model: ir.Model, ctx: PassContext) -> None:
        self._replace_masks(model, ctx)
        peaks = self._peaks(model, ctx) if self.check else None
        limit = largest(self.dtype) / _HEADROOM
        region = choose(
            model,
            self.dtype,
            self._runs(model, ctx.target),
            excluded=lambda node: excluded(node, self.exclude),
            peaks=peaks,
            limit=limit,
            narrow_io=not self.keep_io,
        )
        for node, reason in region.reasons.items():
            ctx.refuse(f"{self.name}-node", node, reason)
        converter = Converter(model.graph, self.dtype)
        if not self.keep_io:
            with ctx.rewrite(f"{self.name}-io", "inputs") as go:
                if go:
                    converter.narrow_inputs()
                    model.meta[OTHER_IO] = True
        converted = 0
        for node, found in region.narrow.items():
            with ctx.rewrite(f"{self.name}-node", node) as go:
                if go:
                    converter.convert(node, found)
                    converted += 1
        if not self.keep_io:
            with ctx.rewrite(f"{self.name}-io", "outputs") as go:
                if go:
                    converter.narrow_outputs()
                    model.meta[OTHER_IO] = True
        casts = converter.finish()
        self._tell(region, converted, casts, peaks, limit, ctx)

    def _tell(
        self,
        region: Region,
        converted: int,
        casts: int,
        peaks: dict[str, float] | None,
        limit: float,
        ctx: PassContext,
    ) -> None:
        too_large = {name: peak for name, peak in (peaks or {}).items() if peak > limit}
        ctx.details["operators"] = {self.name: converted, "float32": len(region.reasons)}
        ctx.details["casts"] = casts
        ctx.details["too large"] = too_large
        if too_large:
            name, peak = max(too_large.items(), key=lambda item: item[1])
            ctx.warn(
                f"{len(too_large)} values do not fit {self.name} and stay float32; the largest is "
                f"{peak:.3g} at {name!r}"
            )

    def _replace_masks(self, model: ir.Model, ctx: PassContext) -> None:
        """Replace constants that stand for minus infinity by ones the type can hold."""
        values = [v for v in model.graph.initializers.values() if not v.is_graph_input()]
        values += [node.outputs[0] for node in model.graph if node.op_type == "Constant"]
        for value in values:
            if use_count(value) == 0 or value.is_graph_output():
                continue
            array = stand_in(value, [user for user, _ in value.uses()], self.dtype)
            if array is None:
                continue
            with ctx.rewrite(f"{self.name}-mask", value) as go:
                if go:
                    new = add_tensor(model.graph, f"{value.name}_masking", ir.tensor(array))
                    value.replace_all_uses_with(new)
                    drop_unused([value])

    def _peaks(self, model: ir.Model, ctx: PassContext) -> dict[str, float] | None:
        """Return the largest magnitude of each float32 value, or None if the model cannot run."""
        watchers = {
            value.name: [Peak()]
            for node in model.graph
            for value in node.outputs
            if is_float(value) and value.name and node.op_type != "Constant"
        }
        samples = ctx.calibration
        try:
            if samples is None:
                samples = _random_samples(model, ctx.seed)
                ctx.warn(
                    f"{self.name}: values were checked on random inputs only; give calibration "
                    "data to find those that overflow"
                )
            collect(model, watchers, samples, progress=ctx.progress)
        except BurnishError as error:
            ctx.warn(f"{self.name}: values were not checked for overflow: {error}")
            return None
        return {name: watcher.largest for name, (watcher,) in watchers.items()}

    def _runs(self, model: ir.Model, target: Target) -> Callable[[ir.Node, Signature], bool]:
        def runs(node: ir.Node, found: Signature) -> bool:
            opset = model.opset_imports.get(node.domain, 1)
            # Types are asked by the first input.
            dtype = self.dtype if 0 in found.inputs else None
            support = target.support(node.op_type, node.domain, opset=opset, dtype=dtype)
            cast = self.scope == "all" and support is Support.CAST
            return support in (Support.KERNEL, Support.FUNCTION) or cast

        return runs

    def _store(self, model: ir.Model, ctx: PassContext) -> None:
        """Store weights in the narrow type, with a Cast behind them."""
        for graph in model.graphs():
            for value in tuple(graph.initializers.values()):
                tensor = tensor_of(value)
                if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < _SMALL:
                    continue
                if value.is_graph_output() or not value.uses():
                    continue
                reason = obstacle(tensor, self.dtype)
                if any(excluded(user, self.exclude) for user, _ in value.uses()):
                    reason = "excluded by name"
                if reason is not None:
                    ctx.refuse(f"{self.name}-weights", value, reason)
                    continue
                with ctx.rewrite(f"{self.name}-weights", value) as go:
                    if go:
                        self._store_one(graph, value, tensor)

    def _store_one(self, graph: ir.Graph, value: ir.Value, tensor: ir.TensorProtocol) -> None:
        held = add_tensor(graph, f"{value.name}_{self.name}", in_type(tensor, self.dtype))
        cast = make_node(
            graph,
            "Cast",
            [held],
            {f"{value.name}/float": (ir.DataType.FLOAT, value.shape)},
            attributes={"to": int(ir.DataType.FLOAT)},
            base=value.name or "weights",
        )
        graph.insert_before(graph[0], cast)
        value.replace_all_uses_with(cast.outputs[0])
        drop_unused([value])


@dataclass(frozen=True)
class Float16(Half):
    """Convert to float16 (10 bits of mantissa, up to 65,504), where the target computes in it.

    Sums, powers, exponentials, position arithmetic, and constants and values that do not fit stay
    float32; attention masks of -1e9 and the like become half of the largest float16. On targets
    without float16 products, only weights are stored as float16.
    """

    name: ClassVar[str] = "float16"
    dtype: ClassVar[ir.DataType] = ir.DataType.FLOAT16
    rule_names: ClassVar[tuple[str, ...]] = (
        *("float16-io", "float16-mask", "float16-node", "float16-weights"),
    )


@dataclass(frozen=True)
class BFloat16(Half):
    """Convert to bfloat16 (7 bits of mantissa, the range of float32), where the target can.

    The same operators as with `float16` stay float32. On targets without bfloat16 products, only
    weights are stored as bfloat16.
    """

    name: ClassVar[str] = "bfloat16"
    dtype: ClassVar[ir.DataType] = ir.DataType.BFLOAT16
    rule_names: ClassVar[tuple[str, ...]] = (
        *("bfloat16-io", "bfloat16-mask", "bfloat16-node", "bfloat16-weights"),
    )


def _computes(target: Target, model: ir.Model, dtype: ir.DataType) -> bool:
    """Whether a target multiplies matrices in a type."""
    opset = model.opset_imports.get("", 1)
    return target.support("MatMul", opset=opset, dtype=dtype) is Support.KERNEL


def _random_samples(model: ir.Model, seed: int) -> CalibrationSource:
    from burnish.backends.feeds import random_run
    from burnish.backends.onnxruntime import session

    with session(model, prepack=False) as loaded:
        feeds = random_run(loaded, seed).feeds
    return CalibrationSource.from_iterable(lambda: [feeds], model.graph.inputs)
