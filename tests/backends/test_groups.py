# SPDX-License-Identifier: Apache-2.0
"""Nodes of two kinds in parts: run in order, each of one kind, as few as can be."""

from __future__ import annotations

import itertools
import random

import pytest

from burnish.backends.groups import arrange

A, B = True, False


def test_one_of_the_other_kind_in_the_middle_makes_three_parts() -> None:
    chain = [set[int](), {0}, {1}, {2}, {3}]
    assert arrange(chain, [A, A, B, A, A], 1) == ([0, 0, 1, 2, 2], [A, B, A])


def test_all_of_one_kind_are_one_part() -> None:
    chain = [set[int](), {0}, {1}]
    assert arrange(chain, [A, A, A], 1) == ([0, 0, 0], [A])
    assert arrange(chain, [B, B, B], 1) == ([0, 0, 0], [B])
    assert arrange([], [], 1) == ([], [])


def test_the_second_kind_may_come_first() -> None:
    # 1 is free of the refused node, and waits for it rather than being a part before it.
    assert arrange([set(), set(), {0, 1}], [B, A, A], 1) == ([0, 1, 1], [B, A])


def test_a_branch_around_the_other_kind_does_not_split_it() -> None:
    # 0 -> 1 (refused) -> 3, 0 -> 2 -> 3: the branch goes with its beginning.
    assert arrange([set(), {0}, {0}, {1, 2}], [A, B, A, A], 1) == ([0, 1, 0, 2], [A, B, A])


def test_groups_too_small_join_the_second_kind() -> None:
    chain = [set[int](), {0}, {1}, {2}, {3}, {4}]
    taken = [A, B, A, A, B, A]
    assert arrange(chain, taken, 2) == ([0, 0, 1, 1, 2, 2], [B, A, B])
    assert arrange(chain, taken, 3) == ([0] * 6, [B])


@pytest.mark.parametrize("seed", range(20))
def test_no_order_has_fewer_parts(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randrange(2, 9)
    sources = [{other for other in range(n) if rng.random() < 0.3} for n in range(count)]
    kinds = [rng.random() < 0.5 for _ in range(count)]
    parts, taken = arrange(sources, kinds, 1)
    assert set(parts) == set(range(len(taken)))
    assert [taken[part] for part in parts] == kinds
    assert all(parts[other] <= parts[node] for node in range(count) for other in sources[node])
    orders = (
        order
        for order in itertools.permutations(range(count))
        if all(order.index(o) < order.index(n) for n in range(count) for o in sources[n])
    )
    fewest = min(len(list(itertools.groupby(kinds[n] for n in order))) for order in orders)
    assert len(taken) == fewest
