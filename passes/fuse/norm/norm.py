# SPDX-License-Identifier: Apache-2.0
"""Normalizations in every spelling become one operator.

In steps, so that scale and bias may stand on either side, or not at all: first the normalization,
with a scale of ones; then a Mul behind it gives its scale, and an Add its bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from burnish.passes.fuse.norm.group_norm import expand_group_norm, group_norm, group_norm_spelled
from burnish.passes.fuse.norm.instance_norm import instance_norm
from burnish.passes.fuse.norm.layer_norm import layer_norm
from burnish.passes.fuse.norm.means import reduce_reduce
from burnish.passes.fuse.norm.norm_affine import norm_bias, norm_scale
from burnish.passes.fuse.norm.rms_norm import rms_norm
from burnish.passes.rule import Rule, RulePass


@dataclass(frozen=True)
class FuseNorm(RulePass):
    """Fuse spelled-out layer, RMS, instance and group normalization into one operator each."""

    name: ClassVar[str] = "fuse-norm"
    rules: ClassVar[tuple[Rule, ...]] = (
        group_norm_spelled,
        expand_group_norm,
        group_norm,
        layer_norm,
        instance_norm,
        rms_norm,
        norm_scale,
        norm_bias,
        reduce_reduce,
    )
