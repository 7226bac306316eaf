# SPDX-License-Identifier: Apache-2.0
"""A rule: a pattern, and the function that says what stands in its place.

    @rule
    def matmul_add_to_gemm(op, x, w=const(), b=const()):
        \"\"\"Add(MatMul(x, w), b) -> Gemm(x, w, b)\"\"\"
        return op.Add(op.MatMul(x, w), b)

    @matmul_add_to_gemm.rewrite
    def _(op, x, w, b):
        if x.rank != 2 or w.rank != 2:
            return NoMatch("x and w must have rank 2")
        return op.Gemm(x, w, b)

The rewrite's parameters are picked by name among the pattern's variables and the nodes it binds.
Variables arrive as `Operand`, nodes as `onnx_ir.Node`. `op` builds the replacement (see `Builder`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, overload

import numpy as np
import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.constant import as_array, is_constant
from burnish.passes.context import PassContext
from burnish.passes.edit import use_count
from burnish.passes.match import attribute_of
from burnish.passes.pattern import Pattern, node_names, trace


@dataclass(frozen=True)
class NoMatch:
    """The one way for a rewrite to refuse; always false: `if not found: return found`.

    Attributes:
        reason: The constraint that failed: short and stable, since reasons are counted.
        repair: What the user can do about it, for `--explain`, where the reason does not say.
    """

    reason: str
    repair: str = ""

    def __bool__(self) -> Literal[False]:
        return False


@dataclass(frozen=True)
class Operand:
    """A value of the graph as a rewrite sees it.

    Attributes:
        value: The value itself.
    """

    value: ir.Value

    @property
    def dims(self) -> tuple[int | ir.SymbolicDim, ...] | None:
        """Dimensions, symbolic ones as `SymbolicDim`; None where the rank is unknown."""
        return None if self.value.shape is None else self.value.shape.dims

    @property
    def rank(self) -> int | None:
        """Number of dimensions, or None where unknown."""
        return None if self.dims is None else len(self.dims)

    @property
    def static_dims(self) -> tuple[int, ...] | None:
        """Dimensions if every one is a known number."""
        dims = self.dims
        if dims is None or not all(isinstance(dim, int) for dim in dims):
            return None
        return tuple(dim for dim in dims if isinstance(dim, int))

    @property
    def dtype(self) -> ir.DataType | None:
        """Element type, or None where unknown."""
        return self.value.dtype

    @property
    def is_constant(self) -> bool:
        """Whether `array` is not None; reads no weights."""
        return is_constant(self.value)

    @property
    def array(self) -> np.ndarray | None:
        """Array of a constant; maybe read-only and memory-mapped. None if it is not constant."""
        return as_array(self.value)

    @property
    def uses(self) -> int:
        """Number of uses as a node's input."""
        return use_count(self.value)


Replacement = Any  # ir.Value | Operand | tuple of those | NoMatch


@dataclass(eq=False)
class Rule:
    """Patterns with one rewrite.

    Attributes:
        name: Name in reports and for `--disable`, in kebab case.
        doc: First line of the pattern's docstring.
        patterns: Alternatives, tried in order.
        build: The rewrite function.
        opset: Lowest and highest version of the default operator set it applies to.
        unsupported_ok: Makes the rule fire even if the target cannot run what it makes.
        may_lose: Whether each replacement is to be measured, as are those that write an operator
            of the target's table of preferences; see `burnish.passes.decide`. Its entry in that
            table, where it has one.
    """

    name: str
    doc: str
    patterns: list[Pattern]
    build: Callable[..., Replacement] | None = None
    opset: tuple[int, int | None] = (1, None)
    unsupported_ok: bool = False
    may_lose: bool | str = False
    _parameters: tuple[str, ...] = field(default=(), repr=False)

    def rewrite(self, function: Callable[..., Replacement]) -> Callable[..., Replacement]:
        """Set the rewrite function.

        Raises:
            TypeError: it asks for a name that no pattern binds.
        """
        _, *parameters = inspect.signature(function).parameters
        known = {"ctx"}.union(
            *((*pattern.variables, *node_names(pattern)) for pattern in self.patterns)
        )
        unknown = [name for name in parameters if name not in known]
        if unknown:
            raise TypeError(f"rewrite of {self.name} asks for {unknown[0]!r}, which is not bound")
        self.build, self._parameters = function, tuple(parameters)
        return function

    def also(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Add another spelling of the pattern; the rewrite serves both."""
        self.patterns.append(trace(function))
        return function

    def applies_to(self, opset: int) -> bool:
        """Whether the rule is meant for this version of the default operator set."""
        low, high = self.opset
        return low <= opset and (high is None or opset <= high)

    def replace(self, op: Builder, bindings: Mapping[str, Any], ctx: PassContext) -> Replacement:
        """Call the rewrite with the names it asks for."""
        assert self.build is not None, f"rule {self.name} has no rewrite"
        given = {"ctx": ctx, **{name: _operand(bound) for name, bound in bindings.items()}}
        return self.build(op, **{name: given.get(name) for name in self._parameters})


def _operand(bound: Any) -> Any:
    if isinstance(bound, ir.Value):
        return Operand(bound)
    if isinstance(bound, tuple):
        return tuple(map(_operand, bound))
    return bound


@overload
def rule(function: Callable[..., Any]) -> Rule: ...


@overload
def rule(
    *,
    name: str | None = None,
    opset: tuple[int, int | None] = (1, None),
    unsupported_ok: bool = False,
    may_lose: bool | str = False,
) -> Callable[[Callable[..., Any]], Rule]: ...


def rule(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    opset: tuple[int, int | None] = (1, None),
    unsupported_ok: bool = False,
    may_lose: bool | str = False,
) -> Rule | Callable[[Callable[..., Any]], Rule]:
    """Turn a pattern function into a `Rule`; usable bare or with options.

    Args:
        function: The pattern, when used bare.
        name: Name of the rule; by default the function's, with dashes.
        opset: Lowest and highest version of the default operator set it applies to.
        unsupported_ok: Fire even if the target has no kernel for what is made.
        may_lose: Measure each replacement before it is made; its entry in the target's table of
            preferences, which decides where that cannot be done, if it has one.
    """

    def make(pattern: Callable[..., Any]) -> Rule:
        doc = (inspect.getdoc(pattern) or "").split("\n")[0]
        label = name or pattern.__name__.strip("_").replace("_", "-")
        return Rule(
            label,
            doc,
            [trace(pattern)],
            opset=opset,
            unsupported_ok=unsupported_ok,
            may_lose=may_lose,
        )

    return make if function is None else make(function)


class Builder:
    """Builds the nodes of a replacement: `op.Gemm(x, w, b, transB=1)`.

    Inputs may be operands, values, None, numpy arrays (become initializers) and Python numbers
    (become scalars of the first value's dtype). `_domain` and `_outputs` are as in patterns.
    """

    def __init__(self, opset_imports: Mapping[str, int]) -> None:
        self.opset_imports = opset_imports
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_"):
            raise AttributeError(op_type)

        def build(*inputs: Any, _domain: str = "", _outputs: int = 1, **attributes: Any) -> Any:
            return self.node(op_type, inputs, attributes, domain=_domain, outputs=_outputs)

        return build

    def node(
        self,
        op_type: str,
        inputs: Iterable[Any],
        attributes: Mapping[str, Any],
        *,
        domain: str = "",
        outputs: int = 1,
    ) -> Any:
        """Build one node; returns its output, or a tuple of them if there are several."""
        given = list(inputs)
        dtype = next((v.dtype for v in map(_value, given) if v is not None and v.dtype), None)
        values = [self._input(item, dtype) for item in given]
        while values and values[-1] is None:
            values.pop()
        kept = [
            item if isinstance(item, ir.Attr) else ir.convenience.convert_attribute(name, item)
            for name, item in attributes.items()
            if item is not None
        ]
        node = ir.Node(domain, op_type, values, kept, num_outputs=outputs)
        self.nodes.append(node)
        return node.outputs[0] if outputs == 1 else tuple(node.outputs)

    def like(self, node: ir.Node, *inputs: Any, **overrides: Any) -> Any:
        """Build a node of the same operator and attributes as `node`, with other inputs.

        An override of None removes the attribute.
        """
        attributes = dict(node.attributes) | overrides
        return self.node(
            node.op_type, inputs, attributes, domain=node.domain, outputs=len(node.outputs)
        )

    def attribute(self, node: ir.Node, name: str) -> Any:
        """Return an attribute of a matched node, or its default in the operator's schema."""
        return attribute_of(node, name, self.opset_imports.get(node.domain, 1))

    def constant(self, array: np.ndarray | np.generic | ir.TensorProtocol) -> ir.Value:
        """Return a new initializer."""
        # Not the other way round: to ask for a TensorProtocol is to look for each of its methods.
        if isinstance(array, np.ndarray | np.generic):
            tensor: ir.TensorProtocol = ir.tensor(np.asarray(array))
        else:
            tensor = array
        value = ir.Value(
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=tensor,
        )
        self.initializers.append(value)
        return value

    def _input(self, item: Any, dtype: ir.DataType | None) -> ir.Value | None:
        if item is None or isinstance(item, ir.Value | Operand):
            return _value(item)
        if isinstance(item, bool | int | float):
            return self.constant(np.asarray(item, dtype=None if dtype is None else dtype.numpy()))
        return self.constant(item)


def _value(item: Any) -> ir.Value | None:
    return item.value if isinstance(item, Operand) else item if isinstance(item, ir.Value) else None


@dataclass(frozen=True)
class RulePass(Pass):
    """A pass that applies rules until none matches; a subclass sets `rules`."""

    rules: ClassVar[tuple[Rule, ...]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Derive `rule_names` from the rules."""
        super().__init_subclass__(**kwargs)
        if "rules" in cls.__dict__:
            cls.rule_names = tuple(dict.fromkeys(item.name for item in cls.rules))

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Rewrite the main graph, subgraphs and functions."""
        from burnish.passes.rewrite import apply_rules

        apply_rules(model, self.rules, ctx)


def pass_of(name: str, *rules: Rule) -> type[RulePass]:
    """Return a pass that applies the given rules."""
    namespace = {"name": name, "rules": rules, "__doc__": rules[0].doc}
    made = type(name.title().replace("-", ""), (RulePass,), namespace)
    return dataclass(frozen=True)(made)
