# SPDX-License-Identifier: Apache-2.0
"""Einsum as MatMul, Mul or Transpose.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.fuse.product.contraction import (
    einsum_to_matmul,
    einsum_to_products,
    einsum_to_transpose,
)
from burnish.passes.fuse.product.einsum import FuseEinsum
from burnish.testing import (
    assert_becomes,
    assert_refuses,
    assert_rewrites,
    assert_same_outputs,
    parse,
    run_pass,
)

SIZES = {letter: size for size, letter in enumerate("bijhwndckst", start=2)}


def einsum(equation: str, *, known: bool = True) -> ir.Model:
    """A model of that Einsum; sizes of its inputs are numbers or symbols."""
    terms, _, result = equation.partition("->")
    inputs = ", ".join(
        f"float[{', '.join(str(SIZES[c]) if known else c.upper() for c in term)}] x{number}"
        for number, term in enumerate(terms.split(","))
    )
    names = ", ".join(f"x{number}" for number in range(terms.count(",") + 1))
    sizes = ", ".join(str(SIZES[c]) if known else c.upper() for c in result)
    return parse(
        f'g ({inputs}) => (float[{sizes}] y) {{ y = Einsum<equation="{equation}">({names}) }}'
    )


def feeds(equation: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    terms = equation.partition("->")[0].split(",")
    return {
        f"x{number}": rng.standard_normal([SIZES[c] for c in term]).astype(np.float32)
        for number, term in enumerate(terms)
    }


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("equation", "operators"),
    [
        ("ij,jk->ik", "MatMul"),
        ("ibnd,jbnd->bnij", "Transpose Transpose MatMul"),
        ("bnij,jbnd->ibnd", "Transpose MatMul Transpose"),
        ("bind,snd->bnis", "Transpose Transpose MatMul"),
        ("bhwc,hkc->bhwk", "Transpose MatMul"),
        ("bhwc,wkc->bhwk", "Transpose Transpose MatMul Transpose"),
        ("ij,kj->ki", "Transpose MatMul"),
        ("bi,bi->b", "Unsqueeze Unsqueeze MatMul Squeeze"),
        ("ij,ij->", "Reshape Reshape MatMul Squeeze"),
        ("i,j->ij", "Unsqueeze Mul"),
        ("bij,bk->bijk", "Unsqueeze Unsqueeze Mul"),
        ("ij,j->ij", "Mul"),
        ("ijbn->bnij", "Transpose"),
    ],
)
def test_it_is_written_as(equation: str, operators: str, known: bool) -> None:
    model = einsum(equation, known=known)
    original = model.clone()
    run_pass(FuseEinsum(), model)
    assert [node.op_type for node in model.graph] == operators.split()
    assert_same_outputs(original, model, feeds=feeds(equation))


@pytest.mark.parametrize(
    ("equation", "operators"),
    [
        ("ibh,hnd->ibnd", ["Reshape", "MatMul", "Reshape"]),
        ("ibnd,hnd->ibh", ["Reshape", "Transpose", "Reshape", "MatMul"]),
        ("bick,ckst->bist", ["Reshape", "Reshape", "MatMul", "Reshape"]),
    ],
)
def test_axes_of_known_sizes_are_joined(equation: str, operators: list[str]) -> None:
    assert_becomes(einsum_to_matmul, einsum(equation), operators)
    reason = "sizes of axes that are joined are not known"
    assert_refuses(einsum_to_matmul, einsum(equation, known=False), reason)


@pytest.mark.parametrize(
    ("equation", "before"),
    [("bhijk,bhks->bhijs", []), ("bhijk,bhsk->bhijs", ["Transpose"])],
)
def test_what_lies_behind_the_batch_is_one_axis_or_meets_one_of_size_1(
    equation: str, before: list[str]
) -> None:
    operators = ["Reshape", *before, "MatMul", "Reshape"]
    assert_becomes(einsum_to_products, einsum(equation), operators)
    model = einsum(equation, known=False)
    assert_becomes(einsum_to_products, model, [*before, "Unsqueeze", "MatMul"])


def test_products_of_several_axes_beside_a_batch_are_measured() -> None:
    assert einsum_to_products.may_lose
    assert_becomes(einsum_to_matmul, einsum("bhwc,hkc->bhwk"), ["Einsum"])
    assert_becomes(einsum_to_products, einsum("ibnd,jbnd->bnij"), ["Einsum"])


def test_one_size_that_is_joined_need_not_be_known() -> None:
    model = parse(
        "g (float[B,Q,C] x, float[B,C,H,5] z) => (float[B,Q,H,5] y)"
        ' { y = Einsum<equation="bqc,bchw->bqhw">(x, z) }'
    )
    assert_becomes(einsum_to_matmul, model, ["Reshape", "MatMul", "Reshape"])


def test_without_an_arrow_letters_that_come_once_are_kept() -> None:
    signature = "g (float[3,2] x, float[4,2] z) => (float[4,3] y) "
    before = parse(signature + '{ y = Einsum<equation="jb, ib">(x, z) }')
    after = parse(signature + "{ t = Transpose<perm=[1,0]>(x) y = MatMul(z, t) }")
    assert_rewrites(einsum_to_matmul, before, after)


@pytest.mark.parametrize(
    ("equation", "reason"),
    [
        ("ij...,jk->ik...", "the equation has an ellipsis"),
        ("ii,ij->ij", "a letter comes twice in one tensor"),
        ("ij,k->k", "an axis that one tensor alone has is summed"),
    ],
)
def test_refuses(equation: str, reason: str) -> None:
    model = parse(
        f'g (float[3,3] x, float[3] z) => (float y) {{ y = Einsum<equation="{equation}">(x, z) }}'
    )
    assert_refuses(einsum_to_matmul, model, reason)


def test_refuses_to_broadcast_what_is_summed() -> None:
    model = parse(
        "g (float[3,1] x, float[4,5] z) => (float[3,5] y)"
        ' { y = Einsum<equation="ij,jk->ik">(x, z) }'
    )
    assert_refuses(einsum_to_matmul, model, "axes of one letter broadcast")


def test_refuses_to_split_what_is_empty() -> None:
    """Reshape takes a size of 0 for that of the same place before."""
    model = parse(
        "g (float[1,4,1,0] x) => (float[1,1,0,1,0] y)"
        ' { y = Einsum<equation="abcd,AbcD->acdAD">(x, x) }'
    )
    assert_refuses(einsum_to_products, model, "an axis is empty")


@pytest.mark.parametrize("equation", ["ij->i", "ii->i", "i...->...i"])
def test_refuses_one_tensor_that_is_not_transposed(equation: str) -> None:
    model = parse(f'g (float[3,3] x) => (float[N] y) {{ y = Einsum<equation="{equation}">(x) }}')
    assert_refuses(einsum_to_transpose, model, "it does more than to order axes")
