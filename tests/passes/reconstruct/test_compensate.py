# SPDX-License-Identifier: Apache-2.0
"""Compensation and least squares against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.passes.quant.weights.blocks import fit_blocks
from burnish.passes.reconstruct.compensate import compensate, damped, least_squares
from burnish.passes.reconstruct.gptq import gptq


def problem(seed: int, rows: int = 3, columns: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and the Gram matrix of strongly correlated inputs."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(0, 1, (40, columns)) @ rng.normal(0, 1, (columns, columns))
    return rng.normal(0, 1, (rows, columns)), mixed.T @ mixed


def cost(error: np.ndarray, second: np.ndarray) -> float:
    return float(np.vdot(error @ second, error))


@pytest.mark.parametrize("order", [None, np.array([3, 1, 5, 0, 2, 4])])
def test_each_step_moves_the_free_weights_as_the_closed_form_says(order: np.ndarray | None) -> None:
    rows, second = problem(0)
    turns = np.arange(6) if order is None else order
    expected = rows.copy()
    free = list(turns)
    for j in turns:
        inverse = np.linalg.inv(second[np.ix_(free, free)])
        at = free.index(j)
        error = expected[:, j] - np.round(expected[:, j])
        expected[:, free] -= np.outer(error / inverse[at, at], inverse[at])
        free.remove(j)
    found = compensate(rows, second, lambda _, w: np.round(w), order=order)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("lazy", [1, 2, 5, 128])
def test_updates_together_are_updates_one_by_one(lazy: int) -> None:
    rows, second = problem(1, columns=11)
    once = compensate(rows, second, lambda _, w: np.round(w), lazy=11)
    np.testing.assert_allclose(
        compensate(rows, second, lambda _, w: np.round(w), lazy=lazy), once, rtol=0, atol=1e-9
    )


def test_what_is_kept_under_a_mask_is_the_least_squares_solution() -> None:
    rng = np.random.default_rng(2)
    x, rows = rng.normal(0, 1, (50, 7)), rng.normal(0, 1, (4, 7))
    keep = rng.random((4, 7)) < 0.6
    keep[2] = False
    keep[3] = True
    found = least_squares(rows, x.T @ x, keep)
    for row, mask, solved in zip(rows, keep, found, strict=True):
        expected = np.zeros(7)
        expected[mask] = np.linalg.lstsq(x[:, mask], x @ row, rcond=None)[0]
        np.testing.assert_allclose(solved, expected, rtol=0, atol=1e-9)


def test_damping_makes_singular_matrices_regular() -> None:
    column = np.arange(5.0)
    for second in (np.outer(column, column), np.zeros((5, 5)), -1e-9 * np.eye(5)):
        np.linalg.cholesky(damped(second, 0.0))


def test_gptq_comes_near_the_best_rounding_there_is() -> None:
    found, nearest = [], []
    for seed in range(30):
        rows, second = problem(seed, rows=1, columns=4)
        plain = fit_blocks(rows, 3, search="range")
        scheme, integers = gptq(rows, second, 3, search="range", damping=1e-6)
        np.testing.assert_array_equal(scheme.scale, plain.scale)
        grid = np.stack(np.meshgrid(*[np.arange(8)] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
        assert scheme.zero_point is not None
        errors = scheme.scale * (grid - scheme.zero_point.astype(float)) - rows
        best = min(cost(error[None], second) for error in errors)
        found.append(cost(scheme.dequantize(integers) - rows, second) / best)
        nearest.append(cost(plain.dequantize(plain.quantize(rows)) - rows, second) / best)
    assert min(found) > 0.999
    assert np.mean(found) < 1.5 < 2 < np.mean(nearest)


def test_gptq_beats_the_nearest_on_correlated_inputs() -> None:
    rng = np.random.default_rng(0)
    mixed = rng.normal(0, 1, (400, 96)) @ rng.normal(0, 1, (96, 96))
    second, rows = mixed.T @ mixed, rng.normal(0, 1, (32, 96)).astype(np.float32)
    for block in (0, 16, 32, 40):
        plain = fit_blocks(rows, 4, block)
        nearest = cost(plain.dequantize(plain.quantize(rows)) - rows, second)
        for act_order in (False, True):
            scheme, integers = gptq(rows, second, 4, block, act_order=act_order)
            assert cost(scheme.dequantize(integers) - rows, second) < 0.65 * nearest
            error = scheme.dequantize(integers) - rows
            assert scheme.squared_error == pytest.approx(np.vdot(error, error), rel=1e-5)


def test_with_independent_inputs_gptq_is_the_nearest() -> None:
    rows = np.random.default_rng(0).normal(0, 1, (8, 64)).astype(np.float32)
    plain = fit_blocks(rows, 4, 16)
    scheme, integers = gptq(rows, np.eye(64), 4, 16)
    np.testing.assert_array_equal(integers, plain.quantize(rows))
    np.testing.assert_allclose(scheme.scale, plain.scale, rtol=1e-6)
