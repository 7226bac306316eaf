# SPDX-License-Identifier: Apache-2.0
"""From the shapes of real requests, the fewest profiles that serve them within a padding budget.

A request is served at the shapes of the profile that it is put into: what it lacks of them is
padding. The budget is padded elements per element of the requests, over all of them.

Where the shapes can be put in order (one dimension varies, or several that grow together), the
profiles are as few as there can be, and of those with the least padding: a dynamic programme over
the ordered shapes. Otherwise the question is NP-hard, and profiles are merged greedily, the pair
that adds the least padding first; requests then move to the tightest profile that fits, which
leaves room for further merges, until there is none.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.backends.profiles import Profile, Range, Shape, Shapes
from burnish.errors import InputError

Point = tuple[int, ...]
"""All axes of all inputs of a request, in a row."""

_BLOCK = 512
"""Pairs of so many profiles are compared at once."""


@dataclass(frozen=True)
class Traffic:
    """Requests by their shapes.

    Attributes:
        ranks: Number of axes by input, in one order.
        counts: How many requests have these sizes, all axes of all inputs in a row.
    """

    ranks: Mapping[str, int]
    counts: Mapping[Point, int]

    @staticmethod
    def of(requests: Iterable[tuple[Shapes, int]]) -> Traffic:
        """Count requests: shapes by input, and how often each came.

        Raises:
            InputError: there is none, or they differ in inputs or in ranks.
        """
        ranks: dict[str, int] | None = None
        counts: Counter[Point] = Counter()
        for number, (shapes, times) in enumerate(requests, 1):
            found = {name: len(shape) for name, shape in sorted(shapes.items())}
            ranks = found if ranks is None else ranks
            if found != ranks:
                raise InputError(
                    f"request {number} has other inputs or ranks than the first: "
                    f"{found}, not {ranks}",
                    hint="give the same inputs for each",
                )
            if times < 1 or any(size < 1 for shape in shapes.values() for size in shape):
                raise InputError(f"request {number} has a size or a count below 1")
            counts[tuple(size for name in ranks for size in shapes[name])] += times
        if not ranks:
            raise InputError("there are no requests", hint="give one's shapes a line")
        return Traffic(ranks, dict(sorted(counts.items())))

    def shapes(self, point: Point) -> dict[str, Shape]:
        """The shape of each input of a request."""
        found, start = {}, 0
        for name, rank in self.ranks.items():
            found[name] = tuple(point[start : start + rank])
            start += rank
        return found

    def elements(self, points: NDArray[np.int64]) -> NDArray[np.float64]:
        """Elements of all inputs, for each row of sizes."""
        total, start = np.zeros(points.shape[:-1]), 0
        for rank in self.ranks.values():
            total += np.prod(points[..., start : start + rank], axis=-1, dtype=np.float64)
            start += rank
        return total


@dataclass(frozen=True)
class Cover:
    """Profiles that cover traffic.

    Attributes:
        profiles: In order of size.
        padding: Padded elements per element of the requests.
        requests: How many requests go to each profile.
        exact: Whether fewer profiles cannot do within the budget.
    """

    profiles: tuple[Profile, ...]
    padding: float
    requests: tuple[int, ...]
    exact: bool

    def __str__(self) -> str:
        count = len(self.profiles)
        fewest = ", the fewest there can be" if self.exact else ""
        return (
            f"{count} profile{'s' * (count != 1)}{fewest}, for {sum(self.requests)} requests: "
            f"{self.padding:.1%} padding expected"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return {
            "profiles": [profile.as_dict() for profile in self.profiles],
            "padding": self.padding,
            "requests": list(self.requests),
            "exact": self.exact,
        }


def cover(traffic: Traffic, budget: float, *, padded: bool = False) -> Cover:
    """Find profiles for traffic.

    Args:
        traffic: The requests.
        budget: Padded elements per element of the requests allowed; 0 gives each shape its own.
        padded: Whether requests will be padded to the largest shapes of their profile, which then
            are its only ones. Otherwise a profile also takes whatever lies between the smallest
            sizes of all traffic and its own largest, and is best at the shape that has the most
            elements in all.

    Raises:
        InputError: the budget is negative.
    """
    if not budget >= 0:  # NaN, too
        raise InputError(f"a padding budget of {budget:g} is none", hint="give 0 or more")
    points = np.array(list(traffic.counts), dtype=np.int64)
    weights = np.array(list(traffic.counts.values()), dtype=np.float64)
    order = np.argsort(traffic.elements(points), kind="stable")
    points, weights = points[order], weights[order]
    allowed = budget * float(weights @ traffic.elements(points))
    exact = bool((np.diff(points, axis=0) >= 0).all())
    if exact:
        chosen = _cut(points, weights, traffic.elements(points), allowed)
    else:
        chosen = _merge(points, weights, traffic, allowed)
    return _described(traffic, points, weights, chosen, padded, exact)


# --- shapes in order ---------------------------------------------------------------------------


def _cut(
    points: NDArray[np.int64],
    weights: NDArray[np.float64],
    sizes: NDArray[np.float64],
    allowed: float,
) -> NDArray[np.int64]:
    """Cut ordered shapes into the fewest runs, each served at its last.

    With ``cost[k][j]`` the least padding of the first j shapes in k runs, and W and E the running
    sums of weights and of weighted elements, ``cost[k][j]`` is the least over i of
    ``cost[k-1][i] + size[j] * (W[j] - W[i]) - (E[j] - E[i])``. Quadratic in distinct shapes for
    each k.
    """
    count = len(points)
    number = np.concatenate(([0.0], np.cumsum(weights)))
    elements = np.concatenate(([0.0], np.cumsum(weights * sizes)))
    cost = np.full(count + 1, math.inf)
    cost[0] = 0.0
    starts: list[NDArray[np.int64]] = []
    while True:
        following = np.full(count + 1, math.inf)
        start = np.zeros(count + 1, dtype=np.int64)
        for j in range(1, count + 1):
            ends = cost[:j] + sizes[j - 1] * (number[j] - number[:j]) - (elements[j] - elements[:j])
            start[j] = np.argmin(ends)
            following[j] = ends[start[j]]
        starts.append(start)
        cost = following
        # Sums of floats: what is allowed to the last bit must not be refused for it.
        if cost[count] <= allowed + 1e-9 * elements[count]:
            break
    ends_at, chosen = count, []
    for start in reversed(starts):
        chosen.append(points[ends_at - 1])
        ends_at = int(start[ends_at])
    return np.array(chosen[::-1])


# --- shapes in no order ------------------------------------------------------------------------


def _merge(
    points: NDArray[np.int64],
    weights: NDArray[np.float64],
    traffic: Traffic,
    allowed: float,
) -> NDArray[np.int64]:
    """Merge shapes greedily; returns the largest shapes of each profile."""
    chosen = points
    while True:
        before = len(chosen)
        load = _load(points, weights, chosen, traffic)
        spent = float(load @ traffic.elements(chosen)) - float(weights @ traffic.elements(points))
        for block in np.array_split(np.arange(before), math.ceil(before / _BLOCK)):
            # Each block may spend its share; a single one all that is left.
            share = (allowed - spent) * len(block) / before
            merged, added = _merged(chosen[block], load[block], traffic, share)
            chosen = np.concatenate((chosen, merged))
            spent += added
        chosen = np.unique(chosen[before:], axis=0)
        chosen = chosen[_load(points, weights, chosen, traffic) > 0]
        if len(chosen) >= before:
            return chosen


def _merged(
    points: NDArray[np.int64], load: NDArray[np.float64], traffic: Traffic, allowed: float
) -> tuple[NDArray[np.int64], float]:
    """Merge pairs while what that adds is allowed; returns the rest and what was added."""
    points, load = points.copy(), load.copy()
    sizes = traffic.elements(points)
    alive = np.ones(len(points), dtype=bool)
    added = np.full((len(points),) * 2, math.inf)

    def price(i: int) -> None:
        joined = traffic.elements(np.maximum(points, points[i]))
        row = (load + load[i]) * joined - load * sizes - load[i] * sizes[i]
        row[~alive] = math.inf
        row[i] = math.inf
        added[i], added[:, i] = row, row

    for i in range(len(points)):
        price(i)
    spent = 0.0
    while alive.sum() > 1:
        i, j = divmod(int(np.argmin(added)), len(points))
        if not spent + added[i, j] <= allowed:
            break
        spent += float(added[i, j])
        points[i] = np.maximum(points[i], points[j])
        load[i] += load[j]
        sizes[i] = traffic.elements(points[i])
        alive[j] = False
        added[j], added[:, j] = math.inf, math.inf
        price(i)
    return points[alive], spent


def _load(
    points: NDArray[np.int64],
    weights: NDArray[np.float64],
    chosen: NDArray[np.int64],
    traffic: Traffic,
) -> NDArray[np.float64]:
    """Requests that each profile gets, if every request goes to the tightest that fits."""
    load = np.zeros(len(chosen))
    for index, weight in zip(_tightest(points, chosen, traffic), weights, strict=True):
        load[index] += weight
    return load


def _tightest(
    points: NDArray[np.int64], chosen: NDArray[np.int64], traffic: Traffic
) -> Iterator[int]:
    order = np.argsort(traffic.elements(chosen), kind="stable")
    ordered = chosen[order]
    for point in points:
        yield int(order[np.argmax((ordered >= point).all(axis=1))])


# --- profiles ----------------------------------------------------------------------------------


def _described(
    traffic: Traffic,
    points: NDArray[np.int64],
    weights: NDArray[np.float64],
    chosen: NDArray[np.int64],
    padded: bool,
    exact: bool,
) -> Cover:
    chosen = chosen[np.argsort(traffic.elements(chosen), kind="stable")]
    home = np.array(list(_tightest(points, chosen, traffic)))
    least = tuple(points.min(axis=0).tolist())
    profiles = []
    for index, largest in enumerate(map(tuple, chosen.tolist())):
        own = home == index
        busiest = np.argmax(np.where(own, weights * traffic.elements(points), -1.0))
        best = tuple(points[busiest].tolist())
        ends = (largest,) * 3 if padded else (least, best, largest)
        spans = [traffic.shapes(end) for end in ends]
        ranges = {name: Range(*(span[name] for span in spans)) for name in traffic.ranks}
        profiles.append(Profile(f"profile-{index}", ranges))
    needed = float(weights @ traffic.elements(points))
    padding = float(weights @ traffic.elements(chosen[home])) / needed - 1
    requests = tuple(int(weights[home == index].sum()) for index in range(len(chosen)))
    return Cover(tuple(profiles), max(padding, 0.0), requests, exact)


# --- files -------------------------------------------------------------------------------------


def read(path: Path) -> Traffic:
    """Read requests from a file, one a line.

    In ``.jsonl``, a line is an object: shape, a list, by name of input. In ``.csv``, the first line
    names the inputs, and cells are shapes such as ``1x128``. Either may hold ``count``: how often
    the request came.

    Raises:
        InputError: there is no such file, or a line of it is malformed: its number is named.
    """
    readers = {".jsonl": _jsonl, ".csv": _csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"requests {path} are neither .jsonl nor .csv", hint="rename the file")
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            return Traffic.of(reader(path, lines))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"requests {path} cannot be read: {error}", hint="check it") from error


def _jsonl(path: Path, lines: Iterable[str]) -> Iterator[tuple[Shapes, int]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data: dict[str, Any] = json.loads(line)
            times = data.pop("count", 1)
            yield {name: _shape(shape) for name, shape in data.items()}, _integer(times)
        except (ValueError, AttributeError, TypeError) as error:
            raise InputError(
                f"{path}:{number}: not the shapes of a request: {error}",
                hint='a line is such as {"x": [1, 128]}',
            ) from error


def _csv(path: Path, lines: Iterable[str]) -> Iterator[tuple[Shapes, int]]:
    for number, row in enumerate(csv.DictReader(lines), 2):
        try:
            times = int(row.pop("count", None) or 1)
            shapes = {name: _shape(cell.lower().split("x")) for name, cell in row.items()}
            yield shapes, times
        except (ValueError, AttributeError, TypeError) as error:
            raise InputError(
                f"{path}:{number}: not the shapes of a request: {error}",
                hint="a cell is such as 1x128",
            ) from error


def _shape(sizes: Sequence[Any]) -> Shape:
    return tuple(_integer(size) for size in sizes)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(f"{value!r} is no size")
    return int(value)
