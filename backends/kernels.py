# SPDX-License-Identifier: Apache-2.0
"""What ONNX Runtime runs, from its own registries: opsets, operators, kernels by type."""

from __future__ import annotations

import enum
import functools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

CPU = "CPUExecutionProvider"
"""The name of the runtime's CPU provider."""

_OPEN_ENDED = 2**31 - 1  # the end of a kernel's version range that has no end


class Support(enum.Enum):
    """How a runtime runs an operator."""

    KERNEL = "kernel"
    """There is a kernel for it."""
    FUNCTION = "function"
    """No kernel; the runtime expands the operator's function body, whose operators have kernels."""
    CAST = "cast"
    """No kernel for this type; the runtime casts to float32 and back around its float32 kernel."""
    NONE = "none"
    """The runtime refuses a model that contains it."""

    def __bool__(self) -> bool:
        return self is not Support.NONE


@functools.cache
def max_opset() -> int:
    """The newest opset of the default domain that the installed runtime loads without complaint."""
    newest = max(v for (domain, _), vs in _schemas().items() if domain == "" for v in vs)
    # Operators of an opset still under development are registered, but models that import it are
    # refused; only trying tells which opset is released.
    return _newest(newest, lambda version: _tiny_model(opset=version, ir_version=8))


@functools.cache
def max_ir_version() -> int:
    """The newest ONNX IR version that the installed runtime loads."""
    import onnx

    return _newest(onnx.IR_VERSION, lambda version: _tiny_model(opset=13, ir_version=version))


def _newest(version: int, model: Any) -> int:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    while version > 1:
        try:
            onnxruntime.InferenceSession(model(version), options, providers=[CPU])
        except Exception:  # the runtime's exceptions share no base class
            version -= 1
        else:
            break
    return version


def _tiny_model(*, opset: int, ir_version: int) -> bytes:
    import onnx

    text = f'<ir_version: {ir_version}, opset_import: ["": {opset}]>'
    model = onnx.parser.parse_model(f"{text} g (float[1] x) => (float[1] y) {{ y = Abs(x) }}")
    return bytes(model.SerializeToString())


@dataclass(frozen=True)
class _Kernel:
    first: int
    last: int
    types: dict[str, frozenset[str]]

    def takes(self, since: int) -> bool:
        # KernelRegistry::VerifyKernelDef: a kernel without an end serves exactly the operator
        # version it was written for, because a later version may mean something else.
        return self.first == since or (self.first < since <= self.last != _OPEN_ENDED)


@functools.cache
def _kernels(provider: str) -> dict[tuple[str, str], list[_Kernel]]:
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    found: dict[tuple[str, str], list[_Kernel]] = defaultdict(list)
    for kernel in runtime.get_all_opkernel_def():
        if kernel.provider == provider:
            first, last = kernel.version_range
            types = {key: frozenset(types) for key, types in kernel.type_constraints.items()}
            found[kernel.domain, kernel.op_name].append(_Kernel(first, last, types))
    return dict(found)


def kernel_names(provider: str) -> frozenset[tuple[str, str]]:
    """``(domain, name)`` of every operator that `provider` has a kernel for."""
    return frozenset(_kernels(provider))


def runtime_knows(op_type: str, domain: str, *, opset: int) -> bool:
    """Whether the runtime has an operator of that name, whether or not it has a kernel for it.

    It has a few of its own in the default domain, such as SimplifiedLayerNormalization.

    Args:
        op_type: Operator name.
        domain: Operator domain.
        opset: Version of that domain which the model imports.
    """
    return _since(domain, op_type, opset) is not None


@functools.cache
def _schemas() -> dict[tuple[str, str], dict[int, Any]]:
    """The runtime's own schemas, by operator and the opset they appeared in.

    They can be older than those of the installed onnx package, and kernels are matched by them.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    found: dict[tuple[str, str], dict[int, Any]] = defaultdict(dict)
    for schema in runtime.get_all_operator_schema():
        found[schema.domain, schema.name][schema.since_version] = schema
    return dict(found)


def type_string(dtype: ir.DataType | None) -> str | None:
    """ONNX's spelling of a tensor type, e.g. ``tensor(float16)``."""
    if dtype is None:
        return None
    return f"tensor({dtype.name.lower()})"


@functools.cache
def support_of(provider: str, domain: str, op_type: str, opset: int, dtype: str | None) -> Support:
    """How a provider runs an operator.

    Args:
        provider: Its name.
        domain: Operator domain.
        op_type: Operator name.
        opset: Version of that domain which the model imports.
        dtype: `type_string` of the first input, or of the first output if there is no input; None
            asks for any type.
    """
    since = _since(domain, op_type, opset)
    if since is None:
        return Support.NONE
    schema = _schemas()[domain, op_type][since]
    kernels = [k for k in _kernels(provider).get((domain, op_type), ()) if k.takes(since)]
    if any(_accepts(kernel, schema, dtype) for kernel in kernels):
        return Support.KERNEL
    if (domain, op_type) == ("", "Constant"):  # made an initializer as the model is loaded
        return Support.KERNEL
    if _has_runnable_body(provider, domain, op_type, opset, dtype):
        return Support.FUNCTION
    # InsertCastTransformer does this for float16 alone, at every optimization level.
    castable = dtype == "tensor(float16)" and provider == CPU
    if (
        castable
        and _allows(schema, dtype)
        and any(_accepts(kernel, schema, "tensor(float)") for kernel in kernels)
    ):
        return Support.CAST
    return Support.NONE


def _since(domain: str, op_type: str, opset: int) -> int | None:
    """The version of the operator that `opset` means, as the runtime knows it."""
    versions = _schemas().get((domain, op_type), {})
    return max((version for version in versions if version <= opset), default=None)


def _allows(schema: Any, dtype: str | None) -> bool:
    """Whether an operator is defined for a type of its first input, or output if it has none."""
    parameters = schema.inputs or schema.outputs
    return not parameters or dtype in parameters[0].types


def _accepts(kernel: _Kernel, schema: Any, dtype: str | None) -> bool:
    if dtype is None or not (schema.inputs or schema.outputs):
        return True
    first = (schema.inputs or schema.outputs)[0]
    # A kernel names a type constraint by its letter or by the parameter's own name.
    types = kernel.types.get(first.typeStr) or kernel.types.get(first.name)
    return types is None or dtype in types


def _has_runnable_body(
    provider: str, domain: str, op_type: str, opset: int, dtype: str | None
) -> bool:
    body = _body(domain, op_type, opset, dtype)
    if body is None:
        return False
    function, types, fixed = body
    opsets = {entry.domain: entry.version for entry in function.opset_import}
    for node in function.node:
        node_opset = opsets.get(node.domain, opset)
        node_type = types.get(node.input[0]) if node.input else None
        since = _since(node.domain, node.op_type, node_opset)
        if fixed and node.domain == domain:
            # OpSchema::GetFunction validates a body that is written down: it may mean no operator
            # that the model's opset has changed, nor may the bodies of its operators. One that is
            # built for a node it takes as it is.
            if since != _since(domain, node.op_type, opset):
                return False
            node_opset = opset
        if not support_of(provider, node.domain, node.op_type, node_opset, node_type):
            return False
        schema = _schemas()[node.domain, node.op_type][since or 0]
        for name, output in zip(node.output, schema.outputs, strict=False):
            if schema.inputs and output.typeStr == schema.inputs[0].typeStr and node_type:
                types[name] = node_type
    return True


def _body(
    domain: str, op_type: str, opset: int, dtype: str | None
) -> tuple[onnx.FunctionProto, dict[str, str], bool] | None:
    """The function an operator stands for, the types of its inputs, and whether it is always this.

    Types are given as far as `dtype` tells.

    Some bodies depend on attributes and input types. The body taken is that of a node with default
    attributes, its required inputs alone, and `dtype` (or the commonest type there is) throughout.
    """
    import onnx

    try:
        schema = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None
    if not schema.inputs or (dtype and dtype not in schema.inputs[0].types):
        return None
    first = schema.inputs[0].type_str
    types = {p.name: dtype for p in schema.inputs if dtype and p.type_str == first}
    if schema.has_function:  # type: ignore[attr-defined]
        return schema.function_body, types, True
    if not schema.has_context_dependent_function:  # type: ignore[attr-defined]
        return None
    required = schema.inputs[: schema.min_input]
    node = onnx.helper.make_node(
        op_type,
        [parameter.name for parameter in required],
        [parameter.name for parameter in schema.outputs[: schema.min_output]],
        domain=domain,
    )
    # Counts, such as the groups of a GroupNormalization: 1 is always one of them.
    node.attribute.extend(
        onnx.helper.make_attribute(name, 1)
        for name, attribute in schema.attributes.items()
        if attribute.required and attribute.type == onnx.defs.OpSchema.AttrType.INT
    )
    type_strings = [types.get(p.name) or _commonest(p.types) for p in required]
    if not all(text.startswith("tensor(") for text in type_strings):
        return None
    input_types = map(_type_proto, type_strings)
    try:
        body = schema.get_context_dependent_function(  # type: ignore[attr-defined]
            node.SerializeToString(), [t.SerializeToString() for t in input_types]
        )
    except Exception:  # there is no default node of this operator
        return None
    function = onnx.FunctionProto.FromString(body)
    return (function, types, False) if function.node else None


def _commonest(types: Iterable[str]) -> str:
    types = sorted(types)
    for usual in ("tensor(float)", "tensor(int64)"):
        if usual in types:
            return usual
    return types[0]


def _type_proto(text: str) -> onnx.TypeProto:
    import onnx

    name = text.removeprefix("tensor(").removesuffix(")").upper()
    elem = onnx.TensorProto.DataType.Value(name)
    return onnx.helper.make_tensor_type_proto(elem, None)
