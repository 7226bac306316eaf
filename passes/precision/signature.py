# SPDX-License-Identifier: Apache-2.0
"""Which inputs and outputs of an operator may take another floating-point type, by its schema."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

# Their outputs take the type they are told, whatever goes in.
_SOURCES = frozenset({"Cast", "ConstantOfShape"})
# The type of their outputs, or of attributes, depends on that of their inputs beyond the schema.
_BOUND = frozenset(
    {"Bernoulli", "BitCast", "EyeLike", "RandomNormalLike", "RandomUniformLike", "TreeEnsemble"}
)


@dataclass(frozen=True)
class Signature:
    """The float32 inputs and outputs of a node that can be of another type, by index.

    Attributes:
        inputs: Indices of inputs; all of them change, or none.
        outputs: Indices of outputs.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def signature(node: ir.Node, opset: int, dtype: ir.DataType) -> Signature | str | None:
    """Return what of a node can be of type `dtype`, why nothing can, or None if nothing is float32.

    Args:
        node: Types of its inputs and outputs are known.
        opset: Version of its domain which the model imports.
        dtype: FLOAT16 or BFLOAT16.
    """
    takes = [i for i, value in enumerate(node.inputs) if is_float(value)]
    gives = [i for i, value in enumerate(node.outputs) if is_float(value)]
    if not takes and not gives:
        return None
    unknown = [v for v in (*node.inputs, *node.outputs) if v is not None and v.dtype is None]
    if unknown and any(value.name for value in unknown):
        return "types around it are unknown"
    around = [value.type for value in (*node.inputs, *node.outputs) if value is not None]
    if not all(kind is None or isinstance(kind, ir.TensorType) for kind in around):
        return "it takes or gives what is no tensor"
    if node.op_type in _BOUND:
        return "the types of its inputs and outputs depend on each other"
    if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in _attributes(node)):
        return "it has subgraphs"
    schema = _schema("" if node.domain == "ai.onnx" else node.domain, node.op_type, opset)
    if schema is None:
        return "its operator is unknown"
    wanted = {"tensor(float)", f"tensor({dtype.name.lower()})"}
    inputs = tuple(i for i in takes if wanted <= _types(schema.inputs, i))
    variables = {_variable(schema.inputs, i) for i in inputs}
    # From opset 23 on, a dequantized tensor has its own type variable: by default the scale's type.
    follows = node.op_type == "DequantizeLinear" and "output_dtype" not in node.attributes
    source = node.op_type in _SOURCES or (follows and bool(inputs))
    outputs = tuple(
        i
        for i in gives
        if wanted <= _types(schema.outputs, i)
        and (source or _variable(schema.outputs, i) in variables)
    )
    if not inputs and not outputs:
        return f"its operator takes no {dtype.name.lower()}"
    return Signature(inputs, outputs)


def is_float(value: ir.Value | None) -> bool:
    """Whether a value is a float32 tensor."""
    return value is not None and value.type == ir.TensorType(ir.DataType.FLOAT)


def _attributes(node: ir.Node) -> list[ir.Attr]:
    return list(node.attributes.values())


def _parameter(parameters: Any, index: int) -> Any:
    return parameters[min(index, len(parameters) - 1)]  # the last one may be variadic


def _types(parameters: Any, index: int) -> set[str]:
    return set(_parameter(parameters, index).types)


def _variable(parameters: Any, index: int) -> str:
    parameter = _parameter(parameters, index)
    name = getattr(parameter, "type_str", None) or parameter.typeStr  # onnx's, or the runtime's
    return str(name)


@functools.cache
def _schema(domain: str, op_type: str, opset: int) -> Any:
    """Return the schema of an operator: onnx's, or for other domains the runtime's."""
    import onnx

    if domain == "" or onnx.defs.has(op_type, domain):
        try:
            return onnx.defs.get_schema(op_type, opset, domain)
        except onnx.defs.SchemaError:
            return None
    found = [s for s in _contributed().get((domain, op_type), ()) if s.since_version <= opset]
    return max(found, key=lambda schema: schema.since_version, default=None)


@functools.cache
def _contributed() -> dict[tuple[str, str], list[Any]]:
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    found: dict[tuple[str, str], list[Any]] = {}
    for schema in runtime.get_all_operator_schema():
        if schema.domain:
            found.setdefault((schema.domain, schema.name), []).append(schema)
    return found
