# SPDX-License-Identifier: Apache-2.0
"""What each operator says about its dimensions; see `burnish.passes.prune.coupling`."""

from __future__ import annotations

from burnish.passes.prune.operators import attention, elementwise, parts, reshape, sums
from burnish.passes.prune.operators.rule import Rules

RULES: Rules = {
    **elementwise.RULES,
    **sums.RULES,
    **parts.RULES,
    **reshape.RULES,
    **attention.RULES,
}
"""Those of every operator that is known; of others all axes stay whole."""
