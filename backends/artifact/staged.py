# SPDX-License-Identifier: Apache-2.0
"""Kind `staged`: parts of a model, each of a kind of its own, that are run one after the other.

Each part lies in a folder of its own, as its kind would write it. What is particular to the parts
stands in the manifest's `details`: their folders in order, and as in the manifest of an artefact of
that kind what they take and give, what they are built for and what they require.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.backends.artifact import kinds
from burnish.backends.artifact.kinds import Built, Request
from burnish.backends.artifact.manifest import Manifest
from burnish.backends.base import Session
from burnish.backends.profiles import Profile
from burnish.backends.settings import SessionSettings
from burnish.errors import BurnishError, InputError

if TYPE_CHECKING:
    import numpy as np

    from burnish.backends.partition import Stage

    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Part:
    """A part to build.

    Attributes:
        kind: Kind of artefact.
        stage: Its model.
        profiles: Shapes to build for.
        options: What else its kind takes.
    """

    kind: str
    stage: Stage
    profiles: tuple[Profile, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def build(request: Request) -> Built:
    """Build for TensorRT, with ONNX Runtime for what it refuses; an engine alone if nothing is."""
    from burnish.backends.tensorrt import artifact

    options = {**request.options, "fallback": "onnxruntime"}
    built = artifact.build(dataclasses.replace(request, kind="tensorrt-engine", options=options))
    return dataclasses.replace(built, kind=built.kind or "tensorrt-engine")


def write(request: Request, parts: Sequence[Part], details: Mapping[str, Any]) -> Built:
    """Build the parts.

    Args:
        request: What was asked for; its model is not looked at.
        parts: In order.
        details: What the manifest is to hold beside the parts.

    Raises:
        InputError: a part cannot be built.
    """
    built: list[Built] = []
    told = []
    for number, part in enumerate(parts):
        folder = request.folder / f"part-{number}"
        folder.mkdir()
        made = kinds.find(part.kind).build(
            dataclasses.replace(
                request,
                kind=part.kind,
                model=part.stage.model,
                folder=folder,
                profiles=part.profiles,
                options=part.options,
            )
        )
        built.append(made)
        told.append(
            {
                "folder": folder.name,
                "kind": part.kind,
                "entry": made.entry,
                "nodes": part.stage.nodes,
                "inputs": list(part.stage.inputs),
                "outputs": list(part.stage.outputs),
                "profiles": [profile.as_dict() for profile in made.profiles or ()],
                "requires": dict(made.requires),
                "details": dict(made.details),
            }
        )
    return Built(
        f"part-0/{built[0].entry}",
        session=request.settings.as_dict(),
        requires={key: value for made in built for key, value in made.requires.items()},
        details={"parts": told, **details},
        versions={key: value for made in built for key, value in made.versions.items()},
        warnings=tuple(dict.fromkeys(line for made in built for line in made.warnings)),
        kind="staged",
    )


def load(folder: Path, manifest: Manifest, settings: SessionSettings) -> Session:
    """Load the parts; `settings` are for those that ONNX Runtime runs.

    Raises:
        UnavailableError: what one of them requires is not there.
        InputError: the manifest does not name parts.
    """
    with contextlib.ExitStack() as opened:
        steps = []
        for data in manifest.details.get("parts", ()):
            part = _manifest(manifest, data)
            session = kinds.find(part.kind).load(folder / data["folder"], part, settings)
            opened.callback(session.close)
            steps.append(_Step(session, tuple(data["inputs"]), tuple(data["outputs"])))
        outputs = tuple(item.name for item in manifest.outputs)
        return StagedSession(steps, outputs, opened.pop_all())


def _manifest(whole: Manifest, part: Mapping[str, Any]) -> Manifest:
    """What the manifest of a part would be; names of inputs and outputs aside."""
    if f"{part['folder']}/{part['entry']}" not in whole.files:
        raise InputError(
            f"the artefact has no file {part['folder']}/{part['entry']}, which its manifest names",
            hint="build it again",
        )
    return dataclasses.replace(
        whole,
        kind=part["kind"],
        entry=part["entry"],
        profiles=tuple(map(Profile.of, part["profiles"])),
        requires=part["requires"],
        details=part["details"],
    )


@dataclass(frozen=True)
class _Step:
    session: Session
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class StagedSession:
    """Loaded parts: a `burnish.backends.base.Session`.

    Args:
        steps: Session of each part, and names of what it takes and gives.
        outputs: Names of the outputs of the whole.
        opened: Closes the sessions.
    """

    def __init__(
        self, steps: Sequence[_Step], outputs: Sequence[str], opened: contextlib.ExitStack
    ) -> None:
        self._steps, self._outputs, self._opened = tuple(steps), tuple(outputs), opened
        last = {name: number for number, step in enumerate(steps) for name in step.inputs}
        kept = set(outputs)
        self._spent = [
            [name for name, use in last.items() if use == number and name not in kept]
            for number in range(len(self._steps))
        ]

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Compute outputs, all of them by default, from an array per input.

        Raises:
            InputError: an input is missing, or no profile of a part covers the shapes.
            BurnishError: a part fails.
        """
        if not self._steps:
            raise BurnishError("the session is closed")
        values = dict(feeds)
        for step, spent in zip(self._steps, self._spent, strict=True):
            missing = [name for name in step.inputs if name not in values]
            if missing:
                raise InputError(f"input {missing[0]!r} is missing")
            values |= step.session.run({name: values[name] for name in step.inputs}, step.outputs)
            for name in spent:  # what no later part needs takes no memory
                del values[name]
        return {name: values[name] for name in (self._outputs if outputs is None else outputs)}

    def close(self) -> None:
        """Free the parts."""
        self._steps = ()
        self._opened.close()
