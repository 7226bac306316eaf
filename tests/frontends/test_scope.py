# SPDX-License-Identifier: Apache-2.0
"""Names with several definitions are told apart by the order of the nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.backends import onnxruntime
from burnish.errors import InputError
from burnish.frontends import load

HEAD = '<ir_version: 10, opset_import: ["": 21, "f": 1]>'
X = np.array([-2.0, 3.0], np.float32)


def outputs(text: str) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Run a repaired model on x = X; the original is refused by the runtime or misread."""
    loaded = load(HEAD + text)
    with onnxruntime.session(loaded.model) as session:
        return session.run({"x": X}), loaded.notes


def test_output_of_the_same_name_as_an_internal_value() -> None:
    """What torch's dynamo exporter writes for a module that returns its `embedding`."""
    text = """g (float[2] x) => (float[2] embedding) {
        embedding = Neg(x)
        y = Add(embedding, x)
        embedding = Sub(y, embedding)
    }"""
    with pytest.raises(InputError, match=r"Duplicate|SSA|single static"):
        onnxruntime.session(onnx.parser.parse_model(HEAD + text).SerializeToString())
    found, notes = outputs(text)
    assert list(found) == ["embedding"]
    np.testing.assert_array_equal(found["embedding"], X)
    assert notes[0].startswith("value name 'embedding' has 2 definitions: renamed to 'embedding_1'")


def test_each_use_follows_the_definition_above_it() -> None:
    text = """g (float[2] x) => (float[2] y, float[2] z) {
        a = Add(x, x)
        a = Add(a, a)
        y = Identity(a)
        a_1 = Neg(x)
        a = Add(a, a)
        z = Add(a, a_1)
    }"""
    found, _ = outputs(text)
    np.testing.assert_array_equal(found["y"], 4 * X)
    np.testing.assert_array_equal(found["z"], 7 * X)


def test_an_input_keeps_its_name() -> None:
    found, _ = outputs("g (float[2] x) => (float[2] y) { z = Neg(x) x = Add(z, z) y = Abs(x) }")
    np.testing.assert_array_equal(found["y"], [4, 6])


def test_an_initializer_shadowed_by_a_node() -> None:
    text = """g (float[2] x) => (float[2] y) <float[2] w = {1, 10}>
        { w = Add(x, w) y = Mul(w, w) }"""
    np.testing.assert_array_equal(outputs(text)[0]["y"], [1, 169])


def test_the_last_of_two_initializers_counts() -> None:
    text = """g (float[2] x) => (float[2] y)
        <float[2] w = {1, 1}, float[2] w = {5, 5}> { y = Add(x, w) }"""
    found, notes = outputs(text)
    np.testing.assert_array_equal(found["y"], [3, 8])
    assert notes[0] == "initializer 'w' is given twice: the last one is used"


def test_types_of_renamed_values_are_forgotten() -> None:
    """Nothing says which definition a type is of: the wrong one would make the model invalid."""
    text = """g (float[2] x) => (float[2] y) <int64[2] t>
        { t = Neg(x) u = Cast<to=7>(t) t = Add(u, u) y = Cast<to=1>(t) }"""
    np.testing.assert_array_equal(outputs(text)[0]["y"], [4, -6])


IF = """g (float[2] x) => (float[2] y) {
    c = Constant<value = bool {1}>()
    t = Neg(x)
    y = If(c) <
        then_branch = a () => (float[2] t) { u = Abs(t) t = Add(u, t) },
        else_branch = b () => (float[2] v) { v = Neg(t) }
    >
}"""


def test_a_subgraph_hides_an_outer_value() -> None:
    with pytest.raises(InputError):
        onnxruntime.session(onnx.parser.parse_model(HEAD + IF).SerializeToString())
    np.testing.assert_array_equal(outputs(IF)[0]["y"], [4, 0])


def test_a_subgraph_sees_the_definition_above_its_node() -> None:
    text = IF.replace("t = Neg(x)", "t = Neg(x) t = Add(t, t)")
    np.testing.assert_array_equal(outputs(text)[0]["y"], [8, 0])


def test_names_in_functions() -> None:
    text = """g (float[2] x) => (float[2] y) { y = f.F(x) }
    <domain: "f", opset_import: ["": 21]>
    F (x) => (y) { t = Neg(x) t = Add(t, t) y = Abs(t) y = Neg(y) }"""
    np.testing.assert_array_equal(outputs(text)[0]["y"], [-4, -6])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{ y = Add(x, nothing) }", "Add node 'y' reads 'nothing', which nothing defines"),
        ("{ z = Neg(x) }", "a graph output reads 'y', which nothing defines"),
        (IF[IF.index("{") :].replace("Neg(t)", "Neg(u)"), "reads 'u', which nothing defines"),
    ],
)
def test_undefined_names(body: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(f"{HEAD}g (float[2] x) => (float[2] y) {body}")


def test_an_output_that_would_need_an_inputs_name() -> None:
    with pytest.raises(InputError, match="'x' is the name of an input and of an output"):
        load(HEAD + "g (float[2] x) => (float[2] x) { x = Neg(x) }")


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from("xabc"), st.sampled_from("xabc")),
        min_size=1,
        max_size=12,
    )
)
def test_programs_that_reassign_their_variables(steps: list[tuple[str, str, str]]) -> None:
    """A node list with repeated names means what the same lines mean in Python."""
    variables: dict[str, np.ndarray[Any, Any]] = {"x": X}
    lines = []
    for target, left, right in steps:
        left, right = (name if name in variables else "x" for name in (left, right))
        variables[target] = variables[left] - variables[right] / 2
        lines += [f"h = Constant<value = float {{0.5}}>() half = Mul({right}, h)"]
        lines += [f"{target} = Sub({left}, half)"]
    last = steps[-1][0]
    found, _ = outputs(f"g (float[2] x) => (float[2] {last}) {{ {' '.join(lines)} }}")
    np.testing.assert_array_equal(found[last], variables[last])


def test_two_inputs_of_one_name() -> None:
    with pytest.raises(InputError, match="two inputs are called 'x'"):
        load(HEAD + "g (float[2] x, float[2] x) => (float[2] y) { y = Neg(x) }")


def test_an_input_passed_through_is_fine() -> None:
    loaded = load(HEAD + "g (float[2] x) => (float[2] x, float[2] y) { [n] y = Neg(x) }")
    assert loaded.notes == ()
    assert loaded.model.graph.outputs[0] is loaded.model.graph.inputs[0]
