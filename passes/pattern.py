# SPDX-License-Identifier: Apache-2.0
"""Patterns: what a rule looks for, traced from a Python function.

    @rule
    def matmul_add_to_gemm(op, x, w=const(), b=const()):
        return op.Add(op.MatMul(x, w), b)

Every parameter but the first is a variable. A plain one matches any value; defaults say more:
`const(predicate)` a constant, `optional()` a missing input too, `variadic()` all remaining inputs.
Numbers in the pattern match constants of one element, within the rounding of their dtype.

`op.Name(*inputs, **attributes)` matches an operator. An attribute matches by value, by its default
in the operator's schema when the node does not carry it, or by a predicate. Keywords that begin
with an underscore say more about the node:

    _domain="com.microsoft"   operator domain
    _outputs=2                number of outputs; the call returns a tuple of that many
    _bind="conv"              passes the matched node to the rewrite under this name
    _shared=True              may also be used outside the pattern; it then stays in the graph
    _more=True                may have more inputs than listed

`op.one_of("Add", "Sub")(x, y)` matches either operator, with the inputs of the one that commutes
in either order, and `op.either(pattern, other)` either of two patterns (a value may stand for
"nothing here"). What is used twice in a pattern, a choice too, is one value of the graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

# Operators whose two inputs may be swapped.
COMMUTATIVE = frozenset(
    {"Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum", "Mean"}
    | {"BitwiseAnd", "BitwiseOr", "BitwiseXor"}
)


@dataclass(frozen=True, eq=False)
class Variable:
    """A leaf of a pattern.

    Attributes:
        name: Parameter it is bound to.
        constant: It must be a constant.
        predicate: What the array of the constant must satisfy.
        optional: The input may be missing; it is then bound to None.
        variadic: It takes all remaining inputs, bound as a tuple.
    """

    name: str = ""
    constant: bool = False
    predicate: Callable[[np.ndarray], bool] | None = None
    optional: bool = False
    variadic: bool = False


@dataclass(frozen=True, eq=False)
class Literal:
    """A constant of one element with a given value."""

    value: float


@dataclass(frozen=True, eq=False)
class Either:
    """One of several patterns, tried in order."""

    options: tuple[ValuePattern, ...]


@dataclass(frozen=True, eq=False)
class NodePattern:
    """An operator with its inputs; identity matters: the same object is the same node."""

    op_types: frozenset[str]
    domain: str
    inputs: tuple[ValuePattern, ...]
    attributes: dict[str, Any]
    outputs: int
    bind: str | None
    shared: bool
    more: bool


@dataclass(frozen=True, eq=False)
class Output:
    """One output of a node pattern."""

    node: NodePattern
    index: int


ValuePattern = Variable | Literal | Either | Output


@dataclass(frozen=True, eq=False)
class Pattern:
    """A traced pattern.

    Attributes:
        roots: Its outputs; the first one's operator is what matching starts from.
        variables: Parameter names.
        depth: Longest chain of nodes, which bounds how far a change can enable a new match.
        above: For each input of the first root that an operator must make, which operators may.
    """

    roots: tuple[Output, ...]
    variables: tuple[str, ...]
    depth: int
    above: tuple[frozenset[str], ...]

    @property
    def start(self) -> NodePattern:
        """The node matching starts from."""
        return self.roots[0].node

    def may_match(self, above: frozenset[str]) -> bool:
        """Whether a node whose inputs are made by these operators can match: a quick test."""
        return not any(wanted.isdisjoint(above) for wanted in self.above)


def const(predicate: Callable[[np.ndarray], bool] | None = None) -> Any:
    """Declare a parameter that matches a constant whose array satisfies `predicate`."""
    return Variable(constant=True, predicate=predicate)


def optional() -> Any:
    """Declare a parameter that also matches a missing input."""
    return Variable(optional=True)


def variadic() -> Any:
    """Declare a parameter that takes all remaining inputs as a tuple."""
    return Variable(variadic=True)


class _Tracer:
    """The `op` a pattern function is called with."""

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_"):
            raise AttributeError(op_type)
        return self.one_of(op_type)

    def one_of(self, *op_types: str) -> Callable[..., Any]:
        def build(
            *inputs: Any,
            _domain: str = "",
            _outputs: int = 1,
            _bind: str | None = None,
            _shared: bool = False,
            _more: bool = False,
            **attributes: Any,
        ) -> Any:
            node = NodePattern(
                frozenset(op_types),
                _domain,
                tuple(map(_as_value, inputs)),
                attributes,
                _outputs,
                _bind,
                _shared,
                _more,
            )
            made = tuple(Output(node, index) for index in range(_outputs))
            return made[0] if _outputs == 1 else made

        return build

    def either(self, *options: Any) -> Either:
        return Either(tuple(map(_as_value, options)))


def _as_value(item: Any) -> ValuePattern:
    if isinstance(item, ValuePattern):
        return item
    if isinstance(item, int | float):
        return Literal(float(item))
    raise TypeError(f"a pattern input is a parameter, an operator or a number, not {item!r}")


def trace(function: Callable[..., Any]) -> Pattern:
    """Call a pattern function with tracers and return the pattern.

    Raises:
        TypeError: the function does not return operators.
    """
    _, *parameters = inspect.signature(function).parameters.values()
    variables = [_named(parameter) for parameter in parameters]
    returned = function(_Tracer(), *variables)
    roots = returned if isinstance(returned, tuple) else (returned,)
    if not roots or not all(isinstance(root, Output) for root in roots):
        raise TypeError(f"pattern {function.__name__} must return one or more operators")
    names = tuple(variable.name for variable in variables)
    above = tuple(filter(None, map(_made_by, roots[0].node.inputs)))
    return Pattern(roots, names, max(_depth(root.node) for root in roots), above)


def _named(parameter: inspect.Parameter) -> Variable:
    declared = parameter.default
    if declared is inspect.Parameter.empty:
        return Variable(parameter.name)
    assert isinstance(declared, Variable), f"default of {parameter.name} must be const() or alike"
    return Variable(
        parameter.name,
        declared.constant,
        declared.predicate,
        declared.optional,
        declared.variadic,
    )


def _depth(node: NodePattern) -> int:
    return 1 + max((_depth(child) for item in node.inputs for child in _nodes(item)), default=0)


def _made_by(value: ValuePattern) -> frozenset[str]:
    """Return the operators a value must be made by; none where it need not be by any."""
    if isinstance(value, Output):
        return value.node.op_types
    if isinstance(value, Either):
        options = [_made_by(option) for option in value.options]
        return frozenset().union(*options) if all(options) else frozenset()
    return frozenset()


def _nodes(value: ValuePattern) -> Iterator[NodePattern]:
    if isinstance(value, Output):
        yield value.node
    elif isinstance(value, Either):
        for item in value.options:
            yield from _nodes(item)


def node_names(pattern: Pattern) -> tuple[str, ...]:
    """Return the `_bind` names of a pattern, in order of appearance."""
    found: dict[str, None] = {}

    def visit(node: NodePattern) -> None:
        for item in node.inputs:
            for child in _nodes(item):
                visit(child)
        if node.bind is not None:
            found[node.bind] = None

    for root in pattern.roots:
        visit(root.node)
    return tuple(found)
