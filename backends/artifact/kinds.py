# SPDX-License-Identifier: Apache-2.0
"""Kinds of artefact: which module builds and loads one.

A kind is a module with the two functions of `Kind`, imported when it is first used.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from burnish.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

    from burnish.backends.artifact.manifest import Manifest
    from burnish.backends.base import Session
    from burnish.backends.profiles import Profile
    from burnish.backends.settings import SessionSettings
    from burnish.backends.target import Target

_MODULES = {
    "onnx": "burnish.backends.artifact.onnx",
    "onnx-optimized": "burnish.backends.artifact.onnx_optimized",
    "ort": "burnish.backends.artifact.onnx_optimized",
    "ep-context": "burnish.backends.artifact.ep_context",
    "tensorrt-engine": "burnish.backends.tensorrt.artifact",
    "staged": "burnish.backends.artifact.staged",
}

# Target, up to its first colon -> the kind that is built for it unless one is named.
_OF_TARGET = {"tensorrt": "tensorrt-engine", "tensorrt-rtx": "tensorrt-engine"}

Progress = Callable[[Iterable[Any], int | None, str], Iterable[Any]]


@dataclass(frozen=True)
class Request:
    """What to build.

    Attributes:
        kind: Name of the kind: a module may build several.
        model: The optimized model; not to be changed.
        target: What it is for.
        folder: An empty folder to write into.
        settings: Settings of ONNX Runtime's session.
        profiles: Shapes to build for; none means those that the model declares.
        options: What else the kind takes.
        progress: Shows progress of long work: (items, total, label) -> items; or None.
    """

    kind: str
    model: ir.Model
    target: Target
    folder: Path
    settings: SessionSettings
    profiles: tuple[Profile, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress | None = None


@dataclass(frozen=True)
class Built:
    """What a kind wrote, for the manifest.

    Attributes:
        entry: The file to load first, relative to the folder.
        session: `Manifest.session`.
        requires: `Manifest.requires`.
        details: `Manifest.details`; plain data, the same for the same build.
        versions: Versions of packages that took part, beside burnish's own.
        profiles: `Manifest.profiles`, where they are not those asked for.
        warnings: One line each, for the report.
        kind: The kind that it became, where that is not the one asked for.
    """

    entry: str
    session: Mapping[str, Any] = field(default_factory=dict)
    requires: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    profiles: tuple[Profile, ...] | None = None
    warnings: tuple[str, ...] = ()
    kind: str | None = None


class Kind(Protocol):
    """Builds and loads artefacts of a kind; a module does."""

    def build(self, request: Request) -> Built:
        """Write the files of an artefact into `request.folder`.

        Raises:
            InputError: it cannot be built here, or from this model; says what to do.
        """

    def load(self, folder: Path, manifest: Manifest, settings: SessionSettings) -> Session:
        """Load an artefact, whose files have been compared with their digests.

        Raises:
            UnavailableError: what it requires is not there; says what to do.
        """


def find(name: str) -> Kind:
    """The kind of that name.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    module = _MODULES.get(name)
    if module is None:
        near = difflib.get_close_matches(name, _MODULES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_MODULES)}"
        raise InputError(f"unknown kind of artefact {name!r}", hint=hint)
    return cast(Kind, importlib.import_module(module))


def names() -> tuple[str, ...]:
    """The kinds there are."""
    return tuple(_MODULES)


def default_for(target: Target) -> str:
    """The kind that is built for a target unless one is named."""
    return _OF_TARGET.get(target.name.partition(":")[0], "onnx")
