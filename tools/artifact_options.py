# SPDX-License-Identifier: Apache-2.0
"""Options of `optimize` that say what artefact to write."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from burnish.errors import InputError

if TYPE_CHECKING:
    from burnish.backends.artifact.folder import Plan


@dataclass(frozen=True)
class ArtifactOptions:
    """The options as given; names are theirs."""

    artifact: str | None
    kind: str | None
    provider: tuple[str, ...]
    threads: int | None
    engine: tuple[str, ...]
    shapes: tuple[str, ...]
    max_padding: float
    pad: tuple[str, ...]
    unpad: tuple[str, ...]
    tune_session: bool

    def at(self, path: str) -> ArtifactOptions:
        """The same, with the folder named by `-o DIR/`.

        Raises:
            InputError: it is named otherwise, too.
        """
        if self.artifact is not None and Path(self.artifact) != Path(path):
            raise InputError("-o and --artifact name two folders", hint="give one of them")
        return dataclasses.replace(self, artifact=path)

    def plan(self) -> Plan | None:
        """What artefact to write; None if no folder is named.

        Raises:
            InputError: an option makes no sense, or makes none without an artefact.
        """
        if self.artifact is None:
            for name in (
                "kind",
                "provider",
                "threads",
                "engine",
                "shapes",
                "pad",
                "unpad",
                "tune_session",
            ):
                if getattr(self, name):
                    option = name.replace("_", "-")
                    raise InputError(f"--{option} is for an artefact", hint="add --artifact DIR")
            return None
        from burnish.backends.artifact.folder import Plan
        from burnish.backends.providers import parse
        from burnish.backends.settings import SessionSettings

        settings = SessionSettings()
        if self.threads is not None:
            settings = dataclasses.replace(settings, threads=self.threads)
        if self.provider:
            settings = dataclasses.replace(settings, providers=tuple(map(parse, self.provider)))
        options = dict(map(_option, self.engine))
        ranges = tuple(text for text in self.shapes if "=" in text)
        files = [text for text in self.shapes if "=" not in text]
        if len(files) > 1 or (files and ranges):
            raise InputError("--shapes names a file and more", hint="give one file, or only ranges")
        plan = Plan(Path(self.artifact), self.kind, settings, ranges=ranges, options=options)
        plan = dataclasses.replace(plan, tune=self.tune_session)
        return self._profiled(plan, Path(files[0])) if files else plan

    def _profiled(self, plan: Plan, shapes: Path) -> Plan:
        from burnish.backends import traffic
        from burnish.backends.padding import Padding

        padding = Padding.parse(self.pad, self.unpad) if self.pad else None
        found = traffic.cover(traffic.read(shapes), self.max_padding, padded=padding is not None)
        return dataclasses.replace(
            plan,
            profiles=found.profiles,
            padding=None if padding is None else padding.as_dict(),
            details={"traffic": {"padding": found.padding, "requests": list(found.requests)}},
            notes=(str(found),),
        )


def _option(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise InputError(f"--engine {text!r} is not NAME=VALUE", hint="for example workspace=1024")
    return name.strip(), value.strip()


def artifact_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `ArtifactOptions`, handed over as one argument `artifact`."""

    @functools.wraps(function)
    def gathered(**arguments: Any) -> Any:
        names = [item.name for item in dataclasses.fields(ArtifactOptions)]
        chosen = ArtifactOptions(**{name: arguments.pop(name) for name in names})
        return function(**arguments, artifact=chosen)

    for option in reversed(_OPTIONS):
        gathered = option(gathered)
    return gathered


_OPTIONS = (
    click.option("--artifact", metavar="DIR", help="Write an artefact: model, manifest, digests."),
    click.option(
        "--kind",
        metavar="onnx|onnx-optimized|ort|ep-context|...",
        help="What the artefact holds; default: what the target takes.",
    ),
    click.option(
        "--provider",
        multiple=True,
        metavar="NAME[:OPTION=VALUE,...]",
        help="Execution provider that the artefact is run by, e.g. cuda; first choice first.",
    ),
    click.option("--threads", type=click.IntRange(min=0), help="Threads the artefact is run with."),
    click.option(
        "--engine",
        multiple=True,
        metavar="NAME=VALUE",
        help="How TensorRT builds, e.g. workspace=1024; docs/gpu.md lists them.",
    ),
    click.option(
        "--shapes",
        multiple=True,
        metavar="R.jsonl|csv|NAME=MIN:OPT:MAX",
        help="Build for these requests, one's shapes a line, or for this range of an input "
        "(x=1x3x32x32:...) or of a symbolic axis (batch=1:1:8).",
    ),
    click.option(
        "--max-padding",
        type=click.FloatRange(min=0),
        default=0.2,
        show_default=True,
        help="Padded elements per element of --shapes allowed.",
    ),
    click.option(
        "--pad",
        multiple=True,
        metavar="INPUT=VALUE",
        help="Pad this input to its profile with VALUE: a mask of 0 makes that harmless.",
    ),
    click.option(
        "--unpad",
        multiple=True,
        metavar="OUTPUT:AXIS=INPUT:AXIS",
        help="Cut this axis of an output to the size the input's had.",
    ),
    click.option(
        "--tune-session",
        is_flag=True,
        help="Search threads, layout, arena and such by measuring; record what was found.",
    ),
)
