# SPDX-License-Identifier: Apache-2.0
"""Constant affine functions and BatchNormalization fold into what is beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from burnish.passes.fuse.affine.after import fold_affine_after, fold_batch_norm_after
from burnish.passes.fuse.affine.batch_norm import fold_affine_into_batch_norm
from burnish.passes.fuse.affine.before import fold_affine_before, fold_batch_norm_before
from burnish.passes.fuse.affine.merge import merge_affines
from burnish.passes.fuse.affine.past_shift import fold_scale_past_shift
from burnish.passes.fuse.conv.branches import merge_branches
from burnish.passes.rule import Rule, RulePass


@dataclass(frozen=True)
class FuseAffine(RulePass):
    """Fold constant scales and shifts, BatchNormalization too, into Conv, Gemm and their like.

    Branches that are added merge here too: a norm may stand behind each, and behind their sum.
    """

    name: ClassVar[str] = "fuse-affine"
    rules: ClassVar[tuple[Rule, ...]] = (
        fold_affine_after,
        fold_batch_norm_after,
        fold_affine_before,
        fold_batch_norm_before,
        fold_scale_past_shift,
        fold_affine_into_batch_norm,
        merge_affines,
        merge_branches,
    )
