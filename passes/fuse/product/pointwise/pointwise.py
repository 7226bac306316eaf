# SPDX-License-Identifier: Apache-2.0
"""Products with constant weights run as pointwise convolutions, whose kernels are the faster ones.

On CPUs ONNX Runtime multiplies float32 matrices slower than it convolves in its blocked layout. A
product is a convolution of 1x1 whose pixels are the rows, and what stands between two products (a
Gelu, the gate of a SwiGLU) works in that layout too:

    [B, S, C] -> [1, B, S, C] -> [1, C, B, S] -> Conv, Gelu, Conv -> and back

Batch and tokens are the two spatial axes, so that all rows are one run of pixels whichever is long;
the runtime makes one reordering of the Transpose and the entrance into its layout. A single row,
[1, C], is a map of one pixel; a map that was flattened before its product is convolved as it is,
with a kernel of its own size.

Ratios on ONNX Runtime 1.31.1, AVX-512, one thread, in turns:

    rows                                1        16 to 32   128
    384 -> 1536 -> Gelu -> 384          1.36     1.28       1.12
    768 -> 3072 -> Gelu -> 768          1.19     1.36       1.10
    512 -> 2 of 1376 -> SwiGLU -> 512   1.20     1.27       1.03
    384 -> 384                          0.94     1.02       1.02
    1024 -> 1024                        1.25     1.30       1.08
    flattened 256x6x6 -> 4096           1.30
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from burnish.passes.base import Group, Pass


@dataclass(frozen=True)
class Pointwise(Group):
    """Run products as convolutions where the target is faster at those.

    Behind all passes that change weights, which know products better.
    """

    name: ClassVar[str] = "pointwise"
    last: ClassVar[bool] = True

    def expand(self) -> tuple[Pass, ...]:
        """Return the passes in order: products of the same input are to share its reordering."""
        from burnish.passes.cleanup.cse import CommonSubexpressions
        from burnish.passes.cleanup.dead_code import DeadCode
        from burnish.passes.cleanup.dedup import DeduplicateInitializers
        from burnish.passes.fuse.product.pointwise.products_to_convs import ProductsToConvs

        return (ProductsToConvs(), DeadCode(), DeduplicateInitializers(), CommonSubexpressions())
