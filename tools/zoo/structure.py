# SPDX-License-Identifier: Apache-2.0
"""Models that are there for their structure: any inputs will do, and there is nothing to score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from burnish.tools.zoo.metric import Arrays, Task


def structure(model: Path, files: Mapping[str, Path]) -> Task:  # noqa: ARG001 - a task's signature
    """Make random inputs of the types and shapes that `model` takes."""

    def feeds(count: int, seed: int) -> Iterator[Arrays]:
        import onnx_ir as ir

        from burnish.backends.feeds import random_feeds

        loaded = ir.load(model)
        return (random_feeds(loaded, seed + index) for index in range(count))

    return Task(feeds, ())
