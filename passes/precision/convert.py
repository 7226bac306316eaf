# SPDX-License-Identifier: Apache-2.0
"""Turns single operators to a narrower float type, and keeps the graph well-typed at each step.

A converted node takes narrow inputs and gives narrow outputs; a Cast behind each output carries it
on as float32. When a user of that is converted in turn it takes what went into the Cast, so casts
remain only where the two types meet.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import tensor_of
from burnish.passes.edit import remove_unused
from burnish.passes.precision.limits import in_type
from burnish.passes.precision.signature import Signature, is_float
from burnish.passes.quant.insert import add_tensor, drop_unused, make_node


class Converter:
    """Converts operators of one graph to one type."""

    def __init__(self, graph: ir.Graph, dtype: ir.DataType) -> None:
        self.graph = graph
        self.dtype = dtype
        self._narrow: dict[ir.Value, ir.Value] = {}
        self._widened: list[ir.Node] = []

    def convert(self, node: ir.Node, found: Signature) -> None:
        """Let a node compute in the narrow type."""
        given = [node.inputs[index] for index in found.inputs]
        for index, value in zip(found.inputs, given, strict=True):
            if value is not None:
                node.replace_input_with(index, self._narrowed(value, node))
        if found.outputs and node.op_type == "Cast":
            node.attributes["to"] = ir.AttrInt64("to", int(self.dtype))
        if found.outputs and node.op_type == "ConstantOfShape":
            _convert_fill(node, self.dtype)
        for index in found.outputs:
            self._widen(node, node.outputs[index])
        drop_unused([value for value in given if tensor_of(value) is not None])

    def narrow_inputs(self) -> None:
        """Let the inputs of the graph be of the narrow type."""
        for value in self.graph.inputs:
            if is_float(value) and not value.is_initializer():
                users = tuple(value.uses())
                value.type = ir.TensorType(self.dtype)  # setting dtype would change clones too
                cast = self._cast(value, ir.DataType.FLOAT, f"{value.name}/float")
                self._insert_first(cast)
                for user, index in users:
                    user.replace_input_with(index, cast.outputs[0])
                self._widened.append(cast)
                self._narrow[cast.outputs[0]] = value

    def narrow_outputs(self) -> None:
        """Let the outputs of the graph be of the narrow type."""
        for index, value in enumerate(self.graph.outputs):
            if not is_float(value) or value.producer() is None:
                continue
            result = self._narrow.get(value)
            if result is None or result.producer() is None or result.is_graph_output():
                cast = self._cast(value, self.dtype, f"{value.name}/{self.dtype.name.lower()}")
                self.graph.append(cast)
                result = cast.outputs[0]
            self.graph.outputs[index] = result
            value.name, result.name = result.name, value.name

    def finish(self) -> int:
        """Remove casts that nobody uses; returns how many are left between the two types."""
        remove_unused(self._widened)
        pair = {ir.DataType.FLOAT, self.dtype}
        casts = [node for node in self.graph if node.op_type == "Cast" and node.domain == ""]
        return sum({v.dtype for v in (*node.inputs, *node.outputs) if v} == pair for node in casts)

    def _narrowed(self, value: ir.Value, user: ir.Node) -> ir.Value:
        """Return a float32 value in the narrow type: a constant, what was widened, or a Cast."""
        if value not in self._narrow:
            tensor = tensor_of(value)
            suffix = self.dtype.name.lower()
            if tensor is not None:
                name = value.name or "constant"
                held = add_tensor(self.graph, f"{name}_{suffix}", in_type(tensor, self.dtype))
                self._narrow[value] = held
            else:
                cast = self._cast(value, self.dtype, f"{value.name}/{suffix}")
                producer = value.producer()
                if producer is None or producer.graph is not self.graph:
                    self._insert_first(cast)
                else:
                    self.graph.insert_after(producer, cast)
                self._narrow[value] = cast.outputs[0]
        return self._narrow[value]

    def _widen(self, node: ir.Node, value: ir.Value) -> None:
        """Make an output narrow, and put a Cast behind it that carries it on as float32."""
        cast = self._cast(value, ir.DataType.FLOAT, f"{value.name}/float")
        wide = cast.outputs[0]
        users = tuple(value.uses())
        value.type = ir.TensorType(self.dtype)  # setting dtype would change clones too
        self.graph.insert_after(node, cast)
        for user, index in users:
            if user is not cast:
                user.replace_input_with(index, wide)
        if value.is_graph_output():
            for position, output in enumerate(self.graph.outputs):
                if output is value:
                    self.graph.outputs[position] = wide
            value.name, wide.name = wide.name, value.name
        self._narrow[wide] = value
        self._widened.append(cast)

    def _cast(self, value: ir.Value, to: ir.DataType, name: str) -> ir.Node:
        return make_node(
            self.graph,
            "Cast",
            [value],
            {name: (to, value.shape)},
            attributes={"to": int(to)},
            base=value.name or "cast",
        )

    def _insert_first(self, node: ir.Node) -> None:
        self.graph.insert_before(self.graph[0], node)


def _convert_fill(node: ir.Node, dtype: ir.DataType) -> None:
    """Let ConstantOfShape fill with another type."""
    attribute = node.attributes.get("value")
    tensor = ir.tensor(np.zeros(1, np.float32)) if attribute is None else attribute.as_tensor()
    node.attributes["value"] = ir.AttrTensor("value", in_type(tensor, dtype))
