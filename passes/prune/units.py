# SPDX-License-Identifier: Apache-2.0
"""The least that can be removed, from what operators say about their dimensions.

Dimensions are the nodes of a graph with an edge where they are the same; its components are
*classes*. Mappings couple indices of classes; their components are *units*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from burnish.passes.prune.coupling import Couplings, Dim, Indices, Mapping, Product


@dataclass(frozen=True)
class Group:
    """Units that cut the same dimensions, as many indices of each: interchangeable.

    Attributes:
        units: Numbers of the units.
        classes: Class -> number of its indices that one unit has.
        heads: Whether the units are attention's heads.
    """

    units: Indices
    classes: dict[int, int]
    heads: bool


class Units:
    """Which index of which dimension belongs to which unit.

    Attributes:
        class_of: Dimension -> number of its class.
        members: Class -> its dimensions, in the order they were found.
        labels: Class -> unit of each of its indices; -1 where it has to stay.
        groups: The units that may be removed, those alike together.
        reasons: Class -> why some of its indices have to stay.
    """

    def __init__(self, couplings: Couplings) -> None:
        import networkx as nx

        self.class_of: dict[Dim, int] = {}
        self.members: list[list[Dim]] = []
        order = {dim: index for index, dim in enumerate(couplings.same_as)}
        for component in nx.connected_components(couplings.same_as):
            for dim in component:
                self.class_of[dim] = len(self.members)
            self.members.append(sorted(component, key=order.__getitem__))
        self.sizes = [couplings.sizes[dims[0]] for dims in self.members]
        self.heads = {self.class_of[dim] for dim in couplings.heads}
        self.reasons: dict[int, str] = {}
        for dim, reason in couplings.whole.items():
            self.reasons.setdefault(self.class_of[dim], reason)
        mappings = [*couplings.mappings]
        self._spread_heads(couplings)
        for product in couplings.products:
            mappings += self._decide(product)
        self.labels, self.groups = self._label(mappings)

    def of(self, dim: Dim) -> Indices | None:
        """Return the unit of each index of a dimension, or None if nothing is known of it."""
        found = self.class_of.get(dim)
        return None if found is None else self.labels[found]

    def _spread_heads(self, couplings: Couplings) -> None:
        """Find heads that are factors.

        What heads are a multiple of, as of keys that several queries share, are heads too; so are
        the heads taken apart of an axis that an attention operator takes as heads * size.
        """
        joined = {
            self.class_of[each.left]: each.right_at
            for each in couplings.mappings
            if self.class_of[each.right] in self.heads
            and each.left_at.size == self.sizes[self.class_of[each.left]]
        }
        found = -1
        while found != len(self.heads):
            found = len(self.heads)
            for product in couplings.products:
                whole = self.class_of[product.whole]
                for at, factor in enumerate(product.factors):
                    if self.class_of[factor] in self.reasons:
                        continue
                    if whole in self.heads or (
                        whole in joined and _tells(self._index(product, at), joined[whole])
                    ):
                        self.heads.add(self.class_of[factor])

    def _index(self, product: Product, at: int) -> Indices:
        """Return the index along one factor for each index of the whole."""
        sizes = [self.sizes[self.class_of[factor]] for factor in product.factors]
        behind = int(np.prod(sizes[at + 1 :], dtype=np.int64))
        index: Indices = np.arange(int(np.prod(sizes, dtype=np.int64)))
        return index // behind % sizes[at]

    def _decide(self, product: Product) -> list[Mapping]:
        """Choose the factor to cut: heads, or the largest there is."""
        classes = [self.class_of[factor] for factor in product.factors]
        free = [at for at, found in enumerate(classes) if found not in self.reasons]
        heads = [at for at in free if classes[at] in self.heads]
        if not free:
            reason = self.reasons[classes[0]]
            self.reasons.setdefault(self.class_of[product.whole], reason)
            return []
        chosen = heads[0] if heads else max(free, key=lambda at: (self.sizes[classes[at]], -at))
        for at, found in enumerate(classes):
            if at != chosen and found != classes[chosen]:
                self.reasons.setdefault(found, f"{product.op_type} cuts another axis")
        index = self._index(product, chosen)
        return [Mapping(product.whole, np.arange(index.size), product.factors[chosen], index)]

    def _label(self, mappings: Sequence[Mapping]) -> tuple[list[Indices], list[Group]]:
        starts = np.concatenate([[0], np.cumsum(self.sizes, dtype=np.int64)])
        none: list[Indices] = [np.zeros(0, np.int64)]
        lefts = [starts[self.class_of[each.left]] + each.left_at for each in mappings]
        rights = [starts[self.class_of[each.right]] + each.right_at for each in mappings]
        unit = _components(
            int(starts[-1]), np.concatenate(lefts or none), np.concatenate(rights or none)
        )
        kept = np.zeros(int(starts[-1]), bool)
        for found in self.reasons:
            kept[unit[starts[found] : starts[found + 1]]] = True
        self._spread_reasons(unit, kept, starts)
        unit = np.where(kept[unit], -1, unit)
        labels = [unit[starts[at] : starts[at + 1]] for at in range(len(self.members))]
        signatures: dict[int, list[tuple[int, int]]] = {}
        for at, label in enumerate(labels):
            present, counts = np.unique(label[label >= 0], return_counts=True)
            for one, count in zip(present.tolist(), counts.tolist(), strict=True):
                signatures.setdefault(one, []).append((at, count))
        alike: dict[tuple[tuple[int, int], ...], list[int]] = {}
        for one in sorted(signatures):
            alike.setdefault(tuple(signatures[one]), []).append(one)
        groups = [
            Group(np.array(units), dict(key), any(at in self.heads for at, _ in key))
            for key, units in alike.items()
        ]
        return labels, groups

    def _spread_reasons(self, unit: Indices, kept: NDArray[np.bool_], starts: Indices) -> None:
        """Let classes that are coupled with one that stays give its reason."""
        first: dict[int, str] = {}
        for found, reason in self.reasons.items():
            for root in np.unique(unit[starts[found] : starts[found + 1]]).tolist():
                first.setdefault(root, reason)
        for at in range(len(self.members)):
            roots = unit[starts[at] : starts[at + 1]]
            held = roots[kept[roots]]
            if held.size:
                self.reasons.setdefault(at, first[int(held[0])])


def _tells(index: Indices, other: Indices) -> bool:
    """Whether the first labels of elements determine the second ones."""
    one_of = np.zeros(int(index.max()) + 1, np.int64)
    one_of[index] = other
    return bool((one_of[index] == other).all())


def _components(count: int, left: Indices, right: Indices) -> Indices:
    """Return the smallest member of each element's connected component.

    Each round hooks roots to smaller ones and then shortens all paths; the number of rounds grows
    with the logarithm of the number of elements. (Y. Shiloach and U. Vishkin, 1982.)
    """
    root = np.arange(count)
    while True:
        ours, theirs = root[left], root[right]
        if bool((ours == theirs).all()):
            return root
        least = np.minimum(ours, theirs)
        np.minimum.at(root, ours, least)
        np.minimum.at(root, theirs, least)
        while not np.array_equal(root[root], root):
            root = root[root]
