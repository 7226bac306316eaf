# SPDX-License-Identifier: Apache-2.0
"""Inputs that are made up fit the model, and follow the seed."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.feeds import (
    BATCH,
    EXTENT,
    LATENTS,
    PIXELS,
    TOKENS,
    random_feeds,
    random_run,
    sizes_to_try,
    symbol_sizes,
)
from burnish.backends.onnxruntime import TensorSpec, session
from burnish.errors import BurnishError, InputError
from burnish.testing import parse

TYPES = """g (float[batch,3,H,W] image, int64[batch,seq] input_ids, int64[batch,seq] attention_mask,
    int32[2] i, uint8[9,9] pixels, int8[99] q, bool[64] flags, float16[2] half, bfloat16[2] brain,
    double[2] d, float scalar, float[2,?] unknown)
    => (float[batch,3,H,W] y) { y = Neg(image) }"""


@pytest.mark.parametrize("loaded", [False, True])
def test_feeds_fit_the_model(loaded: bool) -> None:
    model = parse(TYPES)
    source = session(model) if loaded else model
    feeds = random_feeds(source)
    assert feeds["image"].shape == (BATCH, 3, EXTENT, EXTENT)
    assert feeds["input_ids"].shape == (BATCH, EXTENT)
    assert feeds["scalar"].shape == ()
    assert feeds["unknown"].shape == (2, EXTENT)
    assert set(np.unique(feeds["input_ids"])) == {0, 1}
    assert feeds["attention_mask"].all()
    assert feeds["pixels"].max() > 200
    assert feeds["q"].min() < -64
    assert 0 < feeds["flags"].sum() < 64
    assert session(model).run(feeds)["y"].shape == feeds["image"].shape


def test_strings_are_words() -> None:
    model = parse("g (string[4,N] words) => (string[4,N] y) { y = Identity(words) }")
    assert session(model).run(random_feeds(model))["y"].shape == (4, EXTENT)


def test_feeds_follow_the_seed() -> None:
    model = parse(TYPES)
    one, same, other = random_feeds(model, 1), random_feeds(model, 1), random_feeds(model, 2)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["image"], other["image"])


def test_sizes_and_ranges_can_be_given() -> None:
    feeds = random_feeds(
        parse(TYPES), dims={"batch": 4, "seq": 7}, ranges={"input_ids": (5, 9), "image": (0, 0.5)}
    )
    assert feeds["image"].shape[0] == 4
    assert feeds["input_ids"].shape == (4, 7)
    assert set(np.unique(feeds["input_ids"])) == {5, 6, 7, 8, 9}
    assert 0 <= feeds["image"].min() < feeds["image"].max() < 0.5


def test_a_symbol_is_one_size_wherever_it_stands() -> None:
    feeds = random_feeds(parse("g (float[3,N] x, float[N] z) => (float[3,N] y) { y = Add(x, z) }"))
    assert feeds["x"].shape[1] == feeds["z"].shape[0] == BATCH


def test_sizes_without_a_name_are_called_as_on_import() -> None:
    assert random_feeds(parse(TYPES), dims={"unknown_dim_1": 5})["unknown"].shape == (2, 5)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("g (float[N,M] x) => (float[N,M] y) { y = Neg(x) }", {"N": 1, "M": 32}),
        ("g (float[A,B] x, float[C,D] z) => (float[E,F] y) { y = MatMul(x, z) }", 32),
        ("g (float[1,N] x, float[1,M] z) => (float[1,M] y) { s = Shape(x) y = Expand(z, s) }", 32),
        (
            "g (float[A,B] x) => (float[A,C] y) <int64[4] pads = {0, 99, 0, 0}>"
            '{ y = Pad<mode="reflect">(x, pads) }',
            {"A": 1, "B": 128},
        ),
        (
            "g (float[N,7] x, float[M,7] z, int64[M,A] i) => (float[N,7] y) <int64[1] one = {1}>"
            "{ g = GatherND<batch_dims=1>(x, i)  s = Unsqueeze(g, one) y = Add(x, s) }",
            1,
        ),
    ],
)
def test_a_model_is_run_at_the_first_sizes_it_runs_at(
    text: str, sizes: int | dict[str, int]
) -> None:
    found = random_run(session(parse(text)))
    wanted = sizes if isinstance(sizes, dict) else dict.fromkeys(found.sizes, sizes)
    assert found.sizes == wanted
    assert all(array.ndim for array in found.outputs.values())


def test_a_model_that_runs_at_no_size_says_why_at_the_usual_ones() -> None:
    text = "g (float[N,M] x, float[7,5] z) => (float[N,5] y) { y = MatMul(x, z) }"
    with pytest.raises(BurnishError, match="MatMul dimension mismatch"):
        random_run(session(parse(text)))
    assert random_run(session(parse(text)), dims={"M": 7}).sizes == {"N": 1, "M": 7}
    with pytest.raises(InputError, match="no input has a dimension 'K'"):
        random_run(session(parse(text)), dims={"K": 7})


def test_a_session_is_freed_once_it_is_closed() -> None:
    """Even where the usual sizes failed: what was raised holds the frames it came through."""
    text = 'g (float[A,B] x) => (y) <int64[4] n = {0, 99, 0, 0}> { y = Pad<mode="reflect">(x, n) }'
    loaded = session(parse(text))
    inner = weakref.ref(loaded.inner)
    gc.disable()
    try:
        assert random_run(loaded).unusual
        loaded.close()
        assert inner() is None
    finally:
        gc.enable()


PAST = """g (int64[B,S] ids, float[B,P,4] past, int64[B,TOTAL] attention_mask)
    => (float[B,T,4] y) <float[2,4] table = {1, 2, 3, 4, 5, 6, 7, 8}, int64[1] two = {2}> {
        now = Gather(table, ids)
        all = Concat<axis = 1>(past, now)
        mask = Cast<to = 1>(attention_mask)
        wide = Unsqueeze(mask, two)
        y = Mul(all, wide)
    }"""


@pytest.mark.parametrize("total", ["P + S", "T"])
def test_a_decoder_with_a_past_is_run_at_sizes_that_add_up(total: str) -> None:
    loaded = session(parse(PAST.replace("TOTAL", "T")))
    # The text form of ONNX has no such names, files of exporters do.
    specs = [
        spec._replace(shape=tuple(total if dim == "T" else dim for dim in spec.shape))
        for spec in loaded.inputs
    ]
    found = list(sizes_to_try(specs))[: 1 if total == "P + S" else 2][-1]
    assert {name: found[name] for name in "BPS"} == {"B": 1, "P": EXTENT, "S": EXTENT}
    feeds = random_feeds(_Inputs(tuple(specs)), dims=found)
    assert feeds["attention_mask"].shape == (1, 2 * EXTENT)
    assert random_run(loaded).outputs["y"].shape == (1, 2 * EXTENT, 4)


class _Inputs(NamedTuple):
    inputs: tuple[TensorSpec, ...]


def test_a_size_that_follows_from_others_can_be_given() -> None:
    specs = (TensorSpec("x", ir.DataType.FLOAT, ("n", "n + 1", "m - 1")),)
    assert random_feeds(_Inputs(specs))["x"].shape == (1, 2, EXTENT)
    assert random_feeds(_Inputs(specs), dims={"n": 3})["x"].shape == (3, 4, EXTENT)
    assert random_feeds(_Inputs(specs), dims={"n + 1": 7})["x"].shape == (1, 7, EXTENT)


@pytest.mark.parametrize("size", ["n % (m - 32)", "n // (m - 32)", "n / (m - 32)"])
def test_a_size_that_others_leave_undefined_is_the_usual_one(size: str) -> None:
    specs = (TensorSpec("x", ir.DataType.FLOAT, ("n", "m", size)),)
    assert random_feeds(_Inputs(specs))["x"].shape == (1, EXTENT, EXTENT)


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not copy processes so")
def test_sizes_at_which_the_runtime_ends_the_process_are_passed_by() -> None:
    """Scan divides by zero where it has nothing to do (ONNX Runtime 1.31), here at [32, 32]."""
    model = parse(
        """g (float[A,B] x) => (float[C,D] y)
        <int64[1] one = {1}, int64[1] end = {31}, int64[4] pads = {0, 99, 0, 0}> {
            n = Shape<start = 0, end = 1>(x)
            start = Sub(n, one)
            few = Slice(x, start, end, one)
            t = Scan<num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
                body = b (float[r] v) => (float[r] w) { w = Neg(v) }>(few)
            s = ReduceSum<keepdims = 1>(t)
            z = Add(x, s)
            y = Pad<mode = "reflect">(z, pads)
        }"""
    )
    assert random_run(session(model)).sizes == {"A": 1, "B": 128}


def test_weights_listed_as_inputs_are_not_fed() -> None:
    model = parse("g (float[2] x, float[2] w) => (float[2] y) { y = Add(x, w) }")
    value = model.graph.inputs[1]
    value.const_value = ir.tensor(np.ones(2, np.float32), name="w")
    model.graph.register_initializer(value)
    assert list(random_feeds(model)) == ["x"]


def test_wrong_sizes_and_strange_inputs_are_named() -> None:
    with pytest.raises(InputError, match=r"no input has a dimension 'bacth'.*batch, H, W, seq"):
        random_feeds(parse(TYPES), dims={"bacth": 2})
    sequence = parse("g (seq(float[2]) s) => (int64 n) { n = SequenceLength(s) }")
    for source in (sequence, session(sequence)):
        with pytest.raises(InputError, match="'s' is not a tensor"):
            random_feeds(source)


def test_typical_sizes_are_those_of_images_and_texts() -> None:
    latents = TensorSpec("z", ir.DataType.FLOAT, ("N", 4, "H", "W"))
    assert symbol_sizes([latents], {}, typical=True) == {"N": BATCH, "H": LATENTS, "W": LATENTS}
    image = TensorSpec("image", ir.DataType.FLOAT, ("N", 3, "H", 48))
    text = TensorSpec("ids", ir.DataType.INT64, ("N", "S"))
    assert symbol_sizes([image, text], {}, typical=True) == {"N": BATCH, "H": PIXELS, "S": TOKENS}
    assert symbol_sizes([image, text], {"S": 7}) == {"N": BATCH, "H": EXTENT, "S": 7}
