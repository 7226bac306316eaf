# SPDX-License-Identifier: Apache-2.0
"""The group `cleanup`: says the same with less, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from burnish.passes.base import Fixpoint, Group, Pass
from burnish.passes.options import option


@dataclass(frozen=True)
class Cleanup(Group):
    """Folds constants, removes what does nothing, and merges what is there twice."""

    name: ClassVar[str] = "cleanup"
    largest: int | None = option(
        None, help="most bytes of an initializer that is merged; no limit if none", min=0
    )

    def expand(self) -> tuple[Pass, ...]:
        """Return the members: local rules until they rest, between two sweeps for dead code."""
        from burnish.passes.cleanup.constant_if import ConstantIf
        from burnish.passes.cleanup.cse import CommonSubexpressions
        from burnish.passes.cleanup.dead_code import DeadCode
        from burnish.passes.cleanup.dedup import DeduplicateInitializers
        from burnish.passes.cleanup.fold import Fold
        from burnish.passes.cleanup.invariant import LoopInvariants
        from burnish.passes.cleanup.simplify import Simplify
        from burnish.passes.cleanup.static_shapes import StaticShapes

        return (
            DeadCode(),
            LoopInvariants(),
            Fixpoint((ConstantIf(), Fold(), StaticShapes(), Simplify())),
            DeduplicateInitializers(largest=self.largest),
            CommonSubexpressions(),
            DeadCode(),
        )
