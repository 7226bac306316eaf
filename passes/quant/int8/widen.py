# SPDX-License-Identifier: Apache-2.0
"""Gives depthwise convolutions channels in whole blocks of 16, as their int8 kernel counts.

Where channels are no multiple of 16, ONNX Runtime's int8 depthwise convolution takes 2 to 3 times
as long (1.31, x86: 60 us for 200 channels of 2 x 96, 5 x 5, 21 for 208). In float, the blocked
layout fills them up itself. So the channels that are missing are added: zeros in all parameters
that know of them, from the filters that make them to those that read them. Which parameters those
are is what pruning knows; a channel of zeros is one that pruning would take away without a trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.constant import as_array, tensor_of
from burnish.passes.context import PassContext
from burnish.passes.edit import drop_initializer, names_of
from burnish.passes.prune.coupling import Dim, couplings_of, sizes_of
from burnish.passes.prune.units import Group, Units
from burnish.passes.quant.int8.static import OBSERVED
from burnish.passes.quant.ready import passed_through
from burnish.passes.quant.weighted import KEEP
from burnish.passes.shapes import infer_shapes

_RULE, _UNFILL = "fill-depthwise", "unfill-depthwise"
_BLOCK = 16
FILLED = "burnish.filled"
"""Key of a model's `meta`: what was filled up."""
_MOST = 1.5
"""Times as many channels, at most: more arithmetic than that loses what the kernel gains."""


@dataclass(frozen=True)
class WidenDepthwise(Pass):
    """Fill the channels of depthwise convolutions up to multiples of 16 with zeros."""

    name: ClassVar[str] = "fill-depthwise"
    rule_names: ClassVar[tuple[str, ...]] = (_RULE,)

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Fill one group of coupled channels after the other."""
        if ctx.target.provider != "CPUExecutionProvider" or ctx.calibration is None:
            return  # without calibration, convolutions stay float
        if not any(map(_is_narrow, model.graph)) or passed_through(model, ctx):
            return
        infer_shapes(model)
        units = Units(couplings_of(model))
        groups = {found: group for group in units.groups for found in group.classes}
        for node in list(model.graph):
            if not _is_narrow(node):
                continue
            members = _members(units, groups, node)
            if isinstance(members, str):
                ctx.refuse(_RULE, node, members)
                continue
            with ctx.rewrite(_RULE, node) as go:
                if go:
                    model.meta.setdefault(FILLED, []).append(_widen(members))


@dataclass(frozen=True)
class NarrowDepthwise(Pass):
    """Take channels that were filled up away again where the convolutions stay float.

    They cost nothing there but their bytes; and zeros among the numbers whose range is looked for
    move it.
    """

    name: ClassVar[str] = "unfill-depthwise"
    rule_names: ClassVar[tuple[str, ...]] = (_UNFILL,)

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Undo what `fill-depthwise` did, where that is of no use."""
        for filled in model.meta.pop(FILLED, ()):
            if all(KEEP in node.meta for node in filled.depthwise):
                with ctx.rewrite(_UNFILL, filled.depthwise[0]) as go:
                    if go:
                        filled.undo()
                        model.meta.pop(OBSERVED, None)  # it knew more channels


@dataclass(frozen=True)
class _Filled:
    """What was changed for the channels of one group.

    Attributes:
        depthwise: Convolutions with a group for each of the channels.
        channels: How many there were.
        constants: New and old.
        shapes: Values and the shapes they had.
    """

    depthwise: tuple[ir.Node, ...]
    channels: int
    constants: tuple[tuple[ir.Value, ir.Value], ...]
    shapes: tuple[tuple[ir.Value, ir.Shape], ...]

    def undo(self) -> None:
        for new, old in self.constants:
            _replace(new, old)
        for value, shape in self.shapes:
            value.shape = shape
        for node in self.depthwise:
            node.attributes["group"] = ir.AttrInt64("group", self.channels)


def _is_narrow(node: ir.Node) -> bool:
    """Whether a node is a depthwise convolution whose channels do not fill blocks."""
    if node.op_type != "Conv" or node.domain != "":
        return False
    channels = node.attributes.get_int("group", 1)
    weights = tensor_of(node.inputs[1])
    if weights is None or weights.shape[0] != channels or weights.shape[1] != 1:
        return False
    return channels > 1 and channels % _BLOCK != 0


def _members(units: Units, groups: Mapping[int, Group], node: ir.Node) -> Sequence[Dim] | str:
    """Return the dimensions that are the channels of a depthwise convolution, or why they stay."""
    weights = node.inputs[1]
    assert weights is not None
    found = units.class_of.get((weights, 0))
    if found is None:
        return "nothing is known of its channels"
    size = units.sizes[found]
    more = -size % _BLOCK
    if size + more > _MOST * size:
        return "there would be too many channels more"
    group = groups.get(found)
    if group is None or len(group.units) != size or set(group.classes) != {found}:
        return units.reasons.get(found, "other channels depend on its own")
    dims = units.members[found]
    if not all(isinstance(value, ir.Value) and _can_grow(value) for value, _ in dims):
        return "an operator that holds the number of channels has them too"
    return dims


def _can_grow(value: ir.Value) -> bool:
    """Whether the readers of a value take more channels as they come."""
    if value.is_graph_input() or value.is_graph_output() or not value.consumers():
        return False
    return all(user.op_type in _GROWS and user.domain == "" for user in value.consumers())


_GROWS = frozenset(
    {"Add", "AveragePool", "BatchNormalization", "Clip", "Conv", "Div", "Elu", "Gelu", "Gemm"}
    | {"GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "LeakyRelu", "MatMul"}
    | {"MaxPool", "Mul", "ReduceMean", "Relu", "Sigmoid", "Softplus", "Sub", "Swish", "Tanh"}
)
"""Operators on channels that have no number of them but in their weights, and `group`."""


def _widen(members: Sequence[Dim]) -> _Filled:
    """Add channels of zeros; divisors and variances are ones."""
    axes: dict[ir.Value, list[int]] = {}
    for value, axis in members:
        assert isinstance(value, ir.Value)
        axes.setdefault(value, []).append(axis)
    size, shapes, constants = 0, [], []
    depthwise: dict[ir.Node, None] = {}
    for value, wide in axes.items():
        sizes = sizes_of(value)
        assert sizes is not None
        found = sizes[wide[0]]
        assert isinstance(found, int)
        size = found
        depthwise.update(
            (user, None)
            for user, slot in value.uses()
            if user.op_type == "Conv" and slot == 1 and 0 in wide
            if user.attributes.get_int("group", 1) == size
        )
        more = -size % _BLOCK
        if tensor_of(value) is not None:
            new = _padded(value, [more if axis in wide else 0 for axis in range(len(sizes))])
            _replace(value, new)
            constants.append((new, value))
        elif value.shape is not None:
            shapes.append((value, value.shape))
            dims = [size + more if axis in wide else dim for axis, dim in enumerate(value.shape)]
            value.shape = ir.Shape(dims)
    for node in depthwise:
        node.attributes["group"] = ir.AttrInt64("group", size + -size % _BLOCK)
    return _Filled(tuple(depthwise), size, tuple(constants), tuple(shapes))


def _padded(value: ir.Value, more: Sequence[int]) -> ir.Value:
    """Return a constant that has more behind another, along each axis."""
    array, uses = as_array(value), tuple(value.uses())
    assert array is not None
    divides = any(
        slot >= 4 if user.op_type == "BatchNormalization" else user.op_type == "Div" and slot == 1
        for user, slot in uses
    )
    padded = np.pad(array, [(0, count) for count in more], constant_values=1 if divides else 0)
    graph = uses[0][0].graph
    assert isinstance(graph, ir.Graph)
    tensor = ir.tensor(padded, name=names_of(graph).fresh(f"{value.name}/filled"))
    return ir.Value(
        name=tensor.name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
    )


def _replace(old: ir.Value, new: ir.Value) -> None:
    """Let what reads one constant read another."""
    uses = tuple(old.uses())
    graph = uses[0][0].graph
    assert isinstance(graph, ir.Graph)
    if new.producer() is None:
        graph.register_initializer(new)
    for user, slot in uses:
        user.replace_input_with(slot, new)
    if old.is_initializer():
        drop_initializer(old)
