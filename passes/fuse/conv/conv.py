# SPDX-License-Identifier: Apache-2.0
"""Convolutions and what stands between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from burnish.passes.base import Group, Pass


@dataclass(frozen=True)
class FuseConv(Group):
    """Merge convolutions and gates, and keep what lies between in the runtime's own layout.

    Behind `fuse-affine`: what a convolution takes in needs no other form.
    """

    name: ClassVar[str] = "fuse-conv"

    def expand(self) -> tuple[Pass, ...]:
        """Return the passes in order."""
        from burnish.passes.fuse.conv.blocked import FuseBlocked
        from burnish.passes.fuse.conv.concat import SplitConcat
        from burnish.passes.fuse.conv.conv_pair import MergeConvs
        from burnish.passes.fuse.conv.fill import FillChannels
        from burnish.passes.fuse.conv.gate import FuseGate
        from burnish.passes.fuse.enlarge.enlarge import FuseEnlarge

        return (
            MergeConvs(),
            FuseEnlarge(),
            FuseGate(),
            FuseBlocked(),
            SplitConcat(),
            FillChannels(),
        )
