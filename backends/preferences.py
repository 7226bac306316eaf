# SPDX-License-Identifier: Apache-2.0
"""Which fused operators pay on which target, as measured: the one place that says so.

A fused operator is not always the faster one. A rule that could write one asks
`Target.objection_to`; what is not in the table is taken where the target has a kernel for it.
Ratios are speed fused against speed unfused, above 1 where fusing pays; docs/decisions.md says how
they were measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Preference:
    """What was found of one fused operator on one target.

    Attributes:
        operator: Its name; where both domains have one, that of the runtime is `microsoft.NAME`;
            `NAME-VERSION` is what the runtime runs for it from that opset on.
        prefer: Whether rules should write it.
        ratio: Speed fused against unfused, None if it has not been measured.
        dtypes: ONNX names of the element types it holds for, e.g. `FLOAT`; empty for all.
    """

    operator: str
    prefer: bool
    ratio: float | None = None
    dtypes: frozenset[str] = frozenset()

    def covers(self, operator: str, dtype: str | None) -> bool:
        """Whether this says something of an operator of an element type."""
        return self.operator == operator and (not self.dtypes or dtype in self.dtypes)


Preferences = tuple[Preference, ...]

_FLOAT = frozenset({"FLOAT"})
_HALF = frozenset({"FLOAT16"})

PREFERENCES: dict[str, Preferences] = {
    "cpu": (
        Preference("Attention", True, 1.10, _FLOAT),
        Preference("Attention", True, 1.17, _HALF),
        Preference("Attention", False),
        Preference("Attention-softcap", False, 0.40),
        Preference("RotaryEmbedding", True, 1.39, _FLOAT),
        Preference("GroupNormalization", False, 0.58),
        Preference("BatchNormalization-affine", True, 1.80, _FLOAT),
        Preference("BatchNormalization-affine", False),
        Preference("Gather-shuffle", True, 1.37),
        Preference("BatchNormalization-shift", True, 1.06, _FLOAT),
        Preference("Conv-filled", True, 1.18, _FLOAT),
        Preference("Conv-residual", True, 1.01, _FLOAT),
        Preference("Conv-split", True, 1.18, _FLOAT),
        Preference("Resize-last", True, 1.02, _FLOAT),
        Preference("DepthToSpace-phases", True, 1.37, _FLOAT),
        Preference("ConvTranspose-phases", True, 1.53, _FLOAT),
        Preference("Conv-pointwise", True, 1.12, _FLOAT),
        Preference("Conv-product", False, 0.99),
        Preference("DepthToSpace-runs", True, 1.20, _FLOAT),
        Preference("DepthToSpace-rows", True, 1.9, _FLOAT),
        Preference("PRelu-expanded", True, 1.2, _FLOAT),
        Preference("microsoft.MultiHeadAttention", False, 0.97),
        Preference("microsoft.GroupQueryAttention", False, 0.94),
        Preference("AveragePool-19", False, 0.88),
        Preference("microsoft.SkipLayerNormalization", False, 0.89, _FLOAT),
        Preference("microsoft.SkipSimplifiedLayerNormalization", False, 0.96, _FLOAT),
        Preference("microsoft.EmbedLayerNormalization", False, 0.65, _FLOAT),
        Preference("merged.MatMul", False, 0.97),
        Preference("merged.Gemm", False),
        Preference("merged.Conv", False, 0.98),
    ),
    # Shapes that the CPU's kernels want and TensorRT, which chooses layouts and merges products
    # itself, would have to see through. Not measured.
    "tensorrt": (
        Preference("BatchNormalization-affine", False),
        Preference("BatchNormalization-shift", False),
        Preference("Gather-shuffle", False),
        Preference("Conv-filled", False),
        Preference("Conv-residual", False),
        Preference("Conv-split", False),
        Preference("Resize-last", False),
        Preference("DepthToSpace-phases", False),
        Preference("ConvTranspose-phases", False),
        Preference("Conv-pointwise", False),
        Preference("Conv-product", False),
        Preference("DepthToSpace-runs", False),
        Preference("DepthToSpace-rows", False),
        Preference("PRelu-expanded", False),
        Preference("merged.MatMul", False),
        Preference("merged.Gemm", False),
        Preference("merged.Conv", False),
    ),
}
"""The table, by name of the target. The first entry that covers an operator counts."""


def find(preferences: Iterable[Preference], operator: str, dtype: str | None) -> Preference | None:
    """Return what is known of an operator, or None."""
    return next((item for item in preferences if item.covers(operator, dtype)), None)
