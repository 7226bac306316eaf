# SPDX-License-Identifier: Apache-2.0
"""Constant affine functions fold into the BatchNormalization beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.fuse.affine.pattern import AFFINE, affine_pattern
from burnish.passes.fuse.channels import Channels, affine_of, batch_norm_trains, widens
from burnish.passes.fuse.rescale import rounded
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


@rule(opset=(7, None))
def fold_affine_into_batch_norm(op: Any, x: Any, c: Any = const()) -> Any:
    """Fold c * BatchNormalization(x) into one, and likewise for Add, Sub, Div."""
    return op.one_of(*AFFINE)(op.BatchNormalization(x, _more=True, _bind="norm"), c, _bind="affine")


@fold_affine_into_batch_norm.also
def _(op: Any, x: Any, c: Any = const()) -> Any:
    return op.Sub(c, op.BatchNormalization(x, _more=True, _bind="norm"), _bind="affine")


@fold_affine_into_batch_norm.also
def _(op: Any, x: Any, c: Any = const()) -> Any:
    return op.BatchNormalization(affine_pattern(op, x, c), _more=True, _bind="norm")


@fold_affine_into_batch_norm.rewrite
def _(op: Builder, x: Operand, norm: ir.Node, affine: ir.Node) -> Replacement:
    reason = batch_norm_trains(op, norm)
    if reason is not None:
        return NoMatch(reason)
    parameters = [as_array(value) for value in norm.inputs[1:5]]
    if x.rank is None or any(array is None for array in parameters):
        return NoMatch("the rank or a parameter of BatchNormalization is unknown")
    gamma, beta, mean, _ = (array for array in parameters if array is not None)
    channels = Channels(gamma.size, x.rank - 1, x.rank)
    behind = affine.inputs[0] is norm.outputs[0] or affine.inputs[1] is norm.outputs[0]
    read = affine_of(op, affine, norm.outputs[0] if behind else x.value, channels)
    if not read:
        return read
    if not behind and widens(read, x, channels):
        return NoMatch("the constant may broadcast it")
    shift: np.ndarray | NoMatch = beta
    centre: np.ndarray | NoMatch = mean
    with np.errstate(all="ignore"):
        scale = rounded(gamma * read.scale, gamma.dtype, factor=True)
        if behind:
            shift = rounded(beta * read.scale + read.shift, beta.dtype)
        else:
            centre = rounded((mean - read.shift) / read.scale, mean.dtype)
    for array in (scale, shift, centre):
        if isinstance(array, NoMatch):
            return array
    return op.like(norm, x, scale, shift, centre, norm.inputs[4])
