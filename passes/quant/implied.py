# SPDX-License-Identifier: Apache-2.0
"""Leaves out what the readers of a file derive from the rest: sizes, and defaults of attributes.

Of a model of 0.25 MB, the sizes of all values are a tenth. ONNX's own shape inference, which
runtimes use too, gives most of them back. What it does not give back
stays: ONNX Runtime needs the names of computed sizes to see that two summands have one shape. Of
those, the name alone matters: a formula that no reader computes gets a short one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.edit import subgraphs
from burnish.passes.options import option
from burnish.passes.quant.ready import was_quantized
from burnish.passes.report import all_graphs
from burnish.passes.shapes import forget_shapes

_SIZE, _NAME, _ATTRIBUTE = "implied-size", "short-size", "implied-attribute"

_MADE_UP = "unk__"
"""How names begin that ONNX's shape inference makes up; ONNX Runtime makes up none."""

_SMALL = 1 << 10
"""Bytes of constants that may be sizes; inference reads no others."""


@dataclass(frozen=True)
class DropImplied(Pass):
    """Leave out the sizes that shape inference gives back exactly, and attributes at their default.

    A reader that infers no shapes finds those of inputs, outputs and weights alone. Formulas of
    computed sizes become short names; those of inputs and outputs stay.
    """

    name: ClassVar[str] = "drop-implied"
    rule_names: ClassVar[tuple[str, ...]] = (_SIZE, _NAME, _ATTRIBUTE)
    last: ClassVar[bool] = True

    quantized: bool = option(False, help="only if a pass before this one quantized the model")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Go over names, values and attributes, in this order."""
        if self.quantized and not was_quantized(model):
            return
        _shorten(model, ctx)
        implied = _implied(model)
        for value in implied:
            with ctx.rewrite(_SIZE, value) as go:
                if go:
                    value.type, value.shape = None, None
        if implied:
            forget_shapes(model)
        for graph in model.graphs():
            for node in graph:
                for attribute in _defaults(node, model.opset_imports.get(node.domain, 0)):
                    with ctx.rewrite(_ATTRIBUTE, node) as go:
                        if go:
                            del node.attributes[attribute]


def _shorten(model: ir.Model, ctx: PassContext) -> None:
    """Name computed sizes shortly, everywhere alike."""
    declared = {name for graph in all_graphs(model) for name in _names(graph.outputs)}
    declared |= {name for graph in all_graphs(model) for name in _names(graph.inputs)}
    values = [value for graph in all_graphs(model) for node in graph for value in node.outputs]
    found = dict.fromkeys(_names(values))
    taken = declared | {word for name in found for word in re.findall(r"\w+", name)}
    free = (short for short in map("d{}".format, itertools.count()) if short not in taken)
    short: dict[str, str] = {}
    for name in found:
        made_up = not name.isidentifier() or name.startswith(_MADE_UP)
        if made_up and name not in declared:
            with ctx.rewrite(_NAME, name) as go:
                if go:
                    short[name] = next(free)
    for value in values:
        if value.shape is not None and any(name in short for name in _names([value])):
            dims = [
                dim
                if isinstance(dim, int)
                else ir.SymbolicDim(short.get(dim.value or "", dim.value))
                for dim in value.shape.dims
            ]
            value.shape = ir.Shape(dims)


def _names(values: Iterable[ir.Value]) -> Iterator[str]:
    for value in values:
        for dim in () if value.shape is None else value.shape.dims:
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                yield dim.value


def _implied(model: ir.Model) -> list[ir.Value]:
    """Return the values of the main graph whose sizes a reader of the file can do without."""
    import onnx

    given: dict[str, ir.Value] = {}
    wanted: dict[str, ir.Value] = {}
    nodes = []
    for node in model.graph:
        if subgraphs(node) or node.op_type == "Constant":
            continue  # their weights would be copied
        proto = ir.to_proto(node)
        for index, value in enumerate(node.outputs):
            if value.name:
                proto.output[index] = name = _asked(value.name)
                if _may_forget(value):
                    wanted[name] = value
        nodes.append(proto)
        given.update({value.name or "": value for value in node.inputs if value is not None})
    # Each operator by itself, from the sizes declared: whether a reader finds them in the file or
    # infers them, it has them when it comes to the next one.
    graph = onnx.GraphProto(name="each by itself", node=nodes)
    for value in given.values():
        tensor = value.const_value if value.is_initializer() else None
        if tensor is not None and tensor.nbytes <= _SMALL and tensor.dtype != ir.DataType.STRING:
            graph.initializer.append(ir.to_proto(tensor))
        elif value.type is not None:
            graph.input.append(ir.to_proto(value))
    proto = onnx.ModelProto(graph=graph, ir_version=model.ir_version)
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    try:
        inferred = onnx.shape_inference.infer_shapes(proto).graph.value_info
    except Exception:
        return []  # what cannot be inferred stays; it is no reason to fail a build
    types = {item.name: item.type for item in inferred}
    return [
        value
        for name, value in wanted.items()
        if name in types and types[name] == ir.to_proto(value).type
    ]


def _asked(name: str) -> str:
    """Name the output of an operator by itself, apart from what others take."""
    return f"{name}?"


def _may_forget(value: ir.Value) -> bool:
    if not isinstance(value.type, ir.TensorType) or value.shape is None:
        return False
    if value.is_graph_output() or value.metadata_props or value.doc_string:
        return False
    return not any(name.startswith(_MADE_UP) for name in _names([value]))


def _defaults(node: ir.Node, opset: int) -> list[str]:
    """Return the attributes of an operator of the standard domain that hold their defaults."""
    import onnx

    if node.domain != "" or not onnx.defs.has(node.op_type, opset):
        return []
    declared = onnx.defs.get_schema(node.op_type, opset).attributes
    found = []
    for name, attribute in node.attributes.items():
        if attribute.is_ref() or attribute.doc_string or name not in declared:
            continue
        if attribute.type == ir.AttributeType.INTS:
            default = _WINDOWS.get(name) if node.op_type in _WINDOWED else None
            implied = default is not None and set(attribute.as_ints()) <= {default}
        else:
            implied = ir.to_proto(attribute) == declared[name].default_value
        if implied:
            found.append(name)
    return found


_WINDOWED = frozenset({"AveragePool", "Conv", "ConvTranspose", "LpPool", "MaxPool"})
_WINDOWS = {"dilations": 1, "output_padding": 0, "pads": 0, "strides": 1}
"""What their specification says of attributes that are left out; the schema has no numbers."""
