# SPDX-License-Identifier: Apache-2.0
"""Gram matrices: what a layer's inputs say about which errors of its weights matter.

A layer computes Y = W X with one column of X for each product it takes; changing W by E changes
the output by E X, whose squared norm is the trace of E (X X^T) E^T. So X X^T, of the size of the
layer's fan-in and never of the data, is all that second-order methods need: E. Frantar and
D. Alistarh, "Optimal Brain Compression" (2022), section 3 (its Hessian H is 2 X X^T); E. Frantar
et al., "GPTQ" (2023), section 3; the same, "SparseGPT" (2023), section 3.

Rows here are the columns of X there: `Gram` sums `rows^T rows`. `rows` of a MatMul or Gemm are
vectors of the last axis; of a Conv they are the patches under its kernel (im2col), in the order of
`weights.reshape(outputs, -1)`, apart for each group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.passes.sketch import Array, ExactSum, Sketch

_STRIP = 256
"""Rows of the matrix that are held, and computed, together."""

_PIECE = 1 << 22
"""Numbers of the data unfolded at a time."""

Rows = Callable[[Array], Iterator[Array]]
"""Cuts an input into arrays [groups, rows, features]."""


class Gram(Sketch):
    """Sums X^T X of a layer's inputs, in float64, over samples.

    The products of one sample are summed as the linear algebra library does, those of different
    samples exactly (`ExactSum`): merging halves gives the whole to the last bit. Only the upper
    triangle is kept, in strips, so `features` by `features` take about 8 bytes each.

    Args:
        features: Fan-in of the layer, K.
        groups: Number of groups of a Conv, G.
        rows: Cuts an input array into pieces [G, n, K]; the default takes vectors along the last
            axis.

    Attributes:
        count: Rows seen, each once however many groups there are.
    """

    def __init__(self, features: int, *, groups: int = 1, rows: Rows | None = None) -> None:
        self.features = features
        self.groups = groups
        self._rows = vectors if rows is None else rows
        self.count = 0
        self.strips = [ExactSum() for _ in range(0, features, _STRIP)]

    @staticmethod
    def of(node: ir.Node) -> Gram:
        """Make one for the input of a Conv, MatMul or Gemm whose weights have a known shape.

        Raises:
            ValueError: it is another operator, or its weights are no constant matrix or kernel.
        """
        weights = node.inputs[1] if len(node.inputs) > 1 else None
        shape = None if weights is None or weights.shape is None else tuple(weights.shape)
        if shape is None or not all(isinstance(size, int) for size in shape):
            raise ValueError(f"the shape of the weights of {node.name!r} is not known")
        sizes = [int(str(size)) for size in shape]
        if node.op_type == "Conv":
            groups = node.attributes.get_int("group", 1)
            patches = Patches.of(node, sizes[2:], groups)
            return Gram(int(np.prod(sizes[1:])), groups=groups, rows=patches)
        if node.op_type == "MatMul" and len(sizes) == 2:
            return Gram(sizes[0])
        if node.op_type == "Gemm" and not node.attributes.get_int("transA", 0):
            return Gram(sizes[1 if node.attributes.get_int("transB", 0) else 0])
        raise ValueError(f"{node.op_type} {node.name!r} is no layer with one matrix of weights")

    def update(self, array: Array) -> None:
        """Observe an input of the layer, batched or not.

        Raises:
            ValueError: it has another number of features, or holds NaN or infinity.
        """
        features, groups = self.features, self.groups
        for piece in self._rows(array):
            if piece.shape[0] != groups or piece.shape[2] != features:
                raise ValueError(
                    f"an input of shape {list(array.shape)} gives {piece.shape[0]} groups of "
                    f"{piece.shape[2]} features, not {groups} of {features}"
                )
            wide = piece.astype(np.float64)
            for start, strip in zip(range(0, features, _STRIP), self.strips, strict=True):
                left = wide[:, :, start : start + _STRIP].transpose(0, 2, 1)
                strip.add(left @ wide[:, :, start:])
            self.count += piece.shape[1]

    def merge(self, other: Self) -> None:
        for mine, its in zip(self.strips, other.strips, strict=True):
            mine.merge(its)
        self.count += other.count

    @property
    def matrix(self) -> NDArray[np.float64]:
        """X^T X: [K, K], or [G, K, K] of a grouped Conv; symmetric to the last bit."""
        features, groups = self.features, self.groups
        whole = np.zeros((groups, features, features))
        for start, strip in zip(range(0, features, _STRIP), self.strips, strict=True):
            if strip.count:
                whole[:, start : start + _STRIP, start:] = strip.value
        lower = np.tril_indices(features, -1)
        whole[:, lower[0], lower[1]] = whole[:, lower[1], lower[0]]
        return whole[0] if groups == 1 else whole


def vectors(array: Array) -> Iterator[Array]:
    """Cut an array into its vectors along the last axis, [1, n, K] at a time."""
    flat = array.reshape(1, -1, array.shape[-1])
    step = max(1, _PIECE // array.shape[-1])
    for start in range(0, flat.shape[1], step):
        yield flat[:, start : start + step]


@dataclass(frozen=True)
class Patches:
    """Cuts the input of a Conv into the patches its kernel sees (im2col).

    Attributes:
        kernel: Size of the kernel along each spatial axis.
        strides: Its steps.
        dilations: Distances of its taps.
        pads: Zeros before each axis, then behind each; None for auto_pad.
        auto_pad: `SAME_UPPER`, `SAME_LOWER` or `VALID`, if `pads` is None.
        groups: Number of groups of channels.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...] | None
    auto_pad: str = "VALID"
    groups: int = 1

    @staticmethod
    def of(node: ir.Node, kernel: Sequence[int], groups: int) -> Patches:
        """Read the attributes of a Conv."""
        rank = len(kernel)
        auto_pad = node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET"
        pads = tuple(node.attributes.get_ints("pads", [0] * 2 * rank) or [0] * 2 * rank)
        return Patches(
            tuple(kernel),
            tuple(node.attributes.get_ints("strides", [1] * rank) or [1] * rank),
            tuple(node.attributes.get_ints("dilations", [1] * rank) or [1] * rank),
            pads if auto_pad == "NOTSET" else None,
            auto_pad,
            groups,
        )

    def __call__(self, array: Array) -> Iterator[Array]:
        """Yield patches [groups, n, channels / groups * taps], of one item of the batch each."""
        rank = len(self.kernel)
        spatial = array.shape[2:]
        before, behind = self._padding(spatial)
        reach = tuple(d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True))
        channels = array.shape[1] // self.groups
        features = channels * int(np.prod(self.kernel))
        for item in array:
            padded = np.pad(item, [(0, 0), *zip(before, behind, strict=True)])
            windows = np.lib.stride_tricks.sliding_window_view(
                padded, reach, tuple(range(1, rank + 1))
            )
            steps = tuple(slice(None, None, stride) for stride in self.strides)
            taps = tuple(slice(None, None, dilation) for dilation in self.dilations)
            windows = windows[(slice(None), *steps, *taps)]
            # [channels, positions..., taps...] -> [groups, positions..., channels, taps...]
            grouped = windows.reshape(self.groups, channels, *windows.shape[1:])
            grouped = np.moveaxis(grouped, 1, 1 + rank)
            lines = max(1, _PIECE // (features * int(np.prod(grouped.shape[2 : 1 + rank]))))
            for start in range(0, grouped.shape[1], lines // self.groups or 1):
                piece = grouped[:, start : start + (lines // self.groups or 1)]
                yield piece.reshape(self.groups, -1, features)

    def _padding(self, spatial: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        rank = len(self.kernel)
        if self.pads is not None:
            return self.pads[:rank], self.pads[rank:]
        if self.auto_pad == "VALID":
            return (0,) * rank, (0,) * rank
        totals = [
            max(0, (-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size)
            for size, stride, dilation, kernel in zip(
                spatial, self.strides, self.dilations, self.kernel, strict=True
            )
        ]
        less, more = tuple(n // 2 for n in totals), tuple(n - n // 2 for n in totals)
        return (less, more) if self.auto_pad == "SAME_UPPER" else (more, less)
