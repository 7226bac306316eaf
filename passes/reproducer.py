# SPDX-License-Identifier: Apache-2.0
"""A bundle that lets somebody else see an internal error happen again."""

from __future__ import annotations

import json
import traceback
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from burnish.files import write_aside
from burnish.passes.instrument import Event, Instrument

# Weights above this many bytes are left out of the bundle: structure nearly always suffices.
_MAX_WEIGHT_BYTES = 1 << 20


@dataclass(frozen=True)
class Failure:
    """An exception, and what was going on.

    Attributes:
        event: The pass or rewrite that raised; None if it was neither.
        error: Type and message.
        traceback: As Python prints it.
        model: The model at that time in text form, large weights left out; None if there was none.
    """

    event: Event | None
    error: str
    traceback: str
    model: str | None

    @staticmethod
    def of(event: Event | None, model: ir.Model | None, error: BaseException) -> Failure:
        """Write down an exception while the model is as it was."""
        lines = traceback.format_exception(error)
        text = None if model is None else _text(model)
        return Failure(event, f"{type(error).__name__}: {error}", "".join(lines), text)


@dataclass
class FailureWatch(Instrument):
    """Remembers which pass and rewrite was running when an exception was raised.

    Attributes:
        event: The innermost pass or rewrite that the exception came out of.
        model: The model it was run on.
        skipped_rules: Rule -> the first failure of one that was skipped for it.
    """

    event: Event | None = None
    model: ir.Model | None = None
    skipped_rules: dict[str, Failure] = field(default_factory=dict)

    def failed(self, event: Event, model: ir.Model, error: BaseException) -> None:
        """Keep the innermost event."""
        if self.event is None:
            self.event, self.model = event, model

    def skipped(self, event: Event, model: ir.Model, error: Exception) -> None:
        """Keep the first failure of a rule; the model will change."""
        if event.name not in self.skipped_rules:
            self.skipped_rules[event.name] = Failure.of(event, model, error)


def write_bundle(path: Path, failure: Failure, *, command: str, versions: dict[str, str]) -> Path:
    """Write a zip with the command, versions, traceback, and the model at the time of a failure."""
    about = {
        "command": command,
        "versions": versions,
        "failed_in": None if failure.event is None else vars(failure.event),
        "error": failure.error,
    }
    with write_aside(path) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("about.json", json.dumps(about, indent=2))
        bundle.writestr("traceback.txt", failure.traceback)
        if failure.model is not None:
            bundle.writestr("model.txt", failure.model)
    return path


def _text(model: ir.Model) -> str:
    small = model.clone()
    for graph in (small.graph, *small.graph.subgraphs()):
        for value in list(graph.initializers.values()):
            tensor = value.const_value
            if tensor is not None and tensor.nbytes > _MAX_WEIGHT_BYTES:
                value.const_value = None
    return str(small)
