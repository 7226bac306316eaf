# SPDX-License-Identifier: Apache-2.0
"""Channels are filled up to whole blocks of the runtime's layout, where a part is in the way.

On CPUs, ONNX Runtime fills the results of a convolution up to whole blocks, of 16 channels or
without AVX-512 of 8, and computes all of them. Yet it leaves the blocked layout for a pooling whose
channels do not fill blocks, and for a convolution that reads fewer than a block. So the missing
channels are given: filters of zeros make them, and zeros in the weights of their readers ignore
them.

Ratio on ONNX Runtime 1.31.1, AVX-512, one thread, in turns, with `split-concat`: 1.18 for the stem
of HGNetV2 (24 and 12 channels of 240x240).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.constant import as_array
from burnish.passes.context import PassContext
from burnish.passes.edit import Names, drop_initializer, names_of
from burnish.passes.fuse.conv.blocked import ACTIVATIONS, POOLS, block_size, is_blocked_conv

PREFERENCE = "Conv-filled"

_RULE = "fill-channels"


@dataclass(frozen=True)
class FillChannels(Pass):
    """Fill channels between convolutions up to whole blocks of the target's layout."""

    name: ClassVar[str] = "fill-channels"
    rule_names: ClassVar[tuple[str, ...]] = (_RULE,)

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Fill the results of one convolution after the other."""
        block = block_size(ctx.target)
        if block is None or ctx.target.objection_to(PREFERENCE, ir.DataType.FLOAT) is not None:
            return
        names = names_of(model.graph)
        for graph in (model.graph, *model.graph.subgraphs()):
            for node in graph:
                if not _is_whole(node):
                    continue
                missing = -_array(node, 1).shape[0] % block
                uses = list(_uses(node.outputs[0])) if missing else []
                users = [user for user, _ in uses]
                if not any(_suffers(user, block - missing, block) for user in users):
                    continue
                if node.outputs[0].is_graph_output() or not all(
                    _ignores_fill(user, index) for user, index in uses
                ):
                    ctx.refuse(_RULE, node, "others than convolutions read the channels")
                    continue
                with ctx.rewrite(_RULE, node) as go:
                    if go:
                        _fill(node, users, missing, names)


def _is_whole(node: ir.Node) -> bool:
    """Whether a node is a convolution without groups that the runtime runs in blocks."""
    return is_blocked_conv(node) and node.attributes.get_int("group", 1) == 1


def _passes_on(node: ir.Node) -> bool:
    """Whether a node treats each channel by itself and has no weights."""
    kind = node.op_type in ACTIVATIONS or node.op_type in POOLS
    result = node.outputs[0]
    return kind and len(node.outputs) == 1 and not result.is_graph_output() and node.domain == ""


def _uses(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Yield what reads the channels of a value, also behind what passes them on: node and slot."""
    for user, index in value.uses():
        yield user, index
        if index == 0 and _passes_on(user):
            yield from _uses(user.outputs[0])


def _ignores_fill(user: ir.Node, index: int) -> bool:
    """Whether a reader gives the same numbers with channels of zeros behind."""
    return index == 0 and (_passes_on(user) or _is_whole(user))


def _suffers(node: ir.Node, rest: int, block: int) -> bool:
    """Whether the runtime runs a node outside of its layout for want of whole blocks."""
    if node.op_type in POOLS:
        return True
    return _is_whole(node) and _array(node, 1).shape[1] == rest < block


def _fill(source: ir.Node, users: list[ir.Node], missing: int, names: Names) -> None:
    between = [node for node in (source, *users) if node is source or _passes_on(node)]
    _grow(source, 1, 0, missing, names)
    if len(source.inputs) > 2 and source.inputs[2] is not None:
        _grow(source, 2, 0, missing, names)
    for node in users:
        if node not in between:
            _grow(node, 1, 1, missing, names)
    for node in between:
        (result,) = node.outputs
        if result.shape is not None and isinstance(result.shape[1], int):
            dims = list(result.shape.dims)
            result.shape = ir.Shape([dims[0], result.shape[1] + missing, *dims[2:]])


def _grow(node: ir.Node, index: int, axis: int, missing: int, names: Names) -> None:
    """Put zeros behind a constant input, along an axis."""
    old, array, graph = node.inputs[index], _array(node, index), node.graph
    assert old is not None
    assert graph is not None
    widths = [(0, missing if i == axis else 0) for i in range(array.ndim)]
    tensor = ir.tensor(np.pad(array, widths), name=names.fresh(f"{old.name}/filled"))
    new = ir.Value(
        name=tensor.name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
    )
    graph.register_initializer(new)
    node.replace_input_with(index, new)
    drop_initializer(old)


def _array(node: ir.Node, index: int) -> np.ndarray:
    array = as_array(node.inputs[index])
    assert array is not None
    return array
