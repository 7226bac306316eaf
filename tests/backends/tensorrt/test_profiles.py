# SPDX-License-Identifier: Apache-2.0
"""Shapes to build for: read, derived, and held against the model."""

from __future__ import annotations

from typing import Any

import pytest

from burnish.backends.profiles import Profile, Range
from burnish.backends.tensorrt.profiles import parse, resolve
from burnish.errors import InputError

Made = Any

TWO = """g (float[batch,3,H,W] x, int64[batch,length] i, float[4] c) => (float[batch,3,H,W] y) {
    y = Relu(x)
}"""
FIXED = "g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }"


def test_an_input_by_its_shapes(made: Made) -> None:
    (profile,) = parse(["x=1x3x32x32:1x3x64x64:4x3x96x96,length=1:16:128,batch=1:2:4"], made(TWO))
    assert profile.inputs == {
        "x": Range((1, 3, 32, 32), (1, 3, 64, 64), (4, 3, 96, 96)),
        "i": Range((1, 1), (2, 16), (4, 128)),
    }


def test_a_symbol_counts_in_all_inputs_and_the_rest_has_defaults(made: Made) -> None:
    (profile,) = parse(["batch=2"], made(TWO))
    assert profile.inputs == {
        "x": Range((2, 3, 32, 32), (2, 3, 320, 320), (2, 3, 960, 960)),
        "i": Range((2, 1), (2, 128), (2, 512)),
    }


def test_what_stands_twice_begins_the_next_profile(made: Made) -> None:
    first, second = parse(["batch=1:1:1,length=8", "batch=4:4:4", "length=16"], made(TWO))
    assert (first.inputs["i"], second.inputs["i"]) == (
        Range((1, 8), (1, 8), (1, 8)),
        Range((4, 16), (4, 16), (4, 16)),
    )
    assert first.name != second.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch=1:2", "are not NAME=MIN:OPT:MAX"),
        ("batch", "are not NAME=MIN:OPT:MAX"),
        ("y=1:2:3", r"name no input and no symbolic axis; there are x, i, c, H, W, batch, length"),
        ("batch=1:two:3", "'two' is no size"),
        ("batch=3:2:1", "min <= opt <= max"),
        ("x=1x3x8:1x3x8x8:1x3x8x8", "one rank"),
    ],
)
def test_bad_text_is_one_line(made: Made, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse([text], made(TWO))
    assert "\n" not in str(caught.value)


def test_without_shapes_defaults_are_taken_and_told(made: Made) -> None:
    profiles, line = resolve(made(TWO), ())
    assert [profile.inputs for profile in profiles] == [
        profile.inputs for profile in parse(["batch=1:1:8"], made(TWO))
    ]
    assert profiles[0].inputs["i"] == Range((1, 1), (1, 128), (8, 512))
    assert line is not None
    assert "--shapes" in line


def test_fixed_shapes_need_no_profile(made: Made) -> None:
    assert resolve(made(FIXED), ()) == ((), None)
    given = Profile("p", {"x": Range((2, 3), (2, 3), (2, 3))})
    assert resolve(made(FIXED), [given])[0] == (Profile("p", {}),)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"z": Range((1,), (1,), (1,))}, "names no input 'z'"),
        ({"x": Range((1, 4, 8, 8), (1, 4, 8, 8), (1, 4, 8, 8))}, "does not fit it"),
        ({"x": Range((1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8))}, "has no shapes of input 'i'"),
    ],
)
def test_profiles_are_held_against_the_model(made: Made, inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(made(TWO), [Profile("p", inputs)])


def test_an_input_without_rank_is_refused(made: Made) -> None:
    model = made("g (float[] x) => (float[] y) { y = Relu(x) }")
    model.graph.inputs[0].shape = None
    with pytest.raises(InputError, match="no shape, not even a rank"):
        resolve(model, ())
