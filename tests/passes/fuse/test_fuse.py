# SPDX-License-Identifier: Apache-2.0
"""The group `fuse`: its order, and what it finds in real models.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib import resources

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends import numeric, onnxruntime
from burnish.backends.feeds import random_feeds
from burnish.frontends import load
from burnish.passes.constant import as_array
from burnish.passes.edit import replace_value
from burnish.passes.fuse import Fuse
from burnish.passes.pipeline import Pipeline
from burnish.testing import assert_same_outputs, rewrites, run_pass

Freeze = Callable[..., ir.Model]


def census(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.all_nodes())


def test_it_is_a_group_of_passes_with_text_forms() -> None:
    members = Pipeline.parse("fuse").expand().passes
    assert [item.name for item in members if item.name.startswith("fuse")] == [
        "fuse-einsum",
        "fuse-norm",
        "fuse-activation",
        "fuse-attention",
        "fuse-rotary",
        "fuse-indices",
        "fuse-quantized",
        "fuse-pad",
        "fuse-affine",
        "fuse-shuffle",
        "fuse-enlarge",
        "fuse-gate",
        "fuse-blocked",
        "fuse-gemm",
        "fuse-channel-affine",
    ]
    assert Pipeline.parse(str(Pipeline(members))) == Pipeline(members)


def test_a_constant_inside_an_activation_is_not_folded_into_its_neighbours(
    freeze: Freeze,
) -> None:
    model = freeze(
        "g (float[2,4] x, float[4,4] w, float root, float one, float half) => (float[2,4] y)"
        "{ x0 = MatMul(x, w) a = Div(x0, root) b = Erf(a) c = Add(b, one) d = Mul(x0, c)"
        " e = Mul(d, half) y = MatMul(e, w) }",
        root=2**0.5,
        one=1,
        half=0.5,
    )
    original = model.clone()
    run_pass(Fuse(), model)
    assert census(model) == {"MatMul": 2, "Gelu": 1}
    assert_same_outputs(original, model)


def test_an_old_model_is_upgraded_for_the_operators_it_gets(freeze: Freeze) -> None:
    model = freeze(
        "g (float[2,4] x, float eps, float two) => (float[2,4] y)"
        "{ m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) q = Pow(d, two) v = ReduceMean<axes=[-1]>(q)"
        " e = Add(v, eps) s = Sqrt(e) y = Div(d, s) }",
        opset=11,
        eps=1e-3,
        two=2,
    )
    original = model.clone()
    run_pass(Fuse(), model)
    assert census(model) == {"LayerNormalization": 1}
    assert_same_outputs(original, model)


def test_sizes_are_known_where_the_graph_computes_them_from_constants(freeze: Freeze) -> None:
    """As TorchScript exports the token that a vision transformer puts before the patches."""
    model = freeze(
        "g (float[1,3,8] x, float[1,1,8] w, int64[3] k, int64[1] j, int64 minus, float eps,"
        " float two) => (float[1,4,8] y) { ones = ConstantOfShape<value = int64[1] {1}>(j)"
        " f = Mul(ones, minus) s = Equal(k, f) t = Where(s, ones, k) c = Expand(w, t)"
        " x0 = Concat<axis=1>(c, x) m = ReduceMean<axes=[-1]>(x0) d = Sub(x0, m) q = Pow(d, two)"
        " v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) r = Sqrt(e) y = Div(d, r) }",
        opset=14,
        k=[1, -1, -1],
        j=[3],
        minus=-1,
        eps=1e-3,
        two=2,
    )
    original = model.clone()
    run_pass(Fuse(), model)
    assert census(model) == {"Concat": 1, "LayerNormalization": 1}
    assert_same_outputs(original, model)


# --- classic topologies ------------------------------------------------------------------------


def with_weights(model: ir.Model) -> None:
    """Give a model of onnx's `light` collection, whose weights are fills, random ones."""
    rng = np.random.default_rng(0)
    variances = {
        node.inputs[4]
        for node in model.graph
        if node.op_type == "BatchNormalization" and node.inputs[4] is not None
    }
    for node in list(model.graph):
        value = node.outputs[0]
        shape = as_array(node.inputs[0]) if node.op_type == "ConstantOfShape" else None
        if shape is None:
            continue
        size = [int(dim) for dim in shape]
        spread = 1.0 if len(size) < 2 else 1.4 / np.sqrt(np.prod(size[1:]))
        array = rng.normal(0, spread, size)
        array = np.abs(array) + 0.5 if any(_is(value, other) for other in variances) else array
        weights = ir.Value(
            name=f"{value.name}/weights", const_value=ir.tensor(array.astype(np.float32))
        )
        assert weights.const_value is not None
        weights.const_value.name = weights.name
        weights.shape, weights.type = ir.Shape(size), ir.TensorType(ir.DataType.FLOAT)
        model.graph.register_initializer(weights)
        replace_value(value, weights)
        model.graph.remove(node, safe=True)


def _is(value: ir.Value, variance: ir.Value) -> bool:
    """Whether `variance` is `value`, perhaps behind a Reshape or two."""
    while variance is not value:
        producer = variance.producer()
        if producer is None or not producer.inputs or producer.inputs[0] is None:
            return False
        variance = producer.inputs[0]
    return True


@pytest.mark.parametrize(
    ("name", "batch_norms", "gone"),
    [
        ("shufflenet", 49, 49),
        pytest.param("densenet121", 121, 59, marks=pytest.mark.slow),
        pytest.param("inception_v2", 69, 69, marks=pytest.mark.slow),
        pytest.param("resnet50", 53, 53, marks=pytest.mark.slow),
    ],
)
def test_batch_norms_of_classic_topologies(name: str, batch_norms: int, gone: int) -> None:
    path = resources.files("onnx") / f"backend/test/data/light/light_{name}.onnx"
    model = load(str(path)).model
    with_weights(model)
    assert census(model)["BatchNormalization"] == batch_norms
    original = model.clone()
    run_pass(Fuse(), model)
    assert census(model)["BatchNormalization"] == batch_norms - gone
    assert_same_outputs(original, model)


# --- the zoo -----------------------------------------------------------------------------------


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("name", "expected", "absent"),
    [
        (
            "ppocrv6-rec",
            {"Gelu": 13, "LayerNormalization": 5, "QuickGelu": 5, "Conv": 61},
            {"Erf", "Sqrt", "Identity", "BatchNormalization"},
        ),
        ("ppocrv6-det", {"Gelu": 13, "Mul": 13}, {"Erf", "Identity"}),
        ("minilm-l6-dynamo", {"LayerNormalization": 13, "Gelu": 6}, {"Erf", "Sqrt"}),
        ("minilm-l6-torchscript", {"LayerNormalization": 13, "Gelu": 6}, {"Erf", "Sqrt"}),
        ("efficientnet-lite0", {"Conv": 49, "Clip": 33}, {"Pad", "BatchNormalization"}),
    ],
)
def test_what_is_found_in_real_models(
    name: str, expected: dict[str, int], absent: set[str]
) -> None:
    from burnish.tools import zoo

    if name.startswith(("minilm", "efficientnet")):
        pytest.importorskip("torch")
    model = load(zoo.fetch(name)).model
    original = model.clone()
    run_pass(Fuse(), model)
    found = census(model)
    assert {operator: found[operator] for operator in expected} == expected
    assert not absent & set(found)
    with onnxruntime.session(original) as old, onnxruntime.session(model) as new:
        # On noise, a text detector finds nothing: what it gives are the rounding errors of Sigmoid.
        pages = name.startswith("ppocr")
        feeds = next(iter(zoo.feeds(name, 1))) if pages else random_feeds(old, seed=0)
        difference = numeric.compare_outputs(old.run(feeds), new.run(feeds))
    assert difference.ok, str(difference)


@pytest.mark.zoo
def test_a_second_run_finds_nothing() -> None:
    from burnish.tools import zoo

    model = load(zoo.fetch("ppocrv6-rec")).model
    run_pass(Fuse(), model)
    assert rewrites(run_pass(Fuse(), model)) == {}
