# SPDX-License-Identifier: Apache-2.0
"""Pipeline text: the grammar, its errors, and the round trip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.backends.target import Target
from burnish.errors import InputError
from burnish.passes import registry
from burnish.passes.base import Fixpoint, Group, Pass
from burnish.passes.context import PassContext
from burnish.passes.options import option
from burnish.passes.pipeline import Pipeline
from burnish.testing import parse


@dataclass(frozen=True)
class Rename(Pass):
    """Appends a suffix to the graph's name, once for each count."""

    name: ClassVar[str] = "test-rename"
    suffix: str = option("x", help="what to append")
    patterns: tuple[str, ...] = option((), help="a list")
    ratio: float = option(0.5, help="a number", min=0, max=1)
    until: int = option(1, help="longest name")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        name = model.graph.name or ""
        if len(name) < self.until:
            with ctx.rewrite("append", "graph") as go:
                if go:
                    model.graph.name = name + self.suffix


@dataclass(frozen=True)
class Both(Group):
    """Two renames."""

    name: ClassVar[str] = "test-both"
    ratio: float = option(0.5, help="passed on", min=0, max=1)

    def expand(self) -> tuple[Pass, ...]:
        return (Rename("a", ratio=self.ratio, until=9), Rename("b", until=9))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for made in (Rename, Both):
        monkeypatch.setitem(registry.BUILT_IN, made.name, f"{__name__}:{made.__name__}")
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _this_module())


def _this_module() -> object:
    import types

    module = types.ModuleType(__name__)
    module.__dict__.update(Rename=Rename, Both=Both)
    return module


def test_options_spaces_lists_and_quotes() -> None:
    text = r' test-rename{ suffix="a b,\"c\"" patterns=h.*,"x y" ratio=0.25 } , test-both{ratio=1}'
    first, second = Pipeline.parse(text).passes
    assert first == Rename('a b,"c"', ("h.*", "x y"), 0.25)
    assert second == Both(1.0)


def test_fixpoint_nests() -> None:
    pipeline = Pipeline.parse("fixpoint(test-rename,fixpoint(test-both)),test-rename")
    assert pipeline.passes == (Fixpoint((Rename(), Fixpoint((Both(),)))), Rename())
    assert str(pipeline) == "fixpoint(test-rename,fixpoint(test-both)),test-rename"


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_renames = st.builds(
    Rename,
    suffix=_texts,
    patterns=st.lists(_texts, max_size=3).map(tuple),
    ratio=st.floats(0, 1),
    until=st.integers(),
)
_passes = st.recursive(
    _renames | st.builds(Both, ratio=st.floats(0, 1)),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda p: Fixpoint(tuple(p))),
    max_leaves=5,
)


@given(st.lists(_passes, min_size=1, max_size=4))
def test_text_round_trips(passes: list[Pass]) -> None:
    pipeline = Pipeline(tuple(passes))
    assert Pipeline.parse(str(pipeline)) == pipeline


@pytest.mark.parametrize(
    ("text", "message", "caret"),
    [
        ("", "expected the name of a pass", 0),
        ("test-rename,,test-both", "expected the name of a pass", 12),
        ("test-rename test-both", "expected ',' and another pass, or the end", 12),
        ("test-renam", "unknown pass 'test-renam'; did you mean 'test-rename'?", 0),
        ("test-rename{sufix=1}", "has no option 'sufix'; did you mean 'suffix'?", 12),
        ("test-rename{suffix}", "expected '='", 18),
        ('test-rename{suffix="a}', "never closed", 19),
        ("test-rename{ratio=2}", "2.0 is outside float 0..1", 0),
        ("test-rename{ratio=half}", "'half' is not a valid float 0..1", 18),
        ("test-rename{ratio=1 ratio=1}", "given twice", 20),
        ("test-rename{ratio=1", "expected an option or '}'", 19),
        ("fixpoint(test-rename", "expected ')'", 20),
    ],
)
def test_errors_point_at_the_place(text: str, message: str, caret: int) -> None:
    with pytest.raises(InputError) as caught:
        Pipeline.parse(text)
    head, shown, pointer = str(caught.value).split("\n")
    assert message in head
    assert shown == f"  {text}"
    assert pointer == f"  {' ' * caret}^"


def _model() -> ir.Model:
    return parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")


def test_groups_expand_in_order_and_run() -> None:
    pipeline = Pipeline.parse("test-both{ratio=0.25},test-rename{until=9}")
    assert str(pipeline.expand()) == (
        "test-rename{suffix=a ratio=0.25 until=9},"
        "test-rename{suffix=b until=9},test-rename{until=9}"
    )
    model, ctx = _model(), PassContext(Target.parse("cpu"))
    pipeline.run(model, ctx)
    assert model.graph.name == "gabx"
    assert [report.rewrites for report in ctx.reports] == [1, 1, 1]


def test_fixpoint_repeats_until_nothing_changes() -> None:
    model, ctx = _model(), PassContext(Target.parse("cpu"))
    (item,) = Pipeline.parse("fixpoint(test-rename{until=5})").passes
    result = item.run(model, ctx)
    assert model.graph.name == "gxxxx"
    assert result.changed
    assert not item.run(model, ctx).changed


def test_fixpoint_that_never_ends_warns() -> None:
    model, ctx = _model(), PassContext(Target.parse("cpu"))
    Pipeline.parse("fixpoint(test-rename{until=999})").run(model, ctx)
    assert ctx.warnings == [
        "fixpoint(test-rename{until=999}) still changed the model after 20 rounds"
    ]


def test_rule_names_reach_into_groups() -> None:
    names = Pipeline.parse("fixpoint(test-both)").rule_names()
    assert {"fixpoint", "test-both", "test-rename"} <= set(names)
