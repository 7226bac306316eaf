# SPDX-License-Identifier: Apache-2.0
r"""A pipeline is a tuple of passes and a text form of it.

They run in the order of the text, but for members of groups that say to be `last`: what `fuse`
writes for the target's sake waits for pruning and quantization, and what `quant` leaves out of the
file for everything else.

Grammar (commas between passes and within a list, spaces between options):

    pipeline := item ("," item)*
    item     := name [ "{" (key "=" value)* "}" ]  |  "fixpoint" "(" pipeline ")"
    value    := word ("," word)*
    word     := bare characters  |  '"' any characters, with \" and \\ escaped '"'
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import onnx_ir as ir

from burnish.errors import InputError
from burnish.passes import registry
from burnish.passes.base import Fixpoint, Pass
from burnish.passes.context import PassContext
from burnish.passes.options import options_of

_WORD = re.compile(r'[^\s,{}()"=]+')
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')


@dataclass(frozen=True)
class Pipeline:
    """Passes to run in order. `Pipeline.parse(str(p)) == p`."""

    passes: tuple[Pass, ...]

    @staticmethod
    def parse(text: str) -> Pipeline:
        """Read pipeline text.

        Raises:
            InputError: it does not parse, with a caret below the place; or an unknown pass or
                option, with the nearest name.
        """
        return Pipeline(_Parser(text).whole())

    @staticmethod
    def of(passes: str | Pass | Pipeline | Iterable[Pass | Pipeline | str]) -> Pipeline:
        """Accept whatever stands for a pipeline: text, a pass, or a mix of both."""
        if isinstance(passes, Pipeline):
            return passes
        if isinstance(passes, Pass):
            return Pipeline((passes,))
        if isinstance(passes, str):
            return Pipeline.parse(passes)
        return Pipeline(tuple(p for item in passes for p in Pipeline.of(item).passes))

    def expand(self) -> Pipeline:
        """Return the pipeline with named groups replaced by their members, in order of running."""
        steps = list(_expanded(self.passes))
        if not all(item.lossless for item in steps):
            steps.sort(key=lambda item: item.last)  # a stable sort
        return Pipeline(tuple(chain.from_iterable(map(_members, steps))))

    def run(self, model: ir.Model, ctx: PassContext) -> ir.Model:
        """Run the passes in order; what they did is in `ctx.reports`."""
        for item in self.expand().passes:
            model = item.run(model, ctx).model
        return model

    def rule_names(self) -> tuple[str, ...]:
        """Return the names `--disable` can act on: of passes and of their rules."""
        found: set[str] = set()
        pending = [*self.passes]
        while pending:
            item = pending.pop()
            found |= {item.name, *item.rule_names}
            members = item.members if isinstance(item, Fixpoint) else item.expand()
            pending += [member for member in members if member is not item]
        return tuple(sorted(found))

    def __str__(self) -> str:
        """Return the text form."""
        return ",".join(map(str, self.passes))


def _expanded(passes: Iterable[Pass]) -> Iterable[Pass]:
    """Yield members of groups in place of the groups, except those that are to be last."""
    for item in passes:
        members = item.expand()
        if item.last or members == (item,):
            yield item
        else:
            yield from _expanded(members)


def _members(item: Pass) -> Iterable[Pass]:
    members = item.expand()
    return members if members == (item,) else chain.from_iterable(map(_members, members))


class _Parser:
    """Recursive descent over the text; `self.at` is the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def whole(self) -> tuple[Pass, ...]:
        passes = self.sequence()
        if self.at < len(self.text):
            raise self.error("expected ',' and another pass, or the end")
        return passes

    def sequence(self) -> tuple[Pass, ...]:
        passes = [self.item()]
        while self.take(","):
            passes.append(self.item())
        return tuple(passes)

    def item(self) -> Pass:
        self.space()
        start = self.at
        name = self.bare("the name of a pass")
        if name == Fixpoint.name:
            self.expect("(")
            members = self.sequence()
            self.expect(")")
            return Fixpoint(members)
        registry.names()  # plugins that clash are no fault of the text: no caret
        try:
            pass_class = registry.lookup(name)
        except InputError as error:
            raise self.error(str(error), start) from error
        given = self.options(pass_class) if self.take("{") else {}
        try:
            return pass_class(**given)
        except InputError as error:
            raise self.error(f"{name}: {error}", start) from error

    def options(self, pass_class: type[Pass]) -> dict[str, Any]:
        declared = {item.name: item for item in options_of(pass_class)}
        given: dict[str, Any] = {}
        while not self.take("}"):
            start = self.at
            key = self.bare("an option or '}'").replace("-", "_")
            if key not in declared:
                hint = registry.nearest(key, tuple(declared)) if declared else "it takes no options"
                raise self.error(f"pass {pass_class.name!r} has no option {key!r}; {hint}", start)
            field = declared[key].field
            if field in given:
                raise self.error(f"option {key!r} is given twice", start)
            self.expect("=")
            value_at = self.at
            words = [] if self.empty_list() else [self.word()]
            while words and self.take(","):
                words.append(self.word())
            try:
                given[field] = declared[key].parse(words)
            except InputError as error:
                raise self.error(f"{pass_class.name}: {error}", value_at) from error
        return given

    def empty_list(self) -> bool:
        """Whether a value is missing: `exclude= next=1`, `exclude=}` are empty lists."""
        return self.at >= len(self.text) or self.text[self.at] in " }"

    def word(self) -> str:
        self.space()
        if self.text[self.at : self.at + 1] == '"':
            match = _QUOTED.match(self.text, self.at)
            if match is None:
                raise self.error("this quote is never closed")
            self.at = match.end()
            return re.sub(r"\\(.)", r"\1", match.group(1))
        return self.bare("a value")

    def bare(self, what: str) -> str:
        self.space()
        match = _WORD.match(self.text, self.at)
        if match is None:
            raise self.error(f"expected {what}")
        self.at = match.end()
        return match.group()

    def take(self, symbol: str) -> bool:
        self.space()
        if not self.text.startswith(symbol, self.at):
            return False
        self.at += len(symbol)
        return True

    def expect(self, symbol: str) -> None:
        if not self.take(symbol):
            raise self.error(f"expected {symbol!r}")

    def space(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def error(self, message: str, at: int | None = None) -> InputError:
        """Point at the place; an error that already points is passed on as it is."""
        if "\n" in message:
            return InputError(message)
        place = self.at if at is None else at
        # A tab or line break would put the caret in the wrong column.
        line = re.sub(r"\s", " ", self.text)
        return InputError(f"pipeline: {message}\n  {line}\n  {' ' * place}^")
