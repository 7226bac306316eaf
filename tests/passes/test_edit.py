# SPDX-License-Identifier: Apache-2.0
"""Edits keep a graph well formed, its interface as it was, and its names unique."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.edit import (
    Names,
    discard,
    drop_initializer,
    is_dead,
    names_of,
    remove_unused,
    replace_value,
    take_names,
)
from burnish.passes.verify import verify
from burnish.testing import parse, run_pass


def _ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def _out(model: ir.Model, index: int) -> ir.Value:
    return model.graph[index].outputs[0]


class TestReplaceValue:
    def test_all_users_take_the_new_value_also_those_in_subgraphs(self) -> None:
        model = parse(
            """g (bool c, float[N] x) => (float[N] y) {
              a = Relu(x)
              b = Neg(x)
              y = If (c) <
                then_branch = t () => (float[N] p) { p = Abs(a) },
                else_branch = e () => (float[N] q) { q = Add(a, a) }
              >
            }"""
        )
        replace_value(_out(model, 0), _out(model, 1))
        assert not _out(model, 0).uses()
        assert len(_out(model, 1).uses()) == 3
        assert not verify(model)

    def test_replacing_by_itself_changes_nothing(self) -> None:
        model = parse("g (float[N] x) => (float[N] y) { a = Relu(x)  y = Neg(a) }")
        value = _out(model, 0)
        replace_value(value, value)
        assert value.name == "a"
        assert len(value.uses()) == 1

    def test_an_outputs_name_goes_to_the_new_value(self) -> None:
        model = parse("g (float[N] x) => (float[N] y) { a = Relu(x)  y = Identity(a) }")
        new = _out(model, 0)
        new.shape = None
        replace_value(_out(model, 1), new)
        remove_unused([model.graph[1]])
        assert list(model.graph.outputs) == [new]
        assert new.name == "y"
        assert new.shape == ir.Shape(["N"])  # known of the old one, unknown of the new
        assert not verify(model)

    @pytest.mark.parametrize(
        ("text", "new"),
        [
            ("g (float[N] x) => (float[N] y) { y = Identity(x) }", "x"),
            ("g (float[1] x) => (float[1] y) <float[1] w = {1}> { y = Identity(w) }", "w"),
            ("g (float[N] x) => (float[N] z, float[N] y) { z = Relu(x)  y = Identity(z) }", "z"),
        ],
        ids=["input", "initializer", "output"],
    )
    def test_what_cannot_take_an_outputs_name_is_carried(self, text: str, new: str) -> None:
        model = parse(text)
        values = {value.name: value for value in model.graph.inputs}
        values |= {value.name: value for value in model.graph.initializers.values()}
        values |= {value.name: value for node in model.graph for value in node.outputs}
        old = values["y"]
        replace_value(old, values[new])
        producer = old.producer()
        assert producer is not None
        assert remove_unused([producer]) == 1
        names = [value.name for value in model.graph.outputs]
        assert names[-1] == "y"
        carrier = model.graph.outputs[-1].producer()
        assert carrier is not None
        assert carrier.op_type == "Identity"
        assert carrier.inputs[0] is values[new]
        assert values[new].name == new
        assert not verify(model)

    def test_a_value_that_is_an_output_twice_is_replaced_twice(self) -> None:
        model = parse("g (float[N] x) => (float[N] y) { a = Relu(x)  y = Identity(a) }")
        model.graph.outputs.append(model.graph.outputs[0])
        new = _out(model, 0)
        replace_value(_out(model, 1), new)
        assert list(model.graph.outputs) == [new, new]

    def test_metadata_of_what_is_replaced_goes_on(self) -> None:
        model = parse("g (float[N] x) => (float[N] y) { a = Relu(x)  y = Identity(a) }")
        _out(model, 1).metadata_props["from"] = "training"
        replace_value(_out(model, 1), _out(model, 0))
        assert _out(model, 0).metadata_props["from"] == "training"

    def test_known_dimensions_are_not_lost(self) -> None:
        model = parse("g (float[N,4] x) => (float[N,4] y) { a = Relu(x) b = Neg(x) y = Abs(a) }")
        old, new = _out(model, 0), _out(model, 1)
        old.shape, new.shape = ir.Shape(["N", None]), ir.Shape([None, 4])
        replace_value(old, new)
        assert new.shape == ir.Shape(["N", 4])


class TestRemoveUnused:
    def test_takes_what_becomes_dead_above_and_its_initializers(self) -> None:
        model = parse(
            "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] v = {1, 2}> "
            "{ a = Add(x, w)  b = Mul(a, v)  c = Neg(b)  y = Mul(x, v) }"
        )
        assert remove_unused([model.graph[2]]) == 3
        assert _ops(model) == ["Mul"]
        assert list(model.graph.initializers) == ["v"]

    def test_leaves_what_is_used_or_an_output(self) -> None:
        model = parse("g (float[N] x) => (float[N] a, float[N] y) { a = Relu(x)  y = Neg(a) }")
        assert remove_unused(list(model.graph)) == 0

    def test_a_node_with_one_used_output_stays(self) -> None:
        model = parse("g (float[4] x) => (float[2] a) { a, b = Split <num_outputs = 2> (x) }")
        assert remove_unused(list(model.graph)) == 0
        assert not is_dead(model.graph[0])

    def test_an_initializer_that_is_an_input_stays(self) -> None:
        model = parse(
            "g (float[2] x, float[2] w = {1, 2}) => (float[2] y) { a = Add(x, w)  y = Relu(x) }"
        )
        assert remove_unused([model.graph[0]]) == 1
        assert list(model.graph.initializers) == ["w"]
        assert [value.name for value in model.graph.inputs] == ["x", "w"]

    def test_what_only_a_removed_subgraph_used_goes_too(self) -> None:
        model = parse(
            """g (bool c, float[N] x) => (float[N] y) <float[1] w = {1}, float[1] k = {2}> {
              a = Relu(x)
              b = Neg(x)
              u = If (c) <
                then_branch = t () => (float[N] p) { s = Add(a, w)  p = Abs(s) },
                else_branch = e () => (float[N] q) { q = If (c) <
                  then_branch = tt () => (float[N] r) { r = Mul(b, w) },
                  else_branch = ee () => (float[N] z) { z = Identity(x) }
                > }
              >
              y = Mul(x, k)
            }"""
        )
        remove_unused([model.graph[2]])
        assert _ops(model) == ["Mul"]
        assert list(model.graph.initializers) == ["k"]
        assert not verify(model)


def test_drop_initializer_only_if_no_one_needs_it() -> None:
    model = parse(
        "g (float[1] x, float[1] i = {1}) => (float[1] y) "
        "<float[1] used = {1}, float[1] unused = {1}> { y = Add(x, used) }"
    )
    values = dict(model.graph.initializers)
    model.graph.outputs.append(values["unused"])
    dropped = {name: drop_initializer(value) for name, value in values.items()}
    assert dropped == {"i": False, "used": False, "unused": False}
    model.graph.outputs.pop()
    assert drop_initializer(values["unused"])
    assert not drop_initializer(values["unused"])
    assert not drop_initializer(_out(model, 0))


def test_discarded_nodes_use_nothing() -> None:
    model = parse("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    x = model.graph.inputs[0]
    made = ir.Node("", "Add", [x, x], num_outputs=1)
    assert len(x.uses()) == 3
    discard([made])
    assert len(x.uses()) == 1


class TestNames:
    def test_fresh_names_are_unique_and_count_up(self) -> None:
        names = Names(parse("g (float[N] x) => (float[N] y) { y = Relu(x) }").graph)
        assert [names.fresh("new") for _ in range(3)] == ["new", "new_1", "new_2"]
        assert names.fresh("x") == "x_1"

    def test_a_number_that_is_taken_is_passed_over(self) -> None:
        names = Names(
            parse("g (float[N] a, float[N] a_1) => (float[N] y) { y = Add(a, a_1) }").graph
        )
        assert [names.fresh("a"), names.fresh("a")] == ["a_2", "a_3"]

    def test_names_of_inputs_initializers_nodes_and_subgraphs_are_taken(self) -> None:
        model = parse(
            """g (bool c, float[1] x) => (float[1] y) <float[1] w = {1}> {
              y = If (c) <
                then_branch = t () => (float[1] p) <float[1] inner = {1}> { p = Add(x, inner) },
                else_branch = e () => (float[1] q) { q = Add(x, w) }
              >
            }"""
        )
        model.graph[0].name = "branch"
        inner = model.graph[0].attributes["then_branch"].as_graph()
        names = names_of(model.graph)
        for name in ("c", "x", "w", "y", "p", "inner", "q", "branch"):
            assert names.fresh(name) == f"{name}_1"
        assert names_of(model.graph) is names_of(inner) is names

    def test_new_nodes_and_values_are_named_after_what_they_replace(self) -> None:
        model = parse("g (float[N] x) => (float[N] y) { y = Relu(x) }")
        root = model.graph[0]
        root.name = "layer"
        x = model.graph.inputs[0]
        first = ir.Node("", "Add", [x, x], num_outputs=1)
        second = ir.Node("", "Add", [first.outputs[0], x], num_outputs=1)
        constant = ir.Value()
        take_names([first, second], [constant], root, model.graph)
        assert [first.name, second.name] == ["layer/Add", "layer/Add_1"]
        assert [n.outputs[0].name for n in (first, second)] == ["layer/Add_out", "layer/Add_out_1"]
        assert constant.name == "layer/const"

    def test_a_temporary_name_gives_way_to_the_one_it_replaces(self) -> None:
        """So a value that users know by name keeps it, though a rule made it anew."""
        model = parse("g (float[N] x) => (float[N] y) { a = Relu(x)  y = Neg(a) }")
        root = model.graph[0]
        made = ir.Node("", "Abs", [model.graph.inputs[0]], num_outputs=1)
        take_names([made], [], root, model.graph)
        model.graph.insert_before(root, made)
        replace_value(root.outputs[0], made.outputs[0])
        assert made.outputs[0].name == "a"
        other = ir.Node("", "Abs", [made.outputs[0]], num_outputs=1)
        model.graph.insert_after(made, other)
        other.outputs[0].name = "mine"
        replace_value(made.outputs[0], other.outputs[0])
        assert other.outputs[0].name == "mine"


def test_a_clone_gives_the_names_that_the_original_would() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    names_of(model.graph)
    clone = model.clone()
    assert names_of(clone.graph).fresh("new") == "new"
    assert names_of(model.graph).fresh("new") == "new"
    assert names_of(clone.graph).fresh("new") == "new_1"


class _Naming(Pass):
    """Asks for a name in each branch."""

    name = "naming"

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        for graph in model.graph.subgraphs():
            with ctx.rewrite("naming", names_of(graph).fresh("x")):
                pass


def test_names_of_a_branch_are_not_those_around_it() -> None:
    model = parse(
        """g (float[2] x, bool c) => (float[2] y) { y = If(c) <
        then_branch = t () => (float[2] p) { p = Neg(x) },
        else_branch = e () => (float[2] q) { q = Abs(x) }> }"""
    )
    run_pass(_Naming(), model)
    (branch, _) = model.graph.subgraphs()
    assert names_of(branch).fresh("x") == "x_3"
