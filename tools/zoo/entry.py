# SPDX-License-Identifier: Apache-2.0
"""What the zoo knows of a model or data set: where it comes from and what it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

Registry = Literal["pypi", "npm", "debian"]


@dataclass(frozen=True)
class File:
    """One file of a package: its path inside the package and the SHA-256 of its bytes."""

    path: str
    sha256: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class Package:
    """Files of one pinned version of one package.

    The checksums are of the files rather than of the archive, since one version of a package
    may come as a different archive for each platform.
    """

    registry: Registry
    name: str
    version: str
    files: tuple[File, ...]

    @property
    def label(self) -> str:
        """What a message calls it."""
        return f"{self.name} {self.version} ({self.registry})"


@dataclass(frozen=True)
class Export:
    """How a model that comes as weights becomes ONNX.

    Attributes:
        example: `module:function`; called with the entry's files by name, it gives a
            `burnish.frontends.pytorch.Example`.
        opset: None for the exporter's own choice.
    """

    example: str
    exporter: Literal["dynamo", "torchscript"] = "dynamo"
    opset: int | None = None


@dataclass(frozen=True)
class Entry:
    """A model or a data set that can be fetched by name.

    Attributes:
        licence: As stated by the package, and by the data's authors where that differs. Nothing
            in the zoo is redistributed: it is downloaded to the user's own cache.
        packages: The first one is the entry's own folder.
        onnx: Name of the model's file, if a package has one.
        export: How to make one otherwise.
        task: `module:function` of what a model is calibrated and judged with; called with the
            model's path and with the files of its packages and of its `data` by name, it gives a
            `burnish.tools.zoo.metric.Task`.
        data: Names of the data sets its task needs.
    """

    name: str
    kind: Literal["model", "data"]
    summary: str
    licence: str
    packages: tuple[Package, ...]
    onnx: str | None = None
    export: Export | None = None
    task: str | None = None
    data: tuple[str, ...] = ()
