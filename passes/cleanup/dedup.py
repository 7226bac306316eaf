# SPDX-License-Identifier: Apache-2.0
"""Initializers that hold the same bytes become one."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.edit import drop_initializer, replace_value, subgraphs
from burnish.passes.options import option

_HEAD = 64 * 1024  # bytes that tell most tensors apart
_CHUNK = 2**20


@dataclass(frozen=True)
class DeduplicateInitializers(Pass):
    """Merges initializers of equal type, shape and bytes."""

    name: ClassVar[str] = "dedup"
    rule_names: ClassVar[tuple[str, ...]] = ("dedup",)
    largest: int | None = option(None, help="most bytes of what is merged; no limit if none", min=0)

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Compare what is alike in type and shape, first by its beginning, then as a whole.

        An inner graph's initializer gives way to one of a graph around it. Memory does not grow
        with the size of the tensors.
        """
        visible = _visible_from(model.graph, frozenset())
        alike: dict[Hashable, list[ir.Value]] = defaultdict(list)
        for graph in visible:
            for value in graph.initializers.values():
                tensor = value.const_value
                # An initializer that is an input too may be overridden by the caller.
                if tensor is None or value.is_graph_input():
                    continue
                if self.largest is None or tensor.nbytes <= self.largest:
                    alike[tensor.dtype, tuple(tensor.shape)].append(value)
        for group in alike.values():
            for candidates in _partition(group, _head):
                for equal in _partition(candidates, _digest):
                    _merge(equal, visible, ctx)


_Visible = dict[ir.Graph, frozenset[ir.Graph]]


def _visible_from(graph: ir.Graph, around: frozenset[ir.Graph]) -> _Visible:
    """Return every graph with the graphs whose values it sees, outer graphs first."""
    found = {graph: around | {graph}}
    for node in graph:
        for inner in subgraphs(node):
            found |= _visible_from(inner, found[graph])
    return found


def _merge(equal: list[ir.Value], visible: _Visible, ctx: PassContext) -> None:
    kept: list[ir.Value] = []
    for value in equal:
        assert value.graph is not None
        first = next((other for other in kept if other.graph in visible[value.graph]), None)
        if first is None:
            kept.append(value)
        elif value.is_graph_output():
            ctx.refuse("dedup", value, "it is an output of the graph")
        else:
            with ctx.rewrite("dedup", value) as go:
                if go:
                    replace_value(value, first)
                    drop_initializer(value)


def _partition(
    values: list[ir.Value], key: Callable[[ir.TensorProtocol], bytes]
) -> Iterable[list[ir.Value]]:
    """Group values by a key of their tensors and return the groups of more than one."""
    if len(values) < 2:
        return []
    groups: dict[bytes, list[ir.Value]] = defaultdict(list)
    for value in values:
        assert value.const_value is not None
        groups[key(value.const_value)].append(value)
    return [group for group in groups.values() if len(group) > 1]


def _head(tensor: ir.TensorProtocol) -> bytes:
    return next(iter(_chunks(tensor, _HEAD)), b"")


def _digest(tensor: ir.TensorProtocol) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    for chunk in _chunks(tensor, _CHUNK):
        digest.update(chunk)
    return digest.digest()


def _bytes(tensor: ir.TensorProtocol) -> memoryview:
    """Return the bytes of a tensor; without a copy where they are an array's."""
    if isinstance(tensor, ir.Tensor):
        array = tensor.numpy()
        if array.dtype.isnative and array.flags.c_contiguous and tensor.dtype.bitwidth >= 8:
            return array.reshape(-1).view(np.uint8).data
    return memoryview(tensor.tobytes())


def _chunks(tensor: ir.TensorProtocol, size: int) -> Iterator[bytes]:
    """Yield the bytes of a tensor, read rather than mapped where they lie in a file."""
    if isinstance(tensor, ir.ExternalTensor):
        with Path(tensor.path).open("rb") as file:
            file.seek(tensor.offset or 0)
            left = tensor.nbytes
            while left > 0 and (chunk := file.read(min(size, left))):
                left -= len(chunk)
                yield chunk
        return
    if isinstance(tensor, ir.StringTensor):
        for text in tensor.string_data():
            yield len(text).to_bytes(8, "little") + text
        return
    data = _bytes(tensor)
    for start in range(0, len(data), size):
        yield bytes(data[start : start + size])
