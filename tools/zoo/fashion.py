# SPDX-License-Identifier: Apache-2.0
"""Fashion-MNIST, to train small models of our own with: a clean split, and labels for all of it."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np


def read_fashion(folder: Path, part: Literal["train", "test"]) -> tuple[np.ndarray, np.ndarray]:
    """Read images uint8 `[n, 28, 28]` and labels uint8 `[n]` from the folder of `fashion-mnist`."""
    prefix = {"train": "train", "test": "t10k"}[part]
    folder = folder / "usr/share/datasets/fashion-mnist"
    return (
        _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz"),
        _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz"),
    )


def _read_idx(path: Path) -> np.ndarray:
    """Read IDX: two zeros, a type (8: bytes), the rank, the big-endian sizes, the data."""
    import numpy as np

    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = struct.unpack_from(f">{rank}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
