# SPDX-License-Identifier: Apache-2.0
"""A convolution of a map that would be enlarged, phase by phase: what `upsampled` is made of."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.edit import use_count
from burnish.passes.fuse.linear import FLOATS
from burnish.passes.fuse.rescale import LAZY_BYTES, rounded
from burnish.passes.rule import Builder, NoMatch, Operand


def obstacle(op: Builder, conv: ir.Node, w: Operand) -> str | None:
    """Say why a convolution cannot be computed by phases, if it cannot."""
    dims = w.static_dims
    assert dims is not None
    if w.dtype not in FLOATS or len(dims) != 4 or op.attribute(conv, "group") != 1:
        return "not over two spatial axes without groups"
    steps = (*(op.attribute(conv, "strides") or ()), *(op.attribute(conv, "dilations") or ()))
    pads = pads_of(op, conv, dims[2:])
    if any(step != 1 for step in steps) or pads is None:
        return "the convolution has strides or dilations, or its padding is unknown"
    if any(pads[i] + pads[i + 2] != dims[i + 2] - 1 for i in range(2)) or max(dims[2:]) < 2:
        return "the convolution does not keep the size, or is pointwise"
    assert w.array is not None
    if use_count(w.value) > 1 or w.array.nbytes >= LAZY_BYTES:
        return "the weights are large, or used by other nodes too"
    return None


def phases(
    op: Builder,
    conv: ir.Node,
    x: ir.Value | Operand,
    weights: np.ndarray,
    scale: int,
    *bias: ir.Value | None,
) -> ir.Value | NoMatch:
    """Build the convolution of a map that would be enlarged, phase by phase."""
    pads = pads_of(op, conv, weights.shape[2:])
    assert pads is not None
    made = []
    for phase in itertools.product(range(scale), repeat=2):
        kernel = weights.astype(np.float64)
        own: list[tuple[int, int]] = []
        for axis, offset in enumerate(phase):
            kernel, ends = _gathered(kernel, axis + 2, offset - pads[axis], scale)
            own.append(ends)
        exact = rounded(kernel, weights.dtype)
        if isinstance(exact, NoMatch):
            return exact
        padding = [*(-first for first, _ in own), *(last for _, last in own)]
        shape = list(kernel.shape[2:])
        changed = {"pads": padding, "kernel_shape": shape, "auto_pad": None}
        made.append(op.like(conv, x, exact, *bias, **changed))
    large: ir.Value = op.DepthToSpace(op.Concat(*made, axis=1), blocksize=scale)
    return large


def _gathered(
    kernel: np.ndarray, axis: int, start: int, scale: int
) -> tuple[np.ndarray, tuple[int, int]]:
    """Add up the taps that read the same small pixel.

    Args:
        kernel: Weights.
        axis: Of the taps.
        start: Large pixel that the first tap reads, relative to that of phase 0.
        scale: Large pixels to a small one.

    Returns:
        The weights, and the first and last small pixel they read.
    """
    pixels = (start + np.arange(kernel.shape[axis])) // scale
    first, last = int(pixels[0]), int(pixels[-1])
    sums = [kernel.compress(pixels == pixel, axis).sum(axis) for pixel in range(first, last + 1)]
    return np.stack(sums, axis), (first, last)


def scales_of(op: Builder, resize: ir.Node) -> list[float] | None:
    """Return the factors of the spatial axes, if known, and the only ones."""
    given = as_array(resize.inputs[2]) if len(resize.inputs) > 2 else None
    if given is None or op.attribute(resize, "axes") or given.size < 3 or (given[:2] != 1).any():
        return None
    return [float(scale) for scale in given[2:]]


def repeats(op: Builder, resize: ir.Node) -> bool:
    """Whether each pixel just becomes several; the factors are known to be whole."""
    kind = op.attribute(resize, "coordinate_transformation_mode")
    rounding = op.attribute(resize, "nearest_mode")
    known = (kind, rounding) == ("asymmetric", "floor") or (
        kind == "half_pixel" and str(rounding).startswith("round_prefer")
    )
    return op.attribute(resize, "mode") == "nearest" and known


def pads_of(op: Builder, conv: ir.Node, kernel: tuple[int, ...]) -> list[int] | None:
    """Return the padding of a convolution without strides: begins, then ends."""
    mode = op.attribute(conv, "auto_pad") or "NOTSET"
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        less, more = [(size - 1) // 2 for size in kernel], [size // 2 for size in kernel]
        return less + more if mode == "SAME_UPPER" else more + less
    given = op.attribute(conv, "pads") if mode == "NOTSET" else None
    return list(given) if given else [0] * 2 * len(kernel)
