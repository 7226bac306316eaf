# SPDX-License-Identifier: Apache-2.0
"""How an operator's rule is entered, and what several of them need.

A dimension that a rule does not mention must stay whole: a rule that forgets one is safe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.prune.coupling import Couplings, Dim, Unclear

Rule = Callable[[Couplings, ir.Node], None]
"""Says which dimensions of a node correspond. Raises `Unclear` where that is not known."""

Rules = dict[tuple[str, str], Rule]
"""(Domain, operator) -> its rule."""

MICROSOFT = "com.microsoft"


def entering(rules: Rules) -> Callable[..., Callable[[Rule], Rule]]:
    """Return a decorator that enters a rule under names of operators, and maybe their domain."""

    def names_of(*names: str, domain: str = "") -> Callable[[Rule], Rule]:
        def enter(rule: Rule) -> Rule:
            rules.update({(domain, name): rule for name in names})
            return rule

        return enter

    return names_of


def given(node: ir.Node, slot: int) -> ir.Value | None:
    """Return an input, or None where it is left out."""
    return node.inputs[slot] if slot < len(node.inputs) else None


def required(node: ir.Node, slot: int) -> ir.Value:
    """Return an input.

    Raises:
        Unclear: it is left out.
    """
    value = given(node, slot)
    if value is None:
        raise Unclear("an input is missing")
    return value


def integers(node: ir.Node, slot: int, attribute: str = "") -> list[int] | None:
    """Return the integers of an input, or of the attribute older opsets have instead.

    Returns:
        Them, or None where there is neither.

    Raises:
        Unclear: the input is not constant.
    """
    value = given(node, slot)
    if value is None:
        found = node.attributes.get(attribute)
        if found is None:
            return None
        return [found.as_int()] if found.type == ir.AttributeType.INT else list(found.as_ints())
    array = as_array(value)
    if array is None:
        raise Unclear("an input that says which indices is not constant")
    return [int(item) for item in array.reshape(-1)]


def sized(couplings: Couplings, dim: Dim) -> int:
    """Return the size of a dimension.

    Raises:
        Unclear: it is no number.
    """
    size = couplings.size(dim)
    if not isinstance(size, int):
        raise Unclear("the size of an axis is not known")
    return size


def broadcast(couplings: Couplings, values: Sequence[ir.Value | None], result: ir.Value) -> None:
    """Let the axes of operands correspond to those of a result, aligned at the last one."""
    sizes = couplings.shape(result)
    for value in values:
        if value is None:
            continue
        own = couplings.shape(value)
        for axis, size in enumerate(own, len(sizes) - len(own)):
            if isinstance(size, int):
                couplings.same((value, axis - len(sizes) + len(own)), (result, axis))
            elif isinstance(sizes[axis], int):
                couplings.keep((result, axis), "it is not known whether it is broadcast")


def apart_from(couplings: Couplings, node: ir.Node, axes: set[int]) -> None:
    """Let all axes but some correspond between the first input and all outputs of its rank."""
    data = required(node, 0)
    rank = len(couplings.shape(data))
    axes = {axis % rank for axis in axes}
    for result in node.outputs:
        if result.name and len(couplings.shape(result)) == rank:
            for axis in set(range(rank)) - axes:
                couplings.same((data, axis), (result, axis))


def dropped(couplings: Couplings, node: ir.Node, axes: Sequence[int]) -> None:
    """Let the axes that are left correspond, where the result has some no more."""
    data, result = required(node, 0), node.outputs[0]
    rank = len(couplings.shape(data))
    gone = {axis % rank for axis in axes}
    left = [axis for axis in range(rank) if axis not in gone]
    for now, axis in enumerate(left):
        couplings.same((data, axis), (result, now))
