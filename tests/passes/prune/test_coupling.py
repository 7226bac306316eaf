# SPDX-License-Identifier: Apache-2.0
"""Every kind of coupling: which units there are, and that shrinking equals masking."""

import time
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.prune.coupling import couplings_of
from burnish.passes.prune.units import Units
from burnish.passes.shapes import infer_shapes
from burnish.testing import parse

Weighted = Callable[..., ir.Model]
UnitsOf = Callable[[ir.Model], Units]
Proof = Callable[..., int]

IMAGE = "float[N,3,H,W] x"
# Name -> (text, number of units in each group, in the order of the graph).
CASES: dict[str, tuple[str, list[int]]] = {
    "chain": (
        f"g ({IMAGE}, float[8,3,3,3] w1, float[8] wb, float[4,8,1,1] w2) => (float[N,4,H2,W2] y)"
        "{ a = Conv(x, w1, wb)  r = Relu(a)  y = Conv(r, w2) }",
        [8],
    ),
    "residual": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[8,8,1,1] w2, float[4,8,1,1] w3) =>"
        "(float[N,4,H,W] y)"
        "{ a = Conv(x, w1)  b = Conv(a, w2)  s = Add(a, b)  y = Conv(s, w3) }",
        [8],
    ),
    "concat": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[6,3,1,1] w2, float[4,14,1,1] w3) =>"
        "(float[N,4,H,W] y)"
        "{ a = Conv(x, w1)  b = Conv(x, w2)  c = Concat<axis=1>(a, b)  y = Conv(c, w3) }",
        [8, 6],
    ),
    "concat with an input": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[4,11,1,1] w3) => (float[N,4,H,W] y)"
        "{ a = Conv(x, w1)  c = Concat<axis=-3>(x, a)  y = Conv(c, w3) }",
        [8],
    ),
    "split in equal parts": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[4,4,1,1] w2, float[4,4,1,1] w3) =>"
        "(float[N,4,H,W] y) { a = Conv(x, w1)  b, c = Split<axis=1, num_outputs=2>(a)"
        " d = Conv(b, w2)  e = Conv(c, w3)  y = Add(d, e) }",
        [4, 4],
    ),
    "split and sum of the parts": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[4,4,1,1] w2) =>"
        "(float[N,4,H,W] y) <int64[2] sizes = {4, 4}>"
        "{ a = Conv(x, w1)  b, c = Split<axis=1>(a, sizes)  d = Mul(b, c)  y = Conv(d, w2) }",
        [4],
    ),
    "slices": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[4,5,1,1] w2, float[4,3,1,1] w3) =>"
        "(float[N,4,H,W] y) <int64[1] zero = {0}, int64[1] five = {-3}, int64[1] end = {99},"
        " int64[1] one = {1}>"
        "{ a = Conv(x, w1)  b = Slice(a, zero, five, one)  c = Slice(a, five, end, one)"
        " d = Conv(b, w2)  e = Conv(c, w3)  y = Add(d, e) }",
        [5, 3],
    ),
    "gather of channels": (
        f"g ({IMAGE}, float[6,3,1,1] w1, float[4,4,1,1] w2) => (float[N,4,H,W] y)"
        "<int64[4] order = {5, 0, -4, 3}>"
        "{ a = Conv(x, w1)  b = Gather<axis=1>(a, order)  y = Conv(b, w2) }",
        [4, 2],
    ),
    "depthwise": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[8,1,3,3] w2, float[4,8,1,1] w3) =>"
        "(float[N,4,H2,W2] y)"
        "{ a = Conv(x, w1)  b = Conv<group=8>(a, w2)  y = Conv(b, w3) }",
        [8],
    ),
    "depthwise with two filters a channel": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[16,1,3,3] w2, float[4,16,1,1] w3) =>"
        "(float[N,4,H2,W2] y)"
        "{ a = Conv(x, w1)  b = Conv<group=8>(a, w2)  y = Conv(b, w3) }",
        [8],
    ),
    "few groups: a channel of each": (
        f"g ({IMAGE}, float[12,3,1,1] w1, float[8,6,1,1] w2, float[4,8,1,1] w3) =>"
        "(float[N,4,H,W] y)"
        "{ a = Conv(x, w1)  b = Conv<group=2>(a, w2)  y = Conv(b, w3) }",
        [6, 4],
    ),
    "many groups: whole ones": (
        f"g ({IMAGE}, float[12,3,1,1] w1, float[12,2,1,1] w2, float[4,12,1,1] w3) =>"
        "(float[N,4,H,W] y)"
        "{ a = Conv(x, w1)  b = Conv<group=6>(a, w2)  y = Conv(b, w3) }",
        [6],
    ),
    "shuffled groups": (
        f"g ({IMAGE}, float[16,3,1,1] w1, float[16,8,1,1] w2, float[4,16,1,1] w3) =>"
        "(float[N,4,H,W] y) { a = Conv(x, w1)  sh = Shape(a) d0 = Constant<value_ints=[0]>()"
        " d2 = Constant<value_ints=[2]>() d3 = Constant<value_ints=[4]>()"
        " two = Constant<value_ints=[2]>()  eight = Constant<value_ints=[8]>()"
        " chans = Constant<value_ints=[16]>()  one = Constant<value_ints=[1]>()"
        " n = Slice(sh, d0, one)  hw = Slice(sh, d2, d3)"
        " s5 = Concat<axis=0>(n, two, eight, hw)  s4 = Concat<axis=0>(n, chans, hw)"
        " r = Reshape(a, s5)  t = Transpose<perm=[0,2,1,3,4]>(r)  b = Reshape(t, s4)"
        " c = Conv<group=2>(b, w2)  y = Conv(c, w3) }",
        [4, 8],
    ),
    "transposed convolutions": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[8,6,2,2] w2, float[6] wb, float[6,2,2,2] w3,"
        " float[4,12,1,1] w4) =>"
        "(float[N,4,H2,W2] y) { a = Conv(x, w1)  b = ConvTranspose<strides=[2,2]>(a, w2, wb)"
        " c = ConvTranspose<group=6>(b, w3)  y = Conv(c, w4) }",
        [8, 6],
    ),
    "batch normalization": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[8] ws, float[8] wb, float[8] wm,"
        " float[8] w_positive, float[4,8,1,1] w2) => (float[N,4,H,W] y)"
        "{ a = Conv(x, w1)  b = BatchNormalization(a, ws, wb, wm, w_positive)  y = Conv(b, w2) }",
        [8],
    ),
    "instance normalization": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[8] ws, float[8] wb, float[4,8,1,1] w2) =>"
        "(float[N,4,H,W] y)"
        "{ a = Conv(x, w1)  b = InstanceNormalization(a, ws, wb)  y = Conv(b, w2) }",
        [8],
    ),
    "group normalization": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[8] ws, float[8] wb, float[4,8,1,1] w2) =>"
        "(float[N,4,H,W] y)"
        "{ a = Conv(x, w1)  b = GroupNormalization<num_groups=4>(a, ws, wb)  y = Conv(b, w2) }",
        [4],
    ),
    "group normalization by reshaping": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[4] ws, float[4] wb, float[8,1,1] wc,"
        " float[4,8,1,1] w2) => (float[N,4,H,W] y) <int64[3] s = {0, 4, -1}>"
        "{ a = Conv(x, w1)  r = Reshape(a, s)  i = InstanceNormalization(r, ws, wb)"
        " sh = Shape(a)  b = Reshape(i, sh)  m = Mul(b, wc)  y = Conv(m, w2) }",
        [4],
    ),
    "layer normalization of places": (
        "g (float[N,3,6] x, float[8,3,1] w1, float[6] ws, float[4,8,1] w2) => (float[N,4,6] y)"
        "{ a = Conv(x, w1)  b = LayerNormalization(a, ws)  y = Conv(b, w2) }",
        [8],
    ),
    "slopes": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[8,1,1] ws, float[4,8,1,1] w2) => (float[N,4,H,W] y)"
        "{ a = Conv(x, w1)  b = PRelu(a, ws)  y = Conv(b, w2) }",
        [8],
    ),
    "divisors": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[8,1,1] w_positive, float[4,8,1,1] w2) =>"
        "(float[N,4,H,W] y) { a = Conv(x, w1)  b = Div(a, w_positive)  y = Conv(b, w2) }",
        [8],
    ),
    "pooling, padding, resizing": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[4,8,1,1] w2) => (float[N,4,H2,W2] y)"
        "<int64[8] pads = {0,0,1,1,0,0,1,1}, float[4] scales = {1.0,1.0,2.0,2.0}>"
        "{ a = Conv(x, w1)  b = Pad(a, pads)  c = MaxPool<kernel_shape=[3,3]>(b)"
        " d = Resize(c, , scales)  e = AveragePool<kernel_shape=[2,2], strides=[2,2]>(d)"
        " y = Conv(e, w2) }",
        [8],
    ),
    "resizing to the size of another": (
        f"g ({IMAGE}, float[8,3,3,3] w1, float[4,11,1,1] w2) => (float[N,4,H,W] y)"
        "{ a = Conv<strides=[2,2]>(x, w1)  sh = Shape<start=2>(x)  sa = Shape<end=2>(a)"
        ' s = Concat<axis=0>(sa, sh)  b = Resize<mode="nearest">(a, , , s)'
        " c = Concat<axis=1>(b, x)  y = Conv(c, w2) }",
        [8],
    ),
    "squeeze and excitation": (
        f"g ({IMAGE}, float[16,3,1,1] w1, float[4,16,1,1] w2, float[4] wb, float[16,4,1,1] w3,"
        " float[16] wc, float[4,16,1,1] w4) => (float[N,4,H,W] y)"
        "{ a = Conv(x, w1)  p = GlobalAveragePool(a)  d = Conv(p, w2, wb)  r = Relu(d)"
        " u = Conv(r, w3, wc)  s = Sigmoid(u)  m = Mul(a, s)  y = Conv(m, w4) }",
        [16, 4],
    ),
    "flattened": (
        "g (float[N,3,4,4] x, float[8,3,1,1] w1, float[128,10] w2, float[10] wb, float[10,5] w3)"
        " => (float[N,5] y) { a = Conv(x, w1)  f = Flatten(a)  b = Gemm(f, w2, wb)  r = Relu(b)"
        " y = MatMul(r, w3) }",
        [8, 10],
    ),
    "squeezed": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[5,8] w2) => (float[N,5] y)"
        "<int64[2] axes = {2, 3}> { a = Conv(x, w1)  p = GlobalAveragePool(a)"
        " f = Squeeze(p, axes)  y = Gemm<transB=1>(f, w2) }",
        [8],
    ),
    "averaged": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[5,8] w2) => (float[N,5] y)"
        "<int64[2] axes = {2, 3}> { a = Conv(x, w1)  p = ReduceMean<keepdims=0>(a, axes)"
        " y = Gemm<transB=1>(p, w2) }",
        [8],
    ),
    "shared weights": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[8,3,1,1] w2, float[4,8,1,1] w3) =>"
        "(float[N,4,H,W] y) { a = Conv(x, w1)  b = Conv(x, w2)  c = Conv(a, w3)  d = Conv(b, w3)"
        " y = Add(c, d) }",
        [8],
    ),
    "depth to space": (
        f"g ({IMAGE}, float[16,3,1,1] w1, float[4,4,1,1] w2, float[16,3,1,1] w3,"
        " float[4,4,1,1] w4) => (float[N,4,H2,W2] y)"
        "{ a = Conv(x, w1)  b = DepthToSpace<blocksize=2>(a)  c = Conv(b, w2)"
        ' d = Conv(x, w3)  e = DepthToSpace<blocksize=2, mode="CRD">(d)  f = Conv(e, w4)'
        " y = Add(c, f) }",
        [4, 4],
    ),
    "weights transposed in the graph": (
        "g (float[N,6] x, float[8,6] w1, float[5,8] w2) => (float[N,5] y)"
        "{ t = Transpose<perm=[1,0]>(w1)  a = MatMul(x, t)  r = Gelu(a)"
        " u = Transpose<perm=[1,0]>(w2)  y = MatMul(r, u) }",
        [8],
    ),
    "einsum": (
        "g (float[N,T,6] x, float[6,8] w1, float[8,5] w2) => (float[N,T,5] y)"
        '{ a = Einsum<equation="nti,ij->ntj">(x, w1)  r = Relu(a)'
        ' y = Einsum<equation="ntj,jk->ntk">(r, w2) }',
        [8],
    ),
    "expanded": (
        "g (float[N,6] x, float[6,8] w1, float[8,5] w2) => (float[N,3,5] y)"
        "<int64[1] one = {1}, int64[3] s = {1, 3, 8}>"
        "{ a = MatMul(x, w1)  b = Unsqueeze(a, one)  e = Expand(b, s)  y = MatMul(e, w2) }",
        [8],
    ),
    "a gate of two halves": (
        "g (float[N,6] x, float[6,16] w1, float[16] wb, float[8,5] w2) => (float[N,5] y)"
        "{ a = Gemm(x, w1, wb)  b, c = Split<axis=-1, num_outputs=2>(a)  s = Sigmoid(b)"
        " m = Mul(s, c)  y = MatMul(m, w2) }",
        [8],
    ),
}
_HEADS = (
    "g (float[N,T,12] x, float[12,24] w1, float[12,%d] w2, float[12,%d] w3, float[24,12] w4) =>"
    "(float[N,T,12] y) <int64[4] s = {0, 0, 6, 4}, int64[4] k = {0, 0, %d, 4},"
    " int64[3] f = {0, 0, 24}>"
    "{ q = MatMul(x, w1)  k0 = MatMul(x, w2)  v0 = MatMul(x, w3)"
)
ATTENTION: dict[str, tuple[str, list[int]]] = {
    "heads": (
        _HEADS % (24, 24, 6) + "q1 = Reshape(q, s)  q2 = Transpose<perm=[0,2,1,3]>(q1)"
        " k1 = Reshape(k0, k)  k2 = Transpose<perm=[0,2,3,1]>(k1)"
        " v1 = Reshape(v0, k)  v2 = Transpose<perm=[0,2,1,3]>(v1)"
        " a = MatMul(q2, k2)  p = Softmax<axis=-1>(a)  o = MatMul(p, v2)"
        " o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, f)  y = MatMul(o2, w4) }",
        [6],
    ),
    "packed queries, keys and values": (
        "g (float[N,T,12] x, float[12,72] w1, float[72] wb, float[24,12] w4) =>"
        "(float[N,T,12] y) <int64[5] s = {0, 0, 3, 6, 4}, int64[3] f = {0, 0, 24}, int64[1] at={0}>"
        "{ a0 = MatMul(x, w1)  a1 = Add(a0, wb)  a2 = Reshape(a1, s)"
        " a3 = Transpose<perm=[2,0,3,1,4]>(a2)  q, k, v = Split<num_outputs=3>(a3)"
        " q2 = Squeeze(q, at)  k1 = Squeeze(k, at)  k2 = Transpose<perm=[0,1,3,2]>(k1)"
        " v2 = Squeeze(v, at)  a = MatMul(q2, k2)  p = Softmax<axis=-1>(a)  o = MatMul(p, v2)"
        " o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, f)  y = MatMul(o2, w4) }",
        [6],
    ),
    "heads that share keys": (
        _HEADS % (8, 8, 2) + "q1 = Reshape(q, s)  q2 = Transpose<perm=[0,2,1,3]>(q1)"
        " k1 = Reshape(k0, k)  k2 = Transpose<perm=[0,2,3,1]>(k1)"
        " v1 = Reshape(v0, k)  v2 = Transpose<perm=[0,2,1,3]>(v1)"
        " ax = Constant<value_ints=[2]>()  m = Constant<value_ints=[1,1,3,1,1]>()"
        " sk = Constant<value_ints=[0,6,4,-1]>()  sv = Constant<value_ints=[0,6,-1,4]>()"
        " k3 = Unsqueeze(k2, ax)  k4 = Expand(k3, m)  k5 = Reshape(k4, sk)"
        " v3 = Unsqueeze(v2, ax)  v4 = Expand(v3, m)  v5 = Reshape(v4, sv)"
        " a = MatMul(q2, k5)  p = Softmax<axis=-1>(a)  o = MatMul(p, v5)"
        " o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, f)  y = MatMul(o2, w4) }",
        [2],
    ),
    "rotated": (
        _HEADS % (24, 24, 6) + "q1 = Reshape(q, s)  q2 = Transpose<perm=[0,2,1,3]>(q1)"
        " z = Constant<value_ints=[0]>()  h = Constant<value_ints=[2]>()"
        " e = Constant<value_ints=[4]>()  ax = Constant<value_ints=[3]>()"
        " qa = Slice(q2, z, h, ax)  qb = Slice(q2, h, e, ax)  qn = Neg(qb)"
        " q3 = Concat<axis=-1>(qn, qa)"
        " k1 = Reshape(k0, k)  k2 = Transpose<perm=[0,2,3,1]>(k1)"
        " v1 = Reshape(v0, k)  v2 = Transpose<perm=[0,2,1,3]>(v1)"
        " a = MatMul(q3, k2)  p = Softmax<axis=-1>(a)  o = MatMul(p, v2)"
        " o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, f)  y = MatMul(o2, w4) }",
        [6],
    ),
    "the operator, rank 3": (
        '<ir_version: 11, opset_import: ["" : 23]>\n'
        + _HEADS % (8, 8, 2)
        + "a = Attention<q_num_heads=6, kv_num_heads=2>(q, k0, v0)  y = MatMul(a, w4) }",
        [2],
    ),
    "the operator, behind heads taken apart and put together": (
        '<ir_version: 11, opset_import: ["" : 23]>\n'
        + _HEADS % (8, 8, 2)
        + "q1 = Reshape(q, s)  q2 = Reshape(q1, f)  v1 = Reshape(v0, k)"
        " e = Constant<value_ints=[0, 0, 8]>()  v3 = Reshape(v1, e)"
        " a = Attention<q_num_heads=6, kv_num_heads=2>(q2, k0, v3)"
        " y = MatMul(a, w4) }",
        [2],
    ),
    "the operator, rank 4": (
        '<ir_version: 11, opset_import: ["" : 23]>\n'
        + _HEADS % (24, 24, 6)
        + "q1 = Reshape(q, s)  q2 = Transpose<perm=[0,2,1,3]>(q1)"
        " k1 = Reshape(k0, k)  k2 = Transpose<perm=[0,2,1,3]>(k1)"
        " v1 = Reshape(v0, k)  v2 = Transpose<perm=[0,2,1,3]>(v1)  o = Attention(q2, k2, v2)"
        " o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, f)  y = MatMul(o2, w4) }",
        [6],
    ),
    "the runtime's operator": (
        '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\n'
        "g (float[N,T,12] x, float[12,24] w1, float[12,24] w2, float[12,24] w3, float[72] wb,"
        " float[24,12] w4) => (float[N,T,12] y)"
        "{ q = MatMul(x, w1)  k = MatMul(x, w2)  v = MatMul(x, w3)"
        " o = com.microsoft.MultiHeadAttention<num_heads=6>(q, k, v, wb)  y = MatMul(o, w4) }",
        [6],
    ),
}


@pytest.mark.parametrize("name", [*CASES, *ATTENTION])
def test_units_are_found_and_shrinking_equals_masking(
    name: str, weighted: Weighted, units_of: UnitsOf, proof: Proof
) -> None:
    text, expected = {**CASES, **ATTENTION}[name]
    model = weighted(text)
    units = units_of(model.clone())
    assert [len(group.units) for group in units.groups] == expected
    assert [group.heads for group in units.groups] == [name in ATTENTION] * len(expected)
    for seed in range(3):
        assert proof(model, seed=seed) > 0
    proof(model, seed=7, dims={"N": 3, "T": 5} if name in ATTENTION else {"N": 3})


# Name -> (text, why nothing can be cut).
REFUSED: dict[str, tuple[str, str]] = {
    "an output": (
        f"g ({IMAGE}, float[8,3,1,1] w1) => (float[N,8,H,W] y) {{ y = Conv(x, w1) }}",
        "an output of the model",
    ),
    "softmax": (
        "g (float[N,6] x, float[6,8] w1, float[8,5] w2) => (float[N,5] y)"
        "{ a = MatMul(x, w1)  s = Softmax(a)  y = MatMul(s, w2) }",
        "Softmax needs the whole axis",
    ),
    "normalization": (
        "g (float[N,6] x, float[6,8] w1, float[8] ws, float[8,5] w2) => (float[N,5] y)"
        "{ a = MatMul(x, w1)  s = LayerNormalization(a, ws)  y = MatMul(s, w2) }",
        "LayerNormalization needs the whole axis",
    ),
    "mean": (
        "g (float[N,6] x, float[6,8] w1, float[8,5] w2) => (float[N,5] y)"
        "<int64[1] axis = {-1}> { a = MatMul(x, w1)  m = ReduceMean(a, axis)  s = Sub(a, m)"
        " y = MatMul(s, w2) }",
        "ReduceMean needs the whole axis",
    ),
    "neighbours": (
        f"g ({IMAGE}, float[8,3,1,1] w1, float[4,8,1,1] w2) => (float[N,4,H,W] y)"
        "{ a = Conv(x, w1)  b = LRN<size=3>(a)  y = Conv(b, w2) }",
        "LRN needs the whole axis",
    ),
    "a product of activations": (
        "g (float[N,6] x, float[6,8] w1, float[N2,6] x2, float[6,8] w2) => (float[N,N2] y)"
        "{ a = MatMul(x, w1)  b = MatMul(x2, w2)  t = Transpose<perm=[1,0]>(b)"
        " y = MatMul(a, t) }",
        "a sum over products of two activations",
    ),
    "arithmetic with the size": (
        "g (float[N,6] x, float[6,8] w1, float[8,5] w2) => (float[N,5] y)"
        "{ a = MatMul(x, w1)  s = Shape<start=1>(a)  f = Cast<to=1>(s)  r = Sqrt(f)"
        " d = Div(a, r)  y = MatMul(d, w2) }",
        "the graph computes with its size",
    ),
    "an unknown operator": (
        '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\n'
        "g (float[N,6] x, float[6,8] w1, float[8,5] w2) => (float[N,5] y)"
        "{ a = MatMul(x, w1)  b = com.microsoft.Inverse(a)  y = MatMul(b, w2) }",
        "Inverse is not known to keep channels apart",
    ),
    "quantized": (
        "g (float[N,6] x, float[6,8] w1, float[8,5] w2) => (float[N,5] y)"
        "<float s = {0.1}, uint8 z = {128}>"
        "{ a = MatMul(x, w1)  q = QuantizeLinear(a, s, z)  d = DequantizeLinear(q, s, z)"
        " y = MatMul(d, w2) }",
        "QuantizeLinear is not known to keep channels apart",
    ),
    "a subgraph": (
        "g (float[N,6] x, bool c, float[6,8] w1, float[8,5] w2) => (float[N,5] y)"
        "{ a = MatMul(x, w1)  b = If(c) <then_branch = t () => (float[N,8] p) { p = Relu(a) },"
        " else_branch = e () => (float[N,8] q) { q = Neg(a) }>  y = MatMul(b, w2) }",
        "a subgraph reads it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_proven_stays(name: str, weighted: Weighted, units_of: UnitsOf) -> None:
    text, reason = REFUSED[name]
    model = weighted(text)
    units = units_of(model)
    assert units.groups == []
    weight = model.graph.initializers["w1"]
    axis = 0 if "Conv" in text else 1
    found = units.of((weight, axis))
    assert found is not None
    assert (found == -1).all()
    assert units.reasons[units.class_of[weight, axis]] == reason


def test_a_default_that_callers_may_override_stays(weighted: Weighted, units_of: UnitsOf) -> None:
    model = weighted(CASES["chain"][0])
    model.graph.inputs.append(model.graph.initializers["w1"])
    assert units_of(model).groups == []


def test_a_weight_that_is_an_output_stays(weighted: Weighted, units_of: UnitsOf) -> None:
    model = weighted(CASES["chain"][0])
    model.graph.outputs.append(model.graph.initializers["w2"])
    assert units_of(model).groups == []


def test_ten_thousand_nodes_take_seconds() -> None:
    layers, width = 2_500, 64
    graph = "x0 = Conv(x, w0) " + " ".join(
        f"a{i} = Conv(x{i}, w{i % 50}) r{i} = Relu(a{i}) s{i} = Mul(r{i}, c)"
        f" x{i + 1} = {'Add' if i % 3 else 'Sub'}(x{i}, s{i})"
        for i in range(layers)
    )
    weights = ", ".join(f"float[{width},{width},1,1] w{i}" for i in range(50))
    text = (
        f"g (float[N,{width},8,8] x, {weights}, float c, float[4,{width},1,1] v) =>"
        f"(float[N,4,8,8] y) {{ {graph} y = Conv(x{layers}, v) }}"
    )
    model = parse(text)
    infer_shapes(model)
    started = time.process_time()
    units = Units(couplings_of(model))
    assert time.process_time() - started < 10
    assert len(units.class_of) > 2 * len(model.graph)
    assert np.all(units.labels[0] <= 0)
