# SPDX-License-Identifier: Apache-2.0
"""Sizes that leave a shape as scalars and come back into one."""

from __future__ import annotations

import pytest

from burnish.passes.cleanup.scalars import vector_of_size
from burnish.testing import assert_refuses, assert_rewrites, parse

SIGNATURE = (
    "g (float[N,M] x) => ({}) <int64 two = {{2}}, int64 one = {{1}}, int64[1] zero = {{0}},"
    " int64[1] back = {{-1}}, int64[1] first = {{1}}> "
)
PLAIN = SIGNATURE.format("int64[1] y")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "s = Shape<start=0, end=1>(x) n = Squeeze(s) m = Mul(n, two) y = Reshape(m, back)",
            "s = Shape<start=0, end=1>(x) y = Mul(s, two)",
        ),
        (
            "s = Shape(x) n = Gather(s, one) m = Sub(n, two)"
            " d = Div(m, two) y = Unsqueeze(d, zero)",
            "s = Shape(x) n = Gather<axis=0>(s, first) m = Sub(n, two) y = Div(m, two)",
        ),
        (
            "s = Shape(x) a = Gather(s, one) t = Shape<start=0, end=1>(x) b = Squeeze(t, zero)"
            " m = Add(a, b) y = Unsqueeze(m, zero)",
            "s = Shape(x) a = Gather<axis=0>(s, first) t = Shape<start=0, end=1>(x) y = Add(a, t)",
        ),
    ],
)
def test_a_size_stays_a_vector(before: str, after: str) -> None:
    assert_rewrites(
        vector_of_size, parse(f"{PLAIN} {{ {before} }}"), parse(f"{PLAIN} {{ {after} }}")
    )


def test_what_others_make_a_vector_too_is_gathered_once() -> None:
    signature = SIGNATURE.format("int64[1] y, int64[1] z")
    before = parse(
        signature + "{ s = Shape(x) n = Gather(s, one) m = Sub(n, two) y = Unsqueeze(m, zero)"
        " z = Unsqueeze(n, zero) }"
    )
    after = parse(signature + "{ s = Shape(x) z = Gather<axis=0>(s, first) y = Sub(z, two) }")
    assert_rewrites("cleanup", before, after)


@pytest.mark.parametrize(
    ("outputs", "body", "reason"),
    [
        (
            "int64[1] y, int64 z",
            "s = Shape(x) n = Gather(s, one) m = Sub(n, two) y = Unsqueeze(m, zero) z = Neg(n)",
            "not computed from a vector of one element alone",
        ),
        (
            "int64[1,2] y",
            "s = Shape(x) m = Mul(s, two) y = Unsqueeze(m, zero)",
            "not of scalars",
        ),
    ],
)
def test_what_others_read_as_a_scalar_is_refused(outputs: str, body: str, reason: str) -> None:
    model = parse(SIGNATURE.format(outputs) + f"{{ {body} }}")
    assert_refuses(vector_of_size, model, reason)
