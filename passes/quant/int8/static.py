# SPDX-License-Identifier: Apache-2.0
"""Static int8: ranges from calibration data, written into the model as Q/DQ pairs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from burnish.backends.int8 import Int8Form
from burnish.errors import InputError
from burnish.passes.base import Pass
from burnish.passes.constant import is_constant
from burnish.passes.context import PassContext
from burnish.passes.options import option
from burnish.passes.quant.calibration.observers import METHODS, observer
from burnish.passes.quant.calibration.ranges import Observed, Ranges, calibrate
from burnish.passes.quant.int8.before import place_before
from burnish.passes.quant.int8.editor import Editor
from burnish.passes.quant.int8.integers import ACTIVATIONS, WEIGHTS, Integers, integers_for
from burnish.passes.quant.int8.placement import JOINING, Plan, Refuse, place
from burnish.passes.quant.int8.pools import RULE as POOL_MEAN
from burnish.passes.quant.int8.pools import is_pool, make_pool
from burnish.passes.quant.int8.schemes import Schemes
from burnish.passes.quant.int8.shield import RULE as KEEP_FLOAT
from burnish.passes.quant.int8.shield import is_exposed, shield
from burnish.passes.quant.ready import mark_quantized, passed_through, raise_opset
from burnish.passes.quant.weighted import WEIGHTED, rule_of
from burnish.passes.shapes import infer_shapes

OBSERVED = "burnish.observed"
"""In a model's `meta`: the ranges that were found in this run, so that they are found once."""

RESIDUAL = "burnish.residual"
"""In a model's `meta`: the option `residual`, by a decision of this run."""


@dataclass(frozen=True)
class QuantStatic(Pass):
    """Static int8 by calibration: activations uint8, weights int8 per channel, biases int32.

    Other integers are a choice, refused where the target does not run them. For TensorRT,
    activations are int8 with zero point 0, biases stay float, and pairs stand only before
    operators; see `burnish.passes.quant.int8.before`.
    """

    name: ClassVar[str] = "quant-static"
    rule_names: ClassVar[tuple[str, ...]] = (
        *(f"quant-{op.lower()}" for op in (*WEIGHTED, *sorted(JOINING))),
        KEEP_FLOAT,
        POOL_MEAN,
    )
    lossless: ClassVar[bool] = False

    calibrate: str = option(
        "percentile",
        help="how the ranges of activations are found",
        choices=tuple(METHODS),
    )
    percentile: float = option(
        99.99, help="percentage of numbers inside the range (calibrate=percentile)", min=50, max=100
    )
    ranges: str | None = option(
        None, help="file of ranges to use, from `burnish calibrate` or TensorRT"
    )
    per_channel: bool = option(True, help="one scale for each output channel of the weights")
    activations: str = option(
        "auto",
        help="integers of activations; auto: what the target's int8 kernels take",
        choices=ACTIVATIONS,
    )
    symmetric: bool = option(False, help="zero is the middle of the integers of activations")
    weights: str = option(
        "int8",
        help="integers of weights; uint8 has 8 bits also where products are added in 16 bits",
        choices=WEIGHTS,
    )
    power_of_two: bool = option(False, help="scales are powers of two")
    correct_bias: bool = option(True, help="let biases make up for the mean error of the weights")
    ops: tuple[str, ...] = option(WEIGHTED, help="operators to quantize", choices=WEIGHTED)
    along: tuple[str, ...] = option(
        (),
        help="operators to quantize only where their input is int8 already, if the target has "
        "a dynamic form for the others",
        choices=("MatMul", "Gemm"),
    )
    exclude: tuple[str, ...] = option((), help="glob patterns of names of nodes that stay float")
    residual: bool = option(
        False, help="round what quantized operators take for the sums that take it, too"
    )
    optional: bool = option(False, help="without calibration data, say so instead of failing")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Plan, observe ranges, then edit operator by operator.

        Raises:
            InputError: there is no calibration data, or it does not fit the model; or the target
                does not run the integers asked for.
        """
        if passed_through(model, ctx):
            return
        infer_shapes(model)
        form = ctx.target.int8
        integers = integers_for(
            ctx.target,
            activations=self.activations,
            symmetric=self.symmetric,
            weights=self.weights,
            power_of_two=self.power_of_two,
        )
        for node in model.graph if form.results else ():
            if is_pool(node):
                with ctx.rewrite(POOL_MEAN, node) as go:
                    if go:
                        make_pool(node)
        plan = self._plan(model, form, ctx.refuse)
        self._say_what_is_inside(model, ctx)
        if not plan.steps:
            return
        known = None if self.ranges is None else Ranges.load(Path(self.ranges))
        if ctx.calibration is None and known is None:
            self._without_data(plan, ctx)
            return
        if model.opset_imports.get("", 0) < integers.opset:
            if not raise_opset(model, integers.opset, ctx):
                return
            plan = self._plan(model, form)  # nodes may be others now
        if integers.warning is not None:
            ctx.warn(integers.warning)
        values = self._calibrated(model, plan, known, integers, ctx)
        editor = Editor(
            model.graph,
            Schemes(plan, values, form, integers),
            per_channel=self.per_channel,
            correct_bias=self.correct_bias,
        )
        for step in plan.steps:
            reason = editor.unsuitable(step)
            if reason is not None:
                ctx.refuse(rule_of(step.node), step.node, reason)
                continue
            with ctx.rewrite(rule_of(step.node), step.node) as go:
                if go:
                    editor.quantize(step)
                    mark_quantized(model)
        editor.clean_up()
        quantized = form.results and bool(editor.pairs)
        for node in tuple(model.graph) if quantized else ():
            if is_exposed(node):
                with ctx.rewrite(KEEP_FLOAT, node) as go:
                    if go:
                        shield(node)

    def _plan(self, model: ir.Model, form: Int8Form, refuse: Refuse = lambda *_: None) -> Plan:
        if not form.results:
            ops = tuple(op for op in WEIGHTED if op in (*self.ops, *self.along))
            return place_before(model, ops=ops, exclude=self.exclude, refuse=refuse)
        along = tuple(op for op in self.along if op not in self.ops)
        return place(
            model,
            ops=self.ops,
            along=along,
            exclude=self.exclude,
            residual=self.residual or bool(model.meta.get(RESIDUAL)),
            refuse=refuse,
        )

    def _calibrated(
        self,
        model: ir.Model,
        plan: Plan,
        known: Ranges | None,
        integers: Integers,
        ctx: PassContext,
    ) -> dict[str, Observed]:
        """Return what is known of the values of a plan; observes those that the file lacks."""
        values = {} if known is None else dict(known.values)
        names = [value.name or "" for value in plan.values()]
        missing = [name for name in names if name not in values]
        if missing and ctx.calibration is not None:
            scheme = integers.activations
            method = (self.calibrate, self.percentile, self.correct_bias, scheme)
            how, found = model.meta.get(OBSERVED, (None, None))
            if how != method or not found.values.keys() >= set(missing):
                fed = _fed(plan) if self.correct_bias else []
                found = calibrate(
                    model,
                    missing,
                    ctx.calibration,
                    observer(
                        self.calibrate,
                        percentile=self.percentile,
                        levels=scheme.levels,
                        symmetric=scheme.symmetric,
                    ),
                    method=self.calibrate,
                    means=[name for name in fed if name in missing],
                    progress=ctx.progress,
                )
                model.meta[OBSERVED] = (method, found)
            values.update({name: found.values[name] for name in missing})
            for line in found.warnings():
                ctx.warn(line)
            ctx.details["calibration"] = found.summary()
        elif missing:
            ctx.warn(
                f"{self.ranges} has no range of {len(missing)} of {len(names)} values, such as "
                f"{missing[0]!r}: what takes or gives them stays float"
            )
        return values

    def _say_what_is_inside(self, model: ir.Model, ctx: PassContext) -> None:
        """Warn of operators in the branches and bodies of others: their values are not observed."""
        inside = (node for graph in model.graph.subgraphs() for node in graph)
        counts = Counter(
            node.op_type
            for node in inside
            if node.domain == "" and len(node.inputs) > 1 and is_constant(node.inputs[1])
        )
        named = " and ".join(f"{counts[op]} {op}" for op in self.ops if counts[op])
        if named:
            ctx.warn(f"{named} in If, Loop or Scan stay float: calibration does not see inside")

    def _without_data(self, plan: Plan, ctx: PassContext) -> None:
        if not self.optional:
            raise InputError(
                "quant-static needs calibration data",
                hint="give sample inputs with --calib, or use quant-dynamic",
            )
        steps = [step for step in plan.steps if step.weighted]
        if ctx.target.int8.dynamic:  # then what would go along need not stay float
            steps = [step for step in steps if step.node.op_type in self.ops]
        counts = Counter(step.node.op_type for step in steps)
        named = " and ".join(f"{count} {op}" for op, count in sorted(counts.items()))
        if named:
            ctx.warn(f"{named} stay float: sample inputs (--calib) would let them be quantized too")


def _fed(plan: Plan) -> list[str]:
    """Return the names of values that operators with weights and a bias take."""
    values = [step.node.inputs[0] for step in plan.steps if step.node.op_type in ("Conv", "Gemm")]
    return [value.name or "" for value in values if value is not None]
