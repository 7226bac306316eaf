# SPDX-License-Identifier: Apache-2.0
"""Which channels can be scaled, and that it leaves no trace."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.quant.accuracy.scaled import groups_of
from burnish.passes.shapes import infer_shapes
from burnish.testing import assert_same_outputs

Build = Callable[..., ir.Model]

HEAD = "g (float[N,8,9,9] x) => (float[N,5,H,W] y) "
WEIGHTS = {"v": (12, 8, 3, 3), "b": (12,), "w": (5, 12, 1, 1), "k": (12, 1, 3, 3)}
WEIGHTS |= {"l": (12, 1, 3, 3), "s": (12, 12, 1, 1), "t": (12, 12, 1, 1), "g3": (6, 4, 1, 1)}
WEIGHTS |= {"u": (5, 6, 1, 1), "i": (12, 8, 1, 1)}
FREE = {
    "Relu": "a = Conv(x, v, b)  r = Relu(a)  y = Conv(r, w)",
    "LeakyRelu": "a = Conv(x, v, b)  r = LeakyRelu<alpha = 0.3>(a)  y = Conv(r, w)",
    "pooling": "a = Conv(x, v, b)  r = MaxPool<kernel_shape = [2, 2]>(a)  y = Conv(r, w)",
    "a mean": "a = Conv(x, v, b)  r = ReduceMean<keepdims = 1>(a, axes)  y = Conv(r, w)",
    "depthwise": "a = Conv(x, v, b)  d = Conv<group = 12>(a, k)  y = Conv(d, w)",
    "groups": "a = Conv(x, v, b)  c = Conv<group = 3>(a, g3)  y = Conv(c, u)",
    "a sum": "a = Conv(x, v, b)  c = Conv<group = 12, pads = [1, 1, 1, 1]>(a, k)  "
    "d = Add(a, c)  y = Conv(d, w)",
    "a gate": "a = Conv(x, v, b)  p = GlobalAveragePool(a)  h = Conv(p, s)  q = Sigmoid(h)  "
    "d = Mul(a, q)  y = Conv(d, w)",
}
FIXED = {
    "Gelu takes no factor for each channel": "a = Conv(x, v, b)  r = Gelu(a)  y = Conv(r, w)",
    "Clip takes no factor for each channel": "a = Conv(x, v, b)  r = Clip(a)  y = Conv(r, w)",
    "Concat takes no factor for each channel": "a = Conv(x, v, b)  c = Conv(a, u2)  "
    "y = Concat<axis = 1>(c)  z = Identity(y)",
    "Add takes no factor for each channel": "a = Conv(x, v, b)  r = Add(a, one)  y = Conv(r, w)",
    "Mul takes no factor for each channel": "a = Conv(x, v, b)  r = Mul(a, a)  y = Conv(r, w)",
}


def make(build: Build, body: str) -> ir.Model:
    model = build(
        f"{HEAD} {{ {body} }}",
        axes=np.array([2, 3]),
        one=np.ones((1, 1, 1, 1), np.float32),
        u2=(5, 12, 1, 1),
        **WEIGHTS,
    )
    infer_shapes(model)
    return model


@pytest.mark.parametrize("kind", FREE)
def test_scaling_is_exact(build: Build, kind: str) -> None:
    model = make(build, FREE[kind])
    before = model.clone()
    groups = [group for group in groups_of(model) if group.fixed is None and group.readers]
    assert groups
    rng = np.random.default_rng(0)
    for group in groups:
        assert group.size is not None
        group.scale(np.exp2(rng.integers(-3, 4, group.size)))
    assert any(
        not np.array_equal(
            before.graph.initializers[name].const_value.numpy(),  # type: ignore[union-attr]
            value.const_value.numpy(),  # type: ignore[union-attr]
        )
        for name, value in model.graph.initializers.items()
    )
    assert_same_outputs(before, model)


def test_channels_on_other_axes_are_not_joined(build: Build) -> None:
    """Of `[8, 8, 8]` axis 1 meets axis 2 of `[2, 8, 8, 8]`, also where a gate adds an axis."""
    for join in ("a = Conv(x, v)  c = Add(a, b)", "c = Mul(b, gate)"):
        model = build(
            "g (float[2,4,8,8] x, float[8,4,8] z, float[2,8,1,1] gate) => (float[2,5,8,8] y) "
            f"{{ b = Conv(z, u)  {join}  y = Conv(c, w) }}",
            v=(8, 4, 1, 1),
            u=(8, 4, 1),
            w=(5, 8, 1, 1),
        )
        infer_shapes(model)
        assert all(group.fixed for group in groups_of(model))


def test_a_residual_stream_is_one_group(build: Build) -> None:
    (group, *_) = groups_of(make(build, FREE["a sum"]))
    assert {value.name for value in group.values} == {"a", "c", "d"}
    assert (len(group.makers), len(group.readers)) == (2, 2)
    assert group.size == 12


def test_a_gate_stays_and_its_map_does_not(build: Build) -> None:
    groups = groups_of(make(build, FREE["a gate"]))
    by_value = {value.name: group for group in groups for value in group.values}
    assert by_value["a"] is by_value["d"] is by_value["p"]
    assert by_value["a"].fixed is None
    assert by_value["h"].fixed == "Sigmoid takes no factor for each channel"


@pytest.mark.parametrize("reason", FIXED)
def test_what_takes_no_factor_fixes_its_group(build: Build, reason: str) -> None:
    groups = groups_of(make(build, FIXED[reason]))
    assert reason in [group.fixed for group in groups]


def test_outputs_and_excluded_or_shared_weights_stay(build: Build) -> None:
    (first, last) = groups_of(make(build, FREE["Relu"]))
    assert first.fixed is None
    assert last.fixed == "it is an input or an output of the model"
    model = make(build, FREE["Relu"])
    (alone,) = groups_of(model, exclude=(model.graph[-1].name or "y",))
    assert alone.fixed == "Conv takes no factor for each channel"
    twice = "a = Conv(x, i)  r = Relu(a)  c = Conv(x, i)  d = Add(r, c)  y = Conv(d, w)"
    shared = groups_of(make(build, twice))
    assert {group.fixed for group in shared} == {"it is an input or an output of the model"}
