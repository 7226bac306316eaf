# SPDX-License-Identifier: Apache-2.0
"""Channel shuffles: one Gather, cut up with what is cut behind it, and taken in by convolutions.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`; a Gather
moves numbers and changes none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.fuse.conv.shuffle import (
    FuseShuffle,
    channel_shuffle,
    gather_into_conv,
    halves_of_gather,
    part_of_gather,
)
from burnish.testing import assert_refuses, assert_rewrites, assert_same_outputs, parse, run_pass

Freeze = Callable[..., ir.Model]

SHUFFLE = "{ r = Reshape(x, split) t = Transpose<perm=[0,2,1,3,4]>(r) y = Reshape(t, back) }"
SIGNATURE = "g (float[N,6,4,5] x, int64[5] split, int64[4] back) => (float[N,6,4,5] y)"


def operators(model: ir.Model) -> Counter[str]:
    """Run the pass; check the numbers; count the operators that are left."""
    original = model.clone()
    run_pass(FuseShuffle(), model)
    assert_same_outputs(original, model)
    return Counter(node.op_type for node in model.graph)


# --- channel-shuffle ---------------------------------------------------------------------------


def test_a_shuffle_becomes_a_gather() -> None:
    before = parse(
        "g (float[N,6,4,5] x) => (float[N,6,4,5] y)"
        "<int64[5] split = {0, 2, 3, 4, 5}, int64[4] back = {0, 6, 4, 5}>" + SHUFFLE
    )
    after = parse(
        "g (float[N,6,4,5] x) => (float[N,6,4,5] y) <int64[6] order = {0, 3, 1, 4, 2, 5}>"
        "{ y = Gather<axis=1>(x, order) }"
    )
    assert_rewrites(channel_shuffle, before, after)


def test_positions_may_be_joined_and_asked_for(freeze: Freeze) -> None:
    model = freeze(
        "g (float[N,6,H,W] x, int64[4] split) => (float[N,6,H,W] y)"
        "{ r = Reshape(x, split) t = Transpose<perm=[0,2,1,3]>(r) s = Shape(x) y = Reshape(t, s) }",
        split=[0, 3, 2, -1],
    )
    assert operators(model)["Gather"] == 1


@pytest.mark.parametrize(
    ("split", "perm", "back", "reason"),
    [
        ([0, 2, 3, 4, 5], "0,2,1,4,3", [0, 6, 4, 5], "not the two axes behind the samples"),
        ([0, 2, 3, 4, 5], "0,2,1,3,4", [0, 6, 5, 4], "not known to be split and joined again"),
        ([0, 3, 4, 2, 5], "0,2,1,3,4", [0, 6, 4, 5], "not known to be split and joined again"),
        ([0, 4, 3, 2, 5], "0,2,1,3,4", [0, 6, 4, 5], "not known to be joined in groups"),
    ],
)
def test_other_moves_are_refused(
    freeze: Freeze, split: list[int], perm: str, back: list[int], reason: str
) -> None:
    text = (
        (SIGNATURE + SHUFFLE)
        .replace("0,2,1,3,4", perm)
        .replace("=> (float[N,6,4,5]", "=> (float[A,B,C,D]")
    )
    assert_refuses(channel_shuffle, freeze(text, split=split, back=back), reason)


# --- halves-of-gather, part-of-gather ----------------------------------------------------------

PICKED = "g (float[2,5,3] x) => (float[2,%d,3] y, float[2,%d,3] z) <int64[5] o = {4, 2, 0, 1, 3}%s>"


@pytest.mark.parametrize(
    ("first", "given", "split"),
    [
        (2, ", int64[2] s = {2, 3}", "Split<axis=1>(g, s)"),
        (3, "", "Split<axis=1,num_outputs=2>(g)"),
    ],
)
def test_what_is_split_is_gathered_in_two(first: int, given: str, split: str) -> None:
    before = parse(
        PICKED % (first, 5 - first, given) + f"{{ g = Gather<axis=1>(x, o) y, z = {split} }}"
    )
    order = [4, 2, 0, 1, 3]
    parts = [", ".join(map(str, part)) for part in (order[:first], order[first:])]
    after = parse(
        f"g (float[2,5,3] x) => (float[2,{first},3] y, float[2,{5 - first},3] z)"
        f"<int64[{first}] a = {{{parts[0]}}}, int64[{5 - first}] b = {{{parts[1]}}}>"
        "{ y = Gather<axis=1>(x, a) z = Gather<axis=1>(x, b) }"
    )
    assert_rewrites(halves_of_gather, before, after)


@pytest.mark.parametrize(("start", "end", "step"), [(0, 2, 1), (-3, 2**63 - 1, 1), (1, 5, 2)])
def test_what_is_sliced_is_gathered_alone(freeze: Freeze, start: int, end: int, step: int) -> None:
    model = freeze(
        "g (float[2,5,3] x, int64[5] o, int64[1] s, int64[1] e, int64[1] a, int64[1] k)"
        " => (float[2,M,3] y) { g = Gather<axis=1>(x, o) y = Slice(g, s, e, a, k) }",
        o=[4, 2, 0, 1, 3],
        s=start,
        e=end,
        a=1,
        k=step,
    )
    assert operators(model) == {"Gather": 1}


@pytest.mark.parametrize(
    ("axis", "step", "reason"),
    [(2, 1, "along other axes too"), (1, -1, "the slice goes backwards")],
)
def test_other_slices_are_refused(freeze: Freeze, axis: int, step: int, reason: str) -> None:
    model = freeze(
        "g (float[2,5,3] x, int64[5] o, int64[1] s, int64[1] e, int64[1] a, int64[1] k)"
        " => (float[2,L,M] y) { g = Gather<axis=1>(x, o) y = Slice(g, s, e, a, k) }",
        o=[4, 2, 0, 1, 3],
        s=0,
        e=2,
        a=axis,
        k=step,
    )
    assert_refuses(part_of_gather, model, reason)


# --- gather-into-conv --------------------------------------------------------------------------


def test_a_convolution_takes_the_order_in() -> None:
    before = parse(
        "g (float[N,3,2] x) => (float[N,1,2] y)"
        "<int64[3] o = {2, 0, 1}, float[1,3,1] w = {5, 6, 7}>"
        "{ g = Gather<axis=1>(x, o) y = Conv(g, w) }"
    )
    after = parse(
        "g (float[N,3,2] x) => (float[N,1,2] y) <float[1,3,1] w = {6, 7, 5}> { y = Conv(x, w) }"
    )
    assert_rewrites(gather_into_conv, before, after)


def test_past_a_depthwise_convolution_into_the_next(freeze: Freeze) -> None:
    model = freeze(
        "g (float[2,4,5,5] x, int64[4] o, float[4,1,3,3] k, float[4] b, float[6,4,1,1] w)"
        " => (float[2,6,3,3] y)"
        "{ g = Gather<axis=1>(x, o) d = Conv<group=4>(g, k, b) y = Conv(d, w) }",
        o=[2, 0, 3, 1],
    )
    assert operators(model) == {"Conv": 2}


@pytest.mark.parametrize(
    ("order", "group", "weights", "reason"),
    [
        ([0, 0, 1, 2], 1, "6,4,1", "the channels are not only put into another order"),
        ([1, 0, 2], 1, "6,3,1", "some of the channels are left out"),
        ([2, 0, 3, 1], 2, "6,2,1", "the order of channels matters to a grouped convolution"),
        ([2, 0, 3, 1], 4, "8,1,1", "the order of channels matters to a grouped convolution"),
    ],
)
def test_other_convolutions_are_refused(
    freeze: Freeze, order: list[int], group: int, weights: str, reason: str
) -> None:
    outputs = weights.split(",")[0]
    model = freeze(
        f"g (float[2,4,5] x, int64[{len(order)}] o, float[{weights}] w) => (float[2,{outputs},5] y)"
        f"{{ g = Gather<axis=1>(x, o) y = Conv<group={group}>(g, w) }}",
        o=np.array(order),
    )
    assert_refuses(gather_into_conv, model, reason)


def test_one_that_takes_its_axis_is_no_order() -> None:
    model = parse(
        "g (float[2,3,4,5] x, float[6,4,1] w) => (float[2,6,5] y)"
        "<int64 o = {1}> { g = Gather<axis=1>(x, o) y = Conv(g, w) }",
        w=np.ones((6, 4, 1), np.float32),
    )
    assert_refuses(gather_into_conv, model, "the channels are not only put into another order")
