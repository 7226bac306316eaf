# SPDX-License-Identifier: Apache-2.0
"""A Llama-shaped decoder of any size, spelled out as exporters write it, for benchmarks.

RMSNorm, rotary embedding, grouped-query attention under a causal mask, and SwiGLU. The weights are
distinct random numbers in one external file, which is written in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir


@dataclass(frozen=True)
class Sizes:
    """Sizes of a decoder; the defaults hold 4.2 GB of float32 weights."""

    layers: int = 32
    hidden: int = 1536
    heads: int = 24
    groups: int = 6
    inner: int = 5120
    words: int = 32_000

    @property
    def head(self) -> int:
        """Elements of one head."""
        return self.hidden // self.heads


def write(path: Path, sizes: Sizes | None = None, *, seed: int = 0) -> int:
    """Write a decoder and, beside it, its weights; returns their bytes."""
    import onnx

    sizes = sizes or Sizes()
    shapes = dict(_weights(sizes))
    declared = ", ".join(
        f"float[{','.join(map(str, shape))}] {name}" for name, shape in shapes.items()
    )
    model = ir.from_proto(onnx.parser.parse_model(_text(sizes, declared)))
    inputs = model.graph.inputs
    data = path.with_name(f"{path.name}.data")
    rng = np.random.default_rng(seed)
    offset = 0
    with data.open("wb") as out:
        for value in [value for value in inputs if value.name in shapes]:
            assert value.name is not None
            shape = shapes[value.name]
            size = 4 * int(np.prod(shape))
            for _ in range(shape[0]):
                row = rng.random(shape[1:], dtype=np.float32)
                out.write(((row - 0.5) * (0.04 if len(shape) > 1 else 1)).astype("<f4").tobytes())
            value.const_value = ir.ExternalTensor(
                data.name,
                offset,
                size,
                ir.DataType.FLOAT,
                shape=ir.Shape(shape),
                name=value.name,
                base_dir=path.parent,
            )
            inputs.remove(value)
            model.graph.register_initializer(value)
            offset += size
    ir.save(model, path)
    return offset


def _weights(s: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of the weights, in the order of their use."""
    yield "embedding", (s.words, s.hidden)
    for i in range(s.layers):
        yield f"norm1_{i}", (s.hidden,)
        yield f"wq_{i}", (s.hidden, s.hidden)
        yield f"wk_{i}", (s.hidden, s.groups * s.head)
        yield f"wv_{i}", (s.hidden, s.groups * s.head)
        yield f"wo_{i}", (s.hidden, s.hidden)
        yield f"norm2_{i}", (s.hidden,)
        yield f"gate_{i}", (s.hidden, s.inner)
        yield f"up_{i}", (s.hidden, s.inner)
        yield f"down_{i}", (s.inner, s.hidden)
    yield "norm", (s.hidden,)
    yield "head", (s.hidden, s.words)


def _text(s: Sizes, weights: str) -> str:
    frequencies = 10_000.0 ** -(np.arange(0, s.head, 2) / s.head)
    constants = {
        "float two": 2,
        "float one": 1,
        "float tiny": 1e-6,
        "float scale": s.head**-0.5,
        "float zero": 0,
        "float least": np.finfo(np.float32).min,
        f"float[1,{s.head // 2}] frequencies": ", ".join(map(repr, map(float, frequencies))),
        "int64 none": 0,
        "int64 single": 1,
        "int64[1] first": 0,
        "int64[1] second": 1,
        "int64[1] third": 2,
        "int64[1] fourth": 3,
        "int64[2] outer": "0, 1",
        "int64[1] half": s.head // 2,
        "int64[1] end": 2**62,
        "int64[4] by_head": f"0, 0, {s.heads}, {s.head}",
        "int64[4] by_group": f"0, 0, {s.groups}, {s.head}",
        "int64[1] groups": s.groups,
        "int64[1] heads": s.heads,
        "int64[1] copies": s.heads // s.groups,
        "int64[1] size": s.head,
        "int64[3] joined": f"0, 0, {s.hidden}",
    }
    held = ", ".join(f"{name} = {{{value}}}" for name, value in constants.items())
    layers = "\n".join(_layer(i, f"x{i}", f"x{i + 1}") for i in range(s.layers))
    return f"""<ir_version: 10, opset_import: ["" : 21]>
    decoder (int64[B,S] ids, {weights}) => (float[B,S,{s.words}] logits) <{held}> {{
        x0 = Gather(embedding, ids)
        shape = Shape(ids)
        length = Gather(shape, single)
        many = Gather(shape, first)
        last = Gather(shape, second)
        positions = Range(none, length, single)
        rows = Unsqueeze(positions, second)
        columns = Unsqueeze(positions, first)
        later = Greater(columns, rows)
        mask2 = Where(later, least, zero)
        mask = Unsqueeze(mask2, outer)
        steps = Cast<to = 1>(rows)
        angles = Mul(steps, frequencies)
        twice = Concat<axis = -1>(angles, angles)
        cosine2 = Cos(twice)
        sine2 = Sin(twice)
        cosine = Unsqueeze(cosine2, outer)
        sine = Unsqueeze(sine2, outer)
        {layers}
        {_norm("n", f"x{s.layers}", "norm")}
        logits = MatMul(n, head)
    }}"""


def _norm(made: str, x: str, weight: str) -> str:
    return f"""
        {made}_p = Pow({x}, two)
        {made}_m = ReduceMean<keepdims = 1>({made}_p, third)
        {made}_e = Add({made}_m, tiny)
        {made}_s = Sqrt({made}_e)
        {made}_r = Div(one, {made}_s)
        {made}_n = Mul({x}, {made}_r)
        {made} = Mul({made}_n, {weight})"""


def _heads(made: str, x: str, weight: str, split: str) -> str:
    return f"""
        {made}_p = MatMul({x}, {weight})
        {made}_h = Reshape({made}_p, {split})
        {made} = Transpose<perm = [0, 2, 1, 3]>({made}_h)"""


def _rotated(made: str, x: str) -> str:
    return f"""
        {made}_c = Mul({x}, cosine)
        {made}_a = Slice({x}, first, half, fourth, second)
        {made}_b = Slice({x}, half, end, fourth, second)
        {made}_m = Neg({made}_b)
        {made}_t = Concat<axis = -1>({made}_m, {made}_a)
        {made}_s = Mul({made}_t, sine)
        {made} = Add({made}_c, {made}_s)"""


def _repeated(made: str, x: str) -> str:
    return f"""
        {made}_u = Unsqueeze({x}, third)
        {made}_l = Concat<axis = 0>(many, groups, copies, last, size)
        {made}_e = Expand({made}_u, {made}_l)
        {made}_w = Concat<axis = 0>(many, heads, last, size)
        {made} = Reshape({made}_e, {made}_w)"""


def _layer(i: int, x: str, y: str) -> str:
    return f"""
        {_norm(f"a{i}", x, f"norm1_{i}")}
        {_heads(f"q{i}", f"a{i}", f"wq_{i}", "by_head")}
        {_heads(f"k{i}", f"a{i}", f"wk_{i}", "by_group")}
        {_heads(f"v{i}", f"a{i}", f"wv_{i}", "by_group")}
        {_rotated(f"qr{i}", f"q{i}")}
        {_rotated(f"kr{i}", f"k{i}")}
        {_repeated(f"kk{i}", f"kr{i}")}
        {_repeated(f"vv{i}", f"v{i}")}
        kt{i} = Transpose<perm = [0, 1, 3, 2]>(kk{i})
        raw{i} = MatMul(qr{i}, kt{i})
        scaled{i} = Mul(raw{i}, scale)
        masked{i} = Add(scaled{i}, mask)
        weights{i} = Softmax<axis = -1>(masked{i})
        mixed{i} = MatMul(weights{i}, vv{i})
        turned{i} = Transpose<perm = [0, 2, 1, 3]>(mixed{i})
        together{i} = Reshape(turned{i}, joined)
        out{i} = MatMul(together{i}, wo_{i})
        h{i} = Add({x}, out{i})
        {_norm(f"b{i}", f"h{i}", f"norm2_{i}")}
        g{i} = MatMul(b{i}, gate_{i})
        sig{i} = Sigmoid(g{i})
        act{i} = Mul(g{i}, sig{i})
        u{i} = MatMul(b{i}, up_{i})
        both{i} = Mul(act{i}, u{i})
        d{i} = MatMul(both{i}, down_{i})
        {y} = Add(h{i}, d{i})"""
