# SPDX-License-Identifier: Apache-2.0
"""Channels of maps that can be scaled, one by one, without a trace in what the model computes.

If channel c of what a convolution gives is divided by s_c > 0, its filters and bias take that, and
the filters of all convolutions that read it multiply by s_c. Between them may stand what passes a
factor on: Relu and its like, pooling, sums of maps, a gate times a map. All values between such
convolutions are one group, with one factor a channel: the shortcuts of residual blocks, say. What
takes no factor (Gelu, HardSwish, Clip, Concat, an output of the model) leaves its group as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.passes.constant import as_array, is_constant
from burnish.passes.edit import inputs_within
from burnish.passes.quant.weighted import Weights, excluded, weights_of

_ALONG = frozenset(
    {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool"}
    | {"Relu"}
)
_SUMS = frozenset({"Add", "Sub", "Sum"})


@dataclass(eq=False)
class Group:
    """Values whose channels (axis 1) bear the same factors.

    Attributes:
        size: Number of channels.
        values: float32 `[N, size, ...]`.
        makers: Convolutions that give them.
        readers: Convolutions that take them.
        fixed: Why their channels cannot be scaled; None if they can.
    """

    size: int | None
    values: list[ir.Value] = field(default_factory=list)
    makers: list[ir.Node] = field(default_factory=list)
    readers: list[ir.Node] = field(default_factory=list)
    fixed: str | None = None

    def scale(self, factor: NDArray[np.float64]) -> None:
        """Divide the channels by positive numbers, `[size]`, in all that makes and reads them."""
        for node in self.makers:
            for value in node.inputs[1:3]:
                array = as_array(value)
                if value is not None and array is not None:
                    _put(value, array / _column(factor, array.ndim))
        for node in self.readers:
            value, array = node.inputs[1], as_array(node.inputs[1])
            assert value is not None
            assert array is not None
            _put(value, (filters(node) * by_group(node, factor)).reshape(array.shape))


def filters(node: ir.Node) -> NDArray[np.float64]:
    """Return the weights of a Conv as [groups, outputs / groups, inputs / groups, taps]."""
    array = as_array(node.inputs[1])
    assert array is not None
    groups = node.attributes.get_int("group", 1) or 1
    wide = array.reshape(groups, len(array) // groups, array.shape[1], -1)
    return np.asarray(wide, np.float64)


def by_group(node: ir.Node, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return one number for each input channel of a Conv, to go with `filters`."""
    groups = node.attributes.get_int("group", 1) or 1
    return numbers.reshape(groups, 1, -1, 1)


def groups_of(model: ir.Model, exclude: tuple[str, ...] = ()) -> list[Group]:
    """Return the groups that a convolution of the main graph gives, in the order of the graph.

    Args:
        model: Shapes have been inferred; it is not changed.
        exclude: Glob patterns of names of convolutions to leave alone.
    """
    found = _Groups()
    for node in model.graph:
        if _is_layer(node, exclude):
            found.of(node.outputs[0]).makers.append(node)
            found.of(node.inputs[0]).readers.append(node)
            continue
        join = _JOINS.get(node.op_type) if node.domain == "" else None
        if join is None or not join(found, node):
            for value in (*inputs_within(node), *node.outputs):
                found.fix(value, f"{node.op_type} takes no factor for each channel")
    whole = dict.fromkeys(found.root(group) for group in found.by_value.values())
    return [group for group in whole if group.makers]


class _Groups:
    """Groups by value; joined ones point to that which they became part of."""

    def __init__(self) -> None:
        self.by_value: dict[ir.Value, Group] = {}
        self._into: dict[Group, Group] = {}

    def root(self, group: Group) -> Group:
        while group in self._into:
            group = self._into[group]
        return group

    def of(self, value: ir.Value | None) -> Group:
        assert value is not None
        if value not in self.by_value:
            made = self.by_value[value] = Group(_channels(value), [value])
            if made.size is None:
                made.fixed = "how many channels there are is not known"
            elif value.is_graph_output() or value.is_graph_input():
                made.fixed = "it is an input or an output of the model"
        return self.root(self.by_value[value])

    def fix(self, value: ir.Value, reason: str) -> None:
        if not is_constant(value):
            group = self.of(value)
            group.fixed = group.fixed or reason

    def join(self, *values: ir.Value | None) -> bool:
        """Make one group of those of some maps of as many channels; returns whether they are."""
        kinds = {(_channels(value), _rank(value)) for value in values}
        if len(kinds) > 1 or any(map(is_constant, values)):
            return False  # a map of fewer axes has its channels on another axis of the sum
        first, *others = values
        for value in others:
            one, other = self.of(first), self.of(value)
            if one is other:
                continue
            if len(one.values) < len(other.values):  # so that the way to a root stays short
                one, other = other, one
            self._into[other] = one
            one.values += other.values
            one.makers += other.makers
            one.readers += other.readers
            one.fixed = one.fixed or other.fixed
        return True


def _along(groups: _Groups, node: ir.Node) -> bool:
    return len(node.outputs) == 1 and groups.join(node.inputs[0], node.outputs[0])


def _mean(groups: _Groups, node: ir.Node) -> bool:
    """Join a mean that is over pixels: there still is one number a channel at least."""
    axes = as_array(node.inputs[1]) if len(node.inputs) > 1 else None
    given = node.attributes.get("axes")
    if axes is None and given is not None:
        axes = np.array(given.as_ints())
    value = node.inputs[0]
    if axes is None or value is None or value.shape is None:
        return False
    kept = {int(axis) % value.shape.rank() for axis in axes}
    return not kept & {0, 1} and groups.join(value, node.outputs[0])


def _sum(groups: _Groups, node: ir.Node) -> bool:
    return groups.join(*node.inputs, node.outputs[0])


def _gate(groups: _Groups, node: ir.Node) -> bool:
    """Join a map and its product with a gate, which has one number a channel."""
    gates = [value for value in node.inputs if value is not None and _is_pixel(value)]
    maps = [value for value in node.inputs if value not in gates]
    if len(gates) != 1 or len(maps) != 1 or not groups.join(maps[0], node.outputs[0]):
        return False
    groups.fix(gates[0], "it is a gate")
    return True


_JOINS: dict[str, Callable[[_Groups, ir.Node], bool]] = {
    **dict.fromkeys(_ALONG, _along),
    **dict.fromkeys(_SUMS, _sum),
    "ReduceMean": _mean,
    "Mul": _gate,
}


def _is_layer(node: ir.Node, exclude: tuple[str, ...]) -> bool:
    """Whether a node is a Conv whose weights and bias are its own."""
    if node.op_type != "Conv" or node.domain != "" or excluded(node, exclude):
        return False
    own = [value for value in node.inputs[1:3] if value is not None]
    return isinstance(weights_of(node), Weights) and all(
        value.is_initializer()
        and not value.is_graph_input()
        and not value.is_graph_output()
        and len(value.uses()) == 1
        for value in own
    )


def _channels(value: ir.Value | None) -> int | None:
    """Return the number of channels of a map, if it is one and that is known."""
    if value is None or value.shape is None or value.shape.rank() < 3:
        return None
    size = value.shape[1]
    return size if isinstance(size, int) else None


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else value.shape.rank()


def _is_pixel(value: ir.Value) -> bool:
    shape = value.shape
    return shape is not None and shape.rank() > 2 and all(dim == 1 for dim in shape[2:])


def _column(factor: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    return factor.reshape(-1, *[1] * (rank - 1))


def _put(value: ir.Value, array: NDArray[np.float64]) -> None:
    """Give an initializer other numbers, under its name: answers about speed go by names."""
    value.const_value = ir.tensor(np.ascontiguousarray(array, np.float32), name=value.name)
