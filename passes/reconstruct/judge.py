# SPDX-License-Identifier: Apache-2.0
"""Errors of layers before and after a method, on samples it has not seen: never worse, and told.

The error of a layer is that of its output against the float model's on the same input,

    ||rows' X - rows X|| / ||rows X||

so that 0.01 means that a hundredth of the output's size is noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WORSE = "the error does not fall on held-out samples"
"""Why a method leaves a layer as it was."""


@dataclass(frozen=True)
class Verdict:
    """Squared output errors of one layer, summed over held-out samples.

    Attributes:
        before: Without the method, quantized plainly.
        after: With it.
        size: Of the output itself.
    """

    before: float
    after: float
    size: float

    @property
    def better(self) -> bool:
        """Whether the error falls."""
        return self.after < self.before

    @property
    def kept(self) -> float:
        """The error of what is kept."""
        return min(self.before, self.after)

    def relative(self, error: float) -> float:
        """Return a squared error as a share of the output's size, as root mean squares."""
        return math.sqrt(error / self.size) if self.size > 0 else 0.0


@dataclass
class Account:
    """The verdicts of one method, by layer."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)

    def add(self, name: str, verdict: Verdict) -> bool:
        """Note the verdict on a layer; returns whether to keep what the method did."""
        self.verdicts[name] = verdict
        return verdict.better

    def summary(self) -> Mapping[str, Any]:
        """Return the relative errors, by layer and in total, for a report.

        The total is the root of the mean square of the layers' relative errors: each layer counts
        alike, however large the numbers in it.
        """
        layers = {
            name: {
                "before": verdict.relative(verdict.before),
                "after": verdict.relative(verdict.kept),
                "changed": verdict.better,
            }
            for name, verdict in self.verdicts.items()
        }
        total = {key: _mean([each[key] for each in layers.values()]) for key in ("before", "after")}
        changed = sum(verdict.better for verdict in self.verdicts.values())
        return {"total": {**total, "changed": changed, "of": len(layers)}, "layers": layers}


def _mean(errors: list[float]) -> float:
    return math.sqrt(sum(error**2 for error in errors) / len(errors)) if errors else 0.0
