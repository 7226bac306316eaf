# SPDX-License-Identifier: Apache-2.0
"""Bias correction: the mean error of rounded weights is taken back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.backends import onnxruntime
from burnish.passes.calibration import CalibrationSource
from burnish.passes.quant.accuracy.correct import ChannelMean, mean_shift
from burnish.passes.quant.int8.static import QuantStatic
from burnish.testing import run_pass

Build = Any


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3), (7, 5, 3, 2)])
def test_channel_mean_agrees_with_numpy_and_merges(shape: tuple[int, ...]) -> None:
    data = np.random.default_rng(0).normal(3, 1, shape).astype(np.float32)
    whole, left, right = ChannelMean(), ChannelMean(), ChannelMean()
    whole.update(data)
    left.update(data[:3])
    right.update(data[3:])
    left.merge(right)
    left.merge(ChannelMean())
    others = tuple(axis for axis in range(data.ndim) if axis != 1)
    np.testing.assert_allclose(whole.mean, data.astype(np.float64).mean(axis=others), rtol=1e-12)
    np.testing.assert_allclose(left.mean, whole.mean, rtol=1e-14)


@given(st.lists(st.integers(0, 5), max_size=6), st.randoms(use_true_random=False))
def test_channel_means_merge_exactly(seeds: list[int], random: Any) -> None:
    samples = [
        np.random.default_rng(seed).normal(10.0**seed, 1, (2, 3, 4)).astype(np.float32)
        for seed in seeds
    ]

    def watch(samples: list[np.ndarray]) -> ChannelMean:
        made = ChannelMean()
        for sample in samples:
            made.update(sample)
        return made

    whole = watch(samples)
    random.shuffle(samples)
    cut = random.randint(0, len(samples))
    merged = watch(samples[:cut])
    merged.merge(watch(samples[cut:]))
    again = ChannelMean()
    again.restore(merged.state())
    for made in (merged, again):
        np.testing.assert_array_equal(made.mean, whole.mean)
        assert made.count == whole.count


def test_a_channel_mean_survives_what_is_not_finite_but_not_another_number_of_channels() -> None:
    made = ChannelMean()
    made.update(np.array([[1, np.nan, 3]], np.float32))
    made.update(np.array([[3, 4, np.inf]], np.float32))
    np.testing.assert_array_equal(made.mean, [2, 2, 1.5])
    with pytest.raises(ValueError, match=r"shape \[2\] to shape \[3\]"):
        made.update(np.zeros((1, 2), np.float32))


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_mean_shift_is_the_mean_of_what_a_convolution_computes(build: Build, groups: int) -> None:
    rng = np.random.default_rng(0)
    error = rng.normal(0, 1, (12, 6 // groups, 1, 1)).astype(np.float32)
    model = build(
        f"g (float[N,6,4,4] x) => (float[N,12,4,4] y) {{ y = Conv <group = {groups}> (x, w) }}",
        w=error,
    )
    x = rng.normal(1, 1, (5, 6, 4, 4)).astype(np.float32)
    with onnxruntime.session(model) as session:
        expected = session.run({"x": x})["y"].mean(axis=(0, 2, 3))
    mean = x.astype(np.float64).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(mean_shift(error, mean, groups=groups), expected, atol=1e-5)


def test_mean_shift_of_both_orientations_of_a_matrix() -> None:
    rng = np.random.default_rng(0)
    error, mean = rng.normal(0, 1, (4, 7)), rng.normal(0, 1, 7)
    np.testing.assert_allclose(mean_shift(error, mean), error @ mean)
    np.testing.assert_allclose(mean_shift(error.T, mean, axis=1), error @ mean)


NETS: dict[str, tuple[str, Any, tuple[int, ...], tuple[int, ...]]] = {
    "conv": (
        "g (float[N,32,6,6] x) => (float[N,16,6,6] y) { t = Conv(x, w, b) y = Softplus(t) }",
        {"w": (16, 32, 1, 1), "b": (16,)},
        (4, 32, 6, 6),
        (0, 2, 3),
    ),
    "conv without a bias": (
        "g (float[N,32,6,6] x) => (float[N,16,6,6] y) { t = Conv(x, w) y = Softplus(t) }",
        {"w": (16, 32, 1, 1)},
        (4, 32, 6, 6),
        (0, 2, 3),
    ),
    "gemm": (
        "g (float[N,32] x) => (float[N,16] y) { y = Gemm <transB = 1, beta = 0.5> (x, w, b) }",
        {"w": (16, 32), "b": (16,)},
        (200, 32),
        (0,),
    ),
}


@pytest.mark.parametrize("net", NETS)
def test_the_mean_error_of_each_channel_shrinks(build: Build, net: str) -> None:
    text, weights, shape, axes = NETS[net]
    rng = np.random.default_rng(2)
    feeds = [{"x": rng.uniform(2, 3, shape).astype(np.float32)} for _ in range(8)]
    fresh = {"x": rng.uniform(2, 3, shape).astype(np.float32)}
    errors = {}
    for correct in (False, True):
        model = build(text, **weights)
        with onnxruntime.session(model) as session:
            expected = session.run(fresh)["y"]
        source = CalibrationSource.from_iterable(lambda: feeds, model.graph.inputs)
        # Min-max, so that rounding the input adds no mean error of its own.
        run_pass(QuantStatic(correct_bias=correct, calibrate="minmax"), model, calibration=source)
        with onnxruntime.session(model) as session:
            actual = session.run(fresh)["y"]
        errors[correct] = np.abs((actual - expected).mean(axis=axes)).mean()
    assert errors[True] < errors[False] / 2
