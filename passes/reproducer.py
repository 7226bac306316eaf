# SPDX-License-Identifier: Apache-2.0
"""A bundle that lets somebody else see an internal error happen again."""

from __future__ import annotations

import json
import shlex
import traceback
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from burnish.files import write_aside
from burnish.passes.instrument import Event, Instrument

# The values of weights above this many bytes are left out: structure nearly always suffices.
_MAX_WEIGHT_BYTES = 1 << 20
# With more than this the model is in the bundle as text alone.
_MAX_MODEL_BYTES = 1 << 29


@dataclass(frozen=True)
class Failure:
    """An exception, and what was going on.

    Attributes:
        event: The pass or rewrite that raised; None if it was neither.
        error: Type and message.
        traceback: As Python prints it.
        text: The model at that time for reading, large weights left out; None if there was none.
        model: The same as ONNX, with zeros for large weights; None if it cannot be written.
    """

    event: Event | None
    error: str
    traceback: str
    text: str | None
    model: bytes | None

    @staticmethod
    def of(event: Event | None, model: ir.Model | None, error: BaseException) -> Failure:
        """Write down an exception while the model is as it was."""
        lines = traceback.format_exception(error)
        text = None if model is None else _text(model)
        content = None if model is None else _content(model)
        return Failure(event, f"{type(error).__name__}: {error}", "".join(lines), text, content)

    @property
    def command(self) -> str | None:
        """What makes it happen again, in the folder of the bundle; None if nothing does."""
        if self.event is None or self.model is None:
            return None
        passes = self.event.where if self.event.kind == "pass" else self.event.of
        words = ["optimize", "model.onnx", "--passes", passes, "--verify", "off", "--strict"]
        return shlex.join(words)


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
    """Write a zip with the command, versions, traceback, and the model at the time of a failure.

    `to_reproduce` in its `about.json` is the command that makes the failure happen on that model.
    """
    about = {
        "command": command,
        "versions": versions,
        "failed_in": None if failure.event is None else vars(failure.event),
        "error": failure.error,
        "to_reproduce": failure.command,
    }
    with write_aside(path) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("about.json", json.dumps(about, indent=2))
        bundle.writestr("traceback.txt", failure.traceback)
        if failure.text is not None:
            bundle.writestr("model.txt", failure.text)
        if failure.model is not None:
            bundle.writestr("model.onnx", failure.model)
    return path


def _text(model: ir.Model) -> str:
    small = model.clone()
    for graph in (small.graph, *small.graph.subgraphs()):
        for value in list(graph.initializers.values()):
            tensor = value.const_value
            if tensor is not None and tensor.nbytes > _MAX_WEIGHT_BYTES:
                value.const_value = None
    return str(small)


def _content(model: ir.Model) -> bytes | None:
    """The model as ONNX, without the values of large weights, and with all others in it."""
    whole = model.clone()
    values = [value for graph in whole.graphs() for value in graph.initializers.values()]
    held = [(value, value.const_value) for value in values if value.const_value is not None]
    if sum(tensor.nbytes for _, tensor in held) > _MAX_MODEL_BYTES:
        return None
    try:
        for value, tensor in held:
            if tensor.nbytes > _MAX_WEIGHT_BYTES:
                zeros = np.zeros(tensor.shape.numpy(), tensor.dtype.numpy())
                value.const_value = ir.tensor(zeros, dtype=tensor.dtype, name=tensor.name)
            elif isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
        content: bytes = ir.to_proto(whole).SerializeToString(deterministic=True)
        return content
    except Exception:  # whatever is wrong with it, the error at hand is the one to tell
        return None
