# SPDX-License-Identifier: Apache-2.0
"""Cuts are as cheap as the cheapest found by trying all of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from burnish.passes.layout.cut import SIDE_0, SIDE_1, Cut

_Net = tuple[int, tuple[int, ...]]


def _cost(nets: list[_Net], sides: tuple[int, ...]) -> int:
    return sum(weight for weight, joined in nets if len({sides[item] for item in joined}) > 1)


@pytest.mark.parametrize("seed", range(40))
def test_no_cut_is_cheaper(seed: int) -> None:
    rng = np.random.default_rng(seed)
    members = int(rng.integers(3, 9))
    nets: list[_Net] = []
    for _ in range(int(rng.integers(2, 12))):
        size = int(rng.integers(1, min(5, members) + 1))
        nets.append((int(rng.integers(0, 9)), tuple(rng.choice(members, size, replace=False))))
    cut = Cut(members)
    for weight, joined in nets:
        cut.net(weight, map(int, joined))
    sides = cut.sides()
    assert sides[:2] == [SIDE_0, SIDE_1]
    best = min(
        _cost(nets, (SIDE_0, SIDE_1, *rest))
        for rest in itertools.product((SIDE_0, SIDE_1), repeat=members - 2)
    )
    assert _cost(nets, tuple(sides)) == best


def test_a_net_is_paid_once_however_many_members_are_apart() -> None:
    cut = Cut(4)
    cut.net(3, (SIDE_0, 2, 3))  # a tensor that two others take
    cut.net(2, (2, SIDE_1))
    cut.net(2, (3, SIDE_1))
    assert cut.sides()[2:] == [SIDE_1, SIDE_1]


def test_a_long_chain_takes_no_recursion_and_no_squared_time() -> None:
    members = 20_000
    cut = Cut(members)
    for member in range(2, members - 1):
        cut.net(5, (member, member + 1))
    cut.net(9, (SIDE_0, 2))
    cut.net(4, (members - 1, SIDE_1))
    assert set(cut.sides()[2:]) == {SIDE_0}
