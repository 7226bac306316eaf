# SPDX-License-Identifier: Apache-2.0
"""Plans: costs are those of the model that is left, and budgets are met where least is lost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.prune import flops, plan
from burnish.passes.prune.cut import Cut
from burnish.passes.prune.plan import Candidate, Cost, Curve
from burnish.passes.prune.units import Units

Weighted = Callable[..., ir.Model]
UnitsOf = Callable[[ir.Model], Units]

NETWORK = (
    "g (float[N,3,8,8] x, float[16,3,3,3] w1, float[16,16,1,1] w2, float[8,16,1,1] w3,"
    " float[512,10] w4) => (float[N,10] y)"
    "{ c1 = Conv<pads=[1,1,1,1]>(x, w1)  r1 = Relu(c1)  c2 = Conv(r1, w2)  s = Add(c1, c2)"
    " r2 = Relu(s)  c3 = Conv(r2, w3)  f = Flatten(c3)  y = MatMul(f, w4) }"
)


def _found(weighted: Weighted, units_of: UnitsOf) -> tuple[ir.Model, Units, list[Candidate]]:
    model = weighted(NETWORK)
    units = units_of(model)
    found = [Candidate.of(units, group, 4, 4) for group in units.groups]
    return model, units, [each for each in found if each is not None]


@pytest.mark.parametrize("name", ["flops", "params"])
def test_costs_are_those_of_what_is_left(name: str, weighted: Weighted, units_of: UnitsOf) -> None:
    model, units, candidates = _found(weighted, units_of)
    cost = Cost(model, units, candidates, name)
    gone = np.array([4, 4])
    removed = [each.group.units[:less] for each, less in zip(candidates, gone, strict=True)]
    said = cost.left(gone)
    whole = _total(model, name)
    assert cost.total == whole
    Cut(units, np.concatenate(removed)).apply(model)
    assert said == pytest.approx(_total(model, name) / whole, rel=1e-12)
    step = 1e-6
    for at, slope in enumerate(cost.falls(gone)):
        nudge = np.zeros(2)
        nudge[at] = step
        slower = (cost.left(gone) - cost.left(gone + nudge)) / step  # type: ignore[arg-type]
        assert slope == pytest.approx(slower, rel=1e-4)


def _total(model: ir.Model, name: str) -> int:
    sizes = flops.Sizes(model)
    if name == "flops":
        return sum(flops.flops(node, sizes) for node in model.graph)
    return sum(
        value.const_value.size
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )


def test_the_cheapest_path_spares_what_costs_most(weighted: Weighted, units_of: UnitsOf) -> None:
    model, units, candidates = _found(weighted, units_of)
    cost = Cost(model, units, candidates, "units")
    assert [each.count for each in candidates] == [16, 8]
    steep = Curve.through(candidates[0].stops, [12], [30.0])
    flat = Curve.through(candidates[1].stops, [4], [0.1])
    path = plan.cheapest([steep, flat], cost)
    assert path.tolist() == [[0, 0], [0, 4], [4, 4], [8, 4], [12, 4]]
    step = plan.first_within(path, cost.left, 0.7)
    assert step == 2
    assert plan.first_within(path, cost.left, 0.3) is None
    assert plan.give_back(path[step], [steep, flat], cost, 0.7).tolist() == [4, 4]
    assert plan.give_back(path[3], [steep, flat], cost, 0.7).tolist() == [4, 4]


def test_curves_never_fall() -> None:
    curve = Curve.through(np.array([0, 4, 8, 12]), [4, 12], [2.0, 1.0])
    assert curve.loss.tolist() == [0.0, 2.0, 2.0, 2.0]
