# SPDX-License-Identifier: Apache-2.0
"""The cheapest way to split a hypergraph in two: a minimum cut, by maximum flow.

Members are joined by nets. A net whose members do not all stand on one side costs its weight. Two
sides, 0 and 1, are given; every member goes to one of them so that the sum is least. Dinic's
algorithm finds it: E. A. Dinic, "Algorithm for solution of a problem of maximum flow in networks
with power estimation", 1970; nets become edges as in E. L. Lawler, "Cutsets and partitions of
hypergraphs", 1973.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

SIDE_0, SIDE_1 = 0, 1
"""The two members that cannot move; all others are numbered from 2."""

_UNBOUNDED = 1 << 100


class Cut:
    """A hypergraph to be cut."""

    def __init__(self, members: int) -> None:
        """Begin with members 2, 3, ..., `members` - 1, and no nets."""
        self.members = members
        self.edges: list[list[int]] = [[] for _ in range(members)]
        self.ends: list[int] = []
        self.capacity: list[int] = []

    def net(self, weight: int, members: Iterable[int]) -> None:
        """Join members: `weight` is to be paid if they stand on different sides."""
        joined = sorted(set(members))
        if len(joined) < 2 or not weight:
            return
        if len(joined) == 2:
            self._edge(joined[0], joined[1], weight, weight)
            return
        first, last = len(self.edges), len(self.edges) + 1
        self.edges += [[], []]
        self._edge(first, last, weight, 0)
        for member in joined:
            self._edge(member, first, _UNBOUNDED, 0)
            self._edge(last, member, _UNBOUNDED, 0)

    def sides(self) -> list[int]:
        """Return the side of each member: as few as possible on side 0, of the cheapest cuts."""
        while (level := self._levels())[SIDE_1] >= 0:
            self._push_all(level)
        return [SIDE_0 if depth >= 0 else SIDE_1 for depth in level[: self.members]]

    def _edge(self, start: int, end: int, forth: int, back: int) -> None:
        # An edge and its reverse are neighbours: their numbers differ in the last bit.
        self.edges[start].append(len(self.ends))
        self.edges[end].append(len(self.ends) + 1)
        self.ends += [end, start]
        self.capacity += [forth, back]

    def _levels(self) -> list[int]:
        """Return the distance from side 0 along edges with capacity left, -1 out of reach."""
        level = [-1] * len(self.edges)
        level[SIDE_0] = 0
        pending = deque([SIDE_0])
        while pending:
            at = pending.popleft()
            for edge in self.edges[at]:
                end = self.ends[edge]
                if self.capacity[edge] and level[end] < 0:
                    level[end] = level[at] + 1
                    pending.append(end)
        return level

    def _push_all(self, level: list[int]) -> None:
        """Saturate every shortest path from side 0 to side 1."""
        tried = [0] * len(self.edges)  # edges of each member that lead nowhere any more
        path: list[int] = []
        at = SIDE_0
        while True:
            if at == SIDE_1:
                flow = min(self.capacity[edge] for edge in path)
                for edge in path:
                    self.capacity[edge] -= flow
                    self.capacity[edge ^ 1] += flow
                path, at = [], SIDE_0
            while tried[at] < len(self.edges[at]):
                edge = self.edges[at][tried[at]]
                if self.capacity[edge] and level[self.ends[edge]] == level[at] + 1:
                    path.append(edge)
                    at = self.ends[edge]
                    break
                tried[at] += 1
            else:
                if not path:
                    return
                at = self.ends[path.pop() ^ 1]
                tried[at] += 1
