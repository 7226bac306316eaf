# SPDX-License-Identifier: Apache-2.0
"""Elimination: what it says is lost is what least squares loses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.calibration import CalibrationSource
from burnish.passes.prune.elimination import DAMPING, Reader, eliminate, readers_of
from burnish.passes.prune.units import Units

Weighted = Callable[..., ir.Model]
UnitsOf = Callable[[ir.Model], Units]

WIDTH = 12


def _readers(
    weighted: Weighted, units_of: UnitsOf, mixing: np.ndarray
) -> tuple[list[Reader], np.ndarray, np.ndarray]:
    """Two readers of neurons that are `mixing` of others; their inputs and first weights."""
    model = weighted(
        f"g (float[N,6] x, float[6,{WIDTH}] w1, float[{WIDTH}] wa, float[{WIDTH},5] w2,"
        f" float[{WIDTH},3] w3) => (float[N,5] y, float[N,3] z)"
        "{ a = Gemm(x, w1, wa)  r = Sigmoid(a)  y = Gemm(r, w2)  z = Gemm(r, w3) }"
    )
    for name in ("w1", "wa"):
        tensor = model.graph.initializers[name].const_value
        assert tensor is not None
        array = tensor.numpy() @ mixing.astype(np.float32)
        model.graph.initializers[name].const_value = ir.tensor(array, name=name)

    def samples() -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(2)
        for _ in range(7):  # too few to hold any out
            yield {"x": rng.standard_normal((40, 6)).astype(np.float32)}

    units = units_of(model)
    (group,) = units.groups
    source = CalibrationSource.from_iterable(samples, model.graph.inputs)
    (found,) = readers_of(model, units, [group], source)
    arrays = [model.graph.initializers[name].const_value for name in ("w1", "wa", "w2")]
    w1, wa, w2 = (array.numpy() for array in arrays if array is not None)
    x = np.concatenate([sample["x"] for sample in samples()])
    hidden = 1 / (1 + np.exp(-(x @ w1 + wa)))
    return found, hidden.astype(np.float64), w2.astype(np.float64)


def test_losses_are_those_of_least_squares(weighted: Weighted, units_of: UnitsOf) -> None:
    (first, _), hidden, weights = _readers(weighted, units_of, np.eye(WIDTH))
    stages = eliminate([first], WIDTH, [4])
    stage = next(stages)
    assert stage.removed.size == 4
    centred = hidden - hidden.mean(0)
    kept = np.setdiff1d(np.arange(WIDTH), stage.removed)
    # Damping is noise on each input: least squares against inputs of which there are more.
    noise = np.sqrt(DAMPING * np.square(centred).sum() / WIDTH)
    inputs = np.concatenate([centred, noise * np.eye(WIDTH)])
    wanted = inputs @ weights
    best = np.linalg.lstsq(inputs[:, kept], wanted, rcond=None)[0]
    lost = np.square(wanted - inputs[:, kept] @ best).sum()
    assert stage.losses.sum() == pytest.approx(lost / np.square(centred @ weights).sum(), rel=1e-6)
    ((_, rows, _),) = stage.rows
    assert not rows[:, stage.removed].any()
    np.testing.assert_allclose(rows[:, kept], best.T, rtol=1e-5, atol=1e-6)
    plain = np.square(inputs[:, stage.removed] @ weights[stage.removed]).sum()
    assert lost < 0.7 * plain


def test_copies_go_first(weighted: Weighted, units_of: UnitsOf) -> None:
    """Of units that say the same, one at most is left before any other goes."""
    mixing = np.eye(WIDTH)
    mixing[:, 7] = mixing[:, 2]
    mixing[:, 9] = mixing[:, 4]
    found, _, _ = _readers(weighted, units_of, mixing)
    (stage, end) = eliminate(found, WIDTH, [2])
    assert {frozenset({2, 7}), frozenset({4, 9})} == {
        next(pair for pair in (frozenset({2, 7}), frozenset({4, 9})) if one in pair)
        for one in stage.removed.tolist()
    }
    assert sorted(end.removed.tolist()) == list(range(WIDTH))
    assert end.losses[2] > 2 * end.losses[1]
