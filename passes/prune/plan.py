# SPDX-License-Identifier: Apache-2.0
"""How many units of each group go: paths from the whole model to the least there is.

A path is a list of counts, one row a step, of units that are gone. Costs fall along it, so that a
budget is met by bisection, whether the cost is computed or measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.passes.prune import flops
from burnish.passes.prune.importance import Scores, matrices, readers
from burnish.passes.prune.units import Group, Units

Counts = NDArray[np.int64]
"""Units gone of each candidate, or one row of those a step."""

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "FusedConv"})

_STEPS = 512


@dataclass(frozen=True)
class Candidate:
    """A group that may be cut.

    Attributes:
        group: The group.
        layers: Names of the nodes whose weights are cut.
        names: Those and the names of the weights.
        structure: channels, heads or neurons.
        step: Kept units come in multiples of this.
    """

    group: Group
    layers: tuple[str, ...]
    names: frozenset[str]
    structure: str
    step: int

    @staticmethod
    def of(units: Units, group: Group, alignment: int | None, at_most: int) -> Candidate | None:
        """Describe a group; None if it cuts no weight of a sum of products.

        Without a given alignment it is a power of two, `at_most`, of which there are two at least.
        """
        dims = matrices(units, group)
        weights = [dim[0] for dim in dims if isinstance(dim[0], ir.Value)]
        nodes = list(dict.fromkeys(node for weight in weights for node in readers(weight)))
        if not nodes:
            return None
        width = min(group.classes[units.class_of[dim]] for dim in dims)
        if alignment is None:
            alignment = at_most
            while alignment > 1 and 2 * alignment > width * len(group.units):
                alignment //= 2
        step = alignment // math.gcd(alignment, width)
        layers = tuple(node.name or node.outputs[0].name or node.op_type for node in nodes)
        names = {*layers, *(weight.name for weight in weights if weight.name)}
        structure = structure_of(nodes, group.heads)
        return Candidate(group, layers, frozenset(names), structure, step)

    @property
    def name(self) -> str:
        """Name of the first layer."""
        return self.layers[0]

    @property
    def count(self) -> int:
        """Number of its units."""
        return len(self.group.units)

    @property
    def stops(self) -> Counts:
        """How many units may be gone, rising from none; what is kept is a multiple of the step."""
        kept = np.arange(self.step, self.count, self.step)[::-1]
        return np.concatenate([[0], self.count - kept])

    def matches(self, patterns: Sequence[str]) -> bool:
        """Whether a pattern matches a name of a layer or weight."""
        return any(fnmatchcase(name, pattern) for name in self.names for pattern in patterns)


def structure_of(nodes: Sequence[ir.Node], heads: bool) -> str:
    """Return channels, heads or neurons."""
    if heads:
        return "heads"
    convolution = any(node.op_type in CONVOLUTIONS for node in nodes)
    return "channels" if convolution else "neurons"


# --- costs ----------------------------------------------------------------------------------------


class Cost:
    """The share of a model's operations, parameters or units that is left, from what is gone.

    It is a sum of products of sizes of dimensions, each of which falls with what is gone of the
    candidates that cut it.

    Args:
        model: The model.
        units: Its analysis.
        candidates: What may be cut.
        name: `flops`, `params`, or `units` of the candidates.
    """

    def __init__(
        self, model: ir.Model, units: Units, candidates: Sequence[Candidate], name: str
    ) -> None:
        used: dict[int, int] = {}
        whole: list[float] = []
        rows: list[list[int]] = []
        if name == "units":
            whole = [float(candidate.count) for candidate in candidates]
            rows = [[1 + at] for at in range(len(candidates))]
        else:
            sizes = flops.Sizes(model)
            terms = (flops.model_flops if name == "flops" else flops.model_parameters)(model)
            for term in terms:
                cut = [units.class_of[dim] for dim in term if dim in units.class_of]
                rows.append([1 + used.setdefault(found, len(used)) for found in cut])
                whole.append(float(math.prod(map(sizes, term))))
        self.total = int(sum(whole)) * (2 if name == "flops" else 1)
        widest = max(map(len, rows), default=0) or 1
        # Factor 0 is always 1.
        self._places = np.zeros((len(rows), widest), np.int64)
        for at, places in enumerate(rows):
            self._places[at, : len(places)] = places
        self._whole = np.array(whole) / (sum(whole) or 1.0)
        self._falls = np.zeros((1 + max(len(used), int(self._places.max(initial=0))), 0))
        self._falls = np.zeros((len(self._falls), len(candidates)))
        for at, candidate in enumerate(candidates):
            if name == "units":
                self._falls[1 + at, at] = 1 / candidate.count
                continue
            for found, each in candidate.group.classes.items():
                if found in used:
                    self._falls[1 + used[found], at] = each / units.sizes[found]

    def left(self, gone: Counts) -> float:
        """Return the share that is left."""
        factors = 1 - self._falls @ gone
        return float(self._whole @ factors[self._places].prod(axis=1)) if self.total else 1.0

    def falls(self, gone: Counts) -> NDArray[np.float64]:
        """Return by how much the share falls with one more unit of each candidate."""
        factors = (1 - self._falls @ gone)[self._places]
        slopes = np.zeros(len(self._falls))
        for at in range(factors.shape[1]):
            others = np.delete(factors, at, axis=1).prod(axis=1)
            np.add.at(slopes, self._places[:, at], self._whole * others)
        slopes[0] = 0.0
        return np.asarray(slopes @ self._falls)


# --- paths ----------------------------------------------------------------------------------------


def uniform(candidates: Sequence[Candidate], ratio: float) -> Counts:
    """Take the same share of each candidate, as far as steps allow; half a step is not cut."""
    return _rounded(candidates, [candidate.count * ratio for candidate in candidates])


def throughout(candidates: Sequence[Candidate], scores: Sequence[Scores], ratio: float) -> Counts:
    """Take a share of all units, those of the least scores relative to their group's mean."""
    relative = [_relative(each) for each in scores]
    every = np.sort(np.concatenate(relative))
    index = round(ratio * every.size) - 1
    limit = every[index] if index >= 0 else -1.0
    return _rounded(candidates, [float((each <= limit).sum()) for each in relative])


def _rounded(candidates: Sequence[Candidate], gone: Sequence[float]) -> Counts:
    counts = []
    for candidate, below in zip(candidates, gone, strict=True):
        count, step = candidate.count, candidate.step
        kept = math.floor((count - below) / step + 0.5) * step
        counts.append(count - min(max(kept, step), count))
    return np.array(counts, np.int64)


def _relative(scores: Scores) -> Scores:
    mean = scores.mean()
    return np.asarray(scores / mean) if mean > 0 else scores


def path_of(at: Callable[[float], Counts]) -> Counts:
    """Return the counts at all ratios, each once."""
    rows = np.array([at(step / _STEPS) for step in range(_STEPS + 1)])
    new = np.concatenate([[True], (np.diff(rows, axis=0) != 0).any(axis=1)])
    return np.asarray(rows[new])


@dataclass(frozen=True)
class Curve:
    """What is lost with how many units gone.

    Attributes:
        gone: Counts, rising from 0.
        loss: Never falling, from 0.
    """

    gone: Counts
    loss: NDArray[np.float64]

    @staticmethod
    def through(stops: Counts, measured: Sequence[int], losses: Sequence[float]) -> Curve:
        """Interpolate between what was measured at some of the stops."""
        rising = np.maximum.accumulate(np.array([0.0, *losses]))
        return Curve(stops, np.interp(stops, np.array([0, *measured]), rising))


def cheapest(curves: Sequence[Curve], cost: Cost) -> Counts:
    """Go step by step to the least, each where the least is lost for what it saves."""
    at = np.zeros(len(curves), np.int64)
    gone = np.zeros(len(curves), np.int64)
    path = [gone.copy()]
    while True:
        falls = cost.falls(gone)
        best, chosen = math.inf, None
        for number, curve in enumerate(curves):
            ahead = slice(int(at[number]) + 1, None)
            saved = falls[number] * (curve.gone[ahead] - gone[number])
            if not saved.size or not saved[-1] > 0:
                continue
            prices = (curve.loss[ahead] - curve.loss[at[number]]) / saved
            least = int(np.argmin(prices))
            if prices[least] < best:
                best, chosen = float(prices[least]), (number, int(at[number]) + 1 + least)
        if chosen is None:
            return np.array(path)
        # Step by step, so that a budget is met closely.
        number, goal = chosen
        while at[number] < goal:
            at[number] += 1
            gone[number] = curves[number].gone[at[number]]
            path.append(gone.copy())


def first_within(path: Counts, cost: Callable[[Counts], float], budget: float) -> int | None:
    """Return the first step that meets a budget, by bisection; None if not even the last does."""
    if cost(path[-1]) > budget:
        return None
    low, high = -1, len(path) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(path[middle]) <= budget else (middle, high)
    return high


def give_back(gone: Counts, curves: Sequence[Curve], cost: Cost, budget: float) -> Counts:
    """Take back what a budget has room for, first what was lost most with."""
    gone = gone.copy()
    while True:
        best, chosen = 0.0, None
        for number, curve in enumerate(curves):
            at = int(np.searchsorted(curve.gone, gone[number]))
            for less in range(at - 1, -1, -1):
                trial = gone.copy()
                trial[number] = curve.gone[less]
                if cost.left(trial) > budget:
                    break
                gain = float(curve.loss[at] - curve.loss[less])
                if gain > best:
                    best, chosen = gain, trial
        if chosen is None:
            return gone
        gone = chosen
