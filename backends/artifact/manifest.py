# SPDX-License-Identifier: Apache-2.0
"""`manifest.json` of an artefact: what it was made from, how, and what its files must contain.

It follows docs/manifest.schema.json. The same build gives the same bytes: nothing of the machine
goes in, but for what a kind cannot run without (`Manifest.requires`). Figures that were measured
stand in a file of their own, `measured.json`, which may be missing or be written later.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from burnish.backends.profiles import Profile
from burnish.errors import InputError

FORMAT = 1
"""Version of the format. A reader refuses any other."""

MANIFEST = "manifest.json"
MEASURED = "measured.json"


@dataclass(frozen=True)
class Tensor:
    """An input or output of an artefact.

    Attributes:
        name: Its name.
        dtype: ONNX's name of the element type, such as ``FLOAT``.
        shape: A size, a symbol or ``None`` (unknown) per axis.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class File:
    """A file of an artefact.

    Attributes:
        sha256: Digest of its contents, in hexadecimal.
        bytes: Its size.
    """

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """What an artefact is.

    Attributes:
        kind: Who loads it; see `burnish.backends.artifact.kinds`.
        entry: The file that is loaded first, a key of `files`.
        target: Name of the target it was built for.
        source: Name and digest of the model it was made from.
        source_sha256: SHA-256 of that model, external data included.
        pipeline: Pipeline text as run, groups expanded.
        calibration_sha256: Digest of the calibration data; None if there were none.
        seed: Seed of random choices.
        versions: Package -> version that took part.
        inputs: What it takes.
        outputs: What it gives.
        precision: Element type -> number of weights of it.
        lossless: Whether no pass was allowed to change more than rounding.
        max_error: Relative RMS error of the outputs that the build was held to; None if to none.
        profiles: Shapes it was built for; none means that `inputs` says all.
        padding: How requests are padded to a profile; None if they are not. See
            `burnish.backends.padding`.
        session: Settings of the runtime; see `burnish.backends.settings`.
        requires: What it is bound to, such as a version of the runtime or a compute capability.
            Empty means that it runs wherever the runtime does.
        details: What else its kind has to say.
        files: Its files by path within the folder, with forward slashes.
    """

    kind: str
    entry: str
    target: str
    source: str
    source_sha256: str
    pipeline: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    calibration_sha256: str | None = None
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    precision: Mapping[str, int] = field(default_factory=dict)
    lossless: bool = True
    max_error: float | None = None
    profiles: tuple[Profile, ...] = ()
    padding: Mapping[str, Any] | None = None
    session: Mapping[str, Any] = field(default_factory=dict)
    requires: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, File] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        data = {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if item.name not in _NESTED
        }
        calibration = self.calibration_sha256
        return {
            "format": FORMAT,
            **data,
            "source": {"name": self.source, "sha256": self.source_sha256},
            "pipeline": {"text": self.pipeline, "sha256": _sha256(self.pipeline.encode())},
            "calibration": None if calibration is None else {"sha256": calibration},
            "inputs": [dataclasses.asdict(item) for item in self.inputs],
            "outputs": [dataclasses.asdict(item) for item in self.outputs],
            "profiles": [profile.as_dict() for profile in self.profiles],
            "files": {name: dataclasses.asdict(file) for name, file in self.files.items()},
        }

    def to_json(self) -> str:
        """Return the text of `manifest.json`."""
        return json.dumps(self.as_dict(), indent=2, sort_keys=True) + "\n"

    @staticmethod
    def of(data: Mapping[str, Any]) -> Manifest:
        """Read what `as_dict` returns.

        Raises:
            KeyError, TypeError: it is not that.
        """
        plain = {
            item.name: data[item.name]
            for item in dataclasses.fields(Manifest)
            if item.name not in _NESTED
        }
        calibration = data["calibration"]
        return Manifest(
            **plain,
            source=data["source"]["name"],
            source_sha256=data["source"]["sha256"],
            pipeline=data["pipeline"]["text"],
            calibration_sha256=None if calibration is None else calibration["sha256"],
            inputs=tuple(map(_tensor, data["inputs"])),
            outputs=tuple(map(_tensor, data["outputs"])),
            profiles=tuple(map(Profile.of, data["profiles"])),
            files={name: File(**file) for name, file in data["files"].items()},
        )


_NESTED = frozenset(
    (
        *("source", "source_sha256", "pipeline", "calibration_sha256"),
        *("inputs", "outputs", "profiles", "files"),
    )
)


def _tensor(data: Mapping[str, Any]) -> Tensor:
    return Tensor(data["name"], data["dtype"], tuple(data["shape"]))


def read(folder: Path) -> Manifest:
    """Read the manifest of an artefact.

    Raises:
        InputError: `folder` is no artefact, or one of another format version.
    """
    path = folder / MANIFEST
    if not folder.is_dir() or not path.is_file():
        raise InputError(
            f"{folder} is no artefact: it has no {MANIFEST}",
            hint="build one with: optimize MODEL --artifact DIR",
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data["format"]
        if version == FORMAT:
            manifest = Manifest.of(data)
            _check_names(manifest)
            return manifest
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not a manifest ({type(error).__name__}: {error})",
            hint="build the artefact again",
        ) from error
    newer = isinstance(version, int) and version > FORMAT
    raise InputError(
        f"{path} has format version {version!r}; this burnish reads {FORMAT}",
        hint="update burnish" if newer else "build the artefact again",
    )


def _check_names(manifest: Manifest) -> None:
    """Artefacts come from anywhere: no file may lie outside the folder."""
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"file {name!r} lies outside the artefact")
    if manifest.entry not in manifest.files:
        raise ValueError(f"entry {manifest.entry!r} is not one of its files")


def digests(folder: Path) -> dict[str, File]:
    """Digest every file of an artefact, but for the manifest and what was measured."""
    return {
        path.relative_to(folder).as_posix(): _digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).as_posix() not in (MANIFEST, MEASURED)
    }


def changes(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Say, one line a file, which files are not as the manifest has them.

    Files that it does not name are not looked at.
    """
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != expected.bytes:
            yield f"{name} has {path.stat().st_size} bytes instead of {expected.bytes}"
        elif _digest(path) != expected:
            yield f"{name} has other contents (SHA-256 differs)"


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file with its digest.

    Raises:
        InputError: one is missing or was changed.
    """
    for line in changes(folder, manifest):
        raise InputError(
            f"artefact {folder} was changed since it was built: {line}",
            hint="copy it again, or build it again",
        )


def _digest(path: Path) -> File:
    with path.open("rb") as file:
        return File(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
