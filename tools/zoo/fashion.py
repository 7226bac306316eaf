# SPDX-License-Identifier: Apache-2.0
"""Fashion-MNIST, to train small models of our own with: a clean split, and labels for all of it."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from burnish.tools.zoo.metric import Arrays, Metric, Run, Split, Task, only

if TYPE_CHECKING:
    import numpy as np

TRAINED = 58_000
"""Images of the training part that a model is trained on; the others are the calibration split."""

IMAGES = 10_000
"""Images of the evaluation split: the test part."""

_BATCH = 250


def classification(model: Path, files: Mapping[str, Path]) -> Task:  # noqa: ARG001 - a task's
    """Make the task of a classifier of clothing. Metric: accuracy."""

    def feeds(count: int, seed: int) -> Iterator[Arrays]:
        import numpy as np

        images, _ = _read(files, "calibration")
        for index in np.random.default_rng(seed).integers(len(images), size=count):
            yield {"input": normalize(images[index : index + 1])}

    def accuracy(run: Run, split: Split, count: int) -> float:
        images, labels = (part[:count] for part in _read(files, split))
        right = 0
        for start in range(0, len(images), _BATCH):
            batch = normalize(images[start : start + _BATCH])
            found = only(run({"input": batch})).argmax(axis=1)
            right += int((found == labels[start : start + _BATCH]).sum())
        return right / len(images)

    return Task(feeds, (Metric("accuracy", True, IMAGES, accuracy),))


def normalize(images: np.ndarray) -> np.ndarray:
    """Scale pixels by the mean and deviation of all: uint8 `[n, 28, 28]` to `[n, 1, 28, 28]`."""
    import numpy as np

    scaled = images[:, None].astype(np.float32) / np.float32(255)
    return (scaled - np.float32(0.286)) / np.float32(0.353)


def read_fashion(
    files: Mapping[str, Path], part: Literal["train", "test"]
) -> tuple[np.ndarray, np.ndarray]:
    """Read images uint8 `[n, 28, 28]` and labels uint8 `[n]` from the files of `fashion-mnist`."""
    prefix = {"train": "train", "test": "t10k"}[part]
    return (
        _read_idx(files[f"{prefix}-images-idx3-ubyte.gz"]),
        _read_idx(files[f"{prefix}-labels-idx1-ubyte.gz"]),
    )


def _read(files: Mapping[str, Path], split: Split) -> tuple[np.ndarray, np.ndarray]:
    if split == "evaluation":
        return read_fashion(files, "test")
    images, labels = read_fashion(files, "train")
    return images[TRAINED:], labels[TRAINED:]


def _read_idx(path: Path) -> np.ndarray:
    """Read IDX: two zeros, a type (8: bytes), the rank, the big-endian sizes, the data."""
    import numpy as np

    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = struct.unpack_from(f">{rank}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
