# SPDX-License-Identifier: Apache-2.0
"""Where Q/DQ pairs go for ONNX Runtime's CPU kernels, decided before anything is edited.

The runtime replaces `DequantizeLinear -> op -> QuantizeLinear` by an integer kernel for the
operators listed here, so placement decides speed; and each pair rounds, so it decides accuracy.

- Conv, MatMul and Gemm with constant weights are where int8 pays: they are quantized by default.
  Conv's kernel gives uint8, so its output (behind a Relu or Clip, which saturation then does) is
  quantized as well. MatMul's and Gemm's can give float, and do unless a quantized operator takes
  their result as it is.
- What lies between two of them (pooling, HardSwish, Add, Concat) goes along only if its inputs are
  uint8 already and a quantized operator wants its result. So the residual sums of transformers,
  softmax, norms and activations such as Gelu keep their precision. A sum of two results that are
  uint8 anyway needs no one to want it: both would have to be turned into floats for it. Nor does
  the mean of a map that is uint8: its result is small.
- A gate, which has one number a channel, is rounded for the map that it scales: else that map, and
  the depthwise convolution before it, would have to be float.
- MatMul and Gemm that are otherwise left to the dynamic form (`along`) go along where their input
  is uint8 already: it would only be rounded a second time.
- A depthwise Conv does little arithmetic for each number it moves: it goes along on the same terms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import is_constant
from burnish.passes.quant.int8.swish import uniform_affine
from burnish.passes.quant.weighted import (
    WEIGHTED,
    kept_float,
    refuse_elsewhere,
    rule_of,
    weights_of,
)

# Kernels that pass integers on unchanged: input and output share scale and zero point.
_SAME_SCALE = frozenset({"MaxPool", "Reshape", "Resize", "Squeeze", "Transpose", "Unsqueeze"})
# Kernels that compute on uint8 and give uint8 at another scale.
_RESCALE = frozenset(
    {"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "HardSwish", "LeakyRelu"}
)
# The same integers at another scale and zero point; see `burnish.passes.quant.int8.swish`.
_REREAD = frozenset({"BatchNormalization"})
JOINING = _SAME_SCALE | _RESCALE | _REREAD
"""Operators without weights that go along between quantized ones."""
COMPUTING = _RESCALE | {"MaxPool", "Resize"}
"""Those of them that do more than change a shape."""

# Activations that the rounding before them does, if the range is clipped likewise.
_ABSORBED = frozenset({"Relu", "Clip"})

Refuse = Callable[[str, ir.Node, str], None]

# Measured with ONNX Runtime 1.31 on AVX-512 VNNI, one thread: the int8 kernel loses time on groups
# narrower than this.
_GROUP_CHANNELS = 32
# A Conv that gives a single pixel (as in squeeze-and-excitation) is work worth quantizing only
# for weights of at least this size.
_SMALL_WEIGHTS = 1 << 16


@dataclass(frozen=True)
class Step:
    """One operator to quantize.

    Attributes:
        node: The operator.
        inputs: Positions of the activations it takes as uint8.
        output: The value it gives as uint8, behind an absorbed activation; None if it gives float.
        weighted: Whether input 1 is weights.
    """

    node: ir.Node
    inputs: tuple[int, ...]
    output: ir.Value | None
    weighted: bool = False


@dataclass
class Plan:
    """What to quantize, in topological order.

    Attributes:
        steps: The operators.
        same_scale: Value -> the value whose scale and zero point it shares.
    """

    steps: list[Step] = field(default_factory=list)
    same_scale: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def root(self, value: ir.Value) -> ir.Value:
        """Return the value whose range decides the scale of `value`."""
        while value in self.same_scale:
            value = self.same_scale[value]
        return value

    def values(self) -> list[ir.Value]:
        """Return the values whose ranges are needed, without repetition."""
        found: dict[ir.Value, None] = {}
        for step in self.steps:
            taken = [step.node.inputs[index] for index in step.inputs]
            for value in (*taken, step.output):
                if value is not None:
                    found[self.root(value)] = None
        return list(found)


def place(
    model: ir.Model,
    *,
    ops: tuple[str, ...] = WEIGHTED,
    along: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    residual: bool = False,
    refuse: Refuse = lambda *_: None,
) -> Plan:
    """Decide what to quantize in the main graph of a model whose shapes have been inferred.

    Args:
        model: The model; it is not changed.
        ops: The operators with weights to quantize.
        along: Those to quantize only where their input is uint8 already.
        exclude: Glob patterns; nodes with a name or an output name that matches stay float.
        residual: Round a value that a quantized operator takes for the sums that take it, too.
        refuse: Is told (rule, node, reason) of each operator of `ops` that stays float.
    """
    nodes = [node for node in model.graph if node.domain == ""]
    weighted: set[ir.Node] = set()
    for node in nodes:
        if node.op_type in ops:
            reason = kept_float(node, exclude) or _unsuitable(node)
            if reason is None:
                weighted.add(node)
            elif reason:
                refuse(rule_of(node), node, reason)
    refuse_elsewhere(model, ops, refuse)
    joining = {node for node in nodes if _can_join(node) and not kept_float(node, exclude)}
    joining |= {node for node in weighted if is_depthwise(node)}
    products = {node for node in nodes if node.op_type in along and not kept_float(node, exclude)}
    products = {node for node in products if _unsuitable(node) is None}
    joining |= products
    weighted |= products
    while True:  # those that stay behind may leave others alone
        wanted = _wanted(nodes, weighted, joining)
        taken = {node.inputs[0] for node in weighted - joining} if residual else set()
        plan = _forward(nodes, weighted, joining, wanted, taken)
        joined = {step.node for step in plan.steps} & joining
        if joined == joining:
            break
        joining, stayed = joined, joining - joined
        weighted -= stayed
        for node in nodes:
            if node in stayed and is_depthwise(node):
                refuse(rule_of(node), node, "depthwise, and not between quantized operators")
    return plan


def _wanted(
    nodes: list[ir.Node], weighted: set[ir.Node], joining: set[ir.Node]
) -> set[ir.Value | None]:
    """Return values that an operator which may be quantized takes as an activation."""
    wanted: set[ir.Value | None] = set()
    for node in reversed(nodes):
        needs_user = node in joining and not _is_product(node)
        if (result_of(node) in wanted) if needs_user else (node in weighted):
            wanted |= {node.inputs[index] for index in _data_inputs(node)}
    return wanted


def _forward(
    nodes: list[ir.Node],
    weighted: set[ir.Node],
    joining: set[ir.Node],
    wanted: set[ir.Value | None],
    carried: set[ir.Value | None],
) -> Plan:
    """Go through the nodes in order, knowing which values exist as uint8; some do beforehand."""
    plan = Plan()
    carried = set(carried)
    for node in nodes:
        if node not in weighted and node not in joining:
            continue
        inputs = _data_inputs(node)
        given = result_of(node)
        taken = given in wanted and not given.is_graph_output()
        if node in joining and not _is_fed([node.inputs[i] for i in inputs], carried, node):
            continue
        if node in joining and not (taken or _needs_no_user(node)):
            continue
        if node.op_type in _REREAD and node.inputs[0] in plan.same_scale:
            continue  # what gives its input would have to be read anew as well
        # A float result that is rounded for one user and not for another ends the fusion: either
        # all users take the rounded one, or none.
        result = given if taken or not _is_product(node) else None
        plan.steps.append(Step(node, inputs, result, weighted=node in weighted))
        if result is None:
            continue
        carried.add(result)
        if node.op_type in _SAME_SCALE:
            assert node.inputs[0] is not None
            plan.same_scale[result] = node.inputs[0]
    return plan


def _is_fed(values: list[ir.Value | None], carried: set[ir.Value | None], node: ir.Node) -> bool:
    """Whether all that an operator takes is uint8 already, but for the gate of a Mul."""
    gates = {value for value in values if _is_gate(value)} if node.op_type == "Mul" else set()
    return all(value in carried for value in values if value not in gates) and not (
        gates.issuperset(values)
    )


def _is_gate(value: ir.Value | None) -> bool:
    """Whether a value is computed and has a single number a channel."""
    if value is None or value.shape is None or is_constant(value):
        return False
    return value.shape.rank() > 2 and _pixels(value) == 1


def _is_product(node: ir.Node) -> bool:
    return node.op_type in ("MatMul", "Gemm")


def _needs_no_user(node: ir.Node) -> bool:
    """Whether an operator between quantized ones pays even if its result is wanted as float."""
    if node.op_type in ("Add", "GlobalAveragePool"):
        return not result_of(node).is_graph_output()
    return _is_product(node)


def result_of(node: ir.Node) -> ir.Value:
    """Return the output of a node, behind the activation that its rounding can absorb."""
    output = node.outputs[0]
    if node.op_type in _SAME_SCALE | _REREAD or output.is_graph_output():
        return output
    if len(output.uses()) != 1:
        return output
    user = output.consumers()[0]
    # A user in a subgraph runs only when the subgraph does.
    fits = user.graph is node.graph and user.domain == "" and user.op_type in _ABSORBED
    if not fits or user.inputs[0] is not output:
        return output
    if user.op_type == "Clip" and not _constant_clip(user):
        return output
    return user.outputs[0]


def _constant_clip(node: ir.Node) -> bool:
    return all(value is None or is_constant(value) for value in node.inputs[1:])


def _data_inputs(node: ir.Node) -> tuple[int, ...]:
    if node.op_type in ("Add", "Mul", "Concat"):
        return tuple(range(len(node.inputs)))
    return (0,)


def _can_join(node: ir.Node) -> bool:
    """Whether the runtime has an integer kernel for the node between quantized operators."""
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") == "nearest"
    if node.op_type == "MaxPool":
        return len(node.outputs) == 1
    if node.op_type in _REREAD:
        return uniform_affine(node) is not None
    return node.op_type in JOINING


def is_depthwise(node: ir.Node) -> bool:
    """Whether a node is a Conv in which each group has a single input channel."""
    if node.op_type != "Conv" or node.attributes.get_int("group", 1) == 1:
        return False
    weights = node.inputs[1]
    return weights is not None and weights.shape is not None and weights.shape[1] == 1


def _unsuitable(node: ir.Node) -> str | None:
    """Return why an operator cannot be quantized, or does not pay; "" if it has no weights."""
    weights = weights_of(node)
    if weights is None or isinstance(weights, str):
        return weights or ""
    if node.op_type != "Conv":
        return None
    shape = weights.array.shape
    if result_of(node).is_graph_output():
        return "its result is an output of the model"
    if is_depthwise(node):
        return None
    if node.attributes.get_int("group", 1) > 1 and shape[1] < _GROUP_CHANNELS:
        return "narrow groups: int8 is slower"
    if _pixels(node.outputs[0]) == 1 and np.prod(shape) < _SMALL_WEIGHTS:
        return "one pixel and few weights: int8 is no faster"
    return None


def _pixels(value: ir.Value) -> int | None:
    """Return the size of the spatial dimensions of a feature map, if it is known."""
    if value.shape is None:
        return None
    sizes = [dim for dim in value.shape[2:] if isinstance(dim, int)]
    return int(np.prod(sizes)) if len(sizes) == len(value.shape) - 2 else None
