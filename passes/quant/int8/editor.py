# SPDX-License-Identifier: Apache-2.0
"""Operators put between Q/DQ pairs, their weights and biases made integers: a plan carried out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.edit import remove_unused
from burnish.passes.quant.accuracy.correct import mean_shift
from burnish.passes.quant.insert import add_initializer, digest, drop_unused, insert_pair, make_node
from burnish.passes.quant.int8.average import convolve, is_convolution
from burnish.passes.quant.int8.fill import fill_channels, missing_channels
from burnish.passes.quant.int8.placement import Step
from burnish.passes.quant.int8.schemes import Schemes
from burnish.passes.quant.int8.swish import multiply
from burnish.passes.quant.int8.upsample import repeat, repeats
from burnish.passes.quant.scheme import QuantParams, bias_params, fit_bias
from burnish.passes.quant.weighted import Weights, weights_of


class Editor:
    """Inserts Q/DQ pairs into one graph.

    A value gets one pair, whoever asks for it; it sits right behind the value's producer. Weights
    and biases become integer initializers with a DequantizeLinear, one for each use alike.

    Attributes:
        pairs: Value -> its quantized and dequantized self, of those that have a pair by now.

    Args:
        graph: What is edited.
        schemes: What scale and zero point each value has.
        per_channel: One scale for each output channel of the weights.
        correct_bias: Let biases make up for the mean error of the weights.
    """

    def __init__(
        self, graph: ir.Graph, schemes: Schemes, *, per_channel: bool, correct_bias: bool
    ) -> None:
        self.graph = graph
        self.schemes = schemes
        self.per_channel = per_channel
        self.correct_bias = correct_bias
        self.pairs: dict[ir.Value, ir.Value] = {}  # value -> its dequantized self
        self.sources: dict[ir.Value, ir.Value] = {}  # and back
        self.constants: dict[tuple[bytes, str, int | None], ir.Value] = {}
        self.scales: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def unsuitable(self, step: Step) -> str | None:
        """Return why what was observed forbids quantizing an operator, or None."""
        return self.schemes.unsuitable(step, self._sources(step))

    def quantize(self, step: Step) -> None:
        """Put an operator between integers."""
        node = step.node
        sources = self._sources(step)
        for index, source in zip(step.inputs, sources, strict=True):
            node.replace_input_with(index, self._pair(source))
        if step.weighted:
            self._quantize_weights(node, sources[0])
        if node.op_type == "BatchNormalization":
            self._read_anew(step)
        elif node.op_type == "Resize" and (factors := repeats(node)) is not None:
            self._repeat(step, factors)
        if is_convolution(node) and self.schemes.integers.activations.dtype == "uint8":
            convolve(node)
        if node.op_type == "HardSwish":
            multiply(node, self.schemes.params(sources[0]))
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
        scale, zero_point = self._scale(self.schemes.root(value))
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
        form, chosen = self.schemes.form, self.schemes.integers.weights
        input_scale = float(self.schemes.params(source).scale)
        scheme = self.schemes.held(
            chosen.fit(weights.array, weights.axis if self.per_channel else None)
        )
        if weights.bias is not None and form.bias:
            scheme = fit_bias(
                scheme, weights.array, weights.bias, input_scale, power_of_two=chosen.power_of_two
            )
        bias = self._corrected(node, source, weights, scheme)
        if bias is not None and (form.bias or bias is not weights.bias or _scaled(node)):
            name = _name(old[1], node)
            if form.bias:
                held = self._constant(node, name, bias, bias_params(scheme, input_scale))
            else:
                held = add_initializer(self.graph, f"{name}_corrected", bias)
            node.resize_inputs(3)
            node.replace_input_with(2, held)
        array = weights.array
        missing = missing_channels(node, array) if form.results else 0
        if missing:
            array = fill_channels(node, array, missing)
        name = _name(old[0], node)
        node.replace_input_with(1, self._constant(node, name, array, scheme))
        for name in ("alpha", "beta"):  # of a Gemm: multiplied in
            node.attributes.pop(name, None)
        drop_unused(old)

    def _corrected(
        self, node: ir.Node, source: ir.Value, weights: Weights, scheme: QuantParams
    ) -> np.ndarray | None:
        """Return the bias that makes up for the mean error of rounded weights, or as it is."""
        fed = self.schemes.values.get(source.name or "")
        correctable = self.correct_bias and node.op_type in ("Conv", "Gemm")
        if not correctable or fed is None or fed.mean is None:
            return weights.bias
        shift = mean_shift(
            scheme.dequantize(scheme.quantize(weights.array)) - weights.array,
            np.array(fed.mean),
            axis=weights.axis,
            groups=node.attributes.get_int("group", 1),
        )
        return ((0 if weights.bias is None else weights.bias) - shift).astype(np.float32)

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
            *self._scale(self.schemes.root(value)),
            dtype=ir.DataType.from_numpy(self.schemes.params(value).dtype),
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

    def _sources(self, step: Step) -> list[ir.Value]:
        """Return what an operator takes of a plan, before it was quantized."""
        return [self._source(step.node.inputs[index]) for index in step.inputs]

    def _source(self, value: ir.Value | None) -> ir.Value:
        """Return what an operator's input was before it was quantized."""
        assert value is not None
        return self.sources.get(value, value)

    def _scale(self, root: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return the initializers of the scale and zero point of a value."""
        found = self.scales.get(root)
        if found is None:
            params = self.schemes.params(root)
            found = (
                add_initializer(self.graph, f"{root.name}_scale", params.scale),
                add_initializer(self.graph, f"{root.name}_zero_point", params.zero_point),
            )
            self.scales[root] = found
        return found


def _scaled(node: ir.Node) -> bool:
    """Whether a Gemm multiplies its bias."""
    return node.attributes.get_float("beta", 1.0) != 1.0


def _name(constant: ir.Value | None, node: ir.Node) -> str:
    """Return what to name the quantized form of a constant after, also if there was none."""
    if constant is not None and constant.name:
        return constant.name
    return f"{node.name or node.outputs[0].name}/bias"
