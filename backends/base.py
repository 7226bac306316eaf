# SPDX-License-Identifier: Apache-2.0
"""What every backend does: say what it can run, make an artifact, load it, time it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from burnish.backends.measure import Comparison, Runnable
    from burnish.backends.target import Target

    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Capabilities:
    """What a backend runs on a target.

    Attributes:
        operators: ``(domain, name)`` of the operators that have a kernel there.
        fused: Those of them that stand for several standard ones.
        max_opset: Newest opset of the default domain.
        max_ir_version: Newest version of the ONNX format.
        int8_accumulator_bits: Width of the sums of int8 products before they are widened.
    """

    operators: frozenset[tuple[str, str]]
    fused: frozenset[str]
    max_opset: int
    max_ir_version: int
    int8_accumulator_bits: int


@dataclass(frozen=True)
class Artifact:
    """A lowered model on disk.

    Attributes:
        path: The file to load.
        files: All its files, `path` among them, with weights that lie outside it.
        target: What it was lowered for.
    """

    path: Path
    files: tuple[Path, ...]
    target: Target

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def digest(self) -> str:
        """SHA-256 over the contents of its files, in hexadecimal."""
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


class Closing(ABC):
    """A context manager that is closed at its end."""

    @abstractmethod
    def close(self) -> None:
        """Free what it holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Session(Protocol):
    """A loaded model."""

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Compute outputs, all of them by default, from an array per input."""

    def close(self) -> None:
        """Free the model."""


class Backend(Protocol):
    """Lowers models to something that runs on a target."""

    def capabilities(self, target: Target) -> Capabilities:
        """What runs on `target`."""

    def lower(self, model: ir.Model, target: Target, path: Path) -> Artifact:
        """Write `model` to `path` as something that loads on `target`. `model` is not changed."""

    def session(self, artifact: Artifact) -> Session:
        """Load an artifact as it would be deployed."""

    def measure(
        self, variants: Mapping[str, Runnable], feeds: Mapping[str, Any], *, repeats: int
    ) -> Comparison:
        """Time variants against the first one."""
