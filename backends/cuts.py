# SPDX-License-Identifier: Apache-2.0
"""Where to cut a flow into stages: of like cost, with little data between them.

Each cut is a minimum cut of the data flow: the cost of cutting a value is its size in bytes, paid
once however many nodes read it, and no node may come before one that it needs. What may lie on
either side of a cut is limited to a window of cost around where the cut would be if only balance
counted; of several widths, the least data within the balance asked for wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from burnish.backends.flow import Flow

if TYPE_CHECKING:
    import networkx


_WIDTHS = (1.0, 0.75, 0.5, 0.25, 0.1, 0.0)
"""Widths of the window that are tried, as shares of the imbalance allowed."""


def assign(flow: Flow, costs: Sequence[float], stages: int, balance: float) -> list[int]:
    """Return the stage of each node.

    Args:
        flow: The flow.
        costs: Of its nodes.
        stages: How many; each gets a node.
        balance: How much more than the mean a stage may cost, if any cut keeps to it.
    """
    ends = np.cumsum(costs)
    best: tuple[tuple[float, float], list[int]] | None = None
    for width in _WIDTHS:
        chosen = _cut_all(flow, ends, stages, width * balance / 2)
        found = np.bincount(chosen, weights=costs, minlength=stages)
        excess = max(found.max() * stages / found.sum() - 1 - balance, 0.0)
        if not (np.bincount(chosen, minlength=stages) > 0).all():
            continue
        moved = sum(flow.bytes(value) for value in crossing(flow, chosen))
        rank = (round(float(excess), 6), float(moved))
        if best is None or rank < best[0]:
            best = rank, chosen
    if best is None:  # a few nodes cost nearly everything
        return [min(number * stages // len(costs), stages - 1) for number in range(len(costs))]
    return best[1]


def _cut_all(flow: Flow, ends: np.ndarray[Any, Any], stages: int, slack: float) -> list[int]:
    """Return the stage of each node, with cuts up to `slack` mean costs away from balance.

    Args:
        flow: The flow.
        ends: Sums of the costs of its nodes, up to each.
        stages: How many.
        slack: Half of the width of the window.
    """
    chosen = [0] * len(ends)
    mean = float(ends[-1]) / stages
    costs = np.diff(ends, prepend=0.0)
    starts, middles = ends - costs, ends - costs / 2
    for cut in range(1, stages):
        here = cut * mean
        before = ends <= here - slack * mean
        after = starts >= here + slack * mean
        # A node that spans the whole window goes where the most of it lies.
        spans = ~before & ~after
        spans &= (ends > here + slack * mean) & (starts < here - slack * mean)
        before |= spans & (middles <= here)
        after |= spans & (middles > here)
        if slack == 0:
            before, after = middles <= here, middles > here
        for number in _minimum_cut(flow, before, after):
            chosen[number] = cut
    return chosen


def _minimum_cut(
    flow: Flow, before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]
) -> list[int]:
    """Nodes behind the cut with the least data, given those surely before and surely behind it."""
    import networkx

    net: networkx.DiGraph[Any] = networkx.DiGraph()
    net.add_node("before")
    net.add_node("after")

    def place(number: int) -> str | int:
        return "before" if before[number] else "after" if after[number] else number

    for value, users in flow.users.items():
        producer = value.producer()
        assert producer is not None
        source, targets = place(flow.index[producer]), {place(user) for user in users}
        if targets <= {source}:
            continue
        carried = ("value", id(value))
        net.add_edge(source, carried, capacity=flow.bytes(value))
        for target in targets:
            if target != source:
                net.add_edge(carried, target)  # no capacity: it cannot be cut
                net.add_edge(target, source)
    for number in range(len(flow.nodes)):
        net.add_node(place(number))
    _, (_, behind) = networkx.minimum_cut(net, "before", "after")
    return [number for number in range(len(flow.nodes)) if place(number) in behind]


def crossing(flow: Flow, chosen: Sequence[int]) -> Iterator[ir.Value]:
    """Values that one stage computes and a later one reads."""
    for value, users in flow.users.items():
        producer = value.producer()
        assert producer is not None
        home = chosen[flow.index[producer]]
        if any(chosen[user] != home for user in users):
            yield value
