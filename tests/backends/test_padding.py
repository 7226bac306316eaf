# SPDX-License-Identifier: Apache-2.0
"""Padding to a profile leaves what the model computes as it is, or is refused."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.backends import numeric
from burnish.backends.onnxruntime import session
from burnish.backends.padding import Axis, Padding
from burnish.backends.profiles import Profile, Range, check, choose
from burnish.errors import InputError, VerificationError
from burnish.testing import parse

_MEAN = (
    "g (float[N,T,4] x, float[N,T,1] mask) => (float[N,4] mean, float[N,T,4] each) "
    "<int64[1] axis = {1}> { each = Mul(x, mask)  s = ReduceSum<keepdims = 0>(each, axis) "
    "n = ReduceSum<keepdims = 0>(mask, axis)  mean = Div(s, n) }"
)


def profile(name: str, low: int, high: int) -> Profile:
    shapes = [(1, size, 4) for size in (low, high, high)]
    masks = [(1, size, 1) for size in (low, high, high)]
    return Profile(name, {"x": Range(*shapes), "mask": Range(*masks)})


_SMALL, _LARGE = profile("small", 1, 8), profile("large", 1, 32)
_PADDING = Padding({"x": 7.0, "mask": 0.0}, {Axis("each", 1): Axis("x", 1)})


def feeds(tokens: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, tokens, 4)).astype(np.float32)
    return {"x": x, "mask": np.ones((1, tokens, 1), np.float32)}


def test_text() -> None:
    parsed = Padding.parse(["x=7", "mask=0"], ["each:1=x:1"])
    assert parsed == _PADDING
    assert Padding.of(parsed.as_dict()) == parsed
    for pad in ("x", "=1", "x=one"):
        with pytest.raises(InputError, match="is not INPUT=VALUE"):
            Padding.parse([pad], [])
    for unpad in ("each", "each:1=x", "each:1", "each:-1=x:1", "=x:1"):
        with pytest.raises(InputError, match="is not OUTPUT:AXIS=INPUT:AXIS"):
            Padding.parse([], [unpad])


@pytest.mark.parametrize("tokens", [1, 5, 8])
def test_padded_and_cut_is_as_before(tokens: int) -> None:
    with session(parse(_MEAN)) as model:
        given = feeds(tokens)
        padded = _PADDING.pad(given, _SMALL)
        assert padded["x"].shape == (1, 8, 4)
        found = _PADDING.cut(model.run(padded), {name: a.shape for name, a in given.items()})
        assert numeric.compare_outputs(model.run(given), found).ok
    _PADDING.check(parse(_MEAN), [_SMALL, _LARGE])


@pytest.mark.parametrize(
    ("padding", "message"),
    [
        (Padding({"x": 0.0, "mask": 1.0}, _PADDING.cuts), "changes what the model computes"),
        (Padding(_PADDING.values, {}), r"shape \[1, 8, 4\], expected \[1, 4, 4\]"),
    ],
)
def test_padding_that_does_harm_is_refused(padding: Padding, message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        padding.check(parse(_MEAN), [_SMALL])


@pytest.mark.parametrize(
    ("padding", "message"),
    [
        (Padding({"y": 0.0}, {}), "no input 'y' to pad"),
        (Padding({}, {Axis("x", 1): Axis("x", 1)}), "no output 'x'"),
        (Padding({"x": 0.0}, _PADDING.cuts), "input 'mask'.*is not declared.*--pad mask=VALUE"),
    ],
)
def test_padding_that_is_not_declared(padding: Padding, message: str) -> None:
    with pytest.raises(InputError, match=message):
        padding.check(parse(_MEAN), [_SMALL])


def test_the_tightest_profile_is_chosen() -> None:
    shapes = {name: array.shape for name, array in feeds(5).items()}
    assert choose([_LARGE, _SMALL], shapes) is _SMALL
    longer = {name: array.shape for name, array in feeds(9).items()}
    assert choose([_LARGE, _SMALL], longer) is _LARGE
    exact = profile("exact", 8, 8)
    assert choose([exact], shapes, padded=True) is exact
    with pytest.raises(InputError, match=r"no profile covers a request of x \[1, 5, 4\]"):
        choose([exact], shapes)
    with pytest.raises(InputError, match=r"no profile covers .* there are .*small|x \[1, 1, 4\]"):
        choose([_SMALL], longer, padded=True)


def test_profiles_are_held_against_the_model() -> None:
    inputs = [("x", ("N", "T", 4)), ("mask", ("N", "T", 1))]
    check([_SMALL, _LARGE], inputs)
    only = Profile("p", {"x": _SMALL.inputs["x"]})
    with pytest.raises(InputError, match="do not give the shape of input 'mask'"):
        check([only], inputs)
    with pytest.raises(InputError, match="the model has no input 'mask'"):
        check([_SMALL], inputs[:1])
    with pytest.raises(InputError, match=r"input 'x' of the model is \[N, T, 5\]; small has"):
        check([_SMALL], [("x", ("N", "T", 5)), inputs[1]])


def test_a_profile_is_ordered_and_round_trips() -> None:
    with pytest.raises(InputError, match="is not min <= opt <= max"):
        Profile("p", {"x": Range((2,), (1,), (3,))})
    assert Profile.of(_SMALL.as_dict()) == _SMALL
