# SPDX-License-Identifier: Apache-2.0
"""The region of a rewrite as two models: what is in them, and that both compute the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends import numeric, onnxruntime
from burnish.passes import rewrite
from burnish.passes.inputs import Sample
from burnish.passes.part import CannotMeasure
from burnish.passes.pattern import const
from burnish.passes.region import Region, find
from burnish.passes.rule import Rule, rule
from burnish.testing import parse, run_pass

_SIZES = {"N": 2, "T": 5}

_LAYERS = """g (float[N,T,8] x, bool[N,1,T] keep, float[8,8] w) => (float[N,T,8] y)
<float low = {-1000.0}, int64[3] shape = {0, -1, 8}> {
    zero = Constant<value_float = 0.0>()  mask = Where(keep, zero, low)
    a0 = Reshape(x, shape)  b0 = Transpose<perm = [0, 2, 1]>(a0)  s0 = MatMul(a0, b0)
    m0 = Add(s0, mask)  p0 = Softmax(m0)  x1 = MatMul(p0, x)
    a1 = Reshape(x1, shape)  b1 = Transpose<perm = [0, 2, 1]>(a1)  s1 = MatMul(a1, b1)
    m1 = Add(s1, mask)  p1 = Softmax(m1)  y = MatMul(p1, x1)
}"""


@dataclass(frozen=True)
class Sides:
    """A region, and its models and inputs as they are before the rewrite is done."""

    region: Region
    before: ir.Model
    after: ir.Model
    feeds: dict[str, np.ndarray]


def regions(what: Rule, model: ir.Model, sample: Sample | None = None) -> list[Sides]:
    """Return the region of each rewrite a rule does, as it is about to do it."""
    found: list[Sides] = []
    splice = rewrite._Driver.splice

    def watch(self: Any, pattern: Any, match: Any, node: Any, builder: Any, pairs: Any) -> None:
        given = sample or Sample(dict(_SIZES))
        region = find(pairs, builder.nodes, given, self.opset_imports)
        found.append(Sides(region, *region.models(), region.feeds()))
        splice(self, pattern, match, node, builder, pairs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewrite._Driver, "splice", watch)
        run_pass(what, model)
    return found


def assert_same(sides: Sides) -> None:
    """Run both sides on the feeds of a region."""
    outputs = []
    for model in (sides.before, sides.after):
        with onnxruntime.session(model) as session:
            given = {spec.name: sides.feeds[spec.name] for spec in session.inputs}
            outputs.append(list(session.run(given).values()))
    before, after = ({str(i): array for i, array in enumerate(side)} for side in outputs)
    difference = numeric.compare_outputs(before, after)
    assert difference.ok, str(difference)


def operators(model: ir.Model) -> Counter[str]:
    """Count the operators of a model."""
    return Counter(node.op_type for node in model.graph)


@rule
def swapped_scores(op: Any, q: Any, k: Any, mask: Any) -> Any:
    """Softmax(Add(MatMul(q, k), mask)) with the sum the other way round, through a Min."""
    return op.Softmax(op.Add(op.MatMul(q, k), mask, _bind="sum"))


@swapped_scores.rewrite
def _(op: Any, q: Any, k: Any, mask: Any) -> Any:
    # Max with less than anything that is there changes nothing, and is the same for all layers.
    bounded = op.Max(mask, np.float32(-2000.0))
    return op.Softmax(op.Sum(op.MatMul(q, k), bounded))


def test_both_sides_compute_the_same() -> None:
    first, second = regions(swapped_scores, parse(_LAYERS))
    assert_same(first)
    assert_same(second)


def test_layers_alike_ask_the_same() -> None:
    first, second = (sides.region for sides in regions(swapped_scores, parse(_LAYERS)))
    assert first.key == second.key
    assert first.removed == ("MatMul", "Add", "Softmax")


def test_other_sizes_ask_another_question() -> None:
    first, _ = regions(swapped_scores, parse(_LAYERS))
    second, _ = regions(swapped_scores, parse(_LAYERS), Sample({"N": 2, "T": 6}))
    assert first.region.key != second.region.key


def test_names_and_numbers_do_not_tell_questions_apart() -> None:
    renamed = _LAYERS.replace("x1", "other").replace("-1000.0", "-999.0").replace(",T", ",Length")
    first, _ = regions(swapped_scores, parse(_LAYERS))
    second, _ = regions(swapped_scores, parse(renamed), Sample({"N": 2, "Length": 5}))
    assert first.region.key == second.region.key


def test_what_other_places_share_is_run_once() -> None:
    sides, _ = regions(swapped_scores, parse(_LAYERS))
    assert operators(sides.after) == operators(sides.before) - Counter(["Add"]) + Counter(["Sum"])
    assert (2, 1, 5) in [array.shape for array in sides.feeds.values()]


def test_what_nothing_shares_is_part_of_it() -> None:
    one = _LAYERS.replace("m1 = Add(s1, mask)", "m1 = Identity(s1)")
    (sides,) = regions(swapped_scores, parse(one))
    assert operators(sides.after)["Max"] == 1
    assert_same(sides)


@rule
def _split_join(op: Any, x: Any, a: Any, b: Any, w: Any = const()) -> Any:
    """Conv(Concat(Sin(x), a, b), w) is the sum of two convolutions."""
    return op.Conv(op.Concat(op.Sin(x), a, b, axis=1), w)


@_split_join.rewrite
def _(op: Any, x: Any, a: Any, b: Any, w: Any) -> Any:
    first, rest = np.split(w.array, [8], axis=1)
    return op.Add(op.Conv(op.Sin(x), first), op.Conv(op.Concat(a, b, axis=1), rest))


def test_convolutions_of_maps_that_others_read_are_part_of_it() -> None:
    """As in UNet++, whose every Concat joins what others join, too."""
    text = """g (float[1,8,4,4] x, float[1,8,4,4] u) => (float[1,8,4,4] y, float[1,24,4,4] z) {
        a = Relu(u)  b = Tanh(u)  s = Sin(x)  j = Concat<axis = 1>(s, a, b)  y = Conv(j, w)
        c = Cos(x)  z = Concat<axis = 1>(a, b, c)
    }"""
    model = parse(text, w=np.ones((8, 24, 1, 1), np.float32))
    (sides,) = regions(_split_join, model)
    assert operators(sides.after) == Counter(["Add", "Concat", "Conv", "Conv", "Sin"])
    assert_same(sides)


def test_the_margin_is_what_moves_data_around_it() -> None:
    sides, _ = regions(swapped_scores, parse(_LAYERS))
    # The Transpose feeds the region alone; the Reshape above it feeds the product too.
    assert operators(sides.before)["Transpose"] == operators(sides.after)["Transpose"] == 1
    assert operators(sides.before)["Reshape"] == 1


def test_a_margin_that_is_cut_short_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("burnish.passes.region.MAX_NODES", 3)
    turns = " ".join(f"{n}{i + 1} = Transpose({n}{i})" for n in "km" for i in range(4))
    text = (
        "g (float[5,6] q, float[6,5] k0, float[5,5] m0) => (float[5,5] y)"
        f" {{ {turns}  s = MatMul(q, k4)  a = Add(s, m4)  y = Softmax(a) }}"
    )
    found = [regions(swapped_scores, parse(text))[0] for _ in range(12)]
    assert len({sides.region.key for sides in found}) == 1
    assert operators(found[0].before)["Transpose"] == 3


@rule
def doubled(op: Any, x: Any, w: Any = const()) -> Any:
    """MatMul(Neg(x), w) -> MatMul(x, -w), unfolded."""
    return op.MatMul(op.Neg(x), w)


@doubled.rewrite
def _(op: Any, x: Any, w: Any) -> Any:
    return op.MatMul(x, op.Neg(w))


def test_large_weights_are_not_taken_along() -> None:
    text = "g (float[N,256] x) => (float[N,512] y) { n = Neg(x)  y = MatMul(n, w) }"
    (sides,) = regions(doubled, parse(text, w=np.full((256, 512), 7, np.float32)))
    for model in (sides.before, sides.after):
        (weight,) = model.graph.initializers.values()
        assert weight.const_value is not None
        assert weight.const_value.shape == (256, 512)
        assert not (weight.const_value.numpy() == 7).any()
    text = text.replace("256", "8").replace("512", "4")
    (sides,) = regions(doubled, parse(text, w=np.full((8, 4), 7, np.float32)))
    assert_same(sides)


def test_computed_sizes_hold_what_the_model_computes() -> None:
    model = parse("""g (float[N,T,6] x) => (float[N,T,6] y) <int64[1] c = {6}> {
        n = Shape<start = 0, end = 2>(x)  s = Concat<axis = 0>(n, c)
        t = Transpose<perm = [0, 2, 1]>(x)  e = Neg(t)
        u = Transpose<perm = [0, 2, 1]>(e)  r = Reshape(u, s)  y = Neg(r)
    }""")

    @rule
    def neg(op: Any, x: Any) -> Any:
        return op.Neg(op.Transpose(x))

    @neg.rewrite
    def _(op: Any, x: Any) -> Any:
        return op.Transpose(op.Sub(np.float32(0), x), perm=[0, 2, 1])

    (sides,) = regions(neg, model)
    assert operators(sides.before) == {"Transpose": 2, "Neg": 1, "Reshape": 1}
    assert_same(sides)
    assert [2, 5, 6] in [array.tolist() for array in sides.feeds.values()]


@rule
def negated(op: Any, x: Any) -> Any:
    """Neg(x) -> 0 - x."""
    return op.Neg(x)


@negated.rewrite
def _(op: Any, x: Any) -> Any:
    return op.Sub(np.float32(0), x)


def test_a_size_that_inference_named_is_found_by_running() -> None:
    # Of N and M, one may be 1: what they broadcast to has a name of its own.
    text = "g (float[N,T] x, float[M,T] z) => (float[S,T] y) { s = Add(x, z)  y = Neg(s) }"
    (sides,) = regions(negated, parse(text), Sample({"N": 1, "M": 3, "T": 5}))
    assert sides.region.shapes == ["3x5"]


def test_an_unknown_shape_is_found_by_running() -> None:
    text = "g (float[N,T] x, int64[K] s) => (float[A,B,C] y) { r = Expand(x, s)  y = Neg(r) }"
    sample = Sample({"N": 1, "T": 3, "K": 3}, {"s": np.array([4, 2, 3])})
    (sides,) = regions(negated, parse(text), sample)
    assert sides.region.shapes == ["4x2x3"]


@rule
def weighted(op: Any, x: Any, y: Any) -> Any:
    """Softmax(x y^T) -> half of it."""
    return op.Softmax(op.MatMul(x, op.Transpose(y)))


@weighted.rewrite
def _(op: Any, x: Any, y: Any) -> Any:
    return op.Softmax(op.Mul(op.MatMul(x, op.Transpose(y)), np.float32(1)))


def test_what_is_large_in_the_middle_is_not_measured() -> None:
    """Scores of attention grow with the square of what enters: 10 GB for a map of 224x224."""
    text = """g (float[N,4] x, float[N,4] z) => (float[N,N] y)
        { t = Transpose(z)  s = MatMul(x, t)  y = Softmax(s) }"""
    (sides,) = regions(weighted, parse(text), Sample({"N": 1000}))
    assert sides.region.shapes == ["1000x4", "1000x4"]
    with pytest.raises(CannotMeasure, match="too large"):
        regions(weighted, parse(text), Sample({"N": 50176}))


@rule
def chosen(op: Any, c: Any) -> Any:
    """Neg(If(c)) -> a number."""
    return op.Neg(op.If(c))


@chosen.rewrite
def _(op: Any, c: Any) -> Any:
    return op.Cast(c, to=ir.DataType.FLOAT.value)


_IF = """g (bool c) => (float y) { i = If(c) <
    then_branch = a () => (float p) { p = Constant<value_float = 1.0>() },
    else_branch = b () => (float q) { q = Constant<value_float = 2.0>() }
> y = Neg(i) }"""


@pytest.mark.parametrize(
    ("what", "text", "reason"),
    [
        (negated, "g (float[N,0] x) => (float[N,0] y) { y = Neg(x) }", "nothing in it"),
        (negated, "g (float[N,99999999] x) => (float[N,99999999] y) { y = Neg(x) }", "too large"),
        (chosen, _IF, "it holds a subgraph"),
    ],
)
def test_what_cannot_be_measured_says_why(what: Rule, text: str, reason: str) -> None:
    with pytest.raises(CannotMeasure, match=reason):
        regions(what, parse(text))
