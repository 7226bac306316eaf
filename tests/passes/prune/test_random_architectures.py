# SPDX-License-Identifier: Apache-2.0
"""Random architectures: whatever is found to be coupled, shrinking equals masking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import hypothesis
import hypothesis.strategies as st
import numpy as np
import onnx_ir as ir

from burnish.testing import parse

Proof = Callable[..., int]
_SETTINGS = hypothesis.settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


@dataclass
class Writer:
    """Writes a graph as text, and makes its weights."""

    seed: int
    lines: list[str] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def weight(self, *shape: int, positive: bool = False) -> str:
        name = f"w{len(self.weights)}"
        array = self.rng.standard_normal(shape) / max(1, int(np.prod(shape[1:]))) ** 0.5
        self.weights[name] = (np.abs(array) + 0.5 if positive else array).astype(np.float32)
        return name

    def ints(self, *numbers: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.array(numbers, np.int64)
        return name

    def op(self, call: str) -> str:
        name = f"t{len(self.lines)}"
        self.lines.append(f"{name} = {call}")
        return name

    def model(self, signature: str) -> ir.Model:
        return parse(f"g {signature} {{ {' '.join(self.lines)} }}", **self.weights)


def _convolution(w: Writer, x: str, ins: int, outs: int, kernel: int = 1, group: int = 1) -> str:
    pads = f"pads=[{','.join([str(kernel // 2)] * 4)}]"
    weight = w.weight(outs, ins // group, kernel, kernel)
    return w.op(f"Conv<group={group}, {pads}>({x}, {weight}, {w.weight(outs)})")


def _normalized(draw: st.DrawFn, w: Writer, x: str, channels: int) -> str:
    kind = draw(st.sampled_from(["batch", "instance", "group", "affine", "none"]))
    scale, shift = w.weight(channels), w.weight(channels)
    if kind == "batch":
        variance = w.weight(channels, positive=True)
        return w.op(f"BatchNormalization({x}, {scale}, {shift}, {w.weight(channels)}, {variance})")
    if kind == "instance":
        return w.op(f"InstanceNormalization({x}, {scale}, {shift})")
    if kind == "group":
        return w.op(f"GroupNormalization<num_groups=4>({x}, {scale}, {shift})")
    if kind == "affine":
        return w.op(f"Mul({x}, {w.weight(channels, 1, 1)})")
    return x


def _activated(draw: st.DrawFn, w: Writer, x: str) -> str:
    names = ["Relu", "Sigmoid", "HardSwish", "Gelu", "Exp", "Identity"]
    return w.op(f"{draw(st.sampled_from(names))}({x})")


_BLOCKS = (
    *("plain", "residual", "inverted", "dense", "grouped", "split", "squeeze", "shuffle"),
    *("branches", "slices", "deep", "up"),
)


def _block(draw: st.DrawFn, w: Writer, x: str, channels: int) -> tuple[str, int]:
    """Add one block of layers; returns its result and the number of its channels."""
    kind = draw(st.sampled_from(_BLOCKS))
    if kind == "plain":
        outs = draw(st.sampled_from([8, 12, 16]))
        return _normalized(draw, w, _convolution(w, x, channels, outs, 3), outs), outs
    if kind == "residual":
        inner = _activated(draw, w, _convolution(w, x, channels, 8, 3))
        inner = _normalized(draw, w, _convolution(w, inner, 8, channels), channels)
        return w.op(f"Add({x}, {inner})"), channels
    if kind == "inverted":
        wide = 2 * channels
        inner = _activated(draw, w, _convolution(w, x, channels, wide))
        inner = _normalized(draw, w, _convolution(w, inner, wide, wide, 3, wide), wide)
        return w.op(f"Add({_convolution(w, inner, wide, channels)}, {x})"), channels
    if kind == "dense":
        new = _convolution(w, _normalized(draw, w, x, channels), channels, 4, 3)
        return w.op(f"Concat<axis=1>({x}, {new})"), channels + 4
    if kind == "grouped":
        group = draw(st.sampled_from([2, 4]))
        outs = draw(st.sampled_from([8, 16]))
        return _convolution(w, x, channels, outs, 1, group), outs
    if kind == "split":
        sizes = w.ints(channels // 4, channels - channels // 4)
        left, right = f"t{len(w.lines)}a", f"t{len(w.lines)}b"
        w.lines.append(f"{left}, {right} = Split<axis=1>({x}, {sizes})")
        left = _activated(draw, w, _convolution(w, left, channels // 4, channels // 4, 3))
        return w.op(f"Concat<axis=1>({right}, {left})"), channels
    if kind == "squeeze":
        gate = _convolution(w, w.op(f"GlobalAveragePool({x})"), channels, 4)
        gate = _convolution(w, w.op(f"Relu({gate})"), 4, channels)
        return w.op(f"Mul({x}, {w.op(f'Sigmoid({gate})')})"), channels
    if kind == "shuffle":
        apart = w.op(f"Reshape({x}, {w.ints(0, 2, channels // 2, 8, 8)})")
        turned = w.op(f"Transpose<perm=[0,2,1,3,4]>({apart})")
        return w.op(f"Reshape({turned}, {w.ints(0, -1, 8, 8)})"), channels
    if kind == "branches":
        one, two = _convolution(w, x, channels, 4, 3), _convolution(w, x, channels, 8)
        pooled = w.op(f"MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>({x})")
        return w.op(f"Concat<axis=1>({pooled}, {one}, {two})"), channels + 12
    if kind == "slices":
        half, axis = channels // 2, w.ints(1)
        first = w.op(f"Slice({x}, {w.ints(0)}, {w.ints(half)}, {axis})")
        second = w.op(f"Slice({x}, {w.ints(-half)}, {w.ints(1 << 40)}, {axis})")
        return w.op(f"Mul({first}, {second})"), half
    if kind == "deep":
        deep = w.op(f"SpaceToDepth<blocksize=2>({_convolution(w, x, channels, 4)})")
        deep = _convolution(w, deep, 16, 16)
        return w.op(f"DepthToSpace<blocksize=2>({deep})"), 4
    weight = w.weight(channels, 8, 2, 2)
    up = w.op(f"ConvTranspose<strides=[2,2]>({x}, {weight}, {w.weight(8)})")
    return w.op(f"AveragePool<kernel_shape=[2,2], strides=[2,2]>({up})"), 8


@st.composite
def networks(draw: st.DrawFn) -> ir.Model:
    """Convolutional networks of random blocks, with skips over several of them."""
    w = Writer(draw(st.integers(0, 1 << 30)))
    x, channels = _convolution(w, "x", 3, 16, 3), 16
    earlier = [(x, channels)]
    for _ in range(draw(st.integers(1, 6))):
        if channels % 8 or channels > 48:
            x, channels = _convolution(w, x, channels, 16), 16
        x, channels = _block(draw, w, x, channels)
        alike = [other for other, size in earlier if size == channels and other != x]
        skips = draw(st.booleans())
        if skips and alike:
            x = w.op(f"{draw(st.sampled_from(['Add', 'Mul', 'Max']))}({x}, {alike[0]})")
        earlier.append((x, channels))
    if draw(st.booleans()):
        x = w.op(f"Flatten({x})")
        x = w.op(f"Gemm({x}, {w.weight(64 * channels, 12)}, {w.weight(12)})")
        w.lines.append(f"y = Gemm<transB=1>({_activated(draw, w, x)}, {w.weight(5, 12)})")
        return w.model("(float[N,3,8,8] x) => (float[N,5] y)")
    w.lines.append(f"y = Conv({_activated(draw, w, x)}, {w.weight(5, channels, 1, 1)})")
    return w.model("(float[N,3,8,8] x) => (float[N,5,8,8] y)")


def _linear(w: Writer, x: str, ins: int, outs: int) -> str:
    return w.op(f"Add({w.op(f'MatMul({x}, {w.weight(ins, outs)})')}, {w.weight(outs)})")


def _heads(w: Writer, x: str, count: int, size: int, order: str) -> str:
    return w.op(f"Transpose<perm={order}>({w.op(f'Reshape({x}, {w.ints(0, 0, count, size)})')})")


def _attend(draw: st.DrawFn, w: Writer, x: str, width: int) -> str:
    keys, times, size = draw(st.sampled_from([(4, 1, 4), (2, 3, 4), (3, 2, 6)]))
    count = keys * times
    across, upright = "[0,2,1,3]", "[0,2,3,1]"
    if draw(st.booleans()):
        sizes = w.ints(count * size, keys * size, keys * size)
        packed = _linear(w, x, width, (count + 2 * keys) * size)
        q, k, v = (f"t{len(w.lines)}{part}" for part in "qkv")
        w.lines.append(f"{q}, {k}, {v} = Split<axis=-1>({packed}, {sizes})")
    else:
        q = _linear(w, x, width, count * size)
        k, v = _linear(w, x, width, keys * size), _linear(w, x, width, keys * size)
    q, k, v = (
        _heads(w, q, count, size, across),
        _heads(w, k, keys, size, upright),
        _heads(w, v, keys, size, across),
    )
    if times > 1:
        many, axis = w.ints(1, 1, times, 1, 1), w.ints(2)
        k = w.op(f"Expand({w.op(f'Unsqueeze({k}, {axis})')}, {many})")
        v = w.op(f"Expand({w.op(f'Unsqueeze({v}, {axis})')}, {many})")
        k = w.op(f"Reshape({k}, {w.ints(0, count, size, -1)})")
        v = w.op(f"Reshape({v}, {w.ints(0, count, -1, size)})")
    scores = w.op(f"MatMul({q}, {k})")
    if draw(st.booleans()):
        scores = w.op(f"Add({scores}, {w.weight(count, 1, 1)})")
    mixed = w.op(f"MatMul({w.op(f'Softmax<axis=-1>({scores})')}, {v})")
    mixed = w.op(f"Transpose<perm={across}>({mixed})")
    joined = w.op(f"Reshape({mixed}, {w.ints(0, 0, count * size)})")
    return _linear(w, joined, count * size, width)


@st.composite
def transformers(draw: st.DrawFn) -> ir.Model:
    """Transformers with heads of their own or shared ones, gates, and norms before or behind."""
    w = Writer(draw(st.integers(0, 1 << 30)))
    width, x = 12, "x"
    for _ in range(draw(st.integers(1, 3))):
        norm = f"LayerNormalization({x}, {w.weight(width)}, {w.weight(width)})"
        inner = w.op(norm) if draw(st.booleans()) else x
        x = w.op(f"Add({x}, {_attend(draw, w, inner, width)})")
        hidden = draw(st.sampled_from([16, 24]))
        up = _activated(draw, w, _linear(w, x, width, hidden))
        if draw(st.booleans()):
            up = w.op(f"Mul({up}, {_linear(w, x, width, hidden)})")
        x = w.op(f"Add({x}, {_linear(w, up, hidden, width)})")
    w.lines.append(f"y = MatMul({x}, {w.weight(width, 5)})")
    return w.model("(float[N,T,12] x) => (float[N,T,5] y)")


@_SETTINGS
@hypothesis.given(networks(), st.integers(0, 99))
def test_convolutional_networks(proof: Proof, model: ir.Model, seed: int) -> None:
    proof(model, seed=seed, dims={"N": 2})


@_SETTINGS
@hypothesis.given(transformers(), st.integers(0, 99))
def test_transformers(proof: Proof, model: ir.Model, seed: int) -> None:
    assert proof(model, seed=seed, dims={"N": 2, "T": 5}) > 0
