# SPDX-License-Identifier: Apache-2.0
"""Static int8: ranges from calibration data, written into the model as Q/DQ pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from burnish.backends.int8 import Int8Form
from burnish.errors import InputError
from burnish.passes.base import Pass
from burnish.passes.constant import is_constant
from burnish.passes.context import PassContext
from burnish.passes.edit import remove_unused
from burnish.passes.options import option
from burnish.passes.quant.average import convolve, is_convolution
from burnish.passes.quant.before import place_before
from burnish.passes.quant.correct import mean_shift
from burnish.passes.quant.fill import fill_channels, missing_channels
from burnish.passes.quant.insert import add_initializer, digest, drop_unused, insert_pair, make_node
from burnish.passes.quant.integers import ACTIVATIONS, WEIGHTS, Integers, integers_for
from burnish.passes.quant.observers import METHODS, observer
from burnish.passes.quant.placement import JOINING, Plan, Refuse, Step, place
from burnish.passes.quant.pools import RULE as POOL_MEAN
from burnish.passes.quant.pools import is_pool, make_pool
from burnish.passes.quant.ranges import Observed, Ranges, calibrate
from burnish.passes.quant.ready import mark_quantized, passed_through, raise_opset
from burnish.passes.quant.scheme import QuantParams, bias_params, fit_bias
from burnish.passes.quant.shield import RULE as KEEP_FLOAT
from burnish.passes.quant.shield import is_exposed, shield
from burnish.passes.quant.swish import (
    fits,
    hard_swish_params,
    multiply,
    shifted_params,
    uniform_affine,
)
from burnish.passes.quant.upsample import repeat, repeats
from burnish.passes.quant.weighted import (
    WEIGHTED,
    Weights,
    rule_of,
    weights_of,
)
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
    operators; see `burnish.passes.quant.before`.
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
        editor = _Editor(
            model.graph, plan, values, form, integers, self.per_channel, self.correct_bias
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


class _Editor:
    """Inserts Q/DQ pairs into one graph.

    A value gets one pair, whoever asks for it; it sits right behind the value's producer. Weights
    and biases become integer initializers with a DequantizeLinear, one for each use alike.
    """

    def __init__(
        self,
        graph: ir.Graph,
        plan: Plan,
        values: Mapping[str, Observed],
        form: Int8Form,
        integers: Integers,
        per_channel: bool,
        correct_bias: bool,
    ) -> None:
        self.graph = graph
        self.plan = plan
        self.values = values
        self.form = form
        self.integers = integers
        self.per_channel = per_channel
        self.correct_bias = correct_bias
        self.pairs: dict[ir.Value, ir.Value] = {}  # value -> its dequantized self
        self.sources: dict[ir.Value, ir.Value] = {}  # and back
        self.constants: dict[tuple[bytes, str, int | None], ir.Value] = {}
        self.params: dict[ir.Value, QuantParams] = {}
        self.scales: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        self._share_scales()
        self.swished: set[ir.Value] = set()
        self.read_anew: dict[ir.Value, ir.Value] = {}  # value -> its scaled and shifted self
        self.shifts: dict[ir.Value, tuple[float, float]] = {}  # that -> by what
        for step in plan.steps:
            source = plan.root(self._source(step.node.inputs[0]))
            if step.node.op_type == "HardSwish" and source.consumers() == (step.node,):
                self.swished.add(source)
            elif step.node.op_type == "BatchNormalization" and step.output is not None:
                self.read_anew.setdefault(source, step.output)
                self.shifts[step.output] = uniform_affine(step.node) or (1.0, 0.0)

    def _share_scales(self) -> None:
        """Give what is made for a Concat alone its scale: else the Concat rounds it once more."""
        made = {step.output for step in self.plan.steps}
        for step in self.plan.steps:
            if step.node.op_type != "Concat" or step.output is None:
                continue
            joined = self.values.get(step.output.name or "")
            for value in step.node.inputs:
                if joined is None or value is None:
                    break
                root = self.plan.root(value)
                if root in made and self._is_for(root, step) and _absorbs(root, joined):
                    self.plan.same_scale[root] = step.output

    def _is_for(self, value: ir.Value, step: Step) -> bool:
        """Whether a value goes into one operator alone."""
        while value not in step.node.inputs:
            users = value.consumers()
            if len(users) != 1 or self.plan.same_scale.get(users[0].outputs[0]) is not value:
                return False
            value = users[0].outputs[0]
        return value.consumers() == (step.node,)

    def unsuitable(self, step: Step) -> str | None:
        """Return why what was observed forbids quantizing an operator, or None."""
        values = [step.node.inputs[index] for index in step.inputs]
        for value in (*values, step.output):
            if value is None:
                continue
            found = self.values.get(self._root(value).name or "")
            if found is None:
                return "the file of ranges lacks its activations"
            if found.nonfinite:
                return "its activations are not finite on the calibration data"
            if found.seen.low == found.seen.high == 0.0:
                return "its activations are all zero on the calibration data"
        return self._misread(step)

    def _misread(self, step: Step) -> str | None:
        """Return why what an operator takes cannot be read in two ways, or None."""
        op, source = step.node.op_type, self._root(step.node.inputs[0])
        if op not in ("HardSwish", "BatchNormalization"):
            return None
        if not fits(self.integers.activations):
            return "only uint8 with any scale and zero point can be read in two ways"
        if op == "BatchNormalization":
            anew = self.read_anew[source] is step.output and step.output not in self.swished
            return None if anew else "its integers are read in another way already"
        if source not in self.swished:
            return "something else takes its input, below its bends too"
        given = self.values[source.name or ""].range
        if source in self.shifts or source in self.read_anew or hard_swish_params(given) is None:
            return "its bends are no integers at the scale of its input"
        return None

    def quantize(self, step: Step) -> None:
        """Put an operator between integers."""
        node = step.node
        sources = [self._source(node.inputs[index]) for index in step.inputs]
        for index, source in zip(step.inputs, sources, strict=True):
            node.replace_input_with(index, self._pair(source))
        if step.weighted:
            self._quantize_weights(node, sources[0])
        if node.op_type == "BatchNormalization":
            self._read_anew(step)
        elif node.op_type == "Resize" and (factors := repeats(node)) is not None:
            self._repeat(step, factors)
        if is_convolution(node) and self.integers.activations.dtype == "uint8":
            convolve(node)
        if node.op_type == "HardSwish":
            multiply(node, self._params(sources[0]))
        if step.output is not None and step.output not in self.pairs:
            self._round(step.output)

    def _round(self, value: ir.Value) -> None:
        """Let all users of a value take it rounded."""
        pair = self._pair(value)
        for user, index in tuple(value.uses()):
            if user is not self._quantizer(pair):
                user.replace_input_with(index, pair)

    def _read_anew(self, step: Step) -> None:
        """Replace a scale and a shift by another way to read the integers that they take."""
        self._give(step, self._integers(step.node))

    def _repeat(self, step: Step, factors: tuple[int, int]) -> None:
        """Replace a Resize by what repeats integers."""
        self._give(step, repeat(step.node, self._integers(step.node), factors))

    def _integers(self, node: ir.Node) -> ir.Value:
        """Return what the quantized input of a node is dequantized from."""
        value = node.inputs[0]
        assert value is not None
        dq = value.producer()
        assert dq is not None
        assert dq.inputs[0] is not None
        return dq.inputs[0]

    def _give(self, step: Step, integers: ir.Value) -> None:
        """Let all users of a result take integers dequantized, and remove what gave it."""
        node, value = step.node, step.output
        assert value is not None
        scale, zero_point = self._scale(self._root(value))
        found = make_node(
            self.graph,
            "DequantizeLinear",
            [integers, scale, zero_point],
            {f"{value.name}_dequantized": (ir.DataType.FLOAT, value.shape)},
            base=value.name or "",
        )
        self.graph.insert_before(node, found)
        self.pairs[value] = found.outputs[0]
        self.sources[found.outputs[0]] = value
        value.replace_all_uses_with(found.outputs[0])
        old = tuple(node.inputs[1:])
        self.graph.remove(node, safe=True)  # others may take what it took
        drop_unused(old)

    def clean_up(self) -> None:
        """Remove pairs that lost their users."""
        made = (pair.producer() for pair in self.pairs.values())
        remove_unused([node for node in made if node is not None])

    def _quantize_weights(self, node: ir.Node, source: ir.Value) -> None:
        weights = weights_of(node)
        assert isinstance(weights, Weights)
        old = (*node.inputs, None)[1:3]
        input_scale = float(self._params(source).scale)
        axis = weights.axis if self.per_channel else None
        chosen = self.integers.weights
        scheme = self._held(chosen.fit(weights.array, axis))
        bias = weights.bias
        if bias is not None and self.form.bias:
            scheme = fit_bias(
                scheme, weights.array, bias, input_scale, power_of_two=chosen.power_of_two
            )
        fed = self.values.get(source.name or "")
        correctable = self.correct_bias and node.op_type in ("Conv", "Gemm")
        if correctable and fed is not None and fed.mean is not None:
            error = scheme.dequantize(scheme.quantize(weights.array)) - weights.array
            group = node.attributes.get("group")
            shift = mean_shift(
                error,
                np.array(fed.mean),
                axis=weights.axis,
                groups=1 if group is None else group.as_int(),
            )
            bias = ((0 if bias is None else bias) - shift).astype(np.float32)
        if bias is not None and (self.form.bias or bias is not weights.bias or _scaled(node)):
            name = _name(old[1], node)
            if self.form.bias:
                held = self._constant(node, name, bias, bias_params(scheme, input_scale))
            else:
                held = add_initializer(self.graph, f"{name}_corrected", bias)
            node.resize_inputs(3)
            node.replace_input_with(2, held)
        array = weights.array
        missing = missing_channels(node, array) if self.form.results else 0
        if missing:
            array = fill_channels(node, array, missing)
        name = _name(old[0], node)
        node.replace_input_with(1, self._constant(node, name, array, scheme))
        for name in ("alpha", "beta"):  # of a Gemm: multiplied in
            node.attributes.pop(name, None)
        drop_unused(old)

    def _constant(
        self, node: ir.Node, name: str, array: np.ndarray, scheme: QuantParams
    ) -> ir.Value:
        """Return the dequantized form of a constant, shared with an equal one."""
        integers = scheme.quantize(array)
        key = (digest(integers, scheme.scale), scheme.dtype.name, scheme.axis)
        found = self.constants.get(key)
        if found is None:
            constants = [
                add_initializer(self.graph, f"{name}_{scheme.dtype.name}", integers),
                add_initializer(self.graph, f"{name}_scale", scheme.scale),
            ]
            if scheme.dtype != np.int32:  # which the specification gives no zero point
                point = add_initializer(self.graph, f"{name}_zero_point", scheme.zero_point)
                constants.append(point)
            dq = make_node(
                self.graph,
                "DequantizeLinear",
                constants,
                {f"{name}_dequantized": (ir.DataType.FLOAT, ir.Shape(array.shape))},
                attributes={} if scheme.axis is None else {"axis": scheme.axis},
                base=name,
            )
            self.graph.insert_before(node, dq)
            found = self.constants[key] = dq.outputs[0]
        return found

    def _pair(self, value: ir.Value) -> ir.Value:
        """Return `value` quantized and dequantized again."""
        found = self.pairs.get(value)
        if found is not None:
            return found
        found = self.pairs[value] = insert_pair(
            value,
            self.graph,
            *self._scale(self._root(value)),
            dtype=ir.DataType.from_numpy(self._params(value).dtype),
            names=(f"{value.name}_quantized", f"{value.name}_dequantized"),
        )
        self.sources[found] = value
        return found

    def _quantizer(self, pair: ir.Value) -> ir.Node:
        """Return the QuantizeLinear of a pair."""
        dq = pair.producer()
        assert dq is not None
        assert dq.inputs[0] is not None
        q = dq.inputs[0].producer()
        assert q is not None
        return q

    def _source(self, value: ir.Value | None) -> ir.Value:
        """Return what an operator's input was before it was quantized."""
        assert value is not None
        return self.sources.get(value, value)

    def _root(self, value: ir.Value | None) -> ir.Value:
        return self.plan.root(self._source(value))

    def _params(self, value: ir.Value) -> QuantParams:
        root = self._root(value)
        found = self.params.get(root)
        if found is None:
            found = self.params[root] = self._held(self._chosen(root))
        return found

    def _chosen(self, root: ir.Value) -> QuantParams:
        """Return a scheme by the range of a value, and by how else its integers are read."""
        scheme = self.integers.activations
        values = self.values[root.name or ""].range
        if fits(scheme):
            shifted = self.read_anew.get(root, root)
            if shifted in self.shifts and shifted not in self.swished:
                both = shifted_params(self.values[shifted.name or ""].range, *self.shifts[shifted])
                return both[1 if shifted is root else 0]
            if root in self.swished and (snapped := hard_swish_params(values)) is not None:
                return snapped
        return scheme.params(values)

    def _held(self, scheme: QuantParams) -> QuantParams:
        """Return a scheme with the scales that the target can hold."""
        least = np.float32(self.form.least_scale)
        return replace(scheme, scale=np.maximum(scheme.scale, least))

    def _scale(self, root: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return the initializers of the scale and zero point of a value."""
        found = self.scales.get(root)
        if found is None:
            params = self._params(root)
            found = (
                add_initializer(self.graph, f"{root.name}_scale", params.scale),
                add_initializer(self.graph, f"{root.name}_zero_point", params.zero_point),
            )
            self.scales[root] = found
        return found


def _absorbs(value: ir.Value, joined: Observed) -> bool:
    """Whether a value rounded to the joined range is still what its maker means by it."""
    maker = value.producer()
    if maker is None or maker.op_type in ("BatchNormalization", "Clip"):  # read anew; cut there
        return False
    return maker.op_type != "Relu" or joined.range.low >= 0


def _scaled(node: ir.Node) -> bool:
    """Whether a Gemm multiplies its bias."""
    return node.attributes.get_float("beta", 1.0) != 1.0


def _name(constant: ir.Value | None, node: ir.Node) -> str:
    """Return what to name the quantized form of a constant after, also if there was none."""
    if constant is not None and constant.name:
        return constant.name
    return f"{node.name or node.outputs[0].name}/bias"
