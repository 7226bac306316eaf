# SPDX-License-Identifier: Apache-2.0
"""Instruments see every pass and rewrite, in order."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any, ClassVar

import onnx_ir as ir
import pytest

from burnish.backends.target import Target
from burnish.passes.base import Fixpoint, Pass
from burnish.passes.context import PassContext
from burnish.passes.instrument import Event, Instrument, PrintIR
from burnish.passes.rule import pass_of, rule
from burnish.testing import parse


@dataclass
class Log(Instrument):
    """Writes down what it sees."""

    lines: list[str] = field(default_factory=list)

    def before(self, event: Event, model: ir.Model) -> None:
        self.lines.append(f"before {event.kind} {event.number} {event.name} at {event.where}")

    def after(self, event: Event, model: ir.Model) -> None:
        self.lines.append(f"after {event.kind} {event.number}")

    def failed(self, event: Event, model: ir.Model, error: BaseException) -> None:
        self.lines.append(f"failed {event.kind} {event.number}: {error}")


@rule
def to_abs(op: Any, x: Any) -> Any:
    """Relu(x) -> Abs(x)."""
    return op.Relu(x)


@to_abs.rewrite
def _(op: Any, x: Any) -> Any:
    return op.Abs(x)


@dataclass(frozen=True)
class Raises(Pass):
    """Raises inside a rewrite."""

    name: ClassVar[str] = "raises"

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        with ctx.rewrite("boom", model.graph[0]):
            raise ValueError("no")


def _model() -> ir.Model:
    return parse("g (float[2] x) => (float[2] y, float[2] z) { y = Relu(x)  z = Relu(x) }")


def test_events_in_order() -> None:
    log = Log()
    ctx = PassContext(Target.parse("cpu"), instruments=[log])
    Fixpoint((pass_of("to-abs-pass", to_abs)(),)).run(_model(), ctx)
    assert log.lines == [
        "before pass 1 fixpoint at fixpoint(to-abs-pass)",
        "before pass 2 to-abs-pass at to-abs-pass",
        "before rewrite 1 to-abs at y",
        "after rewrite 1",
        "before rewrite 2 to-abs at z",
        "after rewrite 2",
        "after pass 2",
        "before pass 3 to-abs-pass at to-abs-pass",
        "after pass 3",
        "after pass 1",
    ]


def test_failures_are_told_from_the_inside_out() -> None:
    log = Log()
    ctx = PassContext(Target.parse("cpu"), instruments=[log])
    with pytest.raises(ValueError, match="no"):
        Raises().run(_model(), ctx)
    assert log.lines[-2:] == ["failed rewrite 1: no", "failed pass 1: no"]


def test_print_ir_after() -> None:
    stream = io.StringIO()
    ctx = PassContext(Target.parse("cpu"), instruments=[PrintIR(("to-*",), stream)])
    Fixpoint((pass_of("to-abs-pass", to_abs)(),)).run(_model(), ctx)
    text = stream.getvalue()
    assert text.startswith("// after to-abs-pass\n")
    assert text.count("// after") == 2
    assert "Abs" in text


def test_analyses_are_kept_until_a_rewrite() -> None:
    calls = []

    def count(model: ir.Model) -> int:
        calls.append(model)
        return len(model.graph)

    @dataclass(frozen=True)
    class Asks(Pass):
        name: ClassVar[str] = "asks"

        def apply(self, model: ir.Model, ctx: PassContext) -> None:
            assert ctx.analysis(count, model) == ctx.analysis(count, model)
            assert len(calls) == 1
            with ctx.rewrite("nothing", "x"):
                pass
            ctx.analysis(count, model)
            assert len(calls) == 2

    Asks().run(_model(), PassContext(Target.parse("cpu")))
