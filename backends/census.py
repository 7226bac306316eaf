# SPDX-License-Identifier: Apache-2.0
"""Which operators a model holds, and which the runtime executes after optimizing it itself.

The runtime fuses what it recognises. A rewrite may please the eye and hide a pattern from it, so
that more runs, and slower: counted here, and `losses` says so.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.backends.onnxruntime import session
from burnish.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

    from burnish.backends.target import Target


@dataclass(frozen=True)
class Operators:
    """The operators of a model, subgraphs included.

    Attributes:
        nodes: Number of nodes.
        ops: Operator (with its domain unless the default) -> number of nodes.
    """

    nodes: int
    ops: dict[str, int]

    @property
    def fused(self) -> dict[str, int]:
        """Those that stand for several operators of an ordinary export."""
        return {name: count for name, count in self.ops.items() if is_fused(name)}


@dataclass(frozen=True)
class Census:
    """Operators of a model.

    Attributes:
        stored: As the model holds them.
        executed: As the runtime runs them, after all of its own optimizations.
    """

    stored: Operators
    executed: Operators

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return {
            kind: {"nodes": found.nodes, "ops": found.ops, "fused": found.fused}
            for kind, found in (("stored", self.stored), ("executed", self.executed))
        }


def census(model: ir.Model | Path, target: Target) -> Census:
    """Count the operators of a model, and those that the runtime makes of it.

    Raises:
        InputError: as `executed_model` does.
    """
    import onnx_ir as ir

    from burnish.passes.report import ModelStats

    executed = ModelStats.of(executed_model(model, target))
    stored = ModelStats.of(ir.load(model) if isinstance(model, Path) else model)
    return Census(Operators(stored.nodes, stored.ops), Operators(executed.nodes, executed.ops))


def executed_model(model: ir.Model | Path, target: Target) -> ir.Model:
    """Return the model that the runtime executes, after all of its own optimizations.

    The runtime writes it into a temporary folder, without weights over 256 bytes, which cannot be
    read from the result: of 3.2 GB of external ones (2.4 s, 0.4 GB of memory) nothing is copied.

    Raises:
        InputError: the runtime refuses the model, there is no such file, or the target is not run
            by the CPU provider.
    """
    import onnx_ir as ir

    if target.provider != "CPUExecutionProvider":
        raise InputError(f"there is no census for target {target.name}", hint="use --target cpu")
    if isinstance(model, Path) and not model.is_file():
        raise InputError(f"{model}: no such file")
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "executed.onnx"
        with session(
            model,
            optimize="all",
            prepack=False,
            configure=lambda options: _write_optimized(options, written),
        ):
            pass
        return ir.load(written)


def _write_optimized(options: Any, path: Path) -> None:
    """Let the runtime write the model it executes; weights over 256 bytes go nowhere."""
    sink = path.with_suffix(".weights")
    if os.name == "posix":
        sink.symlink_to(os.devnull)
    options.optimized_model_filepath = str(path)
    for key, value in (
        ("session.optimized_model_external_initializers_file_name", sink.name),
        ("session.optimized_model_external_initializers_min_size_in_bytes", "256"),
    ):
        options.add_session_config_entry(key, value)


# --- what counts as fused ----------------------------------------------------------------------

_MS, _BLOCKED = "com.microsoft::", "com.microsoft.nchwc::"

# Standard operators that exporters used to write out, or that compute in int8.
_FUSED_STANDARD = frozenset(
    (
        *("Attention", "RotaryEmbedding", "Gelu", "HardSwish", "Mish", "Swish"),
        *("GroupNormalization", "LayerNormalization", "RMSNormalization"),
        "SimplifiedLayerNormalization",  # the runtime's own, in the standard domain
        *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
    )
)
# Operators of the runtime's domains that stand for no more than themselves.
_PLAIN = frozenset(
    (
        *(_BLOCKED + name for name in ("ReorderInput", "ReorderOutput", "Upsample")),
        *(_MS + name for name in ("QuantizeLinear", "DequantizeLinear", "Pad", "ExpandDims")),
        *(_MS + name for name in ("Range", "Trilu", "Unique", "Inverse", "Sampling", "CDist")),
    )
)
_RUNTIME_DOMAINS = (_MS, _BLOCKED, "com.ms.internal.nhwc::")


def is_fused(operator: str) -> bool:
    """Whether an operator (`domain::Name`, or `Name` alone) stands for several."""
    if operator in _FUSED_STANDARD:
        return True
    return operator.startswith(_RUNTIME_DOMAINS) and operator not in _PLAIN


# --- whether it got worse ----------------------------------------------------------------------

# Forms of one idea, weaker ones first: each takes in what those before it leave to other nodes.
# One may give way to another of its own rank or above.
_RANKS: tuple[tuple[frozenset[str], ...], ...] = (
    (
        frozenset({"Gelu", _MS + "Gelu"}),
        frozenset({_MS + "FastGelu", _MS + "BiasGelu"}),
    ),
    (
        frozenset({"LayerNormalization", "GroupNormalization", _MS + "GroupNorm"}),
        frozenset({_MS + "SkipLayerNormalization", _MS + "SkipGroupNorm"}),
        frozenset({_MS + "EmbedLayerNormalization"}),
    ),
    (
        frozenset({"SimplifiedLayerNormalization", "RMSNormalization"}),
        frozenset({_MS + "SkipSimplifiedLayerNormalization"}),
        # What takes in the mean as well.
        frozenset({"LayerNormalization", _MS + "SkipLayerNormalization"}),
    ),
    (
        # The products inside an attention.
        frozenset({_MS + "FusedMatMul"}),
        frozenset(
            (
                *("Attention", _MS + "Attention", _MS + "MultiHeadAttention"),
                *(_MS + "GroupQueryAttention", _MS + "QAttention"),
            )
        ),
    ),
    (frozenset({"HardSwish", "Swish", _MS + "QuickGelu"}),),
    (
        frozenset(
            (
                *(_BLOCKED + "Conv", "com.ms.internal.nhwc::Conv"),
                *(_MS + "FusedConv", _MS + "NhwcFusedConv"),
            )
        ),
        frozenset({"QLinearConv", "ConvInteger", "com.ms.internal.nhwc::QLinearConv"}),
    ),
    (
        frozenset({_MS + "FusedMatMul", _MS + "TransposeMatMul", "MatMulInteger"}),
        frozenset(
            (
                *(_MS + "FusedGemm", _MS + "FusedMatMulActivation", _MS + "MatMulNBits"),
                *(_MS + "MatMulIntegerToFloat", _MS + "DynamicQuantizeMatMul"),
                *("QLinearMatMul", _MS + "QLinearMatMul", _MS + "QGemm"),
            )
        ),
    ),
)
# More of these is no sign that something came apart.
_HARMLESS = frozenset(
    (
        *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Shape"),
        *("Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "QuantizeLinear"),
        *("DequantizeLinear", "DynamicQuantizeLinear", "MatMul", "Gemm"),
    )
)


def losses(before: Census, after: Census, target: Target) -> list[str]:
    """Say where the runtime fuses less than it did; empty if nowhere.

    A form that the target is known to run slower (`Target.objection_to`) is no loss.

    A kind of fused operator may become rarer because its nodes are gone, merged, or taken in by a
    stronger form. It is a loss only if none of that explains it: if fewer are executed of it and
    of the forms that may stand for it, while more nodes of unfused operators are.
    """
    import onnx_ir as ir

    was, now = _as_added(before.executed.ops), _as_added(after.executed.ops)
    if target.objection_to("microsoft.SkipLayerNormalization", ir.DataType.FLOAT) is not None:
        # Taken apart on purpose, each gives an Add.
        was["Add"] += max(0, was[_SKIP_NORM] - now[_SKIP_NORM])
    apart = {
        name: count
        for name, count in sorted((now - was).items())
        if not is_fused(name) and name not in _HARMLESS and not name.startswith(_RUNTIME_DOMAINS)
    }
    # A product whose scale or transpose was folded away is as good; a convolution out of its
    # blocked layout is not, although one node stands for one either way.
    if not apart:
        return []
    more = ", ".join(f"{name} +{count}" for name, count in apart.items())
    return [
        f"the runtime executes {was[name] - now[name]} fewer {name} than it makes of the original "
        f"({was[name]}, now {now[name]}), and more unfused: {more}"
        for name in sorted(before.executed.fused)
        if now[name] < was[name] and _standing_for(name, now) < _standing_for(name, was)
        if target.objection_to(name.replace(_MS, "microsoft."), ir.DataType.FLOAT) is None
    ]


_SKIP_NORM = "com.microsoft::SkipLayerNormalization"


def _as_added(ops: Mapping[str, int]) -> Counter[str]:
    """Count a Sum as the Add it is: one is written for the other to keep a fusion away."""
    counts = Counter(ops)
    counts["Add"] += counts.pop("Sum", 0)
    return +counts


def _standing_for(operator: str, counts: Mapping[str, int]) -> int:
    """How many nodes are of an operator or of a form that may stand for it."""
    for family in _RANKS:
        for rank, forms in enumerate(family):
            if operator in forms:
                return sum(counts[name] for form in family[rank:] for name in form)
    return counts[operator]
