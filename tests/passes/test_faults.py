# SPDX-License-Identifier: Apache-2.0
"""A rule that raises is skipped at that node, with nothing changed; strictly, it ends the build."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.target import Target
from burnish.errors import InputError
from burnish.passes.context import PassContext
from burnish.passes.instrument import Event, Instrument
from burnish.passes.pattern import const
from burnish.passes.rule import Rule, pass_of, rule
from burnish.passes.verify import verify
from burnish.testing import parse, rewrites


@dataclass
class Log(Instrument):
    """Writes down failures."""

    lines: list[str] = field(default_factory=list)

    def failed(self, event: Event, model: ir.Model, error: BaseException) -> None:
        self.lines.append(f"failed {event.kind} {event.name} at {event.where}")

    def skipped(self, event: Event, model: ir.Model, error: Exception) -> None:
        self.lines.append(f"skipped {event.kind} {event.number} {event.name} at {event.where}")


def run(model: ir.Model, *rules: Rule, strict: bool = False) -> tuple[PassContext, Log]:
    """Run rules as one pass."""
    log = Log()
    ctx = PassContext(Target.parse("cpu"), instruments=[log], strict=strict)
    try:
        pass_of("some", *rules)().run(model, ctx)
    finally:
        assert verify(model) == []
    return ctx, log


@rule
def broken(op: Any, x: Any) -> Any:
    """Neg(Neg(x)), where x has two elements -> an exception, after it has built something."""
    return op.Neg(op.Neg(x))


@broken.rewrite
def _(op: Any, x: Any) -> Any:
    made = op.Abs(op.Mul(x, 3.0))
    if x.dims == (2,):
        raise ZeroDivisionError("over\nzero")
    return made


@rule
def relu_twice(op: Any, x: Any) -> Any:
    """Relu(Relu(x)) -> Relu(x)."""
    return op.Relu(op.Relu(x))


@relu_twice.rewrite
def _(op: Any, x: Any) -> Any:
    return op.Relu(x)


def _model() -> ir.Model:
    return parse(
        "g (float[2] x, float[3] z) => (float[2] y, float[3] w) "
        "{ a = Relu(x) b = Relu(a) c = Neg(b) y = Neg(c)  d = Neg(z) w = Neg(d) }"
    )


def test_the_build_goes_on_without_it_at_that_node_only() -> None:
    model = _model()
    ctx, log = run(model, broken, relu_twice)
    assert rewrites(ctx) == {"broken": 1, "relu-twice": 1}
    assert [node.op_type for node in model.graph] == ["Relu", "Neg", "Neg", "Mul", "Abs"]
    assert ctx.warnings == [
        "rule broken raised ZeroDivisionError at 'y' and was skipped there: over zero"
    ]
    assert ctx.reports[0].rules["broken"].refusals == {"the rule raised ZeroDivisionError": 1}
    # Counted as the rewrite it would have been: relu-twice came first.
    assert set(log.lines) == {"skipped rewrite 2 broken at y"}


def test_what_the_failed_rule_built_is_nobodys_user() -> None:
    model = parse("g (float[2] x) => (float[2] y) { a = Neg(x) y = Neg(a) }")
    run(model, broken)
    assert [node.op_type for node in model.graph] == ["Neg", "Neg"]
    assert len(model.graph.inputs[0].uses()) == 1
    assert not model.graph.initializers


def test_strictly_the_exception_passes_and_the_model_is_as_it_was() -> None:
    model = _model()
    with pytest.raises(ZeroDivisionError, match="zero"):
        run(model, broken, strict=True)
    assert len(model.graph) == 6


def test_strictly_instruments_hear_of_the_rule_before_the_pass() -> None:
    log = Log()
    ctx = PassContext(Target.parse("cpu"), instruments=[log])
    with pytest.raises(ZeroDivisionError):
        pass_of("some", broken)().run(_model(), ctx)
    assert log.lines == ["failed rewrite broken at y", "failed pass some at some"]


def test_a_predicate_may_raise_too() -> None:
    def third(array: np.ndarray) -> bool:
        return bool(array[2])

    @rule
    def looks(op: Any, x: Any, c: Any = const(third)) -> Any:
        """Mul(x, c) -> x."""
        return op.Mul(x, c)

    @looks.rewrite
    def _(op: Any, x: Any) -> Any:
        return x

    @rule
    def squeezes(op: Any, x: Any) -> Any:
        """Softmax over an axis -> Relu."""
        return op.Softmax(x, axis=lambda axis: 1 / axis > 0)

    @squeezes.rewrite
    def _(op: Any, x: Any) -> Any:
        return op.Relu(x)

    model = parse(
        "g (float[2] x) => (float[2] y, float[2] z) <float[2] c = {1, 1}> "
        "{ y = Mul(x, c)  z = Softmax<axis = 0>(x) }"
    )
    ctx, _log = run(model, looks, squeezes)
    assert not rewrites(ctx)
    kinds = [line.split()[3] for line in ctx.warnings]
    assert kinds == ["IndexError", "ZeroDivisionError"]


def test_a_replacement_of_the_wrong_kind_is_a_fault_of_the_rule() -> None:
    @rule
    def two(op: Any, x: Any) -> Any:
        """Relu(x) -> two values for one."""
        return op.Relu(x)

    @two.rewrite
    def _(op: Any, x: Any) -> Any:
        return x, x

    ctx, _log = run(parse("g (float[2] x) => (float[2] y) { y = Relu(x) }"), two)
    assert "AssertionError" in ctx.warnings[0]
    assert "two: wrong number of outputs" in ctx.warnings[0]


@pytest.mark.parametrize("error", [InputError("w.bin cannot be read"), MemoryError()])
def test_what_is_no_fault_of_the_rule_passes(error: Exception) -> None:
    @rule
    def reads(op: Any, x: Any) -> Any:
        """Relu(x) -> an exception."""
        return op.Relu(x)

    @reads.rewrite
    def _(op: Any, x: Any) -> Any:
        raise error

    with pytest.raises(type(error)):
        run(parse("g (float[2] x) => (float[2] y) { y = Relu(x) }"), reads)


def test_one_warning_a_rule_however_many_nodes() -> None:
    body = " ".join(f"a{i} = Neg(x) y{i} = Neg(a{i})" for i in range(5))
    outputs = ", ".join(f"float[2] y{i}" for i in range(5))
    ctx, _log = run(parse(f"g (float[2] x) => ({outputs}) {{ {body} }}"), broken)
    assert len(ctx.warnings) == 1
    assert ctx.reports[0].rules["broken"].refusals == {"the rule raised ZeroDivisionError": 5}
