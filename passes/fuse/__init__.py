# SPDX-License-Identifier: Apache-2.0
"""Fusion: what exporters spell out in many small operators becomes one that the target has.

attention/    scores, masks, heads, rotations and past, and what an attention is written as
norm/         normalizations, by kind              activation/   activations, in every spelling
conv/         what goes into convolutions, and what keeps the maps between them in one layout
enlarge/      maps that become larger              product/      matrix products
sizes/        sizes that are computed, spelled alike

What several of them read: affine and linear (constants folded into linear operators), channels,
scalar, groups, forms and numbers (sizes and indices as sums), rescale.
"""

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
        from burnish.passes.fuse.activation.activation import FuseActivation
        from burnish.passes.fuse.activation.expand_prelu import ExpandPRelu
        from burnish.passes.fuse.affine.affine import FuseAffine
        from burnish.passes.fuse.apart import KeepApart
        from burnish.passes.fuse.attention.attention import FuseAttention
        from burnish.passes.fuse.attention.opset import AttentionOpset
        from burnish.passes.fuse.attention.rotary import FuseRotary
        from burnish.passes.fuse.conv.channel_affine import FuseChannelAffine
        from burnish.passes.fuse.conv.conv import FuseConv
        from burnish.passes.fuse.conv.order import OrderBranches
        from burnish.passes.fuse.conv.pad import FusePad
        from burnish.passes.fuse.conv.residual import BlockResiduals
        from burnish.passes.fuse.conv.shuffle import FuseShuffle
        from burnish.passes.fuse.indices import FuseIndices
        from burnish.passes.fuse.linear.shared import COPIED_BYTES
        from burnish.passes.fuse.lower import Lower
        from burnish.passes.fuse.norm.norm import FuseNorm
        from burnish.passes.fuse.product.einsum import FuseEinsum
        from burnish.passes.fuse.product.gemm import FuseGemm
        from burnish.passes.fuse.product.merge import MergeProducts
        from burnish.passes.fuse.product.pointwise.pointwise import Pointwise
        from burnish.passes.fuse.quantized import FuseQuantized
        from burnish.passes.fuse.sizes.sizes import KnownSizes
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
            ExpandPRelu(),
            BlockResiduals(),
            OrderBranches(),
        )
