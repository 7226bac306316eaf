# SPDX-License-Identifier: Apache-2.0
"""The guard catches a pass that changes what a model computes, and lets lossy ones say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

import burnish
from burnish.errors import BudgetError, InputError, VerificationError
from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.edit import remove_unused, replace_value
from burnish.passes.options import option
from burnish.testing import parse


@dataclass(frozen=True)
class Scale(Pass):
    """Multiplies the constant by a factor: wrong unless the factor is 1."""

    name: ClassVar[str] = "scale"
    factor: float = option(1.0, help="factor")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        value = model.graph.initializers["w"]
        with ctx.rewrite("scale", value) as go:
            if go:
                assert value.const_value is not None
                scaled = value.const_value.numpy() * np.float32(self.factor)
                value.const_value = ir.tensor(scaled, name="w")


@dataclass(frozen=True)
class LossyScale(Scale):
    """The same, on purpose."""

    name: ClassVar[str] = "lossy-scale"
    lossless: ClassVar[bool] = False


@dataclass(frozen=True)
class Break(Pass):
    """Leaves the graph malformed."""

    name: ClassVar[str] = "break"

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        with ctx.rewrite("break", "graph") as go:
            if go:
                model.graph[0].outputs[0].name = "x"


def _model() -> ir.Model:
    return parse(
        "g (float[N] x) => (float[N] y) <float w = {3.0}> { t = Mul(x, w)  y = Sigmoid(t) }"
    )


@pytest.mark.parametrize("verify", ["each", "end"])
def test_a_wrong_pass_is_caught(verify: str) -> None:
    with pytest.raises(VerificationError, match=r"after scale\{factor=1.5\} the outputs differ"):
        burnish.optimize(_model(), Scale(1.5), verify=verify)  # type: ignore[arg-type]


def test_each_names_the_pass_where_end_names_them_all() -> None:
    passes = [Scale(1.0), Scale(1.5), Scale(2.0)]
    with pytest.raises(VerificationError, match=r"after scale\{factor=1.5\} the"):
        burnish.optimize(_model(), passes, verify="each")
    with pytest.raises(VerificationError, match=r"after scale,scale\{factor=1.5\},scale\{fact"):
        burnish.optimize(_model(), passes, verify="end")


def test_off_checks_nothing() -> None:
    _, report = burnish.optimize(_model(), Scale(1.5), verify="off")
    assert report.verification["checks"] == []


def test_a_malformed_model_is_caught() -> None:
    with pytest.raises(VerificationError, match="after break the model is malformed"):
        burnish.optimize(_model(), Break())


def test_a_lossy_pass_is_measured_not_refused() -> None:
    _, report = burnish.optimize(_model(), [Scale(), LossyScale(1.001), Scale()])
    first, second = report.verification["checks"]
    assert (first["after"], first["lossless"], first["error"]) == ("scale", True, 0.0)
    assert (second["after"], second["lossless"]) == ("lossy-scale{factor=1.001},scale", False)
    assert 0 < second["error"] < 0.01


def test_a_wrong_pass_after_a_lossy_one_is_still_caught() -> None:
    with pytest.raises(VerificationError, match=r"after scale\{factor=1.5\} the outputs differ"):
        burnish.optimize(_model(), [LossyScale(1.01), Scale(1.5)], verify="each")


def test_a_wrong_pass_before_a_lossy_one_is_still_caught() -> None:
    with pytest.raises(VerificationError, match=r"after scale\{factor=1.5\} the outputs differ"):
        burnish.optimize(_model(), [Scale(1.5), LossyScale(1.01)], verify="end")


def test_the_error_budget() -> None:
    burnish.optimize(_model(), LossyScale(1.001), max_error=0.01)
    with pytest.raises(BudgetError, match=r"the budget is 0\.01"):
        burnish.optimize(_model(), LossyScale(2.0), max_error=0.01)
    with pytest.raises(InputError, match="cannot be checked: verification is off"):
        burnish.optimize(_model(), LossyScale(2.0), max_error=0.01, verify="off")


def test_a_model_that_does_not_run_is_said_to_be_unchecked() -> None:
    model = parse(
        '<ir_version: 10, opset_import: ["" : 21, "mine" : 1]> '
        "g (float[N] x) => (float[N] y) <float w = {3.0}> { t = Mul(x, w)  y = mine.Op(t) }"
    )
    _, report = burnish.optimize(model, Scale())
    reason = "numbers were not compared: the original model does not run: "
    assert any(line.startswith(reason) for line in report.warnings)
    with pytest.raises(InputError, match="cannot be checked: the original model does not run"):
        burnish.optimize(model, Scale(), max_error=0.1)


def test_samples_come_from_calibration_data_where_there_is_some() -> None:
    samples = [{"x": np.full(3, value, np.float32)} for value in (0.0, 1.0)]
    _, report = burnish.optimize(_model(), Scale(), calibration=samples)
    assert (report.verification["inputs"], report.verification["samples"]) == ("calibration", 2)


def test_a_bad_sample_behind_a_good_one_is_bad_input() -> None:
    samples = [{"x": np.full(3, value, np.float32)} for value in (0.0, np.nan)]
    with pytest.raises(InputError, match="sample 1: input 'x' contains NaN"):
        burnish.optimize(_model(), Scale(), calibration=samples)


@dataclass(frozen=True)
class Cancel(Pass):
    """Takes m for (m + w) - w: right in real numbers, wrong in floating point."""

    name: ClassVar[str] = "cancel"

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        *_, last = model.graph
        add = last.inputs[0].producer() if last.inputs[0] is not None else None
        assert add is not None
        assert add.inputs[0] is not None
        with ctx.rewrite("cancel", last) as go:
            if go:
                replace_value(last.outputs[0], add.inputs[0])
                remove_unused([last])


def test_amplified_rounding_is_excused_only_where_the_runtime_shows_it_too() -> None:
    text = """g (float[N,2] x) => (float[N,2] y) <float[2] w = {1e8, 0}> {
        m = Relu(x)  p = Add(m, w)  y = Sub(p, w)
    }"""
    feeds = [{"x": np.array([[3.0, 1.0]], np.float32)}]
    with pytest.raises(VerificationError, match="after cancel the outputs differ"):
        burnish.optimize(parse(text), Cancel(), calibration=feeds)


@dataclass(frozen=True)
class Reciprocate(Pass):
    """Takes 1 / exp(-x) for exp(x), which rounds otherwise, and multiplies it by a factor."""

    name: ClassVar[str] = "reciprocate"
    factor: float = option(1.0, help="factor")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        (exp,) = (node for node in model.graph if node.op_type == "Exp")
        with ctx.rewrite("reciprocate", exp) as go:
            if go:
                factor = ir.tensor(np.array(self.factor, np.float32))
                tape = ir.tape.Tape()
                one = tape.op("Exp", [tape.op("Neg", [exp.inputs[0]])])
                scale = tape.op("Constant", [], {"value": factor})
                new = tape.op("Div", [scale, one])
                model.graph.insert_before(exp, tape.nodes)
                replace_value(exp.outputs[0], new)
                remove_unused([exp])


def test_rounding_that_the_model_amplifies_is_excused_and_nothing_more() -> None:
    text = """g (float[N,16] x) => (float[N,16] y) <float one = {1}, float big = {1000}> {
        e = Exp(x)  d = Sub(e, one)  y = Mul(d, big)
    }"""
    numbers = np.random.default_rng(0).uniform(1e-4, 1e-3, (4, 16)).astype(np.float32)
    _, report = burnish.optimize(parse(text), Reciprocate(), calibration=[{"x": numbers}])
    (check,) = report.verification["checks"]
    assert 1e-6 < check["error"] <= check["amplified"] <= 1e-3
    with pytest.raises(VerificationError, match="the outputs differ"):
        burnish.optimize(parse(text), Reciprocate(1.0001), calibration=[{"x": numbers}])


@pytest.mark.zoo
def test_a_model_that_amplifies_rounding() -> None:
    from burnish.tools import zoo

    # Activations are rounded to int8 inside: on this sample the runtime's own optimizations move
    # the outputs by 13%.
    source = zoo.fetch("quantized-t5-encoder")
    feeds = list(zoo.feeds("quantized-t5-encoder", 1))
    _, report = burnish.optimize(source, "fuse-norm", calibration=feeds)
    (check,) = report.verification["checks"]
    assert check["error"] > 0.05
    assert check["error"] <= check["amplified"]
    with pytest.raises(VerificationError, match="the outputs differ"):
        burnish.optimize(source, ["fuse-norm", Negate()], calibration=feeds)


@dataclass(frozen=True)
class Negate(Pass):
    """Changes the sign of the first output."""

    name: ClassVar[str] = "negate"

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        output = model.graph.outputs[0]
        with ctx.rewrite("negate", output) as go:
            if go:
                node = ir.Node("", "Neg", [output], name="negate")
                node.outputs[0].name, output.name = output.name, "before_negation"
                node.outputs[0].type, node.outputs[0].shape = output.type, output.shape
                model.graph.append(node)
                model.graph.outputs[0] = node.outputs[0]


@pytest.mark.parametrize(
    "drawn",
    [
        "r = RandomNormal<shape = [2, 3]>()",
        "r = RandomUniformLike(b)",
        "r = Dropout(b, ratio, train)",
        "m = Bernoulli(p)  r = Mul(m, b)",
        "r = If(train) <"
        "then_branch = t () => (float[2,3] u) { u = RandomNormalLike(b) }, "
        "else_branch = e () => (float[2,3] u) { u = Identity(b) }>",
    ],
)
def test_a_model_that_draws_is_compared_with_the_same_draws(drawn: str) -> None:
    # What dead code takes away moves the node that draws, and the runtime seeds it by its place.
    model = parse(
        "g (float[2,3] x) => (float[2,3] y) <float ratio = {0.5}, bool train = {1}> "
        f"{{ a = Identity(x)  dead = Exp(a)  b = Identity(a)  p = Sigmoid(b)  {drawn} "
        " y = Add(b, r) }"
    )
    before = model.graph.num_nodes()
    optimized, report = burnish.optimize(model, "cleanup")
    assert optimized.graph.num_nodes() < before
    assert report.verification["skipped"] is None
    assert report.verification["checks"][-1]["error"] < 1e-6
    assert not any("seed" in node.attributes for node in optimized.graph.all_nodes())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y = Frobnicate(x)", "has no such operator"),
        ("y = Mul(x)", "node 'Mul_y' .Mul.: 1 inputs, where it takes at least 2"),
        ("y = Neg(x, x)", "2 inputs, where it takes at most 1"),
        ("y = Cast(x)", "attribute 'to' is missing"),
    ],
)
def test_a_malformed_model_is_bad_input(body: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        burnish.optimize(
            parse(f"g (float[N] x) => (float[N] y) {{ t = Abs(x)  {body} }}"), "cleanup"
        )


@dataclass(frozen=True)
class FixBatch(Pass):
    """Takes the batch for 1, which is right for the first sample only."""

    name: ClassVar[str] = "fix-batch"
    sizes: ClassVar[tuple[int, ...]] = (1, -1)

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        with ctx.rewrite("fix-batch", "s") as go:
            if go:
                model.graph.initializers["s"].const_value = ir.tensor(
                    np.array(self.sizes, np.int64), name="s"
                )


@dataclass(frozen=True)
class FixLength(FixBatch):
    """Takes the length for 32, likewise."""

    name: ClassVar[str] = "fix-length"
    sizes: ClassVar[tuple[int, ...]] = (32, -1)


def test_random_inputs_come_in_more_than_one_size() -> None:
    text = "g (float[N,2,3] x) => (float[N,M] y) <int64[2] s = {0, -1}> { y = Reshape(x, s) }"
    with pytest.raises(VerificationError, match="after fix-batch the outputs differ"):
        burnish.optimize(parse(text), FixBatch())
    fixed = text.replace("N", "1").replace("2,3", "8,4")
    assert burnish.optimize(parse(fixed), FixBatch()).report.verification["samples"] == 1


@dataclass(frozen=True)
class TakeForRelu(Pass):
    """Takes Abs for Relu, which it is for numbers above 0."""

    name: ClassVar[str] = "take-for-relu"

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        with ctx.rewrite("take-for-relu", model.graph[0]) as go:
            if go:
                model.graph[0].op_type = "Relu"


@pytest.mark.parametrize("seed", range(8))
def test_a_model_of_few_numbers_is_run_on_more_of_them(seed: int) -> None:
    model = parse("g (float[N] x) => (float[N] y) { y = Abs(x) }")
    with pytest.raises(VerificationError, match="after take-for-relu the outputs differ"):
        burnish.optimize(model, TakeForRelu(), seed=seed)


def test_a_model_of_one_batch_is_run_on_more_than_one_length() -> None:
    model = parse(
        "g (float[N,M,2] x) => (float[M,K] y) <int64[2] s = {0, -1}, int64[1] first = {0}>"
        "{ t = Squeeze(x, first)  y = Reshape(t, s) }"
    )
    with pytest.raises(VerificationError, match="after fix-length the outputs differ"):
        burnish.optimize(model, FixLength())


def test_sizes_without_a_name_that_have_to_be_equal_are() -> None:
    text = "g (float[A,B] x, float[C,D] z) => (float[E,F] y) <float w = {3.0}> { BODY }"
    model = parse(text.replace("BODY", "p = MatMul(x, z)  y = Mul(p, w)"))
    assert burnish.optimize(model.clone(), Scale()).report.verification["samples"] == 2
    with pytest.raises(VerificationError, match="the outputs differ"):
        burnish.optimize(model, Scale(1.5))


def test_an_axis_longer_than_usual_is_found() -> None:
    """Audio comes in windows, and a state has the size of the batch though nothing says so."""
    model = parse(
        "g (float[A,B] x, float[2,C,1] z) => (float[D,E] y)"
        " <float w = {3.0}, int64[4] pads = {0, 100, 0, 100}, int64[1] zero = {0}>"
        '{ p = Pad<mode="reflect">(x, pads)  s = ReduceSum<keepdims=0>(z, zero)'
        " r = Concat<axis=1>(p, s)  y = Mul(r, w) }"
    )
    assert burnish.optimize(model.clone(), Scale()).report.verification["samples"] == 3
    with pytest.raises(VerificationError, match="the outputs differ"):
        burnish.optimize(model, Scale(1.5))


def test_sizes_that_fit_in_no_way_leave_the_model_unchecked() -> None:
    model = parse(
        "g (float[A,B] x, float[7,5] z) => (float[E,F] y) <float w = {3.0}>"
        "{ p = MatMul(x, z)  y = Mul(p, w) }"
    )
    _, report = burnish.optimize(model, Scale())
    assert report.verification["samples"] == 0
    assert "the original model does not run" in report.verification["skipped"]


@dataclass(frozen=True)
class Finite(Pass):
    """Puts Abs in the place of the first node, a Sqrt: an error, and numbers where NaN was."""

    name: ClassVar[str] = "finite"
    lossless: ClassVar[bool] = False

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        node = model.graph[0]
        with ctx.rewrite("finite", node) as go:
            if go:
                node.op_type = "Abs"


def test_a_lossy_pass_need_not_keep_what_is_no_number() -> None:
    """Random inputs may give NaN; integers, which some lossy passes compute with, have none."""
    model = parse("g (float[2,3] x) => (float[2,3] y) { z = Sqrt(x)  y = Add(z, x) }")
    _, report = burnish.optimize(model, Finite())
    (line,) = (line for line in report.warnings if "NaN" in line)
    assert line == (
        "the original model gives NaN in output 'y' on random inputs, which says nothing of the "
        "lossy passes there: --calib gives it samples that fit"
    )


def test_the_error_of_what_is_a_number_counts_after_a_lossless_pass_too() -> None:
    model = parse(
        "g (float[2,3] x) => (float[2,3] y) <float w = {3.0}> { z = Sqrt(x)  y = Mul(z, w) }"
    )
    _, report = burnish.optimize(model.clone(), (Finite(), Scale()), verify="each")
    first, last = (check["error"] for check in report.verification["checks"])
    assert first == last > 0.1
    with pytest.raises(BudgetError):
        burnish.optimize(model, (Finite(), Scale()), verify="each", max_error=0.1)


def test_a_lossy_pass_must_keep_the_type_of_what_is_no_number() -> None:
    @dataclass(frozen=True)
    class Narrow(Pass):
        name: ClassVar[str] = "narrow"
        lossless: ClassVar[bool] = False

        def apply(self, model: ir.Model, ctx: PassContext) -> None:
            node = model.graph[-1]
            with ctx.rewrite("narrow", node) as go:
                if go:
                    node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT16)
                    node.outputs[0].dtype = ir.DataType.FLOAT16

    model = parse("g (float[2,3] x) => (float[2,3] y) { z = Sqrt(x)  y = Cast<to=1>(z) }")
    with pytest.raises(VerificationError, match="type float16, expected float32"):
        burnish.optimize(model, Narrow())


def test_a_lossy_pass_must_not_make_what_is_no_number() -> None:
    @dataclass(frozen=True)
    class Root(Pass):
        name: ClassVar[str] = "root"
        lossless: ClassVar[bool] = False

        def apply(self, model: ir.Model, ctx: PassContext) -> None:
            node = model.graph[0]
            with ctx.rewrite("root", node) as go:
                if go:
                    node.op_type = "Sqrt"

    model = parse("g (float[2,3] x) => (float[2,3] y) { z = Abs(x)  y = Add(z, x) }")
    with pytest.raises(VerificationError, match=r"has \d NaN"):
        burnish.optimize(model, Root())


def test_samples_are_not_asked_for_where_the_runtime_refuses_the_model() -> None:
    text = "g (float[2] x) => (float[2] y) { h = foreign.Nothing(x)  y = Mul(h, w) }"
    header = '<ir_version: 10, opset_import: ["" : 21, "foreign" : 1]> '
    model = parse(header + text.replace("(float[2] y)", "(float[2] y) <float w = {3.0}>"))
    _, report = burnish.optimize(model, Scale())
    (line,) = (line for line in report.warnings if "not compared" in line)
    assert "the original model does not run" in line
    assert "--calib" not in line
