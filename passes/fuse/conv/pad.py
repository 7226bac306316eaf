# SPDX-License-Identifier: Apache-2.0
"""A Pad goes into the padding of the convolution or pooling behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.bounds import bounds_of
from burnish.passes.constant import as_array, scalar_of
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, RulePass, rule


@rule(opset=(2, None))
def pad_conv(op: Any, x: Any) -> Any:
    """Fold a Pad with zeros into the Conv behind it."""
    padded = op.Pad(x, _more=True, _bind="pad", _shared=True)
    return op.Conv(padded, _more=True, _bind="window")


@pad_conv.rewrite
def _(op: Builder, x: Operand, pad: ir.Node, window: ir.Node) -> Replacement:
    pads = _joined_zeros(op, pad, window)
    if not pads:
        return pads
    return op.like(window, x, *window.inputs[1:], pads=pads, auto_pad=None)


@rule(opset=(7, None))
def pad_average_pool(op: Any, x: Any) -> Any:
    """Fold a Pad with zeros into the AveragePool behind it, which then counts the padding."""
    padded = op.Pad(x, _more=True, _bind="pad", _shared=True)
    return op.AveragePool(padded, _bind="window")


@pad_average_pool.rewrite
def _(op: Builder, x: Operand, pad: ir.Node, window: ir.Node) -> Replacement:
    pads = _joined_zeros(op, pad, window)
    if not pads:
        return pads
    own = op.attribute(window, "pads") or ()
    if any(own) and not op.attribute(window, "count_include_pad"):
        return NoMatch("the pooling does not count its own padding")
    reason = _empty_windows(op, window, pads)
    if reason is not None:
        return NoMatch(reason)
    return op.like(window, x, pads=pads, auto_pad=None, count_include_pad=1)


@rule(opset=(2, None))
def pad_max_pool(op: Any, x: Any) -> Any:
    """Fold a Pad into the MaxPool behind it, where what it fills with is never the largest."""
    padded = op.Pad(x, _more=True, _bind="pad", _shared=True)
    return op.MaxPool(padded, _bind="window")


@pad_max_pool.rewrite
def _(op: Builder, x: Operand, pad: ir.Node, window: ir.Node) -> Replacement:
    pads = _joined_pads(op, pad, window)
    if not pads:
        return pads
    fill = _fill(op, pad)
    if fill is None or not (fill <= _lowest(x.dtype) or (fill <= 0 and _is_nonnegative(x.value))):
        return NoMatch("what the Pad fills with may be the largest")
    reason = _empty_windows(op, window, pads)
    if reason is not None:
        return NoMatch(reason)
    made = op.like(window, x, pads=pads, auto_pad=None)
    return made[0] if isinstance(made, tuple) else made


def _joined_zeros(op: Builder, pad: ir.Node, window: ir.Node) -> list[int] | NoMatch:
    """Return the padding of both as `_joined_pads` does, if the Pad fills with zeros."""
    pads = _joined_pads(op, pad, window)
    if pads and _fill(op, pad) != 0:
        return NoMatch("the Pad does not fill with zeros")
    return pads


def _joined_pads(op: Builder, pad: ir.Node, window: ir.Node) -> list[int] | NoMatch:
    """Return the padding of both as an attribute: begins, then ends, of the spatial axes."""
    if op.attribute(pad, "mode") != "constant":
        return NoMatch("the Pad does not fill with a constant")
    data = _input(pad, 0)
    if data is not None and data.shape is not None and 0 in data.shape.dims:
        return NoMatch("what is padded is empty")
    pads = _pads(op, pad)
    if not isinstance(pads, np.ndarray):
        return pads
    if pads[:, :2].any():
        return NoMatch("the Pad is not over spatial axes only")
    spatial = pads[:, 2:]
    if (spatial < 0).any():
        return NoMatch("the Pad crops")
    mode = op.attribute(window, "auto_pad")
    if mode not in ("NOTSET", "VALID", ""):
        return NoMatch("the padding depends on the size of the input")
    own = op.attribute(window, "pads") if mode != "VALID" else None
    if own:
        spatial = spatial + np.reshape(own, (2, -1))
    return [int(number) for number in spatial.reshape(-1)]


def _pads(op: Builder, pad: ir.Node) -> np.ndarray | NoMatch:
    """Return the begins and ends of every axis, [2, rank]."""
    given = op.attribute(pad, "pads")
    array = np.asarray(given) if given else as_array(_input(pad, 1))
    if array is None:
        return NoMatch("the Pad is not constant")
    pads = array.reshape(2, -1)
    if _input(pad, 3) is None:
        return pads
    axes, padded = as_array(_input(pad, 3)), _input(pad, 0)
    if axes is None or padded is None or padded.shape is None:
        return NoMatch("the rank or the axes are unknown")
    every = np.zeros((2, len(padded.shape)), np.int64)
    every[:, axes] = pads
    return every


def _fill(op: Builder, pad: ir.Node) -> float | None:
    """Return what a Pad fills with, or None where that is not constant."""
    given = _input(pad, 2)
    return op.attribute(pad, "value") or 0.0 if given is None else scalar_of(given)


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _empty_windows(op: Builder, window: ir.Node, pads: Sequence[int]) -> str | None:
    """Say why a window might see padding alone, or might not be where it was."""
    kernel = op.attribute(window, "kernel_shape")
    if op.attribute(window, "ceil_mode"):
        return "with ceil_mode the padding decides where the last window is"
    if any(step != 1 for step in op.attribute(window, "dilations") or ()):
        return "the window is dilated"
    if any(pads[i] >= kernel[i % len(kernel)] for i in range(len(pads))):
        return "a window would lie in the padding"
    return None


def _lowest(dtype: ir.DataType | None) -> float:
    """Return the least finite number of a type, or -inf."""
    if dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16):
        return -np.inf
    return float(np.finfo(dtype.numpy()).min)


def _is_nonnegative(value: ir.Value) -> bool:
    unsigned = value.dtype is not None and value.dtype.name.startswith("UINT")
    return unsigned or bounds_of(value)[0] >= 0


@dataclass(frozen=True)
class FusePad(RulePass):
    """Fold Pad into the padding of Conv, AveragePool and MaxPool."""

    name: ClassVar[str] = "fuse-pad"
    rules: ClassVar[tuple[Rule, ...]] = (pad_conv, pad_average_pool, pad_max_pool)
