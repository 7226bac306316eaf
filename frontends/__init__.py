# SPDX-License-Identifier: Apache-2.0
"""Anything to ONNX: `load(source)` finds the frontend that understands a source.

A frontend is any object, a module for instance, with the two functions of `Frontend`. The
built-in ones are named below and imported when asked for; others register under the
entry-point group `burnish.frontends`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from burnish.errors import InputError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    import onnx_ir as ir

__all__ = ["Frontend", "Loaded", "load"]

ENTRY_POINTS = "burnish.frontends"
_BUILT_IN = {"onnx": "burnish.frontends.onnx", "pytorch": "burnish.frontends.pytorch"}


@dataclass(frozen=True)
class Loaded:
    """A model, and what is worth knowing about where it came from.

    Attributes:
        model: The model, valid ONNX as far as names, order and opset imports go. It shares no
            node or value with the source; passes may edit it in place.
        notes: One line for each repair that was made, for the report.
        digest: SHA-256 of the source, in hex. For a model file without external data it is
            what `sha256sum FILE` prints; with external data, what
            `cat FILE DATA... | sha256sum` prints, the data files in order of their names.
    """

    model: ir.Model
    notes: tuple[str, ...]
    digest: str


class Frontend(Protocol):
    """What turns one kind of source into a model."""

    def can_load(self, source: object) -> bool:
        """Is this source of our kind? Must be quick, and import nothing heavy."""
        ...

    def load(self, source: object) -> Loaded:
        """Import the source.

        Raises:
            InputError: it cannot be read; one line says what to do.
        """
        ...


def load(source: object, *, frontend: str | None = None) -> Loaded:
    """Import a model.

    Args:
        source: A path, the bytes of a model, ONNX's textual form, an `onnx.ModelProto`, an
            `onnx_ir.Model`, or what another frontend takes (`module:function`, a `.pt2` file).
        frontend: The name of the frontend to use. By default the first that claims the source:
            `onnx`, `pytorch`, then those installed by other packages, by name.

    Raises:
        InputError: the source cannot be read, or there is no frontend of that name.
    """
    if frontend is not None:
        return _named(frontend).load(source)
    for candidate in _candidates():
        if candidate.can_load(source):
            return candidate.load(source)
    # Nobody claims it: the ONNX frontend says best what is wrong with it.
    return _built_in("onnx").load(source)


def _candidates() -> Iterator[Frontend]:
    for name in _BUILT_IN:
        yield _built_in(name)
    for _, entry in sorted(_entry_points().items()):
        yield cast(Frontend, entry.load())


def _named(name: str) -> Frontend:
    if name in _BUILT_IN:
        return _built_in(name)
    others = _entry_points()
    if name in others:
        return cast(Frontend, others[name].load())
    known = [*_BUILT_IN, *others]
    close = difflib.get_close_matches(name, known, n=1)
    raise InputError(
        f"unknown frontend {name!r}",
        hint=f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}",
    )


def _built_in(name: str) -> Frontend:
    return cast(Frontend, importlib.import_module(_BUILT_IN[name]))


def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in _BUILT_IN or found.get(entry.name, entry).value != entry.value:
            raise InputError(
                f"two frontends are called {entry.name!r}, one of them {entry.value}",
                hint="uninstall the package that brings it",
            )
        found[entry.name] = entry
    return found
