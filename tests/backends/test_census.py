# SPDX-License-Identifier: Apache-2.0
"""What the runtime executes is read from the runtime; what counts as a loss is not made up."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.census import Census, Operators, census, is_fused, losses
from burnish.backends.target import Target
from burnish.errors import InputError
from burnish.testing import parse

_CPU = Target.parse("cpu")

# x * Phi(x) as exporters write it, with a bias in front: the runtime makes one BiasGelu of it.
_BIAS_GELU = (
    "{ t = Add(x, b)  d = Div(t, root)  e = Erf(d)  o = Add(e, one)  m = Mul(t, o) y = Mul(m, half)"
)
_CONSTANTS = "float[4] b = {1, 2, 3, 4}, float root = {1.41421356}, float one = {1}"
_HEAD = f"g (float[2,4] x) => (float[2,4] y) <{_CONSTANTS}, float half = {{0.5}}> "


def test_the_executed_operators_are_those_the_runtime_made() -> None:
    found = census(parse(_HEAD + _BIAS_GELU + " }"), _CPU)
    assert found.stored.nodes == 6
    assert found.stored.fused == {}
    assert found.executed.ops == {"com.microsoft::BiasGelu": 1}
    assert found.executed.fused == {"com.microsoft::BiasGelu": 1}


def test_a_file_and_a_model_in_memory_are_counted_alike(tmp_path: Path) -> None:
    model = parse(_HEAD + _BIAS_GELU + " }")
    path = tmp_path / "m.onnx"
    ir.save(model, path)
    assert census(path, _CPU) == census(model, _CPU)
    assert {item.name for item in tmp_path.iterdir()} == {"m.onnx"}


def test_subgraphs_are_counted() -> None:
    branch = _BIAS_GELU.replace("y = ", "z = ").removeprefix("{")
    text = (
        f"g (bool c, float[2,4] x) => (float[2,4] y) <{_CONSTANTS}, float half = {{0.5}}> "
        f"{{ y = If(c) <then_branch = t () => (float[2,4] z) {{ {branch} }}, "
        "else_branch = e () => (float[2,4] w) { w = Neg(x) }> }"
    )
    found = census(parse(text), _CPU)
    assert found.stored.nodes == 8
    assert found.executed.ops["If"] == 1
    assert found.executed.ops["com.microsoft::BiasGelu"] == 1


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the weights are written and removed")
def test_a_large_weight_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "g (float[N,512] x) => (float[N,512] y) { y = MatMul(x, w) }"
    model = parse(text, w=np.ones((512, 512), np.float32))
    seen: list[Path] = []
    sizes: list[int] = []
    load = ir.load

    def measured(path: Path) -> ir.Model:
        seen.append(path.parent)
        sizes.append(sum(item.stat().st_size for item in path.parent.iterdir() if item.is_file()))
        return load(path)

    monkeypatch.setattr(ir, "load", measured)
    assert census(model, _CPU).executed.ops == {"MatMul": 1}
    assert len(sizes) == 1
    assert 0 < sizes[0] < 10_000
    assert not seen[0].exists()


def test_what_cannot_be_counted_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        census(tmp_path / "none.onnx", _CPU)
    other = dataclasses.replace(_CPU, name="gpu", provider="CUDAExecutionProvider")
    with pytest.raises(InputError, match="no census for target gpu"):
        census(parse("g (float[2] x) => (float[2] y) { y = Relu(x) }"), other)
    text = "g (float[2] x) => (float[2] y) { y = elsewhere.Unknown(x) }"
    header = '<ir_version: 10, opset_import: ["" : 21, "elsewhere" : 1]>'
    with pytest.raises(InputError, match="Unknown"):
        census(parse(header + text), _CPU)


@pytest.mark.parametrize(
    ("operator", "fused"),
    [
        ("LayerNormalization", True),
        ("QLinearConv", True),
        ("com.microsoft::BiasGelu", True),
        ("com.microsoft.nchwc::Conv", True),
        ("com.microsoft.nchwc::ReorderInput", False),
        ("com.microsoft::QuantizeLinear", False),
        ("Conv", False),
        ("BiasGelu", False),
    ],
)
def test_what_counts_as_fused(operator: str, fused: bool) -> None:
    assert is_fused(operator) is fused


def _executed(**ops: int) -> Census:
    counts = {name.replace("__", "::").replace("_", "."): n for name, n in ops.items()}
    side = Operators(sum(counts.values()), counts)
    return Census(side, side)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # The bias comes apart from the Gelu.
        ({"com_microsoft__BiasGelu": 6, "Add": 1}, {"Gelu": 6, "Add": 7}),
        # Out of the blocked layout.
        ({"com_microsoft_nchwc__Conv": 3}, {"com_microsoft_nchwc__Conv": 2, "Conv": 1}),
        # The scale comes apart from the product.
        ({"com_microsoft__FusedMatMul": 2}, {"MatMul": 2, "Mul": 2}),
        # The runtime no longer sees any of it, however much else is gone.
        ({"LayerNormalization": 1, "Neg": 50}, {"ReduceMean": 2, "Sub": 1, "Sqrt": 1}),
    ],
)
def test_what_comes_apart_is_a_loss(before: dict[str, int], after: dict[str, int]) -> None:
    (line,) = losses(_executed(**before), _executed(**after), _CPU)
    kind = next(iter(before)).replace("__", "::").replace("_", ".")
    assert f"fewer {kind} than it makes of the original" in line


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # A stronger form takes its place, though Add grew somewhere else.
        (
            {"LayerNormalization": 13, "Add": 12},
            {"LayerNormalization": 1, "com_microsoft__SkipLayerNormalization": 12, "Add": 13},
        ),
        ({"com_microsoft__FusedConv": 9}, {"QLinearConv": 9, "Add": 1}),
        # Three products merged into one and split again.
        ({"com_microsoft__FusedMatMul": 3}, {"com_microsoft__FusedMatMul": 1, "Split": 1}),
        # It is inside an attention now.
        ({"com_microsoft__FusedMatMul": 2, "Add": 1}, {"Attention": 2, "Add": 2}),
        # Kept apart, since the two are faster.
        ({"com_microsoft__SkipLayerNormalization": 2}, {"LayerNormalization": 2, "Sum": 2}),
        # Its scale was folded into the weights.
        ({"com_microsoft__FusedMatMul": 2}, {"MatMul": 2}),
        # Not needed at all.
        ({"com_microsoft__FusedGemm": 2, "Relu": 1}, {"com_microsoft__FusedGemm": 1, "Relu": 1}),
    ],
)
def test_what_gives_way_to_something_as_good_is_no_loss(
    before: dict[str, int], after: dict[str, int]
) -> None:
    assert losses(_executed(**before), _executed(**after), _CPU) == []


def test_a_rewrite_that_hides_a_pattern_from_the_runtime_is_found() -> None:
    hidden = _BIAS_GELU.replace("o = Add(e, one)", "n = Sub(e, minus)  o = Add(n, zero)") + " }"
    head = _HEAD.replace("float one = {1}", "float minus = {-1}, float zero = {0.0001}")
    before, after = (
        census(parse(text), _CPU) for text in (_HEAD + _BIAS_GELU + "}", head + hidden)
    )
    (line,) = losses(before, after, _CPU)
    assert "1 fewer com.microsoft::BiasGelu" in line
    assert "Erf +1" in line


@pytest.mark.zoo
@pytest.mark.parametrize(
    "name",
    [
        *("ppocrv6-rec", "ppocrv6-det", "minilm-l6-dynamo", "minilm-l6-torchscript"),
        *("efficientnet-lite0", "quantized-distilbert", "quantized-t5-decoder"),
        *("light-densenet121", "light-inception-v2", "light-shufflenet", "light-squeezenet"),
    ],
)
def test_fuse_never_makes_the_runtime_execute_more(name: str) -> None:
    import burnish
    from burnish.tools import zoo

    if name.startswith(("minilm", "efficientnet")):
        pytest.importorskip("torch")
    path = zoo.fetch(name)
    before = census(path, _CPU)
    after = census(burnish.optimize(path, "fuse", verify="off").model, _CPU)
    assert losses(before, after, _CPU) == []
    # An addition that is kept apart from its norm on purpose is a node more.
    apart = after.executed.ops.get("Sum", 0)
    assert after.executed.nodes - apart <= before.executed.nodes
