# SPDX-License-Identifier: Apache-2.0
"""Options are declared once and validated wherever they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
import pytest

from burnish.errors import InputError
from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.options import option, options_of, same_as


@dataclass(frozen=True)
class Sample(Pass):
    name: ClassVar[str] = "sample"
    ratio: float = option(0.5, help="a ratio", min=0, max=1)
    scope: str = option("layer", help="a choice", choices=("layer", "global"))
    names: tuple[str, ...] = option((), help="a list")
    limit: int | None = option(None, help="maybe a number", min=1)
    fast: bool = option(False, help="a flag")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Do nothing."""


def test_declared_options_are_read_from_the_fields() -> None:
    ratio, scope, names, limit, fast = options_of(Sample)
    assert (ratio.scalar, ratio.default, ratio.type_text) == (float, 0.5, "float 0..1")
    assert scope.choices == ("layer", "global")
    assert names.repeated
    assert names.scalar is str
    assert limit.nullable
    assert limit.scalar is int
    assert fast.scalar is bool


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ratio": 1.5}, "1.5 is outside float 0..1"),
        ({"ratio": float("nan")}, "nan is outside float 0..1"),
        ({"ratio": "half"}, "'half' is not a valid float 0..1"),
        ({"ratio": True}, "True is not a valid float"),
        ({"scope": "model"}, "'model' is not one of layer|global"),
        ({"names": "head"}, "takes a tuple"),
        ({"limit": 0}, "0 is outside int 1.."),
        ({"fast": 1}, "1 is not a valid bool"),
    ],
)
def test_wrong_values_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("|", r"\|")):
        Sample(**given)  # type: ignore[arg-type]


def test_an_option_of_another_pass_is_the_same_but_for_its_place() -> None:
    @dataclass(frozen=True)
    class Other(Pass):
        name: ClassVar[str] = "other"
        speed: bool = option(True, help="of its own")
        scope: str = same_as(Sample, "scope")

        def apply(self, model: ir.Model, ctx: PassContext) -> None:
            """Do nothing."""

    assert options_of(Other)[1] == options_of(Sample)[1]
    with pytest.raises(InputError, match="'model' is not one of"):
        Other(scope="model")
    with pytest.raises(KeyError, match="depth"):
        same_as(Sample, "depth")


def test_an_int_is_a_float() -> None:
    assert Sample(ratio=1).ratio == 1


@pytest.mark.parametrize(
    ("name", "words", "value"),
    [
        ("ratio", ["0.25"], 0.25),
        ("names", ["a", "b*"], ("a", "b*")),
        ("names", [], ()),
        ("limit", ["none"], None),
        ("limit", ["3"], 3),
        ("fast", ["TRUE"], True),
    ],
)
def test_words_parse_and_format_back(name: str, words: list[str], value: object) -> None:
    (declared,) = [item for item in options_of(Sample) if item.name == name]
    assert declared.parse(words) == value
    assert declared.format(value).lower() == ",".join(words).lower()


def test_several_words_for_one_value_are_refused() -> None:
    with pytest.raises(InputError, match="takes one value, got 2"):
        options_of(Sample)[0].parse(["1", "2"])
