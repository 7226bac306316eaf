# SPDX-License-Identifier: Apache-2.0
"""What a pass is: a frozen dataclass whose fields are its options."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from burnish.passes.context import PassContext
from burnish.passes.edit import names_of
from burnish.passes.options import options_of
from burnish.passes.report import PassReport


@dataclass(frozen=True)
class PassResult:
    """What running one pass gave.

    Attributes:
        model: The transformed model, usually the same object.
        report: What was rewritten, refused and how long it took.
    """

    model: ir.Model
    report: PassReport

    @property
    def changed(self) -> bool:
        """Whether the pass changed anything, derived from the rewrites it did."""
        return self.report.changed


@dataclass(frozen=True)
class Pass(ABC):
    """A transformation of a model.

    A subclass is a frozen dataclass: its fields, declared with `option`, are its options. It edits
    the model in `apply`, each edit inside `ctx.rewrite(rule, where)`, from which counts, timings,
    `--bisect-limit`, `--disable` and `PassResult.changed` follow.

    Class attributes:
        name: Name in pipeline text.
        rule_names: Names of the rewrites the pass can do, for `--disable` and the documentation.
        lossless: Outputs stay equal up to rounding. False for pruning and quantization.
        last: A pipeline with a pass that is not lossless puts it behind all others: it writes for
            a target what they would not know again, or leaves out what they would infer again.
    """

    name: ClassVar[str]
    rule_names: ClassVar[tuple[str, ...]] = ()
    lossless: ClassVar[bool] = True
    last: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Validate the options.

        Raises:
            InputError: an option has a wrong type or is out of range.
        """
        for declared in options_of(type(self)):
            declared.check(getattr(self, declared.field))

    @abstractmethod
    def apply(self, model: ir.Model, ctx: PassContext) -> ir.Model | None:
        """Edit `model` in place, or return a new model."""

    def expand(self) -> tuple[Pass, ...]:
        """Return the passes this one stands for: itself, unless it is a named group."""
        return (self,)

    def run(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Apply the pass under the context's instruments."""
        started = time.perf_counter()
        with ctx.running(self, model) as scope:
            if scope:
                for graph in (model.graph, *(each.graph for each in model.functions.values())):
                    names_of(graph)  # before anyone asks for those of its branches alone
                model = self.apply(model, ctx) or model
                scope.model = model
        scope.report.seconds = time.perf_counter() - started
        return PassResult(model, scope.report)

    def __str__(self) -> str:
        """Return the pipeline text of this pass; only options that differ from their default."""
        words = [
            f"{declared.name}={declared.format(value)}"
            for declared in options_of(type(self))
            if (value := getattr(self, declared.field)) != declared.default
        ]
        return f"{self.name}{{{' '.join(words)}}}" if words else self.name


@dataclass(frozen=True)
class Group(Pass):
    """A name for several passes; a subclass returns them from `expand`."""

    def apply(self, model: ir.Model, ctx: PassContext) -> ir.Model | None:
        """Run the members in order."""
        for member in self.expand():
            model = member.run(model, ctx).model
        return model


@dataclass(frozen=True)
class Fixpoint(Pass):
    """Repeats its members until none of them changes the model.

    Raises nothing if `LIMIT` rounds do not suffice: it warns and goes on.
    """

    name: ClassVar[str] = "fixpoint"
    LIMIT: ClassVar[int] = 20
    members: tuple[Pass, ...] = dataclasses.field(default=())

    def apply(self, model: ir.Model, ctx: PassContext) -> ir.Model | None:
        """Run the members in order, again and again."""
        for _ in range(self.LIMIT):
            changed = False
            for member in self.members:
                result = member.run(model, ctx)
                model, changed = result.model, changed or result.changed
            if not changed:
                return model
        ctx.warn(f"{self} still changed the model after {self.LIMIT} rounds")
        return model

    def __str__(self) -> str:
        """Return `fixpoint(a,b)`."""
        return f"{self.name}({','.join(map(str, self.members))})"
