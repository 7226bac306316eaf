# SPDX-License-Identifier: Apache-2.0
"""Handwritten digits. The classifier has probably seen them all: good for differences only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.tools.zoo.metric import Arrays, Metric, Run, Split, Task, only

if TYPE_CHECKING:
    import numpy as np

DIGITS = 9000
"""Digits of the evaluation split; a tenth of all are left to calibrate with."""

BATCH = 250


def classification(model: Path, files: Mapping[str, Path]) -> Task:  # noqa: ARG001 - a task's
    """Make the task of a digit classifier. Metric: accuracy."""

    def feeds(count: int, seed: int) -> Iterator[Arrays]:
        import numpy as np

        images, _ = read_digits(files, "calibration")
        for index in np.random.default_rng(seed).integers(len(images), size=count):
            yield {"input": images[index : index + 1]}

    def accuracy(run: Run, split: Split, count: int) -> float:
        images, labels = (part[:count] for part in read_digits(files, split))
        right = 0
        for start in range(0, len(images), BATCH):
            found = only(run({"input": images[start : start + BATCH]})).argmax(axis=1)
            right += int((found == labels[start : start + BATCH]).sum())
        return right / len(images)

    return Task(feeds, (Metric("accuracy", True, DIGITS, accuracy),))


def read_digits(files: Mapping[str, Path], split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 `[n, 1, 28, 28]`, normalized as MNIST is, and int64 labels `[n]`, shuffled."""
    import numpy as np

    images, labels = [], []
    for digit in range(10):
        pixels = json.loads(files[f"{digit}.json"].read_text())["data"]
        images.append(np.array(pixels, np.float32).reshape(-1, 1, 28, 28))
        labels.append(np.full(len(images[-1]), digit))
    order = np.random.default_rng(0).permutation(sum(map(len, images)))
    chosen = order[DIGITS:] if split == "calibration" else order[:DIGITS]
    pixels = (np.concatenate(images)[chosen] - np.float32(0.1307)) / np.float32(0.3081)
    return pixels, np.concatenate(labels)[chosen]
