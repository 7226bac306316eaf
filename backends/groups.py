# SPDX-License-Identifier: Apache-2.0
"""Arrange nodes of two kinds in the fewest parts that each are of one kind and run in order.

A part holds all the nodes of its kind that need no later part: so no way from one of its nodes to
another leads through a different part (it is convex), and no order has fewer parts that begins with
the same kind. Both beginnings are tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence


def arrange(
    sources: Sequence[Collection[int]], taken: Sequence[bool], least: int
) -> tuple[list[int], list[bool]]:
    """Return the part of each node, and of each part whether its nodes are the taken ones.

    Args:
        sources: Of each node, the places of the nodes that it needs: all before its own.
        taken: Whether each is of the first kind. Those of parts with fewer than `least` such nodes
            become of the second kind.
        least: Fewest nodes of a part of the first kind.
    """
    kinds = list(taken)
    while True:
        found = min((_layers(sources, kinds, first) for first in (True, False)), key=_count)
        sizes = Counter(part for part, kind in zip(found, kinds, strict=True) if kind)
        small = {part for part, size in sizes.items() if size < least}
        if not small:
            numbers = {part: number for number, part in enumerate(sorted(set(found)))}
            return [numbers[part] for part in found], [part in sizes for part in numbers]
        kinds = [kind and part not in small for part, kind in zip(found, kinds, strict=True)]


def _layers(sources: Sequence[Collection[int]], kinds: Sequence[bool], first: bool) -> list[int]:
    """The earliest part of each node, where every other part is of kind `first`."""
    layers: list[int] = []
    for needed, kind in zip(sources, kinds, strict=True):
        after = (layers[other] + (kinds[other] != kind) for other in needed)
        layers.append(max(after, default=0 if kind == first else 1))
    return layers


def _count(layers: Sequence[int]) -> int:
    return len(set(layers))
