# SPDX-License-Identifier: Apache-2.0
"""Write an artefact; open one and run it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from burnish.backends.artifact import kinds
from burnish.backends.artifact.manifest import (
    MANIFEST,
    Manifest,
    Tensor,
    check_files,
    digests,
    read,
)
from burnish.backends.artifact.measured import record
from burnish.backends.base import Closing
from burnish.backends.padding import Padding
from burnish.backends.profiles import check, choose
from burnish.backends.settings import SessionSettings
from burnish.errors import BurnishError, InputError
from burnish.files import folder_aside

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import onnx_ir as ir

    from burnish.backends.artifact.kinds import Built, Progress
    from burnish.backends.base import Session
    from burnish.backends.onnxruntime import TensorSpec
    from burnish.backends.profiles import Profile, Range
    from burnish.backends.target import Target
    from burnish.backends.tune import Trial

    Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What artefact to make of an optimized model.

    Attributes:
        path: The folder to write; an artefact that is there already is replaced.
        kind: One of `kinds.names()`; None takes the target's own.
        settings: Settings of ONNX Runtime's session.
        profiles: Shapes to build for.
        ranges: The same as text, read once the model is known: `NAME=MIN:OPT:MAX`.
        padding: `Manifest.padding`.
        options: What else the kind takes.
        details: What the manifest is to hold beside what the kind says.
        notes: One line each, for the report.
        tune: Whether to search `settings` by measuring; the number of threads only if it is 1.
    """

    path: Path
    kind: str | None = None
    settings: SessionSettings = dataclasses.field(default_factory=SessionSettings)
    profiles: tuple[Profile, ...] = ()
    ranges: tuple[str, ...] = ()
    padding: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tune: bool = False

    def check(self) -> None:
        """Refuse before the work what could only fail after it.

        Raises:
            InputError: the path cannot be written, or is something else than an artefact.
        """
        if self.kind is not None:
            kinds.find(self.kind)
        if not self.path.absolute().parent.is_dir():
            raise InputError(f"output folder {self.path.parent} does not exist", hint="create it")
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"artefact {self.path} is a file", hint="name a folder")
        if self.path.is_dir() and any(self.path.iterdir()) and not _is_artifact(self.path):
            raise InputError(
                f"folder {self.path} is not empty and is no artefact; it is not replaced",
                hint="name another folder",
            )


def write(
    plan: Plan,
    model: ir.Model,
    target: Target,
    origin: Mapping[str, Any],
    progress: Progress | None = None,
) -> tuple[Manifest, tuple[str, ...]]:
    """Write an artefact aside, then rename it: a reader never sees half of one.

    Args:
        plan: What to make and where.
        model: The optimized model; not changed.
        target: What it was optimized for.
        origin: Fields of `Manifest` that say where it comes from: ``source``, ``source_sha256``,
            ``pipeline``, ``calibration_sha256``, ``seed``, ``versions``, ``lossless``,
            ``max_error``.
        progress: Shows progress of long work.

    Returns:
        The manifest, and lines for the report.

    Raises:
        InputError: as `Plan.check`; or the kind cannot be built here, or the profiles are for
            another model.
        VerificationError: padding changes what the model computes.
    """
    plan.check()
    if plan.ranges:
        from burnish.backends.tensorrt.profiles import parse

        plan = dataclasses.replace(plan, profiles=(*plan.profiles, *parse(plan.ranges, model)))
    check(plan.profiles, ((item.name, item.shape) for item in map(_tensor, _fed(model))))
    if plan.padding is not None:
        Padding.of(plan.padding).check(model, plan.profiles)
    kind = plan.kind or kinds.default_for(target)
    trials: tuple[Trial, ...] = ()
    if plan.tune:
        if kind not in _TUNED:
            raise InputError(
                f"an artefact of kind {kind} has no session to tune",
                hint=f"leave out --tune-session, or choose --kind {' or '.join(_TUNED)}",
            )
        plan, trials = _tuned(plan, model)
    with folder_aside(plan.path) as folder:
        built = kinds.find(kind).build(
            kinds.Request(
                kind, model, target, folder, plan.settings, plan.profiles, plan.options, progress
            )
        )
        manifest = _manifest(plan, kind, model, target, origin, built, folder)
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    if trials:
        record(plan.path, "tune-session", {"trials": [dataclasses.asdict(item) for item in trials]})
    return manifest, (*plan.notes, *map(str, trials), *built.warnings)


_TUNED = ("onnx", "onnx-optimized", "ort")


def _tuned(plan: Plan, model: ir.Model) -> tuple[Plan, tuple[Trial, ...]]:
    from burnish.backends.feeds import random_feeds
    from burnish.backends.tune import tune

    first = plan.profiles[0].inputs if plan.profiles else {}
    specs = [_spec(_tensor(value), first.get(value.name or "")) for value in _fed(model)]
    fixed = frozenset({"threads"} if plan.settings.threads != 1 else ())
    found = tune(model, random_feeds(_Specs(tuple(specs))), plan.settings, fixed=fixed)
    return dataclasses.replace(plan, settings=found.settings), found.trials


@dataclasses.dataclass(frozen=True)
class _Specs:
    inputs: tuple[TensorSpec, ...]


def _manifest(
    plan: Plan,
    kind: str,
    model: ir.Model,
    target: Target,
    origin: Mapping[str, Any],
    built: Built,
    folder: Path,
) -> Manifest:
    return Manifest(
        **{
            **origin,
            "kind": built.kind or kind,
            "entry": built.entry,
            "target": target.name,
            "versions": {**origin.get("versions", {}), **built.versions},
            "inputs": tuple(map(_tensor, _fed(model))),
            "outputs": tuple(map(_tensor, model.graph.outputs)),
            "precision": _precision(model),
            "profiles": plan.profiles if built.profiles is None else built.profiles,
            "padding": plan.padding,
            "session": built.session,
            "requires": built.requires,
            "details": {**plan.details, **built.details},
            "files": digests(folder),
        }
    )


def _fed(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _tensor(value: ir.Value) -> Tensor:
    shape = () if value.shape is None else tuple(value.shape)
    dims = tuple(dim if isinstance(dim, int) else dim.value for dim in shape)
    return Tensor(value.name or "", value.dtype.name if value.dtype else "UNDEFINED", dims)


def _precision(model: ir.Model) -> dict[str, int]:
    """Element type -> number of weights."""
    from burnish.backends.weights import initialized

    found: dict[str, int] = {}
    for _, _, tensor in initialized(model):
        found[tensor.dtype.name] = found.get(tensor.dtype.name, 0) + tensor.size
    return found


def _is_artifact(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


class LoadedArtifact(Closing):
    """An artefact, ready to run; a context manager.

    Attributes:
        path: Its folder.
        manifest: What it is.
    """

    def __init__(self, path: Path, manifest: Manifest, open_session: Callable[[], Session]) -> None:
        self.path = path
        self.manifest = manifest
        declared = manifest.padding
        self._padding = None if declared is None else Padding.of(declared)
        self._session: Session | None = open_session()

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Compute outputs.

        Args:
            feeds: An array per input.
            outputs: Names of the outputs wanted; all of them, in order, by default.

        A request is padded to its profile and its outputs are cut, where that is declared.

        Raises:
            InputError: a feed is missing, unknown, or of the wrong type or shape; or no profile
                covers the request.
            BurnishError: the model fails on these values.
        """
        if self._session is None:
            raise BurnishError(f"artefact {self.path} is closed")
        self._check(feeds)
        if not self.manifest.profiles:
            return self._session.run(feeds, outputs)
        shapes = {name: array.shape for name, array in feeds.items()}
        padding = self._padding
        profile = choose(self.manifest.profiles, shapes, padded=padding is not None)
        if padding is None:
            return self._session.run(feeds, outputs)
        return padding.cut(self._session.run(padding.pad(feeds, profile), outputs), shapes)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes; where it was built for profiles, the sizes that the first is best at."""
        first = self.manifest.profiles[0].inputs if self.manifest.profiles else {}
        return tuple(_spec(item, first.get(item.name)) for item in self.manifest.inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it gives."""
        return tuple(_spec(item, None) for item in self.manifest.outputs)

    def _check(self, feeds: Mapping[str, Array]) -> None:
        expected = {item.name: item for item in self.manifest.inputs}
        for name in expected.keys() ^ feeds.keys():
            problem = "is missing" if name in expected else "is not one"
            raise InputError(f"input {name!r} {problem}", hint=f"inputs: {', '.join(expected)}")
        for name, item in expected.items():
            _check_feed(item, feeds[name])

    def close(self) -> None:
        """Free it. Further runs are errors."""
        if self._session is not None:
            self._session.close()
        self._session = None


def _spec(item: Tensor, span: Range | None) -> TensorSpec:
    import onnx_ir as ir

    from burnish.backends.onnxruntime import TensorSpec

    return TensorSpec(item.name, ir.DataType[item.dtype], item.shape if span is None else span.opt)


def _check_feed(expected: Tensor, array: Array) -> None:
    import onnx_ir as ir

    found = ir.DataType.from_numpy(array.dtype).name
    if found != expected.dtype and expected.dtype != "UNDEFINED":
        raise InputError(
            f"input {expected.name!r} is {found}; the artefact takes {expected.dtype}",
            hint="convert it",
        )
    fixed = [
        (axis, size)
        for axis, size in enumerate(expected.shape)
        if isinstance(size, int) and expected.dtype != "UNDEFINED"
    ]
    if len(array.shape) != len(expected.shape) or any(array.shape[a] != s for a, s in fixed):
        wanted = ", ".join("?" if dim is None else str(dim) for dim in expected.shape)
        raise InputError(
            f"input {expected.name!r} has shape {list(array.shape)}; the artefact takes [{wanted}]",
            hint="resize it, or build an artefact for that shape",
        )


def load_artifact(
    path: str | os.PathLike[str], *, check: bool = True, **settings: Any
) -> LoadedArtifact:
    """Load an artefact.

    Args:
        path: Its folder.
        check: Whether to compare every file with its digest first (about a second a gigabyte).
        settings: Instead of those of the manifest, such as ``threads=4``; see
            `burnish.backends.settings.SessionSettings`.

    Raises:
        InputError: it is no artefact, of another format version, was changed, or cannot run here.
    """
    folder = Path(path)
    manifest = read(folder)
    if check:
        check_files(folder, manifest)
    chosen = settings_of(manifest, **settings)
    kind = kinds.find(manifest.kind)
    return LoadedArtifact(folder, manifest, lambda: kind.load(folder, manifest, chosen))


def settings_of(manifest: Manifest, **changes: Any) -> SessionSettings:
    """The settings that an artefact asks for, with some changed.

    Raises:
        InputError: there is no such setting.
    """
    try:
        return dataclasses.replace(SessionSettings.of(manifest.session), **changes)
    except TypeError as error:
        known = ", ".join(item.name for item in dataclasses.fields(SessionSettings))
        raise InputError(f"unknown setting: {error}", hint=f"known: {known}") from error


def samples(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Array]]]:
    """Feeds from an .npz file, or from each .npz file of a folder by name: (file name, feeds).

    Raises:
        InputError: there is none, or one is no .npz file.
    """
    where = Path(path)
    files = sorted(where.glob("*.npz")) if where.is_dir() else [where]
    if not files or not all(file.is_file() for file in files):
        raise InputError(f"there is no .npz file at {where}", hint="check the path")
    for file in files:
        try:
            with np.load(file, allow_pickle=False) as archive:
                yield file.name, {name: archive[name] for name in archive.files}
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(
                f"{file} is no .npz file: {error}", hint="write it with numpy.savez"
            ) from error
