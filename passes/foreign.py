# SPDX-License-Identifier: Apache-2.0
"""Run code written for other tools as one rewrite: on a copy, taken over if it changed anything.

What such code says about its own changes is not relied on, and if it fails half-way the model is
as it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import onnx_ir as ir

from burnish.errors import BurnishError, InputError
from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.fingerprint import fingerprint
from burnish.passes.options import options_of
from burnish.passes.report import all_graphs
from burnish.passes.shapes import forget_shapes
from burnish.references import reference_to, resolve


@dataclass(frozen=True)
class ForeignPass(Pass):
    """A pass that runs an object given as `module:name`, or as itself.

    A subclass declares exactly one option, which takes the text.

    Attributes:
        item: The object; found by the text unless given.
    """

    item: Any = dataclasses.field(default=None, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Find the object.

        Raises:
            InputError: no text is given, it leads nowhere, or to something of another kind.
        """
        super().__post_init__()
        self.prepare()
        (declared,) = options_of(type(self))
        if not self.text:
            raise InputError(
                f"option {declared.name!r} is needed", hint=f"give {declared.name}=module:name"
            )
        item = resolve(self.text) if self.item is None else self.item
        with blaming(f"{self.name} {self.text}"):
            object.__setattr__(self, "item", self.accept(item))
        object.__setattr__(self, "rule_names", (self.rule,))

    @classmethod
    def of(cls, item: Any) -> Self:
        """Return the pass for an object.

        Its text form can be parsed if the object lives at the top of a module.
        """
        (declared,) = options_of(cls)
        text = reference_to(item) or f"<{_describe(item)}>"
        return cls(**{declared.field: text}, item=item)

    @property
    def text(self) -> str:
        """The value of the option."""
        (declared,) = options_of(type(self))
        text: str = getattr(self, declared.field)
        return text

    @property
    def rule(self) -> str:
        """Name of the one rewrite of a run: the object's, without its module."""
        return self.text.rpartition(":")[2].rpartition(".")[2].strip("<>")

    def prepare(self) -> None:
        """Check that the tool is installed, before its user's module needs it."""

    @abstractmethod
    def accept(self, item: Any) -> Any:
        """Return what to run for the object that the text names.

        Raises:
            InputError: it is of the wrong kind.
        """


def _describe(item: Any) -> str:
    kind = item if hasattr(item, "__qualname__") else type(item)
    return f"{kind.__module__}:{kind.__qualname__}"


def run_foreign(
    rule: str,
    transform: Callable[[ir.Model], ir.Model | None],
    model: ir.Model,
    ctx: PassContext,
) -> None:
    """Replace the content of `model` by that of `transform(copy of model)`, if it differs.

    The copy shares its tensors with the model: `transform` may replace them but not write to them.
    It returns None to say that there is nothing to take over.
    """
    copy = model.clone()
    before = fingerprint(copy)
    result = transform(copy)
    if result is None or fingerprint(result) == before:
        return
    with ctx.rewrite(rule, model.graph.name or "model") as go:
        if go:
            adopt(model, result)


@contextlib.contextmanager
def blaming(name: str) -> Iterator[None]:
    """Turn whatever foreign code raises into one line that names it.

    Raises:
        InputError: the code raised.
    """
    try:
        yield
    except BurnishError:
        raise
    except Exception as error:
        line = " ".join(str(error).split()) or "no message"
        raise InputError(f"{name} failed: {type(error).__name__}: {line}") from error


def adopt(model: ir.Model, other: ir.Model) -> None:
    """Give `model` the content of `other`, which must not be used afterwards.

    The object stays the same, for those who hold it; what is known about its graphs does not.
    """
    model.graph = other.graph
    functions = dict(other.functions)
    model.functions.clear()
    model.functions.update(functions)
    properties = dict(other.metadata_props)
    model.metadata_props.clear()
    model.metadata_props.update(properties)
    model.ir_version = other.ir_version
    model.producer_name = other.producer_name
    model.producer_version = other.producer_version
    model.domain = other.domain
    model.model_version = other.model_version
    model.doc_string = other.doc_string
    model.device_configurations = other.device_configurations
    for graph in all_graphs(model):
        graph.meta.clear()
    forget_shapes(model)
