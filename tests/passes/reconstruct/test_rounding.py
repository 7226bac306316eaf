# SPDX-License-Identifier: Apache-2.0
"""Learned rounding against all roundings there are."""

from __future__ import annotations

import itertools

import numpy as np

from burnish.passes.reconstruct.rounding import round_weights


def test_of_few_weights_it_finds_the_best_rounding_more_often_than_not() -> None:
    rng = np.random.default_rng(0)
    best = 0
    for _ in range(40):
        x = rng.normal(0, 1, (30, 6)) @ rng.normal(0, 1, (6, 6))
        second, rows = x.T @ x, rng.normal(0, 3, (1, 6))
        found = round_weights(rows, second, low=-50, high=50)
        choices = itertools.product(*[(np.floor(w), np.floor(w) + 1) for w in rows[0]])
        costs = [float((q - rows[0]) @ second @ (q - rows[0])) for q in map(np.array, choices)]
        error = found - rows
        cost = (error @ second @ error.T).item()
        near = np.rint(rows) - rows
        assert min(costs) * (1 - 1e-9) <= cost <= (near @ second @ near.T).item() * (1 + 1e-9)
        best += cost <= min(costs) * (1 + 1e-9)
    assert best >= 24


def test_no_single_turn_helps_and_bounds_hold() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (300, 150)) @ rng.normal(0, 1, (150, 150))
    second, rows = x.T @ x, rng.normal(0, 3, (5, 150))
    fixed = rng.random(rows.shape) < 0.1
    q = round_weights(rows, second, low=-4, high=4, fixed=fixed, sweeps=500)
    assert np.abs(q).max() <= 4
    np.testing.assert_array_equal(q[fixed], np.clip(np.rint(rows), -4, 4)[fixed])
    error = q - rows
    down, up = np.clip(np.floor(rows), -4, 4), np.clip(np.floor(rows) + 1, -4, 4)
    assert ((q == down) | (q == up)).all()
    turn = np.where(fixed, 0, np.where(q == up, down, up) - q)
    gain = 2 * turn * (error @ second) + turn**2 * np.diagonal(second)
    assert gain.min() > -1e-6 * np.diagonal(second).max()
