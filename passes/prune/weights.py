# SPDX-License-Identifier: Apache-2.0
"""Which weights may be pruned, and why the others may not."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx_ir as ir

from burnish.errors import InputError
from burnish.passes.constant import is_constant, tensor_of
from burnish.passes.report import all_graphs

# Operator -> inputs that may be its weight.
SLOTS: dict[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
}
QUANTIZED = "quantized already: prune before quantizing"

_FLOATS = frozenset(
    {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
)
# What quantization makes of the operators above.
_INTEGER_FORMS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
    }
)
_READS_NO_ELEMENTS = frozenset({"Shape", "Size"})

Refuse = Callable[[ir.Node | ir.Value, str], None]


@dataclass(frozen=True)
class Weight:
    """A weight that may be pruned.

    Attributes:
        value: The initializer, or the output of a Constant node.
        users: The nodes it is a weight of, maybe through operators that only view it.
    """

    value: ir.Value
    users: tuple[ir.Node, ...]

    @property
    def name(self) -> str:
        """Name of the value."""
        return self.value.name or ""

    @property
    def tensor(self) -> ir.TensorProtocol:
        """The elements."""
        tensor = tensor_of(self.value)
        assert tensor is not None
        return tensor

    def replace(self, tensor: ir.TensorProtocol) -> None:
        """Put other elements of the same dtype and shape in its place."""
        node = self.value.producer()
        if node is None:
            self.value.const_value = tensor
        else:
            node.attributes.clear()
            node.attributes["value"] = ir.AttrTensor("value", tensor)


@dataclass(frozen=True)
class Choice:
    """What the user wants pruned.

    Attributes:
        ops: Operators whose weights may be pruned.
        exclude: Glob patterns of names of nodes and weights to leave alone.
        depthwise: Whether depthwise convolutions may be pruned.
        min_size: Number of elements from which on a weight is worth it.
    """

    ops: Sequence[str]
    exclude: Sequence[str]
    depthwise: bool
    min_size: int


def find_weights(model: ir.Model, choice: Choice, refuse: Refuse) -> list[Weight]:
    """Return the weights to prune, each once, in the order of the nodes that use them.

    Raises:
        InputError: a pattern of `exclude` matches nothing (with the nearest name).
    """
    users: dict[ir.Value, dict[ir.Node, None]] = {}
    for graph in all_graphs(model):
        for node in graph:
            if node.op_type in _INTEGER_FORMS:
                refuse(node, QUANTIZED)
            if node.domain != "" or node.op_type not in choice.ops:
                continue
            found = [source for value in _candidates(node) if (source := _source(value))]
            if not found:
                refuse(node, _why_not_constant(node))
            for source in found:
                users.setdefault(source, {})[node] = None
    names = {value.name or "" for value in users}
    names |= {node.name or "" for value in users for node in value.consumers()}
    check_patterns(model, choice.exclude, names)
    weights = []
    for value, nodes in users.items():
        reason = _objection(value, nodes, choice)
        if reason is not None:
            refuse(value, reason)
        else:
            weights.append(Weight(value, tuple(nodes)))
    return weights


def _candidates(node: ir.Node) -> Iterator[ir.Value]:
    for slot in SLOTS[node.op_type]:
        value = node.inputs[slot] if slot < len(node.inputs) else None
        if value is not None:
            yield value


def _source(value: ir.Value) -> ir.Value | None:
    """Return the value that holds the tensor of a constant, past operators that only view it."""
    if not is_constant(value):
        return None
    while tensor_of(value) is None:
        node = value.producer()
        assert node is not None
        assert node.inputs[0] is not None
        value = node.inputs[0]
    return value


def _why_not_constant(node: ir.Node) -> str:
    for value in _candidates(node):
        producer: ir.Node | None = value.producer()
        while producer is not None and producer.op_type in ("Transpose", "Reshape", "Cast", "Mul"):
            above = producer.inputs[0]
            tensor = None if above is None else tensor_of(above)
            if tensor is not None and tensor.dtype == ir.DataType.INT8:
                return QUANTIZED
            producer = None if above is None else above.producer()
        if producer is None or producer.op_type != "DequantizeLinear":
            continue
        origin = producer.inputs[0]
        maker = None if origin is None else origin.producer()
        if is_constant(origin) or (
            maker is not None and maker.op_type == "QuantizeLinear" and is_constant(maker.inputs[0])
        ):
            return QUANTIZED
    return "the weight is not constant"


def _objection(value: ir.Value, nodes: Iterable[ir.Node], choice: Choice) -> str | None:
    tensor = tensor_of(value)
    assert tensor is not None
    if any(_matches(choice.exclude, name) for name in (value.name, *(n.name for n in nodes))):
        return "excluded"
    if tensor.dtype not in _FLOATS:
        return QUANTIZED if tensor.dtype.bitwidth <= 8 else "not of a floating-point type"
    if len(tensor.shape) < 2:
        return "a vector, not a matrix"
    if tensor.size < choice.min_size:
        return f"fewer than {choice.min_size} elements"
    if not choice.depthwise and any(map(_is_depthwise, nodes)):
        return "depthwise convolution"
    return _other_use(value, choice)


def _other_use(value: ir.Value, choice: Choice) -> str | None:
    """Return what speaks against pruning a weight in how else it is used."""
    if value.is_graph_output():
        return "an output of the model"
    for node, slot in value.uses():
        if node.op_type in _READS_NO_ELEMENTS:
            continue
        if node.domain == "" and node.op_type in choice.ops and slot in SLOTS[node.op_type]:
            continue
        if slot == 0 and len(node.outputs) == 1 and is_constant(node.outputs[0]):
            reason = _other_use(node.outputs[0], choice)  # it only views the weight
            if reason is not None:
                return reason
        elif node.op_type == "Gather":
            return "shared with an embedding"
        else:
            return "shared with an operator that is not pruned"
    return None


def _is_depthwise(node: ir.Node) -> bool:
    """Whether a convolution has one filter a channel: few weights, all of them needed."""
    groups = node.attributes.get_int("group", 1)
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if groups == 1 or weight is None or weight.shape is None:
        return False
    # Weights: Conv [outputs, inputs/group, ...], ConvTranspose [inputs, outputs/group, ...].
    axis, alone = (1, 1) if node.op_type == "Conv" else (0, groups)
    return bool(weight.shape[axis] == alone)


def _matches(patterns: Sequence[str], name: str | None) -> bool:
    return bool(name) and any(fnmatchcase(name or "", pattern) for pattern in patterns)


def is_quantized(node: ir.Node) -> bool:
    """Whether a node is what quantization makes."""
    return node.op_type in _INTEGER_FORMS or node.op_type in ("QuantizeLinear", "DequantizeLinear")


def check_patterns(model: ir.Model, patterns: Sequence[str], prunable: Iterable[str]) -> None:
    """Check that each pattern matches the name of a node or weight.

    Args:
        model: The model.
        patterns: Glob patterns.
        prunable: Names to suggest the nearest of.

    Raises:
        InputError: one matches nothing.
    """
    if not patterns:
        return
    names: set[str] = set()
    for graph in all_graphs(model):
        names.update(graph.initializers)
        for node in graph:
            names.update(filter(None, (node.name, *(value.name for value in node.outputs))))
    for pattern in patterns:
        if any(fnmatchcase(name, pattern) for name in names):
            continue
        close = difflib.get_close_matches(pattern, sorted({*prunable} - {""}), n=1, cutoff=0.0)
        raise InputError(
            f"option 'exclude': {pattern!r} matches no node or weight",
            hint=f"did you mean {close[0]!r}?" if close else "the model has nothing to prune",
        )
