# SPDX-License-Identifier: Apache-2.0
"""What is sparse in a model: zeros and N:M conformity of each layer, quantized or not."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array, is_constant
from burnish.passes.prune import storage
from burnish.passes.prune.axes import Axes, axes_of_input
from burnish.passes.prune.flops import Sizes, flops
from burnish.passes.prune.pattern import Kept, conforms
from burnish.passes.prune.zeroing import count_zeros
from burnish.passes.sketch import Array

# Operator -> the one whose axes its weights have, and inputs: weights, and their zero point.
_FORMS: dict[tuple[str, str], tuple[str, tuple[int, ...], int | None]] = {
    ("", "Conv"): ("Conv", (1,), None),
    ("", "ConvTranspose"): ("ConvTranspose", (1,), None),
    ("", "Gemm"): ("Gemm", (1, 0), None),
    ("", "MatMul"): ("MatMul", (1, 0), None),
    ("", "ConvInteger"): ("Conv", (1,), 3),
    ("", "MatMulInteger"): ("MatMul", (1, 0), 3),
    ("", "QLinearConv"): ("Conv", (3,), 5),
    ("", "QLinearMatMul"): ("MatMul", (3,), 5),
    ("com.microsoft", "FusedConv"): ("Conv", (1,), None),
    ("com.microsoft", "DynamicQuantizeMatMul"): ("MatMul", (1,), 3),
    ("com.microsoft", "MatMulIntegerToFloat"): ("MatMul", (1,), 5),
}
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Surveyed:
    """What is sparse in the weights of one node.

    Attributes:
        name: Of the node, or of what it gives.
        op_type: Its operator.
        weight: Name of the weight.
        shape: As the operator takes it.
        dtype: As it is stored.
        elements: Number of weights.
        zeros: How many are zero; of integers, equal to their zero point.
        conform: Share of groups along the axis outputs sum over that have the N:M pattern.
        flops: Operations of the node; sizes that are not known as for random inputs.
        shared: The weight was counted with an earlier node.
    """

    name: str
    op_type: str
    weight: str
    shape: tuple[int, ...]
    dtype: str
    elements: int
    zeros: int
    conform: float
    flops: int
    shared: bool

    @property
    def sparsity(self) -> float:
        """Share of zeros."""
        return self.zeros / self.elements if self.elements else 0.0


@dataclass(frozen=True)
class Survey:
    """What is sparse in a model.

    Attributes:
        pattern: The N:M pattern asked for, as text.
        layers: Nodes with constant weights, in the order of the graph.
        bytes: What the weights take: `dense`, as `sparse` initializers where that is less, with a
            `bitmask` of what is not zero, and `deflated` by zlib at level 6.
        unread: Nodes whose weights are packed in ways that are not read.
    """

    pattern: str
    layers: tuple[Surveyed, ...]
    bytes: dict[str, int]
    unread: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        own = [layer for layer in self.layers if not layer.shared]
        elements, zeros = (
            sum(getattr(layer, key) for layer in own) for key in ("elements", "zeros")
        )
        layers = [{**asdict(layer), "sparsity": layer.sparsity} for layer in self.layers]
        total = {
            "elements": elements,
            "zeros": zeros,
            "sparsity": zeros / elements if elements else 0.0,
            "flops": sum(layer.flops for layer in self.layers),
        }
        return {
            "pattern": self.pattern,
            "layers": layers,
            "total": total,
            "bytes": self.bytes,
            "unread": list(self.unread),
        }


def survey(model: ir.Model, pattern: Kept) -> Survey:
    """Look at the weights of all layers of the main graph and its subgraphs.

    Args:
        model: With shapes inferred.
        pattern: The N:M pattern to hold weights against.
    """
    size = Sizes(model)
    seen: set[tuple[str, ...]] = set()
    layers, kept, unread = [], [], []
    deflated = 0
    for node in model.graph.all_nodes():
        name = node.name or node.outputs[0].name or node.op_type
        if node.domain == "com.microsoft" and node.op_type == "MatMulNBits":
            unread.append(name)
            continue
        form = _FORMS.get((node.domain, node.op_type))
        found = None if form is None else _weight_of(node, *form)
        if found is None:
            continue
        value, stored, nonzero, axes = found
        key = (value.name or "", *map(str, nonzero.shape))
        zeros = count_zeros(nonzero)
        layers.append(
            Surveyed(
                name=name,
                op_type=node.op_type,
                weight=value.name or "",
                shape=tuple(nonzero.shape),
                dtype=stored.dtype.name,
                elements=int(nonzero.size),
                zeros=zeros,
                conform=conforms(axes.matrix(nonzero), pattern.kept, pattern.of),
                flops=flops(node, size),
                shared=key in seen,
            )
        )
        if key not in seen:
            kept.append((int(nonzero.size), zeros, float(stored.itemsize)))
            deflated += _deflated(stored)
        seen.add(key)
    return Survey(
        f"{pattern.kept}:{pattern.of}",
        tuple(layers),
        {**storage.sizes(kept), "deflated": deflated},
        tuple(unread),
    )


def _weight_of(
    node: ir.Node, base: str, slots: tuple[int, ...], zero: int | None
) -> tuple[ir.Value, Array, Array, Axes] | None:
    """Return the weight of a node: its value, elements, which are not zero, and its axes."""
    for slot in slots:
        value = node.inputs[slot] if slot < len(node.inputs) else None
        if value is None:
            continue
        offset = node.inputs[zero] if zero is not None and zero < len(node.inputs) else None
        found = _elements(value)
        if found is None:
            continue
        stored, nonzero = found
        if offset is not None:
            point = as_array(offset)
            if point is None:
                continue
            # Of a Conv, one a channel on its first axis; of a product, on its last.
            along = 0 if base == "Conv" else -1
            nonzero = stored != _along(point, stored.ndim, along)
        axes = axes_of_input(node, slot, nonzero.ndim, op_type=base)
        if axes is not None and nonzero.ndim >= 2:
            return value, stored, nonzero, axes
    return None


def _elements(value: ir.Value) -> tuple[Array, Array] | None:
    """Return a constant as it is stored, and which of its elements are not zero."""
    if is_constant(value):
        array = as_array(value)
        return None if array is None else (array, array != 0)
    node = value.producer()
    if node is None or node.domain != "" or not node.inputs or node.inputs[0] is None:
        return None
    below = _elements(node.inputs[0])
    if below is None:
        return None
    stored, nonzero = below
    match node.op_type:
        case "Identity" | "Cast":
            return stored, nonzero
        case "Mul":  # as `store-int8` writes weights
            scale = None if node.inputs[1] is None else _elements(node.inputs[1])
            return None if scale is None or not scale[1].all() else (stored, nonzero)
        case "Split":  # likewise
            sizes = as_array(node.inputs[1]) if len(node.inputs) > 1 else None
            axis = node.attributes.get_int("axis", 0)
            if sizes is None or axis != 0:
                return None
            ends = np.cumsum(sizes)
            part = slice(ends[value.index()] - sizes[value.index()], ends[value.index()])
            return stored[part], nonzero[part]
        case "Transpose":
            order = node.attributes.get_ints("perm", range(stored.ndim)[::-1])
            return stored.transpose(order), nonzero.transpose(order)
        case "DequantizeLinear":
            point = as_array(node.inputs[2]) if len(node.inputs) > 2 else None
            if point is None:
                return stored, nonzero
            block = node.attributes.get_int("block_size", 0) or 0
            axis = node.attributes.get_int("axis", 1) or 0
            if block:
                point = np.repeat(point, block, axis=axis)[
                    tuple(slice(size) for size in stored.shape)
                ]
                return stored, stored != point
            return stored, stored != _along(point, stored.ndim, axis)
    return None


def _along(point: Array, rank: int, axis: int) -> Array:
    """Return zero points in the shape in which they go with weights."""
    if point.size == 1:
        return point.reshape(())
    shape = [1] * rank
    shape[axis] = point.size
    return point.reshape(shape)


def _deflated(array: Array) -> int:
    packer = zlib.compressobj()
    return sum(len(packer.compress(piece)) for piece in _pieces(array)) + len(packer.flush())


def _pieces(array: Array) -> Iterator[bytes]:
    flat = np.ascontiguousarray(array).reshape(-1)
    step = max(1, _CHUNK // flat.itemsize)
    for start in range(0, flat.size, step):
        yield flat[start : start + step].tobytes()
