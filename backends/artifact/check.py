# SPDX-License-Identifier: Apache-2.0
"""Is an artefact what it says it is, and does it still compute what its source model does?"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from burnish import frontends
from burnish.backends import numeric, onnxruntime
from burnish.backends.artifact.folder import LoadedArtifact, load_artifact
from burnish.backends.artifact.manifest import Manifest, check_files, digests, read
from burnish.backends.feeds import random_feeds
from burnish.errors import InputError, UnavailableError, VerificationError

if TYPE_CHECKING:
    Feeds = Mapping[str, np.ndarray[Any, np.dtype[Any]]]

_SAMPLES = 16
"""At most so many samples are compared."""


@dataclass(frozen=True)
class Verdict:
    """What was found; every check that failed raised.

    Attributes:
        manifest: The artefact's.
        files: Number of files whose digest agrees.
        bytes: Their size.
        error: Largest relative RMS error of an output against the source; None if not compared.
        samples: Number of samples compared.
        skipped: Why numbers were not compared; None if they were.
    """

    manifest: Manifest
    files: int
    bytes: int
    error: float | None = None
    samples: int = 0
    skipped: str | None = None


def verify_artifact(
    path: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    *,
    samples: Iterable[Feeds] | None = None,
    max_error: float | None = None,
    seed: int = 0,
) -> Verdict:
    """Compare an artefact's files with their digests, and its outputs with its source's.

    Args:
        path: The artefact.
        source: The model that it was made from.
        samples: Inputs to compare with; random ones by default.
        max_error: Largest relative RMS error of an output allowed; by default that which the build
            was held to. Where only lossless passes ran, outputs must agree within rounding.
        seed: Seed of random inputs.

    Raises:
        InputError: it is no artefact, or was changed; or `source` is not its source.
        VerificationError: it computes something else.
    """
    folder = Path(path)
    manifest = read(folder)
    check_files(folder, manifest)
    extra = digests(folder).keys() - manifest.files.keys()
    if extra:
        raise InputError(
            f"artefact {folder} holds what its manifest does not name: {min(extra)}",
            hint="remove it, or build the artefact again",
        )
    count, size = len(manifest.files), sum(file.bytes for file in manifest.files.values())
    if source is None:
        return Verdict(manifest, count, size, skipped="no --source was given")
    loaded = frontends.load(source)
    if loaded.digest != manifest.source_sha256:
        raise InputError(
            f"{Path(source).name} is not the model that artefact {folder} was made from "
            f"({manifest.source}): SHA-256 differs",
            hint="give that model",
        )
    try:
        artifact = load_artifact(folder, check=False)
    except UnavailableError as error:
        return Verdict(manifest, count, size, skipped=str(error))
    with artifact, onnxruntime.session(loaded.model, optimize="off") as original:
        given = [random_feeds(artifact, seed=seed)] if samples is None else samples
        errors = [
            _compare(artifact, original, sample, loaded.model, max_error)
            for sample in itertools.islice(given, _SAMPLES)
        ]
    if not errors:
        raise InputError("there are no samples to compare", hint="leave out --samples")
    return Verdict(manifest, count, size, max(errors), len(errors))


def _compare(
    artifact: LoadedArtifact,
    original: onnxruntime.Session,
    feeds: Feeds,
    model: Any,
    max_error: float | None,
) -> float:
    manifest = artifact.manifest
    allowed = manifest.max_error if max_error is None else max_error
    expected = original.run(feeds)
    difference = numeric.compare_outputs(expected, artifact.run(feeds))
    worst = difference.worst
    error = max((item.rms_rel for item in difference.outputs), default=0.0)
    problem = next((item for item in difference.outputs if item.problem is not None), None)
    if problem is not None:
        raise VerificationError(f"the artefact computes something else: {problem}")
    if manifest.lossless and max_error is None and not difference.ok:
        # Rounding may be amplified by the model itself; the runtime's own fusing tells how much.
        with onnxruntime.session(model, optimize="all") as fused:
            rounding = numeric.compare_outputs(expected, fused.run(feeds))
        if error > 2 * max((item.rms_rel for item in rounding.outputs), default=0.0):
            raise VerificationError(
                f"the artefact computes something else than {manifest.source}: {worst}"
            )
    if allowed is not None and not error <= allowed:
        raise VerificationError(
            f"the outputs differ by {error:.3g} (relative RMS) from {manifest.source}; "
            f"{allowed:g} is allowed"
        )
    return error
