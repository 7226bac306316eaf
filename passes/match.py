# SPDX-License-Identifier: Apache-2.0
"""Matching one pattern at one node, with backtracking over commuted inputs and alternatives."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array, is_constant, scalar_of
from burnish.passes.pattern import (
    COMMUTATIVE,
    Either,
    Literal,
    NodePattern,
    Output,
    Pattern,
    ValuePattern,
    Variable,
)

# Relative tolerance of a number in a pattern: what rounding to the constant's dtype can do to it.
_LITERAL_RTOL = {ir.DataType.FLOAT16: 2e-3, ir.DataType.BFLOAT16: 1e-2}
_LITERAL_RTOL_DEFAULT = 1e-5

Bound = ir.Value | None | tuple[ir.Value | None, ...]


@dataclass
class Match:
    """What a pattern was bound to.

    Attributes:
        values: Pattern value -> graph value (None for a missing input, a tuple for a variadic one).
        nodes: Pattern node -> graph node.
    """

    values: dict[ValuePattern, Bound] = field(default_factory=dict)
    nodes: dict[NodePattern, ir.Node] = field(default_factory=dict)

    def copy(self) -> Match:
        """Return an independent copy, for one branch of a choice."""
        return Match(dict(self.values), dict(self.nodes))

    def bindings(self, pattern: Pattern) -> dict[str, Bound | ir.Node]:
        """Return variables and bound nodes by name; None for those of an untaken alternative."""
        named: dict[str, Bound | ir.Node] = dict.fromkeys(pattern.variables)
        for value, bound in self.values.items():
            if isinstance(value, Variable):
                named[value.name] = bound
        for node, matched in self.nodes.items():
            if node.bind is not None:
                named[node.bind] = matched
        return named

    @property
    def leaves(self) -> list[ir.Value]:
        """Graph values the pattern's variables are bound to."""
        found: list[ir.Value] = []
        for value, bound in self.values.items():
            if isinstance(value, Variable):
                items = bound if isinstance(bound, tuple) else (bound,)
                found += [item for item in items if item is not None]
        return found


@dataclass
class Furthest:
    """The furthest a failed match got: how many nodes, what stopped it, and at which node."""

    nodes: int = 0
    reason: str = ""
    at: ir.Node | None = None

    def note(self, match: Match, reason: str, at: ir.Node) -> None:
        """Keep the reason if this attempt got further than those before."""
        if len(match.nodes) > self.nodes:
            self.nodes, self.reason, self.at = len(match.nodes), reason, at


def match_at(pattern: Pattern, node: ir.Node, opset: int, near: Furthest) -> Match | None:
    """Match a pattern whose first output is an output of `node`.

    Args:
        pattern: What to look for.
        node: A node of one of the operators the pattern starts from.
        opset: Version of the node's domain, for attribute defaults.
        near: Receives the reason of the attempt that got furthest.
    """
    for match in _match_node(pattern.start, node, Match(), opset, near):
        for whole in _match_other_roots(pattern, pattern.roots[1:], match, opset, near):
            escape = _escapes(pattern, whole)
            if escape is None:
                return whole
            near.note(whole, *escape)
    return None


def _match_other_roots(
    pattern: Pattern, roots: tuple[Output, ...], match: Match, opset: int, near: Furthest
) -> Iterator[Match]:
    """Find the outputs that do not lie above the first one, among the users of what is bound."""
    if not roots:
        yield match
        return
    root, rest = roots[0], roots[1:]
    if root.node in match.nodes:
        yield from _match_other_roots(pattern, rest, match, opset, near)
        return
    taken = {id(node) for node in match.nodes.values()}
    graph = next(iter(match.nodes.values())).graph
    candidates: dict[int, ir.Node] = {}
    bound = [match.values[item] for item in root.node.inputs if item in match.values]
    for value in bound:
        if isinstance(value, ir.Value):
            for user in value.consumers():
                if id(user) not in taken and user.graph is graph:
                    candidates[id(user)] = user
    for candidate in candidates.values():
        for found in _match_node(root.node, candidate, match, opset, near):
            yield from _match_other_roots(pattern, rest, found, opset, near)


def _match_node(
    pattern: NodePattern, node: ir.Node, match: Match, opset: int, near: Furthest
) -> Iterator[Match]:
    known = match.nodes.get(pattern)
    if known is not None:
        if known is node:
            yield match
        return
    if node.op_type not in pattern.op_types or node.domain != pattern.domain:
        wanted = "/".join(sorted(pattern.op_types))
        near.note(match, f"{node.op_type} stands where {wanted} should", node)
        return
    if any(other is node for other in match.nodes.values()):
        return
    branch = match.copy()
    branch.nodes[pattern] = node
    if len(node.outputs) < pattern.outputs:
        near.note(branch, f"{node.op_type} has fewer outputs", node)
        return
    for name, value in pattern.attributes.items():
        if not _attribute_matches(node, name, value, opset):
            near.note(branch, f"attribute {name} of {node.op_type} differs", node)
            return
    for values in _input_orders(pattern, node):
        yield from _match_values(
            tuple(zip(pattern.inputs, values, strict=True)), branch, node, opset, near
        )


def _input_orders(pattern: NodePattern, node: ir.Node) -> Iterator[tuple[Bound, ...]]:
    """Yield the node's inputs as the pattern lists them, in each order that is allowed."""
    actual = tuple(node.inputs)
    wanted = len(pattern.inputs)
    if wanted and isinstance(pattern.inputs[-1], Variable) and pattern.inputs[-1].variadic:
        if len(actual) >= wanted - 1:
            yield (*actual[: wanted - 1], actual[wanted - 1 :])
        return
    while len(actual) > wanted and actual[-1] is None:
        actual = actual[:-1]
    if len(actual) > wanted and not pattern.more:
        return
    padded = (*actual[:wanted], *itertools.repeat(None, max(0, wanted - len(actual))))
    yield padded
    if wanted == len(actual) == 2 and node.op_type in COMMUTATIVE and node.domain == "":
        yield (padded[1], padded[0])


def _match_values(
    goals: tuple[tuple[ValuePattern, Bound], ...],
    match: Match,
    user: ir.Node,
    opset: int,
    near: Furthest,
) -> Iterator[Match]:
    if not goals:
        yield match
        return
    (pattern, value), rest = goals[0], goals[1:]
    for found in _match_value(pattern, value, match, user, opset, near):
        yield from _match_values(rest, found, user, opset, near)


def _match_value(
    pattern: ValuePattern, value: Bound, match: Match, user: ir.Node, opset: int, near: Furthest
) -> Iterator[Match]:
    if pattern in match.values:
        if match.values[pattern] is value:
            yield match
        else:
            what = pattern.name if isinstance(pattern, Variable) else f"an input of {user.op_type}"
            near.note(match, f"{what} stands for two different values", user)
        return
    if isinstance(pattern, Either):
        for option in pattern.options:
            for found in _match_value(option, value, match, user, opset, near):
                # Where the pattern uses this choice again, it stands for the same value.
                found = found.copy()
                found.values[pattern] = value
                yield found
        return
    if isinstance(pattern, Output):
        assert not isinstance(value, tuple)
        producer = None if value is None else value.producer()
        if producer is None or value is None or value.index() != pattern.index:
            near.note(match, f"an input of {user.op_type} is not computed by a node", user)
            return
        if producer.graph is not user.graph:
            near.note(match, f"an input of {user.op_type} is computed in an outer graph", user)
            return
        for found in _match_node(pattern.node, producer, match, opset, near):
            found = found.copy()
            found.values[pattern] = value
            yield found
        return
    reason = _leaf_mismatch(pattern, value)
    if reason is not None:
        near.note(match, reason, user)
        return
    branch = match.copy()
    branch.values[pattern] = value
    yield branch


def _leaf_mismatch(pattern: Variable | Literal, value: Bound) -> str | None:
    if isinstance(pattern, Literal):
        assert not isinstance(value, tuple)
        number = scalar_of(value)
        if number is None:
            return f"an operand is not the number {pattern.value:g}"
        dtype = None if value is None else value.dtype
        rtol = _LITERAL_RTOL.get(dtype, _LITERAL_RTOL_DEFAULT) if dtype else _LITERAL_RTOL_DEFAULT
        if not np.isclose(number, pattern.value, rtol=rtol, atol=0.0):
            return f"an operand is {number:g}, not {pattern.value:g}"
        return None
    if isinstance(value, tuple):
        return None
    if value is None:
        return None if pattern.optional else f"input {pattern.name} is missing"
    if pattern.constant and not is_constant(value):
        return f"{pattern.name} is not constant"
    if pattern.predicate is not None:
        array = as_array(value)
        if array is None or not pattern.predicate(array):
            return f"{pattern.name} has another value"
    return None


def _attribute_matches(node: ir.Node, name: str, wanted: Any, opset: int) -> bool:
    attribute = node.attributes.get(name)
    if attribute is not None and attribute.is_ref():
        return False
    actual = (
        _default(node.op_type, node.domain, opset, name) if attribute is None else attribute.value
    )
    if callable(wanted):
        return bool(wanted(actual))
    if isinstance(actual, float) or isinstance(wanted, float):
        return actual is not None and bool(np.isclose(actual, wanted, rtol=1e-6))
    if isinstance(actual, list | tuple) and isinstance(wanted, list | tuple):
        return list(actual) == list(wanted)
    return bool(actual == wanted)


@cache
def _default(op_type: str, domain: str, opset: int, name: str) -> Any:
    import onnx

    try:
        schema = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None
    declared = schema.attributes.get(name)
    if declared is None or not declared.default_value.name:
        return None
    value = onnx.helper.get_attribute_value(declared.default_value)
    return value.decode() if isinstance(value, bytes) else value


def attribute_of(node: ir.Node, name: str, opset: int) -> Any:
    """Return an attribute's value, or its default in the operator's schema, or None."""
    attribute = node.attributes.get(name)
    if attribute is None:
        return _default(node.op_type, node.domain, opset, name)
    return None if attribute.is_ref() else attribute.value


def _escapes(pattern: Pattern, match: Match) -> tuple[str, ir.Node] | None:
    """Say which inner value is used outside the match, if one is, and the node it comes from."""
    inside = {id(node) for node in match.nodes.values()}
    roots = {id(match.nodes[root.node].outputs[root.index]) for root in pattern.roots}
    for node_pattern, node in match.nodes.items():
        if node_pattern.shared:
            continue
        for value in node.outputs:
            if id(value) in roots:
                continue
            if value.is_graph_output():
                return f"the inner {node.op_type} is an output of the graph", node
            if any(id(use.node) not in inside for use in value.uses()):
                return f"the inner {node.op_type} is used elsewhere too", node
    return None
