# SPDX-License-Identifier: Apache-2.0
"""Equal initializers become one, in bounded memory."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from burnish.testing import assert_refuses, assert_same_outputs, parse, rewrites, run_pass


def test_equal_tensors_are_merged() -> None:
    before = parse(
        "g (float[2] x) => (float[2] y) <float[2] v = {1, 2}, float[2] w = {1, 2}> "
        "{ a = Add(x, v)  y = Mul(a, w) }"
    )
    original = before.clone()
    assert rewrites(run_pass("dedup", before)) == {"dedup": 1}
    assert set(before.graph.initializers) == {"v"}
    assert_same_outputs(original, before)


def test_large_ones_may_be_left_to_themselves() -> None:
    before = parse(
        "g (float[2] x) => (float[2] y) <float[2] v = {1, 2}, float[2] w = {1, 2}, float c = {3}, "
        "float d = {3}> { a = Add(x, v)  b = Mul(a, w)  e = Add(b, c)  y = Mul(e, d) }"
    )
    run_pass("dedup{largest=4}", before)
    assert set(before.graph.initializers) == {"v", "w", "c"}


@pytest.mark.parametrize(
    "constants",
    [
        "float[2] v = {1, 2}, float[2] w = {1, 3}",
        "float[2] v = {1, 2}, float[2,1] w = {1, 2}",
        "int32[2] v = {1, 2}, float[2] w = {1, 2}",
        "float[2] v = {0.0, 1}, float[2] w = {-0.0, 1}",
    ],
)
def test_unlike_tensors_are_not(constants: str) -> None:
    before = parse(f"g () => (y, z) <{constants}> {{ y = Abs(v)  z = Abs(w) }}")
    assert not rewrites(run_pass("dedup", before))


def test_a_tensor_that_is_alike_only_at_the_beginning_is_not() -> None:
    v, w = (np.append(np.zeros(39_999, np.float32), np.float32(last)) for last in (1, 2))
    before = parse("g () => (y, z) { y = Abs(v)  z = Abs(w) }", v=v, w=w)
    assert not rewrites(run_pass("dedup", before))


def test_an_initializer_that_is_an_input_is_not() -> None:
    before = parse(
        "g (float[2] v = {1, 2}) => (float[2] y, z) <float[2] w = {1, 2}> "
        "{ y = Abs(v)  z = Abs(w) }"
    )
    assert not rewrites(run_pass("dedup", before))


def test_an_initializer_that_is_an_output_is_not() -> None:
    before = parse(
        "g (float[2] x) => (float[2] y, w) <float[2] v = {1, 2}, float[2] w = {1, 2}> "
        "{ y = Add(x, v) }"
    )
    assert_refuses("dedup", before, "it is an output of the graph")


def test_strings() -> None:
    before = parse("g (int64 i) => (y, z) { y = Gather(v, i)  z = Gather(w, i) }")
    for name, text in (("v", ["ab", "c"]), ("w", ["ab", "c"]), ("u", ["a", "bc"])):
        tensor = ir.StringTensor([t.encode() for t in text], shape=ir.Shape([2]))
        value = ir.Value(name=name, const_value=tensor)
        before.graph.register_initializer(value)
        for node in before.graph:
            if node.inputs[0] is not None and node.inputs[0].name == name:
                node.replace_input_with(0, value)
    assert rewrites(run_pass("dedup", before)) == {"dedup": 1}
    assert set(before.graph.initializers) == {"v", "u"}


def test_inner_graphs_share_with_those_around_them_alone() -> None:
    before = parse(
        """g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
            a = Add(x, w)
            y = If(c) <
                then_branch = t () => (float[2] b) <float[2] w1 = {1, 2}, float[2] v1 = {5, 6}>
                    { d = Add(a, w1)  b = Mul(d, v1) },
                else_branch = e () => (float[2] f) <float[2] v2 = {5, 6}> { f = Mul(a, v2) }
            >
        }"""
    )
    original = before.clone()
    assert rewrites(run_pass("dedup", before)) == {"dedup": 1}
    names = [sorted(graph.initializers) for graph in (before.graph, *before.graph.subgraphs())]
    assert names == [["w"], ["v1"], ["v2"]]
    for flag in (True, False):
        feeds = {"c": np.array(flag), "x": np.ones(2, np.float32)}
        assert_same_outputs(original, before, feeds=feeds)


def external_model(folder: Path, contents: list[bytes]) -> ir.Model:
    """Return a model that adds up weights that lie in files."""
    names = [f"w{index}" for index in range(len(contents))]
    model = parse(
        f"g ({', '.join(f'float[{len(contents[0]) // 4}] {n}' for n in names)}) => (y) "
        f"{{ y = Sum({', '.join(names)}) }}"
    )
    model.graph.inputs.clear()
    (node,) = model.graph
    for index, (name, data) in enumerate(zip(names, contents, strict=True)):
        (folder / name).write_bytes(data)
        tensor = ir.ExternalTensor(
            name,
            0,
            len(data),
            ir.DataType.FLOAT,
            shape=ir.Shape([len(data) // 4]),
            name=name,
            base_dir=folder,
        )
        value = ir.Value(name=name, const_value=tensor)
        model.graph.register_initializer(value)
        node.replace_input_with(index, value)
    return model


def test_weights_in_files_are_compared_without_loading_them(tmp_path: Path) -> None:
    size = 32 * 2**20
    one, two = bytes(size), bytes(size - 1) + b"\x01"
    model = external_model(tmp_path, [one, two, one])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert rewrites(run_pass("dedup", model)) == {"dedup": 1}
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert set(model.graph.initializers) == {"w0", "w1"}
    assert (after - before) * 1024 < size // 2
