# SPDX-License-Identifier: Apache-2.0
"""What pruned weights take: dense, as sparse initializers, and as a bitmask with what is left."""

from __future__ import annotations

from collections.abc import Iterable

INDEX_BYTES = 8
"""Of each element of a sparse initializer: ONNX wants indices to be int64."""


def sparse_bytes(elements: int, zeros: int, itemsize: float) -> float:
    """Return what a sparse initializer takes: pays for float32 if over two thirds are zero."""
    return (elements - zeros) * (itemsize + INDEX_BYTES)


def bitmask_bytes(elements: int, zeros: int, itemsize: float) -> float:
    """Return what one bit an element, and those that are not zero, take: about what zip reaches."""
    return elements / 8 + (elements - zeros) * itemsize


def sizes(weights: Iterable[tuple[int, int, float]]) -> dict[str, int]:
    """Return bytes of weights, `(elements, zeros, bytes of an element)` each, in three forms.

    `sparse` takes the sparse form for those weights alone that it makes smaller.
    """
    dense = sparse = mask = 0.0
    for elements, zeros, itemsize in weights:
        plain = elements * itemsize
        dense += plain
        sparse += min(plain, sparse_bytes(elements, zeros, itemsize))
        mask += min(plain, bitmask_bytes(elements, zeros, itemsize))
    return {"dense": round(dense), "sparse": round(sparse), "bitmask": round(mask)}
