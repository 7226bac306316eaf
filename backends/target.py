# SPDX-License-Identifier: Apache-2.0
"""What a backend can run, and what it runs fast: the questions a pass asks before it rewrites.

Nothing here is a hand-written table of operators. The answers come from the runtime's own kernel
registry and operator schemas (TensorRT's: from its parser), so they stay right when the runtime is
upgraded.
"""

from __future__ import annotations

import difflib
import enum
import functools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from burnish.backends import int8
from burnish.backends.isa import detect_isa
from burnish.backends.preferences import PREFERENCES, Preferences, find
from burnish.errors import InputError

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's contributed operators, where the fused forms live."""

_CPU = "CPUExecutionProvider"
_PROVIDERS = {
    "cpu": _CPU,
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
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


@dataclass(frozen=True)
class Target:
    """The machine and runtime a model is optimized for.

    Attributes:
        name: What the user calls it: ``cpu``, ``tensorrt``, ``tensorrt-rtx:sm89,sm120``.
        provider: The ONNX Runtime execution provider that runs it.
        isa: Instruction-set features, e.g. ``{"avx2", "avx512", "vnni"}``; see `detect_isa`. Of
            TensorRT for RTX: the compute capabilities to build for, e.g. ``{"sm89"}``.
        max_opset: The newest opset of the default domain that the runtime fully supports.
        preferences: Which fused operators pay; the first entry that covers one counts.
    """

    name: str
    provider: str
    isa: frozenset[str]
    max_opset: int
    preferences: Preferences = ()

    @staticmethod
    def parse(text: str) -> Target:
        """The target of that name, as found on this machine.

        Raises:
            InputError: there is no target of that name; the nearest name is suggested.
            MissingExtraError: its package is not installed.
        """
        name, _, devices = text.strip().lower().partition(":")
        provider = _PROVIDERS.get(name)
        if provider is None or (devices and name != "tensorrt-rtx"):
            near = difflib.get_close_matches(name, _PROVIDERS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_PROVIDERS)}"
            raise InputError(f"unknown target {text!r}", hint=hint)
        if provider == _CPU:
            return Target(name, provider, detect_isa(), max_opset(), PREFERENCES.get(name, ()))
        from burnish.backends.tensorrt.capability import parse

        built_for = parse(name, devices)
        full = f"{name}:{','.join(built_for)}" if built_for else name
        # No newer than what ONNX Runtime runs, which checks the numbers.
        return Target(full, provider, frozenset(built_for), max_opset(), PREFERENCES["tensorrt"])

    def support(
        self,
        op_type: str,
        domain: str = "",
        *,
        opset: int,
        dtype: ir.DataType | None = None,
    ) -> Support:
        """How the runtime runs an operator, if it does.

        Args:
            op_type: Operator name.
            domain: Operator domain; ``""`` and ``"ai.onnx"`` are the same.
            opset: Version of that domain which the model imports.
            dtype: Element type of the first input (of the first output where there is no input);
                ``None`` asks whether any type is supported.
        """
        domain = "" if domain == "ai.onnx" else domain
        if self.provider != _CPU:
            from burnish.backends.tensorrt.capability import supports

            name = self.name.partition(":")[0]
            found = supports(name, domain, op_type, None if dtype is None else dtype.name)
            return Support.KERNEL if found else Support.NONE
        return _support(self.provider, domain, op_type, opset, _type_string(dtype))

    def runs(
        self,
        op_type: str,
        domain: str = "",
        *,
        opset: int,
        dtype: ir.DataType | None = None,
    ) -> bool:
        """Whether the runtime runs an operator, in whichever way. Arguments as for `support`."""
        return bool(self.support(op_type, domain, opset=opset, dtype=dtype))

    def fuses(self, name: str, dtype: ir.DataType | None = None) -> bool:
        """Whether the runtime has a kernel for a fused operator of `MICROSOFT`'s domain."""
        return self.support(name, MICROSOFT, opset=1, dtype=dtype) is Support.KERNEL

    def objection_to(self, operator: str, dtype: ir.DataType | None = None) -> str | None:
        """Why a rule should not write a fused operator, though the target runs it; or None.

        Args:
            operator: As in `burnish.backends.preferences`.
            dtype: Element type it would have.
        """
        known = find(self.preferences, operator, None if dtype is None else dtype.name)
        if known is None or known.prefer:
            return None
        measured = "" if known.ratio is None else f" ({known.ratio:.2f}x)"
        return f"target {self.name} runs it no faster fused{measured}"

    def speaks_of(
        self, op_type: str, domain: str = "", dtype: ir.DataType | None = None
    ) -> str | None:
        """The name under which the preferences list an operator, whichever they prefer; or None.

        Args:
            op_type: Operator name.
            domain: Operator domain.
            dtype: Element type it would have.
        """
        names = (f"microsoft.{op_type}", op_type) if domain == MICROSOFT else (op_type,)
        kind = None if dtype is None else dtype.name
        return next((name for name in names if find(self.preferences, name, kind)), None)

    @property
    def int8(self) -> int8.Int8Form:
        """The form in which it takes int8."""
        return int8.ONNX_RUNTIME if self.provider == _CPU else int8.TENSORRT

    @property
    def int8_accumulator_bits(self) -> int:
        """Width in which sums of uint8 * int8 products are held before they are widened.

        x86 without VNNI adds pairs of products in saturating 16-bit lanes (``vpmaddubsw``): two
        full-range products overflow them, so weights have to be kept to 7 bits there.
        """
        x86_without_vnni = "sse4.1" in self.isa and not {"vnni", "amx-int8"} & self.isa
        return 16 if x86_without_vnni else 32


# --- the runtime's registries ------------------------------------------------------------------


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
            onnxruntime.InferenceSession(model(version), options, providers=[_CPU])
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


def _type_string(dtype: ir.DataType | None) -> str | None:
    """ONNX's spelling of a tensor type, e.g. ``tensor(float16)``."""
    if dtype is None:
        return None
    return f"tensor({dtype.name.lower()})"


@functools.cache
def _support(provider: str, domain: str, op_type: str, opset: int, dtype: str | None) -> Support:
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
    castable = dtype == "tensor(float16)" and provider == _CPU
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
        if not _support(provider, node.domain, node.op_type, node_opset, node_type):
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


def _type_proto(type_string: str) -> onnx.TypeProto:
    import onnx

    name = type_string.removeprefix("tensor(").removesuffix(")").upper()
    elem = onnx.TensorProto.DataType.Value(name)
    return onnx.helper.make_tensor_type_proto(elem, None)
