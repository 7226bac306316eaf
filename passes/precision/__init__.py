# SPDX-License-Identifier: Apache-2.0
"""Narrower floating-point types: `float16`, `bfloat16`, `fp8`. Each part is usable alone.

signature   what of an operator may change type     limits    what a type cannot hold
regions     which operators change                  convert   changing one, with casts around it
half        `float16` and `bfloat16`             fp8       `fp8`, by Q/DQ pairs
"""

from __future__ import annotations

from burnish.passes.precision.fp8 import Fp8
from burnish.passes.precision.half import BFloat16, Float16

__all__ = ["BFloat16", "Float16", "Fp8"]
