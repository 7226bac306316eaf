# SPDX-License-Identifier: Apache-2.0
"""Reading the scores of an attention: the product of queries and keys, its scale and its masks.

The scale may stand on the queries, the keys, both, or the product, as Mul or Div; masks may be
added or chosen, in any number. One function reads them all, outermost first, so that no spelling
has to be listed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from burnish.passes.constant import scalar_of
from burnish.passes.edit import use_count
from burnish.passes.fuse.heads import SWAP_LAST, apart, splits_heads
from burnish.passes.fuse.mask import Added, Mask, Replaced
from burnish.passes.rule import NoMatch

_DEPTH = 8
_READ = ("MatMul", "Add", "Where", "Mul", "Div", "Reshape")
_NO_PRODUCT = NoMatch("the scores are not a product")


@dataclass(frozen=True)
class Scores:
    """scale * (queries @ keys), then the masks in order.

    Attributes:
        queries: `[batch, heads, queries, size]`.
        keys: `[batch, heads, keys, size]` once they are transposed by `keys_perm`.
        keys_perm: None if they are as they should be.
        scale: Of the product; what stood on queries and keys is in it.
        masks: What was added to or put in place of the scores, innermost first.
    """

    queries: ir.Value
    keys: ir.Value
    keys_perm: tuple[int, ...] | None
    scale: float = 1.0
    masks: tuple[Mask, ...] = ()


def read_scores(value: ir.Value, depth: int = _DEPTH) -> Scores | NoMatch:
    """Read what goes into the softmax of an attention, or say why it is none."""
    node = value.producer()
    if node is None or depth == 0 or node.domain != "":
        return _NO_PRODUCT
    if node.op_type in _READ and use_count(value) > 1:
        return NoMatch("the scores are used elsewhere too")
    match node.op_type:
        case "MatMul":
            return _product(node)
        case "Add":
            return _added(node, depth)
        case "Where":
            return _replaced(node, depth)
        case "Mul" | "Div":
            return _scaled(node, depth)
        case "Reshape":
            return _split(node, depth)
    return _NO_PRODUCT


def _product(node: ir.Node) -> Scores | NoMatch:
    left, right = node.inputs
    assert left is not None
    assert right is not None
    queries, ours = _unscaled(left)
    transposed, theirs = _unscaled(right)
    keys, perm = _untransposed(transposed)
    keys, inner = _unscaled(keys)
    return Scores(queries, keys, perm, ours * theirs * inner)


def _unscaled(value: ir.Value) -> tuple[ir.Value, float]:
    """Take a constant factor off a value."""
    node = value.producer()
    if node is None or node.op_type not in ("Mul", "Div") or node.domain != "":
        return value, 1.0
    a, b = node.inputs
    for x, c in ((a, b), (b, a)):
        factor = scalar_of(c)
        if (
            x is None
            or factor is None
            or not factor
            or len(x.shape or ()) != len(value.shape or ())
        ):
            continue
        if node.op_type == "Mul":
            return x, factor
        if c is b:
            return x, 1 / factor
    return value, 1.0


def _scaled(node: ir.Node, depth: int) -> Scores | NoMatch:
    inner, factor = _unscaled(node.outputs[0])
    if inner is node.outputs[0]:
        return NoMatch("the scores are multiplied by no constant")
    read = read_scores(inner, depth - 1)
    if not isinstance(read, Scores):
        return read
    if read.masks:
        return NoMatch("the scores are scaled behind a mask")
    return replace(read, scale=read.scale * factor)


def _added(node: ir.Node, depth: int) -> Scores | NoMatch:
    a, b = node.inputs
    assert a is not None
    assert b is not None
    reasons: list[NoMatch] = []
    for scores, mask in ((a, b), (b, a)):
        read = read_scores(scores, depth - 1)
        if isinstance(read, Scores):
            return replace(read, masks=(*read.masks, Added(mask)))
        reasons.append(read)
    return next((reason for reason in reasons if reason is not _NO_PRODUCT), _NO_PRODUCT)


def _replaced(node: ir.Node, depth: int) -> Scores | NoMatch:
    condition, yes, no = node.inputs
    assert condition is not None
    for scores, other, keeps in ((yes, no, True), (no, yes, False)):
        fill = scalar_of(other)
        if scores is None or fill is None:
            continue
        read = read_scores(scores, depth - 1)
        if not isinstance(read, Scores):
            return read
        return replace(read, masks=(*read.masks, Replaced(condition, keeps, fill)))
    return NoMatch("the scores are chosen by no constant")


def _split(node: ir.Node, depth: int) -> Scores | NoMatch:
    """Read scores `[batch * heads, queries, keys]` that are then split into four axes."""
    inner, shape = node.inputs
    assert inner is not None
    assert shape is not None
    if not splits_heads(inner, node.outputs[0]):
        return _NO_PRODUCT
    read = read_scores(inner, depth - 1)
    if not isinstance(read, Scores):
        return read
    queries, keys = apart(read.queries), apart(read.keys)
    if queries is None or keys is None or read.keys_perm is not None:
        return NoMatch("queries or keys are not known to be heads put one behind another")
    masks: list[Mask] = []
    for mask in read.masks:
        if (
            not isinstance(mask, Added)
            or mask.shape is not None
            or len(mask.value.shape or ()) != 3
        ):
            return NoMatch("a mask of three axes is not added")
        masks.append(Added(mask.value, shape))
    return replace(read, queries=queries, keys=keys, masks=tuple(masks))


def _untransposed(value: ir.Value) -> tuple[ir.Value, tuple[int, ...] | None]:
    """Return the keys before their last two axes were swapped, and what permutes them if not."""
    node = value.producer()
    if node is not None and node.op_type == "Transpose" and node.domain == "":
        attribute = node.attributes.get("perm")
        perm = () if attribute is None else tuple(attribute.as_ints())
        if node.inputs[0] is not None and len(perm) in (3, 4):
            whole = (*perm[:-2], perm[-1], perm[-2])
            return node.inputs[0], None if whole == tuple(range(len(perm))) else whole
    return value, SWAP_LAST
