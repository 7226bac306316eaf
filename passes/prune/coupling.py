# SPDX-License-Identifier: Apache-2.0
"""Which indices of which axes have to be cut together.

A *dimension* is one axis of one value. Every operator says which of its dimensions correspond,
index by index (`same`), which do so through a mapping of indices (`map`: Concat, Split, groups,
heads), and leaves out those it needs whole. What no operator objects to can be cut, if what is
coupled with it is cut with it. Weights are values like any other: a matrix [in, out] couples with
what it is multiplied with, so the parameters to cut fall out of the same analysis.

Which of them go together is worked out in `burnish.passes.prune.units`. (G. Fang et al., "DepGraph:
Towards Any Structural Pruning", 2023, couples layers; here it is indices, so that a Concat or a
group needs no rule of its own downstream.)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.passes.constant import tensor_of

if TYPE_CHECKING:
    import networkx as nx

Dim = tuple[Hashable, int]
"""A value, or anything else that stands for one, and an axis."""

Indices = NDArray[np.int64]
Size = int | str | None


class Unclear(Exception):
    """An operator's shapes or constants are not known well enough to say what corresponds."""


@dataclass(frozen=True)
class Mapping:
    """Index `left_at[i]` of one dimension goes with index `right_at[i]` of another."""

    left: Dim
    left_at: Indices
    right: Dim
    right_at: Indices


@dataclass(frozen=True)
class Product:
    """A dimension that is the product of others, of which at most one can be cut.

    Attributes:
        whole: The dimension.
        factors: Those it is the product of, outermost first.
        op_type: The operator that takes it apart, or puts it together.
    """

    whole: Dim
    factors: tuple[Dim, ...]
    op_type: str


class Couplings:
    """What the operators of a graph say about its dimensions.

    Attributes:
        same_as: Dimensions as nodes, edges between those that correspond index by index.
        mappings: Other correspondences.
        products: Dimensions taken apart or put together, decided when all is known.
        whole: Dimensions that must stay as they are, and why.
        heads: Dimensions over which products of two activations are batched: attention's heads.
    """

    def __init__(self) -> None:
        import networkx as nx

        self.same_as: nx.Graph[Dim] = nx.Graph()
        self.sizes: dict[Dim, int] = {}
        self.mappings: list[Mapping] = []
        self.products: list[Product] = []
        self.whole: dict[Dim, str] = {}
        self.heads: set[Dim] = set()
        self._node: ir.Node | None = None
        self._mentioned: set[Dim] = set()

    # --- what operators say ---

    def read(self, node: ir.Node, rule: Callable[[Couplings, ir.Node], None] | None) -> None:
        """Let one operator's rule speak; dimensions it does not mention must stay whole."""
        self._node, self._mentioned = node, set()
        reason = f"{node.op_type} needs the whole axis"
        if rule is None:
            reason = f"{node.op_type} is not known to keep channels apart"
        else:
            try:
                rule(self, node)
            except Unclear as unclear:
                self._mentioned.clear()
                reason = f"{node.op_type}: {unclear}"
        for value in (*node.inputs, *node.outputs):
            for dim in () if value is None else self.dims(value):
                if dim not in self._mentioned:
                    self.keep(dim, reason)

    def same(self, left: Dim, right: Dim) -> None:
        """Let two dimensions of equal size correspond; of others nothing is said."""
        if self.size(left) != self.size(right):
            return
        if self.add(left) and self.add(right):
            self.same_as.add_edge(left, right)
            self._mentioned |= {left, right}

    def map(self, left: Dim, left_at: Indices, right: Dim, right_at: Indices) -> None:
        """Let single indices of two dimensions correspond."""
        for dim in (left, right):
            if not self.add(dim, alone=True):
                raise Unclear("the size of an axis is not known")
            if self.sizes[dim] == 1 and isinstance(dim[0], ir.Value):
                self.keep(dim, "a single channel")  # others may broadcast it
        self._mentioned |= {left, right}
        self.mappings.append(Mapping(left, left_at, right, right_at))

    def blocks(self, fine: Dim, coarse: Dim) -> None:
        """Let each index of `coarse` correspond to a run of indices of `fine`."""
        self.add(fine, alone=True)
        self.add(coarse, alone=True)
        at = np.arange(self.sizes[fine])
        self.map(fine, at, coarse, at // (self.sizes[fine] // self.sizes[coarse]))

    def cycle(self, long: Dim, short: Dim) -> None:
        """Let each index of `short` correspond to those of `long` that leave it as remainder."""
        self.add(long, alone=True)
        self.add(short, alone=True)
        at = np.arange(self.sizes[long])
        self.map(long, at, short, at % self.sizes[short])

    def stand_in(self, name: str, size: int) -> Dim:
        """Return a dimension of no value, to couple others through."""
        dim = ((self._node, name), 0)
        self.sizes[dim] = size
        self.same_as.add_node(dim)
        return dim

    def mention(self, *dims: Dim) -> None:
        """Say that an operator does not need dimensions whole, whatever they correspond to."""
        self._mentioned.update(dims)

    def keep(self, dim: Dim, reason: str) -> None:
        """Say that a dimension has to stay whole."""
        if self.add(dim, alone=True):
            self.whole.setdefault(dim, reason)

    # --- dimensions ---

    def shape(self, value: ir.Value | None) -> tuple[Size, ...]:
        """Return sizes: numbers, names or None.

        Raises:
            Unclear: not even the rank is known.
        """
        sizes = sizes_of(value)
        if sizes is None:
            raise Unclear("a shape is not known")
        return sizes

    def size(self, dim: Dim) -> Size:
        """Return the size of a dimension."""
        value, axis = dim
        return self.shape(value)[axis] if isinstance(value, ir.Value) else self.sizes[dim]

    def add(self, dim: Dim, alone: bool = False) -> bool:
        """Enter a dimension of a size that is known, and not 1 unless it may stand alone."""
        if dim in self.sizes:
            return True
        size = self.size(dim)
        if not isinstance(size, int) or (size == 1 and not alone) or size < 1:
            return False
        self.sizes[dim] = size
        self.same_as.add_node(dim)
        return True

    def dims(self, value: ir.Value) -> list[Dim]:
        """Return the dimensions of a value whose size is a number other than 1."""
        sizes = sizes_of(value)
        return [
            (value, axis)
            for axis, size in enumerate(sizes or ())
            if isinstance(size, int) and size > 1
        ]


def sizes_of(value: ir.Value | None) -> tuple[Size, ...] | None:
    """Return sizes of a value: numbers, names or None; or None if the rank is unknown."""
    if value is None:
        return None
    tensor = None if value.shape is not None else tensor_of(value)
    shape = value.shape if tensor is None else tensor.shape
    if shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape)


def couplings_of(model: ir.Model) -> Couplings:
    """Ask every operator of the main graph; needs shapes (`infer_shapes`).

    Values that a subgraph reads stay whole, and so do the model's inputs and outputs.
    """
    from burnish.passes.prune.operators import RULES
    from burnish.passes.prune.sizes import read_sizes

    couplings = Couplings()
    graph = model.graph
    for value in graph.inputs:
        _keep_all(couplings, value, "an input of the model")
    for value in graph.outputs:
        _keep_all(couplings, value, "an output of the model")
    for node in graph:
        couplings.read(node, RULES.get((node.domain, node.op_type)))
        for inner in _captured(node):
            _keep_all(couplings, inner, "a subgraph reads it")
    read_sizes(graph, couplings)
    return couplings


def _keep_all(couplings: Couplings, value: ir.Value, reason: str) -> None:
    for dim in couplings.dims(value):
        couplings.keep(dim, reason)


def _captured(node: ir.Node) -> Sequence[ir.Value]:
    from burnish.passes.edit import subgraphs

    values: dict[ir.Value, Any] = {}
    for graph in subgraphs(node):
        for inner in graph.all_nodes():
            values.update(dict.fromkeys(value for value in inner.inputs if value is not None))
        values.update(dict.fromkeys(graph.outputs))
    return list(values)
