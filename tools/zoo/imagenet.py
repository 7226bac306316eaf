# SPDX-License-Identifier: Apache-2.0
"""ImageNet classes on 20 labelled images, with crops of other photographs to calibrate on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.errors import InputError, require
from burnish.tools.zoo.agreement import agreement
from burnish.tools.zoo.metric import Arrays, Metric, Run, Split, Task, only

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

SIZE = 224
"""Height and width of the input in pixels."""

IMAGES = 20


def classification(model: Path, files: Mapping[str, Path]) -> Task:
    """Make the task of an ImageNet classifier.

    Metrics: top-1 and top-5 accuracy, and, since 20 labels are few, the agreement of the largest
    logit with that of the model as fetched.
    """
    photos = [p for n, p in sorted(files.items()) if _is_image(n) and not _is_labelled(n)]
    labelled = [p for n, p in sorted(files.items()) if _is_labelled(n)]

    def feeds(count: int, seed: int) -> Iterator[Arrays]:
        for index in range(count):
            yield {"inputs": random_crop(photos[index % len(photos)], seed, index)}

    def samples(split: Split, count: int) -> Iterator[Arrays]:
        if split == "calibration":
            return feeds(count, 0)
        return ({"inputs": centre_crop(path)} for path in labelled[:count])

    def accuracy(top: int, run: Run, split: Split, count: int) -> float:
        if split != "evaluation":
            raise InputError("the images to calibrate with have no labels")
        right = []
        for path in labelled[:count]:
            best = only(run({"inputs": centre_crop(path)}))[0].argsort()[-top:]
            right.append(_label(path) in best)
        return sum(right) / len(right)

    return Task(
        feeds,
        (
            Metric("top-1", True, IMAGES, partial(accuracy, 1)),
            Metric("top-5", True, IMAGES, partial(accuracy, 5)),
            agreement(model, samples, IMAGES),
        ),
    )


def centre_crop(path: Path) -> np.ndarray:
    """The middle of an image, as EfficientNet is evaluated: float32 `[1, 3, 224, 224]`."""
    image = _open(path)
    side = round(min(image.size) * SIZE / (SIZE + 32))
    left, top = ((length - side) // 2 for length in image.size)
    return _normalize(image, (left, top, left + side, top + side))


def random_crop(path: Path, seed: int, index: int) -> np.ndarray:
    """A square of 10% to 100% of an image's largest one: float32 `[1, 3, 224, 224]`."""
    import numpy as np

    image = _open(path)
    rng = np.random.default_rng([seed, index])
    side = round(min(image.size) * math.sqrt(rng.uniform(0.1, 1.0)))
    left, top = (int(rng.integers(length - side + 1)) for length in image.size)
    return _normalize(image, (left, top, left + side, top + side))


def _normalize(image: Image, box: tuple[int, int, int, int]) -> np.ndarray:
    """Scale a part of an image; EfficientNet-lite takes (value - 127) / 128."""
    import numpy as np
    from PIL import Image

    scaled = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box)
    planes = np.asarray(scaled, dtype=np.float32).transpose(2, 0, 1)
    return np.ascontiguousarray((planes[None] - 127.0) / 128.0)


def _open(path: Path) -> Image:
    require("PIL", extra="zoo")
    from PIL import Image

    return Image.open(path).convert("RGB")


def _is_image(name: str) -> bool:
    return name.endswith((".jpg", ".png"))


def _is_labelled(name: str) -> bool:
    return name.startswith("imagenet_")


def _label(path: Path) -> int:
    """The class, 0 to 999, from a name like `imagenet_07_609.jpg`."""
    return int(path.stem.rsplit("_", 1)[1])
