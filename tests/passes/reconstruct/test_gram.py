# SPDX-License-Identifier: Apache-2.0
"""Gram matrices: they predict the error of wrong weights, and merge exactly."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.backends import onnxruntime
from burnish.passes.reconstruct.gram import Gram
from burnish.testing import parse


def fed(gram: Gram, *arrays: np.ndarray) -> Gram:
    for array in arrays:
        gram.update(array)
    return gram


def state(gram: Gram) -> dict[str, Any]:
    return {key: array.tolist() for key, array in gram.state().items()}


def test_of_vectors_it_is_the_product_with_the_transpose() -> None:
    x = np.random.default_rng(0).normal(0, 1, (4, 5, 300)).astype(np.float32)
    gram = fed(Gram(300), *x)
    rows = x.reshape(-1, 300).astype(np.float64)
    np.testing.assert_allclose(gram.matrix, rows.T @ rows, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(gram.matrix, gram.matrix.T)
    assert gram.count == 20


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4), st.integers(-20, 20)), max_size=6),
    st.randoms(use_true_random=False),
)
def test_order_and_partition_do_not_matter(
    samples: list[tuple[int, int, int]], random: Any
) -> None:
    arrays = [
        (np.random.default_rng(seed).normal(0, 1, (rows, 7)) * 2.0**scale).astype(np.float32)
        for seed, rows, scale in samples
    ]
    whole = fed(Gram(7), *arrays)
    random.shuffle(arrays)
    cut = random.randint(0, len(arrays))
    merged = fed(Gram(7), *arrays[:cut])
    merged.merge(fed(Gram(7), *arrays[cut:]))
    assert state(merged) == state(whole)
    np.testing.assert_array_equal(merged.matrix, whole.matrix)


LAYERS = {
    "MatMul": ("MatMul(x, w)", (6, 5), (3, 4, 6)),
    "Gemm": ("Gemm(x, w)", (6, 5), (3, 6)),
    "Gemm, transB": ("Gemm<transB = 1>(x, w)", (5, 6), (3, 6)),
    "Conv": ("Conv(x, w)", (5, 6, 3, 3), (2, 6, 8, 7)),
    "Conv, uneven": (
        "Conv<strides = [2, 1], dilations = [1, 2], pads = [1, 0, 2, 3]>(x, w)",
        (5, 6, 3, 2),
        (2, 6, 8, 7),
    ),
    "Conv, groups": ("Conv<group = 3, pads = [1, 1, 1, 1]>(x, w)", (9, 2, 3, 3), (2, 6, 8, 7)),
    "Conv, depthwise": ("Conv<group = 6>(x, w)", (6, 1, 3, 3), (2, 6, 8, 7)),
    "Conv, 1-d": ("Conv<strides = [3]>(x, w)", (5, 6, 4), (2, 6, 17)),
    "Conv, SAME_UPPER": (
        'Conv<auto_pad = "SAME_UPPER", strides = [2, 3]>(x, w)',
        (5, 6, 3, 4),
        (2, 6, 8, 7),
    ),
    "Conv, SAME_LOWER": ('Conv<auto_pad = "SAME_LOWER">(x, w)', (5, 6, 2, 4), (2, 6, 8, 7)),
    "Conv, VALID": ('Conv<auto_pad = "VALID">(x, w)', (5, 6, 2, 4), (2, 6, 8, 7)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_it_predicts_the_squared_error_of_wrong_weights(kind: str) -> None:
    call, w, x = LAYERS[kind]
    rng = np.random.default_rng(0)
    error = rng.normal(0, 1, w).astype(np.float32)
    model = _layer(call, error, len(x))
    feed = rng.normal(0, 1, x).astype(np.float32)
    with onnxruntime.session(model) as session:
        caused = session.run({"x": feed})["y"].astype(np.float64)
    (node,) = model.graph
    gram = fed(Gram.of(node), feed)
    flat = error.T if kind in ("MatMul", "Gemm") else error.reshape(w[0], -1)
    matrix = gram.matrix if gram.matrix.ndim == 3 else gram.matrix[None]
    by_group = flat.reshape(len(matrix), -1, flat.shape[1]).astype(np.float64)
    predicted = np.einsum("goi,gij,goj->", by_group, matrix, by_group)
    assert predicted == pytest.approx((caused**2).sum(), rel=1e-5)
    positions = caused.size // (w[0] if kind not in ("MatMul", "Gemm") else w[1])
    assert gram.count == positions


def _layer(call: str, weights: np.ndarray, rank: int) -> ir.Model:
    shape = ",".join(f"d{i}" for i in range(rank))
    values = ", ".join(str(v) for v in weights.reshape(-1))
    sizes = ",".join(map(str, weights.shape))
    return parse(
        f"g (float[{shape}] x) => (float[{shape}] y) <float[{sizes}] w = {{{values}}}> "
        f"{{ y = {call} }}"
    )


def test_memory_is_of_the_size_of_the_matrix_whatever_was_seen() -> None:
    def held(count: int) -> int:
        gram = Gram(600)
        for _ in range(count):
            gram.update(np.ones((50, 600), np.float32))
        return sum(array.nbytes for array in gram.state().values())

    assert held(1) == held(20)
    assert held(20) < 600 * 600 * 8 * 1.5


def test_large_inputs_are_cut_into_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    call, w, x = LAYERS["Conv, groups"]
    model = _layer(call, np.ones(w, np.float32), len(x))
    (node,) = model.graph
    feed = np.random.default_rng(0).normal(0, 1, x).astype(np.float32)
    whole = fed(Gram.of(node), feed)
    vectors = fed(Gram(6), feed.transpose(0, 2, 3, 1))
    monkeypatch.setattr(sys.modules[Gram.__module__], "_PIECE", 200)
    cut = fed(Gram.of(node), feed)
    assert cut.count == whole.count
    np.testing.assert_allclose(cut.matrix, whole.matrix, atol=1e-9)
    np.testing.assert_allclose(
        fed(Gram(6), feed.transpose(0, 2, 3, 1)).matrix, vectors.matrix, atol=1e-9
    )


def test_it_is_stored_and_restored() -> None:
    x = np.random.default_rng(0).normal(0, 1, (3, 5, 300)).astype(np.float32)
    whole, first, again = fed(Gram(300), *x), fed(Gram(300), x[0]), Gram(300)
    again.restore(first.state())
    assert state(fed(again, x[1], x[2])) == state(whole)


def test_what_it_cannot_take() -> None:
    with pytest.raises(ValueError, match=r"1 groups of 6 features, not 1 of 5"):
        Gram(5).update(np.zeros((2, 6), np.float32))
    with pytest.raises(ValueError, match="not finite"):
        Gram(2).update(np.array([[np.nan, 1]], np.float32))
    for size, text, reason in (
        ("3", "y = Add(x, x)", "is no layer"),
        ("N", "y = Neg(x)", "the shape of the weights"),
        ("N", "y = MatMul(x, x)", "the shape of the weights"),
    ):
        (node,) = parse(f"g (float[{size},3] x) => (float[{size},3] y) {{ {text} }}").graph
        with pytest.raises(ValueError, match=reason):
            Gram.of(node)
