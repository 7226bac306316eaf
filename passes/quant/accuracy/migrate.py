# SPDX-License-Identifier: Apache-2.0
"""Moving scales of input channels into weights, and out of what comes before, exactly.

With a positive factor s for each channel of x, `W x = (W s) (x / s)`. The weights take `s`; what
makes x has to give `x / s` for nothing: a norm's scale and shift, the weights and bias of another
product, or a constant factor, is divided. `find_place` looks for it through what passes a scale on
unchanged: Relu and its like (s is positive), sums with constants, gates, and attention, whose
outputs are linear in its values, channel by channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.errors import InputError
from burnish.passes.constant import as_array, is_constant
from burnish.passes.context import PassContext
from burnish.passes.quant.insert import add_initializer, drop_unused, make_node
from burnish.passes.shapes import infer_shapes
from burnish.passes.sketch import Array

if TYPE_CHECKING:
    from burnish.passes.reconstruct.layer import Layer

_NORMS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
_PASSING = frozenset({"Relu", "LeakyRelu", "PRelu", "Identity"})
_DEPTH = 8


@dataclass(frozen=True)
class Edit:
    """A constant input of a node to be divided along an axis."""

    node: ir.Node
    index: int
    axis: int

    def divide(self, factor: NDArray[np.float64]) -> None:
        """Put a quotient in place of the constant, for this node alone."""
        old, graph = self.node.inputs[self.index], self.node.graph
        array = as_array(old)
        assert array is not None
        assert old is not None
        assert isinstance(graph, ir.Graph)
        array = np.atleast_1d(array)
        shape = [1] * array.ndim
        shape[self.axis] = factor.size
        made = (array / factor.reshape(shape)).astype(array.dtype)
        self.node.replace_input_with(
            self.index, add_initializer(graph, old.name or f"{self.node.name}/scaled", made)
        )
        drop_unused([old])


def find_place(value: ir.Value | None, size: int, users: Iterable[ir.Node]) -> list[Edit] | str:
    """Return what to divide so that a value is divided along its last axis, or why it cannot be.

    Args:
        value: Float, with `size` channels along its last axis.
        size: How many.
        users: Those that know of it: no other may use the value.
    """
    return _find(value, size, frozenset(users), _DEPTH)


def _find(
    value: ir.Value | None, size: int, users: frozenset[ir.Node], depth: int
) -> list[Edit] | str:
    assert value is not None
    if value.is_graph_output() or any(user not in users for user, _ in value.uses()):
        return "others use its input too"
    node = value.producer()
    if node is None or depth == 0:
        return "its input is an input of the model" if node is None else "there is no place near"
    if node.op_type in _NORMS and value is node.outputs[0]:
        return _norm(node, size)
    if node.domain != "":
        return f"its input comes from {node.op_type}, which takes no scale"
    if node.op_type in _PASSING:
        return _find(node.inputs[0], size, frozenset({node}), depth - 1)
    if node.op_type in ("MatMul", "Gemm"):
        return _product(node, size)
    if node.op_type in ("Add", "Sub", "Mul"):
        return _elementwise(node, size, depth)
    if node.op_type == "Attention" and value is node.outputs[0]:
        return _attention(node, size, depth)
    return f"its input comes from {node.op_type}, which takes no scale"


def _norm(node: ir.Node, size: int) -> list[Edit] | str:
    edits = [Edit(node, i, -1) for i, v in enumerate(node.inputs) if i and v is not None]
    for edit in edits:
        array = as_array(node.inputs[edit.index])
        if array is None or array.shape != (size,) or array.dtype != np.float32:
            return "the scale of its norm is not a constant of one number a channel"
    return edits


def _product(node: ir.Node, size: int) -> list[Edit] | str:
    weights = as_array(node.inputs[1])
    if weights is None or weights.ndim != 2 or weights.dtype != np.float32:
        return "the product before it has no constant weights"
    transposed = node.attributes.get_int("transB", 0) if node.op_type == "Gemm" else 0
    axis = 0 if transposed else 1
    if weights.shape[axis] != size:
        return "the product before it has other channels"
    edits = [Edit(node, 1, axis)]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        if not is_constant(node.inputs[2]):
            return "the bias before it is not constant"
        edits.append(Edit(node, 2, -1))
    return edits


def _elementwise(node: ir.Node, size: int, depth: int) -> list[Edit] | str:
    constants = [i for i, v in enumerate(node.inputs) if is_constant(v)]
    alone = frozenset({node})
    if len(constants) == 1:
        (index,) = constants
        array = as_array(node.inputs[index])
        wide = array is None or array.dtype != np.float32
        if wide or array.shape[-1:] not in ((), (1,), (size,)):  # type: ignore[union-attr]
            return "the constant before it does not go by channels"
        edit = Edit(node, index, -1)
        if node.op_type == "Mul":
            return [edit] if _width(node.inputs[1 - index]) == size else "its width is not known"
        found = _find(node.inputs[1 - index], size, alone, depth - 1)
        return found if isinstance(found, str) else [edit, *found]
    if node.op_type != "Mul" or node.inputs[0] is node.inputs[1]:
        return f"its input comes from {node.op_type}, which takes no scale"
    reason = "no side of the gate before it takes a scale"
    for side in node.inputs:
        if _width(side) == size:
            found = _find(side, size, alone, depth - 1)
            if not isinstance(found, str):
                return found
    return reason


def _attention(node: ir.Node, size: int, depth: int) -> list[Edit] | str:
    """Values pass a scale on where each head has its own, and lies beside the next."""
    values = node.inputs[2]
    heads = [node.attributes.get_int(f"{kind}_num_heads", 0) for kind in ("q", "kv")]
    flat = values is not None and values.shape is not None and len(values.shape) == 3
    if not flat or heads[0] != heads[1] or any(out.uses() for out in node.outputs[1:]):
        return "the attention before it shares values among heads"
    return _find(values, size, frozenset({node}), depth - 1)


def _width(value: ir.Value | None) -> int | None:
    if value is None or value.shape is None or not len(value.shape):
        return None
    last = value.shape[-1]
    return last if isinstance(last, int) else None


@dataclass(frozen=True)
class Site:
    """Layers that share an input whose channels can be scaled.

    Attributes:
        value: The input.
        layers: All layers that take it.
        edits: What to divide; None to insert a Mul before the layers.
    """

    value: ir.Value
    layers: tuple[Layer, ...]
    edits: tuple[Edit, ...] | None

    def migrate(self, factor: NDArray[np.float64]) -> None:
        """Multiply the weights, and divide what makes their input, channel by channel."""
        if self.edits is None:
            self._insert(factor)
        else:
            for edit in self.edits:
                edit.divide(factor)
        for layer in self.layers:
            layer.replace(layer.rows * factor)

    def _insert(self, factor: NDArray[np.float64]) -> None:
        first = self.layers[0].node
        graph = first.graph
        assert isinstance(graph, ir.Graph)
        name = self.value.name or "x"
        constant = add_initializer(graph, f"{name}/smoothing", (1 / factor).astype(np.float32))
        shape = {f"{name}/smooth": (ir.DataType.FLOAT, self.value.shape)}
        node = make_node(graph, "Mul", [self.value, constant], shape, base=name)
        producer = self.value.producer()
        if producer is None:
            graph.insert_before(graph[0], node)
        else:
            graph.insert_after(producer, node)
        for layer in self.layers:
            for user in layer.nodes:
                user.replace_input_with(0, node.outputs[0])


def sites_of(
    rule: str, model: ir.Model, ctx: PassContext, *, insert: bool, exclude: tuple[str, ...]
) -> list[Site]:
    """Return where scales can be moved in a model; layers where they cannot are refused by a rule.

    Raises:
        InputError: there are places, but no calibration data.
    """
    infer_shapes(model)
    # Layers are made of what this package has: imported first, they would find it half made.
    from burnish.passes.reconstruct.layer import layers_of

    layers = layers_of(
        model,
        lambda node, reason: ctx.refuse(rule, node, reason),
        ops=("MatMul", "Gemm"),
        exclude=exclude,
    )
    sites, refused = find_sites(layers, insert=insert)
    for layer, reason in refused:
        ctx.refuse(rule, layer.node, reason)
    if sites and ctx.calibration is None:
        raise InputError(f"{rule} needs calibration data", hint="give sample inputs with --calib")
    return sites


def find_sites(
    layers: Sequence[Layer], *, insert: bool = False
) -> tuple[list[Site], list[tuple[Layer, str]]]:
    """Return where scales can be moved, and the layers where they cannot, with the reason.

    Args:
        layers: MatMul and Gemm of the main graph.
        insert: Where there is no place, take an own Mul.
    """
    by_input: dict[ir.Value, list[Layer]] = {}
    for layer in layers:
        value = layer.node.inputs[0]
        assert value is not None
        by_input.setdefault(value, []).append(layer)
    sites: list[Site] = []
    refused: list[tuple[Layer, str]] = []
    for value, group in by_input.items():
        if any(layer.shared or len(layer.nodes) > 1 for layer in group):
            reason: list[Edit] | str = "its weights are used by others too"
        else:
            reason = find_place(value, group[0].fan_in, [layer.node for layer in group])
            if not isinstance(reason, str) or insert:
                edits = None if isinstance(reason, str) else tuple(reason)
                sites.append(Site(value, tuple(group), edits))
                continue
        refused += [(layer, reason) for layer in group if isinstance(reason, str)]
    return sites, refused


def balanced(factor: Array) -> NDArray[np.float64]:
    """Return factors with a geometric mean of 1; what is not a positive number becomes 1."""
    usable = np.isfinite(factor) & (factor > 0)
    logs = np.log(np.where(usable, factor, 1.0))
    logs[usable] -= logs[usable].mean() if usable.any() else 0.0
    return np.asarray(np.exp(np.clip(logs, -12, 12)))
