# SPDX-License-Identifier: Apache-2.0
"""Symbolic dims whose names no input bears, which mean nothing: they are inferred again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import onnx_ir as ir

from burnish.passes.shapes import forget_shapes, infer_shapes


@contextlib.contextmanager
def inferred_again(model: ir.Model) -> Iterator[None]:
    """Infer shapes anew, now and once more when they are next asked for.

    What the graph's outputs are declared to be is kept.
    """
    declared = [value.shape for value in model.graph.outputs]
    _forget_invented(model)
    infer_shapes(model)
    yield
    _forget_invented(model)
    for value, shape in zip(model.graph.outputs, declared, strict=True):
        value.shape = shape


def _forget_invented(model: ir.Model) -> None:
    """Forget sizes whose names no input bears: what exporters, or inference, made up.

    TorchScript declares the outputs of a graph with names of its own, and inference keeps what is
    declared. They are inferred again, from what is known by then.
    """
    is_known = _known_sizes(model)
    for node in model.graph:
        for value in node.outputs:
            dims = value.shape.dims if value.shape is not None else ()
            if not all(map(is_known, dims)):
                value.shape = ir.Shape([dim if is_known(dim) else None for dim in dims])
    forget_shapes(model)


def _known_sizes(model: ir.Model) -> Callable[[int | ir.SymbolicDim], bool]:
    """Return what tells numbers, and sizes made of names that inputs bear, from all others."""
    symbols = frozenset(
        symbol
        for value in model.graph.inputs
        for dim in (value.shape.dims if value.shape is not None else ())
        if isinstance(dim, ir.SymbolicDim)
        for symbol in dim.free_symbols()
    )
    known: dict[str | None, bool] = {None: False}

    def is_known(dim: int | ir.SymbolicDim) -> bool:
        if isinstance(dim, int):
            return True
        if dim.value not in known:
            known[dim.value] = dim.free_symbols() <= symbols
        return known[dim.value]

    return is_known


def count_unknown(model: ir.Model) -> int:
    """Count values of which inference does not know all sizes by the names that inputs bear."""
    is_known = _known_sizes(model)
    return sum(
        value.shape is None or not all(map(is_known, value.shape.dims))
        for node in model.graph
        for value in node.outputs
    )
