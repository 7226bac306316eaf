# SPDX-License-Identifier: Apache-2.0
"""Magnitude pruning: the exact share, of the right weights, and a reason for every other one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

import burnish
from burnish.backends import onnxruntime
from burnish.errors import InputError
from burnish.passes.context import PassContext
from burnish.passes.pipeline import Pipeline
from burnish.passes.prune import Prune
from burnish.testing import parse, refusals, rewrites, run_pass

Array = np.ndarray[Any, np.dtype[Any]]


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def array_of(model: ir.Model, name: str) -> Array:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def smallest_to_zero(arrays: list[Array], sparsity: float) -> list[Array]:
    """The definition: sort all elements by magnitude, stably, and zero the first ones."""
    flat = np.concatenate([array.reshape(-1).astype(np.float64) for array in arrays])
    order = np.argsort(np.abs(flat), kind="stable")
    kept = np.ones(flat.size, bool)
    kept[order[: round(sparsity * flat.size)]] = False
    masks = np.split(kept, np.cumsum([array.size for array in arrays])[:-1])
    return [
        np.where(mask.reshape(array.shape), array, np.zeros((), array.dtype))
        for mask, array in zip(masks, arrays, strict=True)
    ]


TWO = "g (float[N,32] x) => (float[N,8] y) { t = MatMul(x, w)  r = Relu(t)  y = Gemm(r, v) }"


def two_layers() -> ir.Model:
    return parse(TWO, w=normal(32, 16), v=3 * normal(16, 8, seed=1))


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.87, 1.0])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_prunes_exactly_the_share(sparsity: float, scope: str) -> None:
    model = two_layers()
    w, v = array_of(model, "w"), array_of(model, "v")
    ctx = run_pass(Prune(sparsity=sparsity, scope=scope, min_size=0), model)
    if scope == "layer":
        expected = [smallest_to_zero([array], sparsity)[0] for array in (w, v)]
    else:
        expected = smallest_to_zero([w, v], sparsity)
    for name, wanted in zip("wv", expected, strict=True):
        np.testing.assert_array_equal(array_of(model, name), wanted)
    zeros = sum(int(np.count_nonzero(array == 0)) for array in expected)
    assert zeros == pytest.approx(sparsity * (w.size + v.size), abs=1)
    details = ctx.reports[0].details
    assert details["sparsity"] == zeros / (w.size + v.size)
    assert [each["zeros"] for each in details["weights"]] == [
        int(np.count_nonzero(array == 0)) for array in expected
    ]


def test_global_scope_takes_from_the_layer_of_small_weights() -> None:
    model = two_layers()
    ctx = run_pass("prune{sparsity=0.5 scope=global min-size=0}", model)
    small, large = ctx.reports[0].details["weights"]
    assert small["sparsity"] > 0.55
    assert large["sparsity"] < 0.35


def test_half_is_pruned_unless_told_otherwise() -> None:
    model = two_layers()
    run_pass("prune{min-size=0}", model)
    assert np.count_nonzero(array_of(model, "w") == 0) == 256


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_threshold_is_numpys_comparison(dtype: Any) -> None:
    w = normal(32, 16, dtype=dtype)
    w[0, 0] = 0.7  # a weight of the threshold itself stays
    model = parse(TWO, w=w, v=normal(16, 8, seed=1, dtype=dtype))
    Prune(threshold=0.7).run(model, context())
    expected = np.where(np.abs(w) < dtype(0.7), dtype(0), w)
    assert expected[0, 0] != 0
    np.testing.assert_array_equal(array_of(model, "w"), expected)


def test_a_threshold_beyond_the_dtype_takes_all_and_says_so() -> None:
    model = parse(TWO, w=normal(32, 16, dtype=np.float16), v=normal(16, 8))
    ctx = context()
    Prune(threshold=1e30).run(model, ctx)
    assert not array_of(model, "w").any()
    assert "prune: every element of 'w' is zero" in ctx.warnings


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_of_equal_weights_the_first_go(scope: str) -> None:
    w, v = np.ones((32, 16), np.float32), np.ones((16, 8), np.float32)
    w[:, ::2] = -1
    model = parse(TWO, w=w, v=v)
    run_pass(Prune(sparsity=0.75, scope=scope, min_size=0), model)
    expected = (
        [smallest_to_zero([array], 0.75)[0] for array in (w, v)]
        if scope == "layer"
        else smallest_to_zero([w, v], 0.75)
    )
    np.testing.assert_array_equal(array_of(model, "w"), expected[0])
    np.testing.assert_array_equal(array_of(model, "v"), expected[1])


@given(data=st.data())
def test_any_weights_at_any_ratio(data: st.DataObject) -> None:
    """Both scopes, mixed dtypes, many ties, zeros and infinities: as sorting would have it."""
    numbers = st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, 1.5, -2.0, np.inf, 2.0**-14])
    numbers |= st.floats(-4, 4, width=16)
    dtypes = [data.draw(st.sampled_from([np.float16, np.float32, np.float64])) for _ in range(2)]
    arrays = [
        np.array(data.draw(st.lists(numbers, min_size=rows * 4, max_size=rows * 4)), dtype).reshape(
            rows, 4
        )
        for rows, dtype in zip((4, 4), dtypes, strict=True)
    ]
    sparsity = data.draw(st.floats(0, 1))
    scope = data.draw(st.sampled_from(["layer", "global"]))
    text = "g (float[N,4] x) => (float[N,4] y) { t = MatMul(x, w)  y = MatMul(t, v) }"
    model = parse(text, w=arrays[0], v=arrays[1])
    run = Prune(sparsity=sparsity, scope=scope, min_size=0)
    run.run(model, context())
    expected = (
        [smallest_to_zero([array], sparsity)[0] for array in arrays]
        if scope == "layer"
        else smallest_to_zero(arrays, sparsity)
    )
    for name, wanted in zip("wv", expected, strict=True):
        np.testing.assert_array_equal(array_of(model, name), wanted)
        assert array_of(model, name).dtype == wanted.dtype
    assert not run.run(model, context()).changed, "twice is the same as once"


def test_the_same_bytes_twice() -> None:
    def pruned() -> bytes:
        model = two_layers()
        run_pass("prune{sparsity=0.3 scope=global min-size=0}", model)
        data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
        return data

    assert pruned() == pruned()


def test_each_weight_is_one_rewrite() -> None:
    model = two_layers()
    before = array_of(model, "v")
    ctx = run_pass(Prune(min_size=0), model, limit=1)
    assert rewrites(ctx) == {"prune-magnitude": 1}
    assert ctx.reports[0].rules["prune-magnitude"].skipped == 1
    np.testing.assert_array_equal(array_of(model, "v"), before)
    assert [each["zeros"] for each in ctx.reports[0].details["weights"]] == [256, 0]


def test_shared_weights_are_pruned_once() -> None:
    text = "g (float[N,16] x) => (float[N,16] y) { t = MatMul(x, w)  y = MatMul(t, w) }"
    model = parse(text, w=normal(16, 16))
    ctx = run_pass(Prune(sparsity=0.75), model)
    assert rewrites(ctx) == {"prune-magnitude": 1}
    assert np.count_nonzero(array_of(model, "w") == 0) == 192
    assert len(ctx.reports[0].details["weights"]) == 1


def test_weights_behind_views_and_in_constant_nodes() -> None:
    numbers = ", ".join(f"{x:.4f}" for x in normal(256))
    model = parse(
        f"""g (float[N,16] x) => (float[N,16] y) {{
          c = Constant <value = float[16,16] {{{numbers}}}> ()
          s = MatMul(x, c)
          h = Cast <to = 1> (w)
          wt = Transpose <perm = [1, 0]> (h)
          y = MatMul(s, wt)
        }}""",
        w=normal(16, 16, dtype=np.float16),
    )
    original = model.clone()
    ctx = run_pass(Prune(sparsity=0.5), model)
    assert rewrites(ctx) == {"prune-magnitude": 2}
    assert np.count_nonzero(array_of(model, "w") == 0) == 128
    held = model.graph[0].attributes["value"].as_tensor().numpy()
    assert np.count_nonzero(held == 0) == 128
    # The pruned graph computes what numpy does with the pruned weights.
    x = normal(3, 16, seed=5)
    with onnxruntime.session(model) as session:
        y = session.run({"x": x})["y"]
    expected = x @ held @ array_of(model, "w").T.astype(np.float32)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    assert array_of(original, "w").all()


def test_weights_in_subgraphs_and_of_outer_scopes() -> None:
    model = parse(
        """g (bool c, float[N,16] x) => (float[N,16] y) {
          y = If (c) <
            then_branch = t () => (float[N,16] a) { a = MatMul(x, w) },
            else_branch = e () => (float[N,16] b) { b = MatMul(x, w) }
          >
        }""",
        w=normal(16, 16),
    )
    assert rewrites(run_pass("prune", model)) == {"prune-magnitude": 1}
    assert np.count_nonzero(array_of(model, "w") == 0) == 128


@pytest.mark.parametrize(
    ("text", "shape", "axis"),
    [
        ("y = MatMul(x, w)", (32, 16), 0),
        ("y = Gemm <transB = 1> (x, w)", (16, 32), 1),
        ("y = Gemm (x, w)", (32, 16), 0),
        ("t = Transpose <perm = [1, 0]> (w)  y = MatMul(x, t)", (16, 32), 1),
        ("t = Identity(w)  y = MatMul(x, t)", (32, 16), 0),
        ("t = Transpose <perm = [1, 0]> (x)  y = MatMul(w, t)", (16, 32), 1),
        ("t = Transpose <perm = [1, 0]> (x)  y = Gemm <transA = 1> (w, t)", (32, 16), 0),
    ],
)
@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_patterns_run_along_what_is_summed_over(
    text: str, shape: tuple[int, ...], axis: int, criterion: str
) -> None:
    model = parse(f"g (float[N,32] x) => (float[M,K] y) {{ {text} }}", w=normal(*shape))
    before = np.moveaxis(array_of(model, "w"), axis, -1).reshape(-1, 4)
    run_pass(f"prune{{pattern=2:4 criterion={criterion}}}", model)
    after = np.moveaxis(array_of(model, "w"), axis, -1).reshape(-1, 4)
    assert ((after == 0).sum(axis=1) == 2).all()
    if criterion == "magnitude":
        smallest = np.sort(np.abs(before), axis=1)[:, 2:]
        np.testing.assert_array_equal(np.sort(np.abs(after), axis=1)[:, 2:], smallest)


def test_patterns_of_convolutions_run_along_channels() -> None:
    model = parse(CONV.replace("{group}", "1"), w=normal(16, 8, 3, 3))
    run_pass("prune{pattern=1:4}", model)
    groups = np.moveaxis(array_of(model, "w"), 1, -1).reshape(-1, 4)
    assert ((groups == 0).sum(axis=1) == 3).all()
    text = CONV.replace("{group}", "2").replace("Conv", "ConvTranspose")
    model = parse(text, w=normal(8, 16, 3, 3))
    run_pass("prune{pattern=2:4}", model)
    groups = np.moveaxis(array_of(model, "w"), 0, -1).reshape(-1, 4)
    assert ((groups == 0).sum(axis=1) == 2).all()


@pytest.mark.parametrize(
    ("text", "shape", "options", "reason"),
    [
        ("y = MatMul(x, w)", (30, 16), "pattern=2:4", "its inputs are no multiple of 4"),
        ("y = MatMul(x, w)", (32, 15), "pattern=block:2x2", "not a multiple of 2x2 blocks"),
        (
            "s = Constant <value_ints = [32, 16]> ()  t = Reshape(w, s)  y = MatMul(x, t)",
            (512, 1),
            "pattern=2:4",
            "its weights are reshaped",
        ),
    ],
)
def test_says_why_a_weight_has_no_pattern(
    text: str, shape: tuple[int, ...], options: str, reason: str
) -> None:
    model = parse(f"g (float[N,K] x) => (float[N,M] y) {{ {text} }}", w=normal(*shape))
    ctx = run_pass(f"prune{{{options}}}", model)
    assert refusals(ctx) == {"prune-magnitude": {reason: 1}}


CONV = "g (float[1,8,6,6] x) => (float[1,K,H,W] y) { y = Conv <group = {group}> (x, w) }"


@pytest.mark.parametrize(
    ("text", "weights", "reason"),
    [
        (
            "g (float[N,8] x) => (float[N,8] y) { y = MatMul(x, w) }",
            {"w": normal(8, 8)},
            "fewer than 256 elements",
        ),
        (
            "g (float[N,300] x) => (float[N] y) { y = MatMul(x, w) }",
            {"w": normal(300)},
            "a vector, not a matrix",
        ),
        (
            "g (float[N,8] x, float[8,8] w) => (float[N,8] y) { y = MatMul(x, w) }",
            {},
            "the weight is not constant",
        ),
        (
            "g (int64[N] i) => (float[N,40] y) "
            "{ e = Gather(w, i)  t = Transpose <perm = [1, 0]> (w)  y = MatMul(e, t) }",
            {"w": normal(40, 16)},
            "shared with an embedding",
        ),
        (
            "g (float[16,16] x) => (float[16,16] y) { t = MatMul(x, w)  y = Add(t, w) }",
            {"w": normal(16, 16)},
            "shared with an operator that is not pruned",
        ),
        (CONV.replace("{group}", "8"), {"w": normal(64, 1, 3, 3)}, "depthwise convolution"),
        (
            "g (float[1,8,6,6] x) => (float[1,K,H,W] y) { y = ConvTranspose <group = 8> (x, w) }",
            {"w": normal(8, 8, 3, 3)},
            "depthwise convolution",
        ),
        (
            "g (float[N,16] x) => (float[N,16] y) { y = MatMul(x, w) }",
            {"w": np.full((16, 16), np.nan, np.float32)},
            "an element is not a number",
        ),
        (
            "g (int32[N,16] x) => (int32[N,16] y) { y = MatMul(x, w) }",
            {"w": np.ones((16, 16), np.int32)},
            "not of a floating-point type",
        ),
        (
            "g (uint8[N,16] x) => (int32[N,16] y) { y = MatMulInteger(x, w) }",
            {"w": np.ones((16, 16), np.int8)},
            "quantized already: prune before quantizing",
        ),
        (
            "g (float[N,16] x) => (float[N,16] y) { d = DequantizeLinear(w, s)  y = MatMul(x, d) }",
            {"w": np.ones((16, 16), np.int8), "s": np.array(0.1, np.float32)},
            "quantized already: prune before quantizing",
        ),
        (
            "g (float[N,16] x) => (float[N,16] y) { q = QuantizeLinear(w, s) "
            "d = DequantizeLinear(q, s)  t = Transpose(d)  y = MatMul(x, t) }",
            {"w": normal(16, 16), "s": np.array(0.1, np.float32)},
            "quantized already: prune before quantizing",
        ),
        (
            "g (float[N,16] x) => (float[N,16] y, float[16,16] w) { y = MatMul(x, w) }",
            {"w": normal(16, 16)},
            "an output of the model",
        ),
    ],
)
def test_says_why_a_weight_is_left_alone(text: str, weights: dict[str, Array], reason: str) -> None:
    model = parse(text, **weights)
    if reason == "an output of the model":
        model.graph.outputs[1] = model.graph.initializers["w"]
    before = {name: array_of(model, name) for name in model.graph.initializers}
    ctx = context()
    result = Prune().run(model, ctx)
    assert not result.changed
    assert refusals(ctx) == {"prune-magnitude": {reason: 1}}
    for name, array in before.items():
        np.testing.assert_array_equal(array_of(model, name), array)
    assert any(reason in line for line in ctx.warnings)


def test_grouped_and_depthwise_convolutions_can_be_pruned() -> None:
    grouped = parse(CONV.replace("{group}", "2"), w=normal(16, 4, 3, 3))
    assert rewrites(run_pass("prune", grouped)) == {"prune-magnitude": 1}
    depthwise = parse(CONV.replace("{group}", "8"), w=normal(64, 1, 3, 3))
    assert rewrites(run_pass("prune{depthwise=true}", depthwise)) == {"prune-magnitude": 1}


def test_only_the_operators_asked_for() -> None:
    model = two_layers()
    run_pass("prune{ops=Gemm min-size=0}", model)
    assert array_of(model, "w").all()
    assert np.count_nonzero(array_of(model, "v") == 0) == 64


@pytest.mark.parametrize("pattern", ["first", "fi*", "w", "[w]"])
def test_excludes_nodes_and_weights_by_pattern(pattern: str) -> None:
    model = two_layers()
    model.graph[0].name = "first"
    ctx = run_pass(Prune(exclude=(pattern,), min_size=0, scope="global"), model)
    assert array_of(model, "w").all()
    assert np.count_nonzero(array_of(model, "v") == 0) == 64
    assert refusals(ctx) == {"prune-magnitude": {"excluded": 1}}


def test_a_weight_is_excluded_if_one_of_its_nodes_is() -> None:
    text = "g (float[N,16] x) => (float[N,16] y) { t = MatMul(x, w)  y = MatMul(t, w) }"
    model = parse(text, w=normal(16, 16))
    model.graph[1].name = "head"
    assert rewrites(run_pass("prune{exclude=head}", model)) == {}


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    model = two_layers()
    model.graph[0].name = "encoder/dense"
    with pytest.raises(InputError) as caught:
        run_pass('prune{exclude="encoder/dense_1*" min-size=0}', model)
    assert str(caught.value) == (
        "option 'exclude': 'encoder/dense_1*' matches no node or weight; "
        "did you mean 'encoder/dense'?"
    )
    assert array_of(model, "w").all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune{sparsity=0.5 threshold=0.1}", "'sparsity' and 'threshold' exclude each other"),
        ("prune{sparsity=1.5}", "1.5 is outside float 0..1"),
        ("prune{sparsity=nan}", "nan is outside float 0..1"),
        ("prune{threshold=-1}", "-1.0 is outside float 0.."),
        ("prune{threshold=inf}", "option 'threshold': inf is not finite"),
        ("prune{threshold=nan}", "nan is outside float 0.."),
        ("prune{pattern=2:4 sparsity=0.5}", "'sparsity' and 'pattern=2:4' exclude each other"),
        ("prune{pattern=2:4 scope=global}", "'scope=global' and 'pattern=2:4' exclude each other"),
        ("prune{pattern=2:4 threshold=1}", "'threshold' and 'pattern=2:4' exclude each other"),
        ("prune{pattern=4:2}", "option 'pattern': '4:2' keeps nothing, or everything"),
        ("prune{pattern=half}", "option 'pattern': 'half' is no pattern"),
        ("prune{scope=global criterion=wanda}", "'scope=global' and 'criterion=wanda' exclude"),
        ("prune{scope=global pattern=block:2x2}", "'scope=global' and 'pattern=block:2x2' exclude"),
        ("prune{threshold=1 criterion=random}", "'threshold' and 'criterion=random' exclude"),
        ("prune{threshold=1 scope=sensitivity}", "'threshold' and 'scope=sensitivity' exclude"),
        ("prune{steps=0}", "0 is outside int 1..100"),
        ("prune{steps=2 recover=false}", "'steps' and 'recover=false' exclude each other"),
        ("prune{criterion=l1}", "'l1' is not one of magnitude|"),
        ("prune{scope=channel}", "'channel' is not one of layer|global|sensitivity"),
        ("prune{ops=Softmax}", "'Softmax' is not one of Conv|"),
    ],
)
def test_bad_options(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Pipeline.parse(text)
    assert message in str(caught.value)


def test_text_form() -> None:
    text = 'prune{sparsity=0.9 scope=global exclude="head *",w ops=Conv,Gemm depthwise=true}'
    assert str(Pipeline.parse(text)) == text
    assert Pipeline.parse(text) == Pipeline.parse(str(Pipeline.parse(text)))
    assert str(Prune()) == "prune"
    assert not Prune.lossless


def test_end_to_end() -> None:
    """Through `optimize`: the outputs are those of the masked weights, and the report says all."""
    model = two_layers()
    w, v = smallest_to_zero([array_of(model, "w"), array_of(model, "v")], 0.6)
    optimized, report = burnish.optimize(
        model, "prune{sparsity=0.6 scope=global min-size=0}", verify="each"
    )
    x = normal(4, 32, seed=9)
    with onnxruntime.session(optimized) as session:
        y = session.run({"x": x})["y"]
    np.testing.assert_allclose(y, np.maximum(x @ w, 0) @ v, rtol=1e-5, atol=1e-5)
    (entry,) = report.as_dict()["passes"]
    assert entry["details"]["sparsity"] == pytest.approx(0.6, abs=1e-3)
    assert {each["name"] for each in entry["details"]["weights"]} == {"w", "v"}
    assert report.verification["checks"][-1]["lossless"] is False


_MEASURED = """
import re, sys
import onnx_ir as ir
from burnish.backends.target import Target
from burnish.passes.context import PassContext
from burnish.passes.prune import Prune
from burnish.passes.shapes import infer_shapes

def anonymous():
    # What the process itself allocated; mapped files can be dropped at any time.
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

peak = 0
def watch(items, total, label):
    global peak
    for item in items:
        yield item
        peak = max(peak, anonymous())

model = ir.load(sys.argv[1])
infer_shapes(model)  # a large import of its own
before = anonymous()
ctx = PassContext(Target.parse("cpu"), progress=watch)
assert Prune(sparsity=0.5, scope="global").run(model, ctx).changed
peak = max(peak, anonymous())
print(peak - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_does_not_grow_with_the_weights(tmp_path: Path) -> None:
    layers, size = 4, 2560
    rows = [f"t{i + 1} = MatMul(t{i}, w{i})" for i in range(layers)]
    model = parse(
        f"g (float[1,{size}] t0) => (float[1,{size}] t{layers}) {{ {' '.join(rows)} }}",
        **{f"w{i}": normal(size, size, seed=i) for i in range(layers)},
    )
    path = tmp_path / "big.onnx"
    ir.save(model, path, external_data="big.data")
    assert (tmp_path / "big.data").stat().st_size >= 100 << 20
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 40 << 20


def context() -> PassContext:
    from burnish.backends.target import Target

    return PassContext(Target.parse("cpu"))
