# SPDX-License-Identifier: Apache-2.0
"""The runtime's own operators, for targets whose table prefers them.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.backends.preferences import Preference
from burnish.backends.target import Target
from burnish.frontends import load
from burnish.frontends.pytorch import Exporter
from burnish.passes.fuse.activation.bias_gelu import bias_gelu
from burnish.passes.fuse.norm.embed_norm import embed_layer_norm
from burnish.passes.fuse.norm.skip_norm import skip_layer_norm, skip_rms_norm
from burnish.testing import assert_refuses, assert_same_outputs, run_pass

Freeze = Callable[..., ir.Model]

CPU = Target.parse("cpu")
OPERATORS = (
    "EmbedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "BiasGelu",
)
WANTS = dataclasses.replace(
    CPU, preferences=tuple(Preference(f"microsoft.{name}", True, 1.2) for name in OPERATORS)
)


def census(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def lowered(model: ir.Model, target: Target = WANTS) -> Counter[str]:
    """Run the pass; check the numbers; count the operators."""
    original = model.clone()
    run_pass("lower", model, target=target)
    assert_same_outputs(original, model)
    return census(model)


# --- skip-norm ---------------------------------------------------------------------------------

SKIP = "g (float[N,S,8] x1, float[N,S,8] x2, float[8] w, float[8] b, float[8] c) => (float[N,S,8] y"
TWO = ", float[N,S,8] t) "


@pytest.mark.parametrize(
    ("body", "operator"),
    [
        ("t = Add(x1, x2) y = LayerNormalization(t, w, b)", "SkipLayerNormalization"),
        ("t = Add(x1, x2) y = LayerNormalization<epsilon=0.1>(t, w)", "SkipLayerNormalization"),
        ("s = Add(x1, c) t = Add(s, x2) y = LayerNormalization(t, w, b)", "SkipLayerNormalization"),
        ("t = Add(x1, x2) y = RMSNormalization(t, w)", "SkipSimplifiedLayerNormalization"),
    ],
)
@pytest.mark.parametrize("outputs", [TWO, ") "], ids=["sum used", "sum not used"])
def test_a_sum_and_its_norm(freeze: Freeze, body: str, operator: str, outputs: str) -> None:
    model = freeze(f"{SKIP}{outputs}{{ {body} }}", opset=23)
    assert lowered(model) == {operator: 1}


@pytest.mark.parametrize(
    ("signature", "body", "reason"),
    [
        (
            SKIP.replace("float[N,S,8] x2", "float[1,S,8] x2"),
            "t = Add(x1, x2) y = LayerNormalization(t, w, b)",
            "not known to have the same",
        ),
        (
            SKIP.replace("float[8] w, float[8] b", "float[4,8] w, float[4,8] b").replace("S", "4"),
            "t = Add(x1, x2) y = LayerNormalization<axis=1>(t, w, b)",
            "more than the last axis",
        ),
    ],
)
def test_other_sums_and_norms(freeze: Freeze, signature: str, body: str, reason: str) -> None:
    model = freeze(f"{signature}{TWO.replace('S', '4')}{{ {body} }}", opset=23)
    assert_refuses(skip_layer_norm, model, reason, target=WANTS)


def test_rms_of_sums_that_broadcast(freeze: Freeze) -> None:
    signature = SKIP.replace("float[N,S,8] x2", "float[1,S,8] x2")
    model = freeze(f"{signature}) {{ t = Add(x1, x2) y = RMSNormalization(t, w) }}", opset=23)
    assert_refuses(skip_rms_norm, model, "not known to have the same", target=WANTS)


# --- bias-gelu ---------------------------------------------------------------------------------

GELU = "g (float[N,S,8] x, float[%s] b) => (float[N,S,8] y) {{ a = Add(x, b) y = {} }}"


@pytest.mark.parametrize(
    ("gelu", "operator", "opset"),
    [
        ("Gelu(a)", "BiasGelu", 23),
        ('Gelu<approximate="tanh">(a)', "FastGelu", 23),
        ("com.microsoft.Gelu(a)", "BiasGelu", 17),
        ("com.microsoft.FastGelu(a)", "FastGelu", 17),
    ],
)
def test_a_bias_and_its_gelu(freeze: Freeze, gelu: str, operator: str, opset: int) -> None:
    model = freeze((GELU % "8").format(gelu), opset=opset)
    assert lowered(model) == {operator: 1}


@pytest.mark.parametrize("bias", ["1", "1,8"])
def test_other_biases(freeze: Freeze, bias: str) -> None:
    model = freeze((GELU % bias).format("Gelu(a)"), opset=23)
    assert_refuses(bias_gelu, model, "not one number for each element", target=WANTS)


# --- embeddings --------------------------------------------------------------------------------

EMBED = (
    '<ir_version: 10, opset_import: ["" : 23]> g (int64[N,S] x, int64[N,S] xk, float[30,8] w,'
    " float[40,8] p, float[2,8] t, float[8] g, float[8] b) => (float[N,S,8] y)"
    " <int64 zero = {0}, int64 one = {1}> { s0 = Shape<start=1, end=2>(x) s = Squeeze(s0)"
    " r = Range(zero, s, one) e = Gather(w, x) o = Gather(p, r) %s }"
)
EMBEDDED = {
    "three": "q = Gather(t, xk) a = Add(e, q) c = Add(a, o) y = LayerNormalization(c, g, b)",
    "another order": "q = Gather(t, xk) a = Add(o, e) c = Add(q, a)"
    " y = LayerNormalization(c, g, b)",
    "two": "c = Add(e, o) y = LayerNormalization(c, g, b)",
}


@pytest.mark.parametrize("spelling", EMBEDDED)
def test_embeddings_and_their_norm(freeze: Freeze, spelling: str) -> None:
    model = freeze(EMBED % EMBEDDED[spelling])
    assert lowered(model)["EmbedLayerNormalization"] == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("q = Gather(t, xk) c = Add(e, q) y = LayerNormalization(c, g, b)", "by position"),
        (
            "r1 = Add(r, one) o1 = Gather(p, r1) c = Add(e, o1) y = LayerNormalization(c, g, b)",
            "by position",
        ),
    ],
    ids=["no positions", "from 1"],
)
def test_other_embeddings(freeze: Freeze, body: str, reason: str) -> None:
    assert_refuses(embed_layer_norm, freeze(EMBED % body), reason, target=WANTS)


# --- the table ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [CPU, dataclasses.replace(CPU, preferences=())])
def test_nothing_is_written_without_a_preference(freeze: Freeze, target: Target) -> None:
    body = "t = Add(x1, x2) n = LayerNormalization(t, w, b) a = Add(n, c) y = Gelu(a)"
    model = freeze(f"{SKIP}) {{ {body} }}", opset=23)
    before = census(model)
    assert lowered(model, target) == before


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_bert(exporter: Exporter) -> None:
    """TorchScript cuts segments out of a table of 40: with fewer of them no Add would run."""
    pytest.importorskip("transformers", reason="exports need torch and transformers")
    from burnish.tools.zoo.architectures import exported
    from burnish.tools.zoo.families import LAYERS

    model = load(str(exported("bert", exporter))).model
    run_pass("cleanup,upgrade{opset=23},cleanup,known-sizes,fuse-norm,fuse-activation", model)
    found = lowered(model)
    assert found["SkipLayerNormalization"] == 2 * LAYERS
    assert found["EmbedLayerNormalization"] == 1
    assert found["BiasGelu"] == LAYERS
