# SPDX-License-Identifier: Apache-2.0
"""From a model to a TensorRT network; what its parser refuses is told by node, before any build."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.backends.tensorrt.module import errors, messages
from burnish.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

_SHOWN = 5


@dataclass(frozen=True)
class Unsupported:
    """A node that the parser refuses.

    Attributes:
        node: Its name, or that of its first output.
        op_type: Its operator, with its domain unless the default.
        made_by: The pass that made it; None if it came with the model.
        reason: What the parser says.
        remedy: What to do.
        output: Name of its first output; None if the node was not found in the model.
    """

    node: str
    op_type: str
    made_by: str | None
    reason: str
    remedy: str
    output: str | None = None


class UnsupportedError(InputError):
    """TensorRT cannot be built from a model.

    Attributes:
        nodes: The nodes that it refuses, in order.
    """

    def __init__(self, nodes: tuple[Unsupported, ...]) -> None:
        self.nodes = nodes
        count = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
        super().__init__(f"TensorRT does not take {count}: {_text(nodes)}")


def _text(nodes: Sequence[Unsupported]) -> str:
    """One line: alike nodes by the first of them, and each remedy once."""
    alike: dict[tuple[str, str | None, str], list[Unsupported]] = {}
    for item in nodes:
        alike.setdefault((item.op_type, item.made_by, item.reason), []).append(item)
    shown = list(alike.items())[:_SHOWN]
    kinds = []
    for (op_type, made_by, reason), items in shown:
        more = f" and {len(items) - 1} more" if len(items) > 1 else ""
        origin = f"made by {made_by}" if made_by else "as it came"
        kinds.append(f"{op_type} {items[0].node!r}{more} ({origin}): {reason}")
    others = len(alike) - len(shown)
    if others:
        kinds.append(f"and {others} more kinds")
    return "; ".join([*kinds, *dict.fromkeys(items[0].remedy for _, items in shown)])


def check_float64(model: ir.Model, *, strict: bool) -> tuple[str, ...]:
    """Name the nodes that take or give float64, which the parser makes float32 without a word.

    Args:
        model: Not changed; types that are missing are inferred on a copy.
        strict: Whether to refuse them; otherwise only float64 inputs and outputs of the model are
            refused, since an engine would not take or give what the model does.

    Returns:
        Lines for the report.

    Raises:
        UnsupportedError: there are nodes to refuse.
    """
    import onnx_ir as ir

    from burnish.passes.report import all_graphs
    from burnish.passes.shapes import infer_shapes

    if any(v.type is None for g in all_graphs(model) for n in g for v in n.outputs if v.name):
        model = model.clone()
        infer_shapes(model)

    def wide(values: Iterable[ir.Value | None]) -> bool:
        return any(value is not None and value.dtype is ir.DataType.DOUBLE for value in values)

    nodes = tuple(
        _because(node, "TensorRT has no float64")
        for graph in all_graphs(model)
        for node in graph
        if node.op_type != "Constant" and wide((*node.inputs, *node.outputs))
    )
    if not nodes:
        return ()
    if strict or wide((*model.graph.inputs, *model.graph.outputs)):
        raise UnsupportedError(nodes)
    return (f"TensorRT computes in float32 what is float64 in the model: {_text(nodes)}",)


@dataclass(frozen=True)
class Parsed:
    """A network, and the parser, which holds its weights and has to live as long."""

    network: Any
    parser: Any


def read(trt: Any, builder: Any, path: Path, model: ir.Model) -> Parsed:
    """Parse an ONNX file into a strongly typed network, whose types are those of the file.

    Args:
        trt: The module.
        builder: Its builder.
        path: The file; weights may lie beside it.
        model: What the file was written from, to name nodes by.

    Raises:
        UnsupportedError: the parser refuses nodes; all of them are named.
        InputError: it refuses the file.
    """
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, builder.logger)
    with messages(trt) as lines:
        taken = parser.parse_from_file(str(path))
    if not taken:
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        nodes = dict.fromkeys(_unsupported(error, model) for error in found)
        if nodes:
            # The parser stops at the first node that it fails to import.
            named = {item.node for item in nodes}
            others = (item for item in _refused(parser, model) if item.node not in named)
            raise UnsupportedError((*nodes, *others))
        raise InputError(f"TensorRT cannot read the model: {'; '.join(errors(lines))}")
    _let_attention_decompose(trt, network)
    return Parsed(network, parser)


def _let_attention_decompose(trt: Any, network: Any) -> None:
    """Let products and a softmax stand for an attention whose sizes or types have no kernel.

    Otherwise there is no engine at all: float32, for one, has no such kernel.
    """
    kind = getattr(trt.LayerType, "ATTENTION_OUTPUT", None)
    for index in range(network.num_layers if kind is not None else 0):
        layer = network.get_layer(index)
        if layer.type == kind:
            # The binding hands out the base class; its own tools narrow it down in this way.
            layer.__class__ = trt.IAttentionOutputLayer
            layer.attention.decomposable = True


def _unsupported(error: Any, model: ir.Model) -> Unsupported:
    node = _node_of(error, model)
    reason = _reason(error.desc())
    if node is None:
        op_type, name = error.node_operator() or "?", error.node_name() or "?"
        return Unsupported(name, op_type, None, reason, _remedy(op_type, reason, None))
    return _because(node, reason)


def _because(node: ir.Node, reason: str) -> Unsupported:
    from burnish.passes.context import describe
    from burnish.passes.origins import made_by

    op_type = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    made = made_by(node)
    remedy = _remedy(op_type, reason, made)
    return Unsupported(describe(node), op_type, made, reason, remedy, node.outputs[0].name)


def _refused(parser: Any, model: ir.Model) -> Iterator[Unsupported]:
    """Nodes that are certain to be refused: by operator, or by a zero point that is not 0."""
    from burnish.passes.constant import as_array
    from burnish.passes.report import all_graphs

    for graph in all_graphs(model):
        for node in graph:
            if node.domain == "" and not parser.supports_operator(node.op_type):
                yield _because(node, "it does not support this operator")
            elif node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.inputs) > 2:
                zero = as_array(node.inputs[2])
                if zero is not None and zero.any():
                    yield _because(node, "its zero point is not 0")


def _node_of(error: Any, model: ir.Model) -> ir.Node | None:
    """The node an error is about: by its name, or by its number in the main graph."""
    from burnish.passes.report import all_graphs

    name, op_type = error.node_name(), error.node_operator()
    if name:
        for graph in all_graphs(model):
            for node in graph:
                if node.name == name and node.op_type == op_type:
                    found: ir.Node = node
                    return found
    number = int(error.node())
    nodes: list[ir.Node] = list(model.graph)
    if 0 <= number < len(nodes) and nodes[number].op_type == op_type:
        return nodes[number]
    return None


# What the parser says -> what is meant by it. Otherwise its words are passed on.
_MEANINGS = (
    (r"Plugin not found", "it has neither an importer nor a plugin for this operator"),
    (r"plugin creator .*was not found", "it lacks the plugin that stands for this operator"),
    (r"^false$", "it does not support this operator"),
    (r"shiftIsAllZeros|Non-zero zero point", "its zero point is not 0"),
    (r"has type Int32 but must have type FP8", "it dequantizes int32"),
)


def _reason(text: str) -> str:
    text = " ".join(text.split())
    text = re.sub(r"^Assertion failed: ", "", text)
    for pattern, meaning in _MEANINGS:
        if re.search(pattern, text):
            return meaning
    words = re.search(r'"([^"]+)"', text)  # assertions end in a sentence for people
    return (words.group(1) if words else text).rstrip(".")


def _remedy(op_type: str, reason: str, made_by: str | None) -> str:
    quantized = "QuantizeLinear" in op_type or "DequantizeLinear" in op_type
    if quantized or op_type in ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"):
        return "quantize the float model for this target: --passes quant --target tensorrt-rtx:..."
    if made_by is not None:
        return f"leave it out: --disable {made_by}"
    if "plugin" in reason or "operator" in reason:
        return (
            "rewrite it by the graphsurgeon pass, load its plugin (--engine plugins=FILE), or let "
            "ONNX Runtime run it: --engine fallback=onnxruntime"
        )
    return (
        "change it by the graphsurgeon pass, or let ONNX Runtime run it: "
        "--engine fallback=onnxruntime"
    )
