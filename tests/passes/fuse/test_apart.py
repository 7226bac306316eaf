# SPDX-License-Identifier: Apache-2.0
"""An addition before a norm is written so that the runtime does not fuse the two."""

from __future__ import annotations

import dataclasses

import pytest

from burnish.backends.census import census
from burnish.backends.target import Target
from burnish.passes.fuse.apart import add_before_norm
from burnish.testing import assert_refuses, assert_rewrites, parse, run_pass

_INPUTS = "(float[N,S,8] x, float[N,S,8] z)"
_WEIGHTS = "<float[8] g = {1,2,3,4,5,6,7,8}, float[8] c = {1,1,2,2,3,3,4,4}>"
_NORM = "LayerNormalization(t, g, c)"
_CPU = Target.parse("cpu")


def _before(signature: str = f"{_INPUTS} => (float[N,S,8] y)", more: str = "") -> str:
    return f"m {signature} {_WEIGHTS} {{ t = Add(x, z)  y = {_NORM} {more} }}"


def test_fires_and_keeps_the_numbers() -> None:
    after = f"m {_INPUTS} => (float[N,S,8] y) {_WEIGHTS} {{ t = Sum(x, z)  y = {_NORM} }}"
    assert_rewrites(add_before_norm, parse(_before()), parse(after))


def test_other_users_of_the_sum_take_the_new_one() -> None:
    signature = f"{_INPUTS} => (float[N,S,8] y, float[N,S,8] w)"
    after = f"m {signature} {_WEIGHTS} {{ t = Sum(x, z)  y = {_NORM}  w = Relu(t) }}"
    assert_rewrites(add_before_norm, parse(_before(signature, "w = Relu(t)")), parse(after))


def test_the_runtime_then_fuses_nothing() -> None:
    model = parse(_before())
    fused = "com.microsoft::SkipLayerNormalization"
    assert census(model, _CPU).executed.fused.get(fused) == 1
    run_pass(add_before_norm, model)
    assert fused not in census(model, _CPU).executed.fused


def test_refuses_where_the_fused_form_is_welcome() -> None:
    target = dataclasses.replace(_CPU, preferences=())
    assert_refuses(add_before_norm, parse(_before()), "fused form is welcome", target=target)


@pytest.mark.parametrize("other", ["float[8] z", "float[1,S,8] z"])
def test_refuses_a_sum_that_broadcasts(other: str) -> None:
    model = parse(_before(f"(float[N,S,8] x, {other}) => (float[N,S,8] y)"))
    assert_refuses(add_before_norm, model, "a sum that broadcasts")
