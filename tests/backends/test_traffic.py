# SPDX-License-Identifier: Apache-2.0
"""Profiles from traffic: every request covered, within the budget, no more than it takes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from burnish.backends import traffic
from burnish.backends.profiles import choose
from burnish.backends.traffic import Cover, Traffic
from burnish.errors import InputError

_BUDGETS = st.sampled_from([0.0, 0.01, 0.1, 0.3, 1.0])


def lengths(sizes: Sequence[int]) -> Traffic:
    """Requests of two inputs that grow together."""
    return Traffic.of(({"ids": (1, n), "mask": (1, n)}, 1) for n in sizes)


def images(sizes: Sequence[tuple[int, int]]) -> Traffic:
    return Traffic.of(({"x": (1, 3, h, w)}, 1) for h, w in sizes)


def padding(found: Traffic, cover: Cover) -> float:
    """The padding of dispatching each request, counted one by one."""
    needed = served = 0
    for point, times in found.counts.items():
        shapes = found.shapes(point)
        profile = choose(cover.profiles, shapes, padded=True)
        needed += times * sum(math.prod(shape) for shape in shapes.values())
        served += times * profile.elements
    return served / needed - 1


def fewest(found: Traffic, budget: float) -> int:
    """Try every set of shapes as the largest of the profiles."""
    points = [tuple(point) for point in found.counts]
    candidates = set(points)
    for _ in range(len(points[0])):  # every join of some of them
        candidates |= {tuple(map(max, a, b)) for a, b in itertools.combinations(candidates, 2)}
    sizes = {
        point: sum(math.prod(shape) for shape in found.shapes(point).values())
        for point in candidates
    }
    needed = sum(times * sizes[point] for point, times in found.counts.items())
    for count in range(1, len(points) + 1):
        for chosen in itertools.combinations(candidates, count):
            served = 0.0
            for point, times in found.counts.items():
                fit = [
                    sizes[c] for c in chosen if all(a >= b for a, b in zip(c, point, strict=True))
                ]
                served += times * min(fit, default=math.inf)
            if served <= needed * (1 + budget) * (1 + 1e-12):
                return count
    raise AssertionError("each shape alone covers itself")


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), _BUDGETS)
def test_one_dimension_is_served_by_the_fewest(sizes: list[int], budget: float) -> None:
    found = lengths(sizes)
    cover = traffic.cover(found, budget, padded=True)
    assert cover.exact
    assert len(cover.profiles) == fewest(found, budget)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=80), _BUDGETS)
def test_one_dimension_is_covered_within_the_budget(sizes: list[int], budget: float) -> None:
    found = lengths(sizes)
    cover = traffic.cover(found, budget, padded=True)
    assert padding(found, cover) <= budget + 1e-9
    assert cover.padding == pytest.approx(padding(found, cover), abs=1e-9)
    assert sum(cover.requests) == len(sizes)


_SIZES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=40)


@given(_SIZES, _BUDGETS)
def test_two_dimensions_are_covered_within_the_budget(
    sizes: list[tuple[int, int]], budget: float
) -> None:
    found = images(sizes)
    cover = traffic.cover(found, budget, padded=True)
    assert padding(found, cover) <= budget + 1e-9
    assert cover.padding == pytest.approx(padding(found, cover), abs=1e-9)
    assert all(cover.requests)
    assert len(cover.profiles) <= len(found.counts)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5), _BUDGETS)
def test_two_dimensions_take_few_more_than_the_fewest(
    sizes: list[tuple[int, int]], budget: float
) -> None:
    found = images(sizes)
    assert len(traffic.cover(found, budget, padded=True).profiles) <= fewest(found, budget) + 2


@given(_SIZES, _BUDGETS)
def test_without_padding_ranges_reach_down_to_the_smallest(
    sizes: list[tuple[int, int]], budget: float
) -> None:
    found = images(sizes)
    cover = traffic.cover(found, budget)
    low = {"x": (1, 3, min(h for h, _ in sizes), min(w for _, w in sizes))}
    assert choose(cover.profiles, low).covers(low)
    for point in found.counts:
        assert choose(cover.profiles, found.shapes(point)).covers(found.shapes(point))


def test_many_distinct_shapes_are_merged_block_by_block() -> None:
    sizes = [(16 + i % 37, 16 + (7 * i) % 41) for i in range(1517)]
    found = images(sizes)
    assert len(found.counts) == 1517
    cover = traffic.cover(found, 0.3, padded=True)
    assert cover.padding <= 0.3
    assert len(cover.profiles) <= 16


def test_no_budget_gives_each_shape_its_own_and_a_large_one_gives_one() -> None:
    found = lengths([3, 3, 5, 9])
    assert [p.inputs["ids"].max for p in traffic.cover(found, 0, padded=True).profiles] == [
        (1, 3),
        (1, 5),
        (1, 9),
    ]
    (one,) = traffic.cover(found, 10).profiles
    assert one.inputs["ids"] == ((1, 3), (1, 9), (1, 9))
    with pytest.raises(InputError, match="a padding budget of -1 is none"):
        traffic.cover(found, -1)


def test_files(tmp_path: Path) -> None:
    jsonl, csv = tmp_path / "r.jsonl", tmp_path / "r.csv"
    jsonl.write_text('{"x": [1, 8], "count": 3}\n\n{"x": [1, 9]}\n')
    csv.write_text("x,count\n1x8,3\n1x9,1\n")
    expected = Traffic({"x": 2}, {(1, 8): 3, (1, 9): 1})
    assert traffic.read(jsonl) == traffic.read(csv) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.jsonl", "", "there are no requests"),
        ("r.jsonl", "{}", "there are no requests"),
        ("r.jsonl", '{"x": [1, 8]}\n{"x": 8}', r"r.jsonl:2: not the shapes of a request"),
        ("r.jsonl", "[1]", r"r.jsonl:1: not the shapes of a request"),
        ("r.jsonl", '{"x": [1, 2.5]}', r"2.5 is no size"),
        ("r.jsonl", '{"x": [1, 0]}', r"request 1 has a size or a count below 1"),
        ("r.jsonl", '{"x": [1]}\n{"x": [1, 2]}', "request 2 has other inputs or ranks"),
        ("r.csv", "x,y\n1x2\n", r"r.csv:2: not the shapes of a request"),
        ("r.csv", "x\nwide\n", r"r.csv:2: .*a cell is such as 1x128"),
        ("r.txt", "", "neither .jsonl nor .csv"),
    ],
)
def test_files_that_are_wrong(name: str, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        traffic.read(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        traffic.read(tmp_path / "no.csv")
