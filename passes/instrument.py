# SPDX-License-Identifier: Apache-2.0
"""Instruments watch every pass and every rewrite, and may hold it back."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, TextIO

import onnx_ir as ir


@dataclass(frozen=True)
class Event:
    """One pass, or one rewrite inside a pass.

    Attributes:
        kind: "pass" or "rewrite".
        name: Name of the pass or of the rule.
        number: Stable count, from 1, of passes and of rewrites over the whole pipeline.
        where: Pipeline text of the pass, or name of the node or value rewritten.
        of: Name of the pass a rewrite belongs to.
        lossless: Whether the pass keeps outputs equal up to rounding.
    """

    kind: Literal["pass", "rewrite"]
    name: str
    number: int
    where: str
    of: str
    lossless: bool = True


class Instrument:
    """Base class; every method does nothing unless overridden."""

    def should_run(self, event: Event) -> bool:
        """Return False to hold back a pass or a rewrite."""
        return True

    def before(self, event: Event, model: ir.Model) -> None:
        """Is called before a pass or rewrite that will run."""

    def after(self, event: Event, model: ir.Model) -> None:
        """Is called after one that succeeded; `changed` models are checked here."""

    def failed(self, event: Event, model: ir.Model, error: BaseException) -> None:
        """Is called when one raised; the exception goes on afterwards."""

    def skipped(self, event: Event, model: ir.Model, error: Exception) -> None:
        """Is called when a rule raised before it changed anything; the build goes on without it."""

    def settle(self) -> None:
        """Is called before something is timed: wait for what runs beside the passes."""


@dataclass(frozen=True)
class BisectLimit(Instrument):
    """Lets only the first `limit` rewrites run: halving it finds the one at fault."""

    limit: int

    def should_run(self, event: Event) -> bool:
        """Hold back rewrites past the limit."""
        return event.kind == "pass" or event.number <= self.limit


@dataclass(frozen=True)
class Disable(Instrument):
    """Holds back passes and rules whose name matches one of the glob patterns."""

    patterns: tuple[str, ...]

    def should_run(self, event: Event) -> bool:
        """Hold back what matches."""
        return not any(fnmatchcase(event.name, pattern) for pattern in self.patterns)


@dataclass(frozen=True)
class PrintIR(Instrument):
    """Prints the model after the passes whose name matches; `all` means every pass."""

    patterns: tuple[str, ...]
    stream: TextIO = field(default_factory=lambda: sys.stderr)

    def after(self, event: Event, model: ir.Model) -> None:
        """Print the model in onnx-ir's text form."""
        if event.kind == "pass" and any(
            pattern == "all" or fnmatchcase(event.name, pattern) for pattern in self.patterns
        ):
            print(f"// after {event.where}\n{model}", file=self.stream)
