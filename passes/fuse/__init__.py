# SPDX-License-Identifier: Apache-2.0
"""Fusion: what exporters spell out in many small operators becomes one that the target has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from burnish.passes.base import Group, Pass


@dataclass(frozen=True)
class Fuse(Group):
    """Fuse norms, activations, attention, padding, constant affines and products with their bias.

    The order: cleanup before all, because sizes are inferred once and further where they are
    constants. Norms and activations next, because a constant scale inside one of them must not be
    folded into its neighbour before the whole is recognised. Transposes are moved once attentions
    are found, which have some of their own, and before anything is folded into convolutions.
    Padding before scales, because it stands between a scale and a convolution. Large weights that
    are equal are merged at the end: until then, each takes in what stands beside its own operator.
    """

    name: ClassVar[str] = "fuse"

    def expand(self) -> tuple[Pass, ...]:
        """Return the passes in order."""
        from burnish.passes.cleanup import Cleanup
        from burnish.passes.cleanup.unroll import UnrollLoops
        from burnish.passes.fuse.activation import FuseActivation
        from burnish.passes.fuse.affine import FuseAffine
        from burnish.passes.fuse.apart import KeepApart
        from burnish.passes.fuse.attention import FuseAttention
        from burnish.passes.fuse.attention_opset import AttentionOpset
        from burnish.passes.fuse.channel_affine import FuseChannelAffine
        from burnish.passes.fuse.conv import FuseConv
        from burnish.passes.fuse.einsum import FuseEinsum
        from burnish.passes.fuse.gemm import FuseGemm
        from burnish.passes.fuse.indices import FuseIndices
        from burnish.passes.fuse.linear import COPIED_BYTES
        from burnish.passes.fuse.lower import Lower
        from burnish.passes.fuse.merge import MergeProducts
        from burnish.passes.fuse.norm import FuseNorm
        from burnish.passes.fuse.order import OrderBranches
        from burnish.passes.fuse.pad import FusePad
        from burnish.passes.fuse.pointwise import Pointwise
        from burnish.passes.fuse.quantized import FuseQuantized
        from burnish.passes.fuse.residual import BlockResiduals
        from burnish.passes.fuse.rotary import FuseRotary
        from burnish.passes.fuse.shuffle import FuseShuffle
        from burnish.passes.fuse.sizes import KnownSizes
        from burnish.passes.layout import Layout
        from burnish.passes.upgrade import Upgrade

        return (
            Cleanup(largest=COPIED_BYTES),
            UnrollLoops(),
            FuseEinsum(),
            Upgrade(),
            AttentionOpset(),
            KnownSizes(),
            FuseNorm(),
            FuseActivation(),
            FuseAttention(),
            FuseRotary(),
            FuseIndices(),
            FuseQuantized(),
            Layout(),
            FusePad(),
            FuseAffine(),
            FuseShuffle(),
            FuseConv(),
            FuseGemm(),
            FuseChannelAffine(),
            MergeProducts(),
            Lower(),
            KeepApart(),
            Cleanup(),
            Pointwise(),
            BlockResiduals(),
            OrderBranches(),
        )
