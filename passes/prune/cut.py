# SPDX-License-Identifier: Apache-2.0
"""Cutting units out of a model: parameters, attributes, constants that hold indices, and shapes.

Cut parameters are read from where they are and cut when they are written: this takes no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.passes.constant import as_array, tensor_of
from burnish.passes.edit import drop_initializer, names_of, remove_unused, use_count
from burnish.passes.prune.coupling import Dim, Indices, sizes_of
from burnish.passes.prune.operators.parts import slice_bounds
from burnish.passes.prune.operators.rule import MICROSOFT
from burnish.passes.prune.sizes import SHAPE_INPUT
from burnish.passes.prune.units import Units

Kept = NDArray[np.bool_]


class Cut:
    """Which indices of which dimensions go.

    Args:
        units: The analysis of the model.
        removed: Numbers of the units to remove.
    """

    def __init__(self, units: Units, removed: Indices) -> None:
        self.kept: dict[Dim, Kept] = {}
        gone = np.unique(removed)
        for labels, dims in zip(units.labels, units.members, strict=True):
            kept = ~np.isin(labels, gone)
            if not kept.all():
                self.kept.update((dim, kept) for dim in dims)

    def axes(self, value: ir.Value | None) -> dict[int, Kept]:
        """Return axis -> what is kept, of the axes of a value that are cut."""
        found = {}
        for axis in range(len(sizes_of(value) or ())):
            if (value, axis) in self.kept:
                found[axis] = self.kept[value, axis]
        return found

    def parameters(self, model: ir.Model) -> list[tuple[ir.Value, dict[int, Kept]]]:
        """Return the initializers and constants to cut, in the order of the graph."""
        values: list[ir.Value] = [*model.graph.initializers.values()]
        values += [node.outputs[0] for node in model.graph if node.op_type == "Constant"]
        return [(value, axes) for value in values if (axes := self.axes(value))]

    def apply(self, model: ir.Model) -> None:
        """Cut a model in place."""
        graph = model.graph
        parameters = self.parameters(model)
        nodes = [
            (node, _FIXES.get((node.domain, node.op_type)))
            for node in graph
            if any(self.axes(value) for value in (*node.inputs, *node.outputs))
        ]
        for value in _values(graph):
            if (axes := self.axes(value)) and value.shape is not None:
                dims = list(value.shape)
                for axis, kept in axes.items():
                    dims[axis] = int(kept.sum())
                value.shape = ir.Shape(dims)
        for value, axes in parameters:
            _replace(value, _lazily(value, partial(_take, axes)))
        for node, fix in nodes:
            if fix is not None:
                fix(self, node)

    def mask(self, model: ir.Model, copy: ir.Model | None = None) -> None:
        """Zero what `apply` would cut: the same function at full size, to compare with.

        Divisors and variances are left alone; what they divide is zero.

        Args:
            model: The model that was analyzed.
            copy: A copy of it to zero instead.
        """
        places = {} if copy is None else {value.name: value for value in _values(copy.graph)}
        for value, axes in self.parameters(model):
            if not any(_divides(node, slot) for node, slot in value.uses()):
                place = value if copy is None else places[value.name]
                _replace(place, _lazily(value, partial(_zero, axes)))


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]


def _divides(node: ir.Node, slot: int) -> bool:
    if node.op_type == "BatchNormalization":
        return slot >= 3
    return node.op_type in ("Div", "Mod", "Pow") and slot == 1


def _take(axes: Mapping[int, Kept], array: np.ndarray) -> np.ndarray:
    for axis, kept in axes.items():
        array = np.compress(kept, array, axis)
    return array


def _zero(axes: Mapping[int, Kept], array: np.ndarray) -> np.ndarray:
    array = array.copy()
    for axis, kept in axes.items():
        array[(slice(None),) * axis + (~kept,)] = 0
    return array


def _lazily(value: ir.Value, change: Callable[[np.ndarray], np.ndarray]) -> ir.TensorProtocol:
    tensor = tensor_of(value)
    assert tensor is not None
    probe = np.broadcast_to(np.zeros((), np.int8), tensor.shape.numpy())  # takes one byte
    return ir.LazyTensor(
        lambda: ir.tensor(np.ascontiguousarray(change(tensor.numpy())), dtype=tensor.dtype),
        dtype=tensor.dtype,
        shape=ir.Shape(change(probe).shape),
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _replace(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    node = value.producer()
    if node is None:
        value.const_value = tensor
    else:
        node.attributes.clear()
        node.attributes["value"] = ir.AttrTensor("value", tensor)


# --- operators that hold numbers of channels ------------------------------------------------------

_Fix = Callable[[Cut, ir.Node], None]
_FIXES: dict[tuple[str, str], _Fix] = {}


def _fix(*names: str, domain: str = "") -> Callable[[_Fix], _Fix]:
    def enter(fix: _Fix) -> _Fix:
        _FIXES.update({(domain, name): fix for name in names})
        return fix

    return enter


def _set(node: ir.Node, name: str, number: int) -> None:
    node.attributes[name] = ir.AttrInt64(name, number)


def _give(node: ir.Node, slot: int, array: np.ndarray) -> None:
    """Let a node take a new constant instead of one that others may use too."""
    assert node.graph is not None
    old = node.inputs[slot] if slot < len(node.inputs) else None
    name = old.name if old is not None and old.name else f"{node.name or node.op_type}/{slot}"
    node.resize_inputs(max(slot + 1, len(node.inputs)))
    node.replace_input_with(slot, _initializer(node.graph, name, array))
    _drop(old)


def _initializer(graph: ir.Graph | ir.Function, name: str, array: np.ndarray) -> ir.Value:
    assert isinstance(graph, ir.Graph)
    fresh = names_of(graph).fresh(name)
    value = ir.Value(name=fresh, const_value=ir.tensor(array, name=fresh))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.INT64)
    graph.initializers[fresh] = value
    return value


def _drop(value: ir.Value | None) -> None:
    if value is None or use_count(value):
        return
    producer = value.producer()
    if producer is None:
        drop_initializer(value)
    else:
        remove_unused([producer])


@_fix("Conv", "ConvTranspose")
@_fix("FusedConv", domain=MICROSOFT)
def _conv(cut: Cut, node: ir.Node) -> None:
    """All channels, divided by those of one group."""
    if node.attributes.get_int("group", 1) == 1:
        return
    sizes = sizes_of(node.inputs[1])
    whole = node.outputs[0] if node.op_type == "ConvTranspose" else node.inputs[0]
    channels = sizes_of(whole)
    assert sizes is not None
    assert channels is not None
    assert isinstance(sizes[1], int)
    assert isinstance(channels[1], int)
    _set(node, "group", channels[1] // sizes[1])


@_fix("GroupNormalization")
def _group_norm(cut: Cut, node: ir.Node) -> None:
    kept = cut.axes(node.inputs[0]).get(1)
    if kept is not None:
        groups = node.attributes.get_int("num_groups", 0) or 0
        _set(node, "num_groups", groups * int(kept.sum()) // kept.size)


@_fix("Attention")
@_fix("MultiHeadAttention", domain=MICROSOFT)
def _attention(cut: Cut, node: ir.Node) -> None:
    for slot, names in ((0, ("q_num_heads", "num_heads")), (1, ("kv_num_heads",))):
        kept = cut.axes(node.inputs[slot]).get(2)
        for name in names:
            heads = node.attributes.get_int(name, 0)
            if kept is not None and heads:
                _set(node, name, heads * int(kept.sum()) // kept.size)


@_fix("Split")
def _split(cut: Cut, node: ir.Node) -> None:
    """Parts may now be of different sizes: they are always given."""
    assert node.inputs[0] is not None
    sizes = sizes_of(node.inputs[0])
    assert sizes is not None
    axis = (node.attributes.get_int("axis", 0) or 0) % len(sizes)
    if axis not in cut.axes(node.inputs[0]):
        return
    parts = [(sizes_of(value) or ())[axis] for value in node.outputs]
    if "split" in node.attributes or _opset(node) < 13:
        node.attributes["split"] = ir.AttrInt64s("split", [int(str(part)) for part in parts])
    else:
        node.attributes.pop("num_outputs", None)
        _give(node, 1, np.array(parts, np.int64))


def _opset(node: ir.Node) -> int:
    assert node.graph is not None
    return node.version or node.graph.opset_imports.get("", 1)


@_fix("Slice")
def _slice(cut: Cut, node: ir.Node) -> None:
    """An index becomes the number of kept ones before it."""
    axes, bounds = cut.axes(node.inputs[0]), slice_bounds(node)
    if bounds is None:
        return
    rank = len(sizes_of(node.inputs[0]) or ())
    if not any(axis % rank in axes for axis in bounds):
        return
    starts, ends = [], []
    for axis, (start, end, step) in bounds.items():
        kept = axes.get(axis % rank)
        if kept is not None:
            first, last, _ = slice(start, end, step).indices(kept.size)
            start, end = int(kept[:first].sum()), int(kept[:last].sum())
        starts.append(start)
        ends.append(end)
    if "starts" in node.attributes:
        node.attributes["starts"] = ir.AttrInt64s("starts", starts)
        node.attributes["ends"] = ir.AttrInt64s("ends", ends)
    else:
        kind = as_array(node.inputs[1])
        dtype = np.int64 if kind is None else kind.dtype
        for slot, numbers in ((1, starts), (2, ends)):
            limits = np.iinfo(dtype)
            _give(node, slot, np.clip(numbers, limits.min, limits.max).astype(dtype))


@_fix("Gather")
def _gather(cut: Cut, node: ir.Node) -> None:
    """Indices of what is kept become their places among the kept."""
    sizes = sizes_of(node.inputs[0]) or ()
    axis = (node.attributes.get_int("axis", 0) or 0) % len(sizes)
    kept = cut.axes(node.inputs[0]).get(axis)
    indices = as_array(node.inputs[1])
    if kept is None or indices is None:
        return
    indices = indices % kept.size
    _give(node, 1, (np.cumsum(kept) - 1)[indices[kept[indices]]].astype(indices.dtype))


@_fix(*SHAPE_INPUT)
def _shape(cut: Cut, node: ir.Node) -> None:
    """Write the sizes of what is cut anew, also where the others are computed."""
    slot = SHAPE_INPUT[node.op_type]
    result, axes = node.outputs[0], cut.axes(node.outputs[0])
    old = node.inputs[slot] if slot < len(node.inputs) else None
    if old is None or not axes:
        return
    new = {axis: int(kept.sum()) for axis, kept in axes.items()}
    if node.op_type == "Resize" and "axes" in node.attributes:
        return  # the cut axes are not among them
    array = as_array(old)
    rank = len(sizes_of(result) or ())
    if array is None:
        _override(node, slot, [new.get(axis) for axis in range(rank)])
        return
    array = array.copy()
    shift = rank - array.size  # Expand may name fewer axes
    for axis, size in new.items():
        if axis >= shift and array[axis - shift] > (1 if node.op_type == "Expand" else 0):
            array[axis - shift] = size
    _give(node, slot, array)


def _override(node: ir.Node, slot: int, new: list[int | None]) -> None:
    """Where(known, new, old): the old sizes but for those that are known."""
    graph = node.graph
    old = node.inputs[slot]
    assert isinstance(graph, ir.Graph)
    assert old is not None
    name = f"{node.name or node.op_type}/sizes"
    known = np.array([size is not None for size in new])
    numbers = np.array([size or 0 for size in new], np.int64)
    inputs = [_initializer(graph, name, known), _initializer(graph, name, numbers), old]
    inputs[0].type = ir.TensorType(ir.DataType.BOOL)
    where = ir.Node("", "Where", inputs, num_outputs=1, name=names_of(graph).fresh(name))
    where.outputs[0].name = names_of(graph).fresh(name)
    where.outputs[0].shape, where.outputs[0].type = old.shape, old.type
    graph.insert_before(node, where)
    node.replace_input_with(slot, where.outputs[0])
