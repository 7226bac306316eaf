# SPDX-License-Identifier: Apache-2.0
"""Weights by blocks: error bounds per formula, the search, packing."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.passes.quant.weights import blocks
from burnish.passes.quant.weights.blocks import fit_blocks, pack


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    """Rows of very different sizes, as real weights have."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 1, shape) * np.geomspace(1e-3, 1e3, shape[0])[:, None]
    return rows.astype(np.float32)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("columns", [64, 50])
def test_no_weight_is_off_by_more_than_half_a_step(
    bits: int, symmetric: bool, columns: int
) -> None:
    rows = weights(30, columns)
    scheme = fit_blocks(rows, bits, 16, symmetric=symmetric, search="range")
    actual = scheme.dequantize(scheme.quantize(rows))
    padded = np.pad(rows, ((0, 0), (0, -columns % 16))).reshape(30, -1, 16)
    low, high = padded.min(axis=2).clip(max=0), padded.max(axis=2).clip(min=0)
    if symmetric:
        step = np.maximum(-low, high) / (2 ** (bits - 1) - 1)
        bound = step / 2
    else:
        step = (high - low) / (2**bits - 1)
        bound = step  # half for the weight, and half for the zero point
    bound = np.repeat(bound, 16, axis=1)[:, :columns]
    assert (np.abs(actual - rows) <= bound * (1 + 1e-4)).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_search_makes_no_block_worse(bits: int, symmetric: bool) -> None:
    rows = weights(64, 96)

    def errors(search: str) -> np.ndarray:
        scheme = fit_blocks(rows, bits, 32, symmetric=symmetric, search=search)
        difference = scheme.dequantize(scheme.quantize(rows)) - rows
        return np.asarray(np.square(difference.reshape(-1, 32), dtype=np.float64).sum(axis=1))

    assert (errors("mse") <= errors("range") * (1 + 1e-5)).all()
    assert errors("mse").sum() < errors("range").sum()


def test_the_search_pays_most_for_symmetric_int4() -> None:
    """The figures of the module's docstring, on normal weights."""
    rows = np.random.default_rng(0).normal(0, 1, (2000, 384)).astype(np.float32)
    ratios = []
    for symmetric in (False, True):
        found = [fit_blocks(rows, 4, 32, symmetric=symmetric, search=s) for s in ("mse", "range")]
        ratios.append(found[0].squared_error / found[1].squared_error)
    assert 0.85 < ratios[0] < 0.95
    assert 0.7 < ratios[1] < 0.85


def test_the_error_it_states_is_the_error_there_is() -> None:
    rows = weights(40, 70)
    scheme = fit_blocks(rows, 4, 32)
    difference = scheme.dequantize(scheme.quantize(rows)) - rows
    expected = np.linalg.norm(difference) / np.linalg.norm(rows)
    assert scheme.error == pytest.approx(float(expected), rel=1e-4)


def test_zeros_and_constants_are_exact() -> None:
    rows = np.zeros((3, 32), np.float32)
    rows[1] = 0.7
    rows[2] = -0.7
    for symmetric in (False, True):
        scheme = fit_blocks(rows, 4, 32, symmetric=symmetric)
        actual = scheme.dequantize(scheme.quantize(rows))
        np.testing.assert_allclose(actual, rows, rtol=1e-6, atol=0)
    assert fit_blocks(np.zeros((2, 16), np.float32), 4, 16).error == 0


def test_tiny_weights_keep_scales_normal() -> None:
    rows = np.full((2, 16), 1e-42, np.float32)
    scheme = fit_blocks(rows, 4, 16)
    assert (scheme.scale >= np.finfo(np.float32).smallest_normal).all()
    assert np.isfinite(scheme.dequantize(scheme.quantize(rows))).all()


def test_a_whole_row_is_one_block() -> None:
    rows = weights(5, 33)
    assert fit_blocks(rows, 8).scale.shape == (5, 1)
    assert fit_blocks(rows, 8, 0).error == fit_blocks(rows, 8, 33).error


def test_pieces_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = weights(50, 40)
    whole = fit_blocks(rows, 4, 16)
    integers = whole.quantize(rows)
    monkeypatch.setattr(blocks, "_PIECE", 300)
    parts = fit_blocks(rows, 4, 16)
    assert parts.scale.tobytes() == whole.scale.tobytes()
    assert parts.quantize(rows).tobytes() == integers.tobytes()


def test_views_and_half_precision_are_read_as_they_are() -> None:
    rows = weights(20, 48)
    expected = fit_blocks(rows, 4, 16)
    transposed = np.asfortranarray(rows)
    assert fit_blocks(transposed, 4, 16).scale.tobytes() == expected.scale.tobytes()
    half = fit_blocks(rows.astype(np.float16), 4, 16)
    assert half.error == pytest.approx(expected.error, rel=1e-2)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_packing(bits: int) -> None:
    rng = np.random.default_rng(0)
    integers = rng.integers(0, 2**bits, (3, 5, 13)).astype(np.uint8)
    packed = pack(integers, bits)
    assert packed.shape == (3, 5, -(-13 * bits // 8))
    unpacked = np.unpackbits(packed, axis=-1, bitorder="little")[..., : 13 * bits]
    weights_of_bits = 1 << np.arange(bits)
    np.testing.assert_array_equal(unpacked.reshape(3, 5, 13, bits) @ weights_of_bits, integers)


@pytest.mark.parametrize("given", [{"bits": 9}, {"bits": 1}, {"block": -1}, {"search": "luck"}])
def test_bad_arguments(given: dict[str, object]) -> None:
    arguments = {"bits": 4, "block": 16, **given}
    with pytest.raises(ValueError, match="no such scheme"):
        fit_blocks(weights(2, 16), **arguments)  # type: ignore[arg-type]
