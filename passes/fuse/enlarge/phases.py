# SPDX-License-Identifier: Apache-2.0
"""A convolution of a map that would be enlarged, phase by phase: what `upsampled` is made of.

On targets that compute channels in blocks, phases of 24 channels, say, leave a quarter of their
blocks empty. Then they are computed together by one convolution, if their windows are as large.
Ratio on ONNX Runtime 1.31.1, AVX-512, one thread, in turns: PP-OCRv6 det 1.016.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.edit import use_count
from burnish.passes.fuse.rescale import FLOATS, LAZY_BYTES, rounded
from burnish.passes.rule import Builder, NoMatch, Operand

_WORTH_JOINING = 1 / 8
"""Part of the blocks that are saved, at least: borders are computed, too, and cut off."""


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


@dataclass(frozen=True)
class _Phase:
    """What computes one phase.

    Attributes:
        kernel: Weights, [C, channels of the small map, height, width].
        first: Row and column of the small map that it reads first, relative to its own.
        last: Likewise, that it reads last.
    """

    kernel: np.ndarray
    first: tuple[int, ...]
    last: tuple[int, ...]


def phases(
    op: Builder,
    conv: ir.Node,
    x: ir.Value | Operand,
    weights: np.ndarray,
    scale: int,
    *bias: ir.Value | None,
    block: int | None = None,
) -> ir.Value | NoMatch:
    """Build the convolution of a map that would be enlarged, phase by phase.

    Args:
        op: Builds it.
        conv: The convolution, which keeps the size.
        x: The small map.
        weights: [C, channels of x, kernel height, kernel width].
        scale: Large pixels to a small one.
        bias: A number for each of the C channels, if any.
        block: Channels that the target computes at once, if it does.
    """
    pads = pads_of(op, conv, weights.shape[2:])
    assert pads is not None
    made = []
    for offsets in itertools.product(range(scale), repeat=2):
        kernel = weights.astype(np.float64)
        ends: list[tuple[int, int]] = []
        for axis, offset in enumerate(offsets):
            kernel, own = _gathered(kernel, axis + 2, offset - pads[axis], scale)
            ends.append(own)
        exact = rounded(kernel, weights.dtype)
        if isinstance(exact, NoMatch):
            return exact
        first, last = zip(*ends, strict=True)
        made.append(_Phase(exact, first, last))
    given = [item for item in bias if item is not None]
    known = [shift for shift in map(as_array, given) if shift is not None]
    one_shape = len({phase.kernel.shape for phase in made}) == 1
    if one_shape and len(known) == len(given) and _saves_blocks(len(weights), scale, block):
        return _together(op, conv, x, made, scale, [np.tile(shift, scale**2) for shift in known])
    apart = []
    for phase in made:
        changed = _window(phase.kernel, [-row for row in phase.first] + list(phase.last))
        apart.append(op.like(conv, x, phase.kernel, *bias, **changed))
    large: ir.Value = op.DepthToSpace(op.Concat(*apart, axis=1), blocksize=scale)
    return large


def _saves_blocks(channels: int, scale: int, block: int | None) -> bool:
    """Whether phases fill blocks of channels together that each alone leaves partly empty."""
    if block is None:
        return False
    apart = scale**2 * -(-channels // block)
    return apart - -(-(scale**2) * channels // block) >= apart * _WORTH_JOINING


def _together(
    op: Builder,
    conv: ir.Node,
    x: ir.Value | Operand,
    made: list[_Phase],
    scale: int,
    bias: list[np.ndarray],
) -> ir.Value:
    """Build one convolution for all phases, whose windows are as large.

    Where windows begin one pixel apart, the convolution goes one pixel further. There a phase whose
    window begins late finds its pixel i at i + 1, so that it is put before those that do not, and
    what is too much at both borders is cut off:  [1 0, 1 0, 1 0] -> 1 [0 1, 0 1] 0
    """
    first = np.array([phase.first for phase in made]).reshape(scale, scale, 2)
    begins = [int(begin) for begin in first.min((0, 1))]
    late = [first[:, 0, 0] - begins[0], first[0, :, 1] - begins[1]]
    ends = [
        size - 1 + begin + int(own.max())
        for size, begin, own in zip(made[0].kernel.shape[2:], begins, late, strict=True)
    ]
    cut = [int(own.sum()) for own in late]
    order = [np.roll(np.arange(scale), own) for own in cut]
    kernels = [made[row * scale + column].kernel for row, column in itertools.product(*order)]
    changed = _window(kernels[0], [*(-begin for begin in begins), *ends])
    wide = op.like(conv, x, np.concatenate(kernels), *bias, **changed)
    large: ir.Value = op.DepthToSpace(wide, blocksize=scale)
    axes = [axis for axis, own in enumerate(cut) if own]
    if not axes:
        return large
    starts, stops = [cut[axis] for axis in axes], [cut[axis] - scale for axis in axes]
    inside: ir.Value = op.Slice(large, *map(np.array, (starts, stops, [axis + 2 for axis in axes])))
    return inside


def _window(kernel: np.ndarray, pads: list[int]) -> dict[str, list[int] | None]:
    return {"pads": pads, "kernel_shape": list(kernel.shape[2:]), "auto_pad": None}


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
