# SPDX-License-Identifier: Apache-2.0
"""Names of passes: built-in ones in a static table, third parties' by entry point.

A third party's package declares, in its pyproject.toml:

    [project.entry-points."burnish.passes"]
    my-pass = "my_package:MyPass"      # a Pass class
    my-rule = "my_package:my_rule"     # or a rule, which becomes a pass of its own
"""

from __future__ import annotations

import difflib
import importlib
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from burnish.errors import InputError
from burnish.passes.base import Fixpoint, Pass

ENTRY_POINT_GROUP = "burnish.passes"

# Name -> "module:attribute"; imported on first use so that start-up stays cheap.
BUILT_IN: dict[str, str] = {
    "cleanup": "burnish.passes.cleanup:Cleanup",
    "fold": "burnish.passes.cleanup.fold:Fold",
    "dead-code": "burnish.passes.cleanup.dead_code:DeadCode",
    "cse": "burnish.passes.cleanup.cse:CommonSubexpressions",
    "dedup": "burnish.passes.cleanup.dedup:DeduplicateInitializers",
    "simplify": "burnish.passes.cleanup.simplify:Simplify",
    "static-shapes": "burnish.passes.cleanup.static_shapes:StaticShapes",
    "constant-if": "burnish.passes.cleanup.constant_if:ConstantIf",
    "loop-invariants": "burnish.passes.cleanup.invariant:LoopInvariants",
    "unroll-loops": "burnish.passes.cleanup.unroll:UnrollLoops",
    "upgrade": "burnish.passes.upgrade:Upgrade",
    "fuse": "burnish.passes.fuse:Fuse",
    "fuse-affine": "burnish.passes.fuse.affine.affine:FuseAffine",
    "fuse-activation": "burnish.passes.fuse.activation.activation:FuseActivation",
    "known-sizes": "burnish.passes.fuse.sizes.sizes:KnownSizes",
    "attention-opset": "burnish.passes.fuse.attention.opset:AttentionOpset",
    "fuse-attention": "burnish.passes.fuse.attention.attention:FuseAttention",
    "fuse-einsum": "burnish.passes.fuse.product.einsum:FuseEinsum",
    "fuse-channel-affine": "burnish.passes.fuse.conv.channel_affine:FuseChannelAffine",
    "fuse-blocked": "burnish.passes.fuse.conv.blocked:FuseBlocked",
    "fuse-conv": "burnish.passes.fuse.conv.conv:FuseConv",
    "fuse-gate": "burnish.passes.fuse.conv.gate:FuseGate",
    "merge-convs": "burnish.passes.fuse.conv.conv_pair:MergeConvs",
    "fill-channels": "burnish.passes.fuse.conv.fill:FillChannels",
    "split-concat": "burnish.passes.fuse.conv.concat:SplitConcat",
    "fuse-enlarge": "burnish.passes.fuse.enlarge.enlarge:FuseEnlarge",
    "fuse-gemm": "burnish.passes.fuse.product.gemm:FuseGemm",
    "fuse-indices": "burnish.passes.fuse.indices:FuseIndices",
    "fuse-norm": "burnish.passes.fuse.norm.norm:FuseNorm",
    "fuse-pad": "burnish.passes.fuse.conv.pad:FusePad",
    "fuse-quantized": "burnish.passes.fuse.quantized:FuseQuantized",
    "fuse-rotary": "burnish.passes.fuse.attention.rotary:FuseRotary",
    "layout": "burnish.passes.layout:Layout",
    "fuse-shuffle": "burnish.passes.fuse.conv.shuffle:FuseShuffle",
    "merge-products": "burnish.passes.fuse.product.merge:MergeProducts",
    "lower": "burnish.passes.fuse.lower:Lower",
    "pointwise": "burnish.passes.fuse.product.pointwise.pointwise:Pointwise",
    "expand-prelu": "burnish.passes.fuse.activation.expand_prelu:ExpandPRelu",
    "block-residuals": "burnish.passes.fuse.conv.residual:BlockResiduals",
    "order-branches": "burnish.passes.fuse.conv.order:OrderBranches",
    "products-to-convs": "burnish.passes.fuse.product.pointwise.products_to_convs:ProductsToConvs",
    "convs-to-products": "burnish.passes.fuse.product.rows:ConvsToProducts",
    "keep-apart": "burnish.passes.fuse.apart:KeepApart",
    "prune": "burnish.passes.prune:Prune",
    "prune-blocks": "burnish.passes.prune.blocks:PruneBlocks",
    "prune-channels": "burnish.passes.prune.structured:PruneChannels",
    "prune-heads": "burnish.passes.prune.structured:PruneHeads",
    "prune-neurons": "burnish.passes.prune.structured:PruneNeurons",
    "quant": "burnish.passes.quant:Quant",
    "quant-static": "burnish.passes.quant.int8.static:QuantStatic",
    "quant-dynamic": "burnish.passes.quant.int8.dynamic:QuantDynamic",
    "adaround": "burnish.passes.quant.accuracy.adaround:AdaRound",
    "equalize": "burnish.passes.quant.accuracy.equalize:Equalize",
    "balance": "burnish.passes.quant.accuracy.balance:Balance",
    "smooth": "burnish.passes.quant.accuracy.smooth:Smooth",
    "awq": "burnish.passes.quant.accuracy.awq:Awq",
    "codebook": "burnish.passes.quant.weights.codebook:Codebook",
    "quant-weights": "burnish.passes.quant.weights.weight_only:QuantWeights",
    "float16": "burnish.passes.precision:Float16",
    "bfloat16": "burnish.passes.precision:BFloat16",
    "fp8": "burnish.passes.precision:Fp8",
    "mixed-precision": "burnish.passes.quant.search.mixed:MixedPrecision",
    "fill-depthwise": "burnish.passes.quant.int8.widen:WidenDepthwise",
    "unfill-depthwise": "burnish.passes.quant.int8.widen:NarrowDepthwise",
    "quant-tables": "burnish.passes.quant.int8.tables:QuantTables",
    "store-int8": "burnish.passes.quant.weights.stored:StoreInt8",
    "drop-implied": "burnish.passes.quant.implied:DropImplied",
    "graphsurgeon": "burnish.passes.graphsurgeon:GraphSurgeon",
    "onnx-ir": "burnish.passes.onnxir:OnnxIR",
    "onnxscript": "burnish.passes.onnxscript:OnnxScript",
}


def names() -> tuple[str, ...]:
    """Return every name that can stand in a pipeline, sorted."""
    return tuple(sorted({*BUILT_IN, *_third_party(), Fixpoint.name}))


def lookup(name: str) -> type[Pass]:
    """Return the pass class of a name.

    Raises:
        InputError: no such pass (with the nearest name), a clash of names, or a plugin that cannot
            be imported.
    """
    third_party = _third_party()
    if name == Fixpoint.name:
        return Fixpoint
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        found: type[Pass] = getattr(importlib.import_module(module), attribute)
        return found
    if name in third_party:
        return _load(third_party[name])
    raise InputError(f"unknown pass {name!r}", hint=nearest(name, names()))


def nearest(word: str, candidates: tuple[str, ...]) -> str:
    """Return a hint that names the candidate most like `word`, or all of them."""
    close = difflib.get_close_matches(word.lower(), candidates, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(candidates)}"


@cache
def _third_party() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in BUILT_IN or entry.name == Fixpoint.name:
            raise InputError(
                f"plugin {_owner(entry)} names a pass {entry.name!r}, which is built in",
                hint="rename it or uninstall the plugin",
            )
        if entry.name in found:
            raise InputError(
                f"plugins {_owner(found[entry.name])} and {_owner(entry)} both name a pass "
                f"{entry.name!r}",
                hint="uninstall one of them",
            )
        found[entry.name] = entry
    return found


def _owner(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value


@cache  # a rule's pass is made here: made twice, it would not equal itself
def _load(entry: EntryPoint) -> type[Pass]:
    from burnish.passes.rule import Rule, pass_of

    try:
        loaded = entry.load()
    except Exception as error:
        raise InputError(
            f"pass {entry.name!r} of plugin {_owner(entry)} cannot be imported: "
            f"{' '.join(str(error).split())}",
            hint="reinstall the plugin or uninstall it",
        ) from error
    if isinstance(loaded, Rule):
        return pass_of(entry.name, loaded)
    if isinstance(loaded, type) and issubclass(loaded, Pass):
        own = getattr(loaded, "name", None)
        if own != entry.name:
            raise InputError(
                f"plugin {_owner(entry)}: the pass named {entry.name!r} calls itself {own!r}",
                hint="its `name` must be that of the entry point",
            )
        return loaded
    raise InputError(
        f"plugin {_owner(entry)}: {entry.value} is neither a Pass class nor a rule",
        hint="see docs/writing-a-pass.md",
    )
