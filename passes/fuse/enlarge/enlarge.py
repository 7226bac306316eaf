# SPDX-License-Identifier: Apache-2.0
"""Maps are enlarged late, and in moves that the runtime is fast at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from burnish.passes.fuse.enlarge import depth_to_space, transposed, upsampled
from burnish.passes.rule import Rule, RulePass


@dataclass(frozen=True)
class FuseEnlarge(RulePass):
    """Compute what reads an enlarged map before it is enlarged, and enlarge it by whole rows.

    One pass: whether a convolution by phases pays depends on what its DepthToSpace becomes.
    """

    name: ClassVar[str] = "fuse-enlarge"
    rules: ClassVar[tuple[Rule, ...]] = (
        upsampled.pointwise_before_resize,
        upsampled.conv_of_upsampled,
        upsampled.conv_of_upsampled_parts,
        transposed.transposed_pair,
        depth_to_space.pixel_shuffle,
        depth_to_space.activation_before_depth_to_space,
        depth_to_space.phases_first,
        depth_to_space.depth_to_space_by_runs,
        depth_to_space.depth_to_space_by_rows,
    )
