# SPDX-License-Identifier: Apache-2.0
"""Reading the scores of an attention: the product of queries and keys, its scale and its masks.

The scale may stand on the queries, the keys, both, or the product, as Mul or Div, as a number or
one for each head; it may be capped softly; masks may be added or chosen, in any number, scaled
along, and held above the least number; the largest score of a row may be taken off, which a softmax
does not see. All may be done in float32 between types that are narrower. One function reads them
all, outermost first, so that no spelling has to be listed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from burnish.passes.cleanup.arguments import ints_of
from burnish.passes.cleanup.dims import same_dim
from burnish.passes.constant import scalar_of
from burnish.passes.edit import use_count
from burnish.passes.fuse.attention.heads import SWAP_LAST, apart, splits_heads
from burnish.passes.fuse.attention.mask import lowest
from burnish.passes.fuse.attention.mask_kinds import Added, Floored, Mask, Replaced
from burnish.passes.rule import NoMatch

_DEPTH = 8
_READ = ("MatMul", "Add", "Sub", "Where", "Max", "Mul", "Div", "Reshape", "Cast")
_LAST = ((-1,), (3,))
_ONE = 1 + 1e-6  # but for rounding
_NO_PRODUCT = NoMatch("the scores are not a product")
QUANTIZED = "it is quantized between its two products, where no fused operator rounds"
FUSE_BEFORE = "fuse the float model, and quantize what comes out"


@dataclass(frozen=True)
class Scores:
    """scale * factor * (queries @ keys), capped softly, then the masks in order.

    Attributes:
        queries: `[batch, heads, queries, size]`, or without the heads.
        keys: `[batch, heads, keys, size]` once they are transposed by `keys_perm`, or without
            the heads.
        keys_perm: None if they are as they should be.
        scale: Of the product; what stood on queries and keys is in it.
        factor: One more, `[..., heads, 1, 1]`, or None.
        softcap: c, if the scaled product s became c tanh(s / c); else 0.
        masks: What was added to or put in place of the scores, innermost first.
        shifted: The largest of each row was taken off.
    """

    queries: ir.Value
    keys: ir.Value
    keys_perm: tuple[int, ...] | None
    scale: float = 1.0
    factor: ir.Value | None = None
    softcap: float = 0.0
    masks: tuple[Mask, ...] = ()
    shifted: bool = False


def read_scores(value: ir.Value, depth: int = _DEPTH, uses: int = 1) -> Scores | NoMatch:
    """Read what goes into the softmax of an attention, or say why it is none."""
    node = value.producer()
    if node is None or depth == 0 or node.domain != "":
        return _NO_PRODUCT
    if node.op_type in _READ and use_count(value) > uses:
        return NoMatch("the scores are used elsewhere too")
    match node.op_type:
        case "DequantizeLinear":
            return NoMatch(QUANTIZED, FUSE_BEFORE)
        case "MatMul":
            return _product(node)
        case "Add":
            return _added(node, depth)
        case "Sub":
            return _subtracted(node, depth)
        case "Where":
            return _replaced(node, depth)
        case "Max":
            return _floored(node, depth)
        case "Mul" | "Div":
            return _scaled(node, depth)
        case "Reshape":
            return _split(node, depth)
        case "Cast" if node.inputs[0] is not None and _widens(node):
            return read_scores(node.inputs[0], depth - 1)
    return _NO_PRODUCT


def _widens(cast: ir.Node) -> bool:
    before, after = cast.inputs[0], cast.outputs[0]
    narrow = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return before is not None and before.dtype in narrow and after.dtype == ir.DataType.FLOAT


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
        return _scaled_by_head(node, depth)
    above = inner.producer()
    if above is not None and above.op_type == "Tanh" and factor > 0:
        return _capped(above, factor, depth)
    read = read_scores(inner, depth - 1)
    if not isinstance(read, Scores):
        return read
    if not read.masks and not read.softcap:
        return replace(read, scale=read.scale * factor)
    masks = tuple(mask.scaled(factor) for mask in read.masks)
    # "Minus infinity" may not overflow, which makes another one of it.
    if read.softcap or factor <= 0 or any(abs(mask.factor) > _ONE for mask in masks):
        return NoMatch("the scores are scaled behind a mask")
    return replace(read, scale=read.scale * factor, masks=masks)


def _capped(tanh: ir.Node, cap: float, depth: int) -> Scores | NoMatch:
    assert tanh.inputs[0] is not None
    read = read_scores(tanh.inputs[0], depth - 1)
    if not isinstance(read, Scores):
        return read
    if read.masks or read.softcap or read.shifted or read.factor is not None:
        return NoMatch("the scores are capped behind a mask")
    return replace(read, scale=read.scale * cap, softcap=cap)


def _scaled_by_head(node: ir.Node, depth: int) -> Scores | NoMatch:
    """Read scores that are multiplied by another number for each head."""
    whole = node.outputs[0].shape
    for scores, factor in (node.inputs, node.inputs[::-1]):
        if scores is None or factor is None or factor.shape is None or whole is None:
            continue
        dims = factor.shape.dims
        if node.op_type != "Mul" or not 2 < len(dims) <= len(whole) or dims[-2:] != (1, 1):
            continue
        read = read_scores(scores, depth - 1)
        if not isinstance(read, Scores):
            return read
        if read.masks or read.softcap or read.factor is not None:
            return NoMatch("the scores are scaled behind a mask")
        return replace(read, factor=factor)
    return NoMatch("the scores are multiplied by no constant")


def _added(node: ir.Node, depth: int) -> Scores | NoMatch:
    a, b = node.inputs
    assert a is not None
    assert b is not None
    reasons: list[NoMatch] = []
    for scores, mask in ((a, b), (b, a)):
        read = read_scores(scores, depth - 1)
        if isinstance(read, Scores):
            if scalar_of(mask) == 0 and len(mask.shape or ()) <= len(scores.shape or ()):
                return read  # as torch.baddbmm with beta=0 leaves behind
            return replace(read, masks=(*read.masks, Added(mask)))
        reasons.append(read)
    return next((reason for reason in reasons if reason is not _NO_PRODUCT), _NO_PRODUCT)


def _subtracted(node: ir.Node, depth: int) -> Scores | NoMatch:
    """Read scores that a mask or their largest is subtracted from, as XLNet and LayoutLMv3 do."""
    scores, mask = node.inputs
    assert scores is not None
    assert mask is not None
    largest = _is_largest(mask, scores)
    read = read_scores(scores, depth - 1, uses=2 if largest else 1)
    if not isinstance(read, Scores):
        return read
    if largest:
        return replace(read, shifted=True)
    return replace(read, masks=(*read.masks, Added(mask, factor=-1)))


def _is_largest(value: ir.Value, scores: ir.Value) -> bool:
    """Whether a value is the largest score of each row, and is used for nothing but to be one."""
    node, kept = value.producer(), 1
    if node is not None and node.op_type == "Unsqueeze" and ints_of(node, "axes", 1) in _LAST:
        assert node.inputs[0] is not None
        inner = node.inputs[0]
        node, kept = inner.producer() if use_count(inner) == 1 else None, 0
    if node is None or node.op_type != "ReduceMax" or use_count(value) > 1:
        return False
    keepdims = node.attributes.get_int("keepdims", 1)
    return node.inputs[0] is scores and keepdims == kept and ints_of(node, "axes", 1) in _LAST


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


def _floored(node: ir.Node, depth: int) -> Scores | NoMatch:
    """Read scores that are held above the least number, as XGLM does."""
    for scores, other in (node.inputs, node.inputs[::-1]) if len(node.inputs) == 2 else ():
        low = scalar_of(other)
        if scores is None or low is None or scores.dtype is None:
            continue
        if low > lowest(scores.dtype):
            return NoMatch("the scores are cut at a number that some may be below")
        read = read_scores(scores, depth - 1)
        if not isinstance(read, Scores):
            return read
        return replace(read, masks=(*read.masks, Floored(low)))
    return _NO_PRODUCT


def _split(node: ir.Node, depth: int) -> Scores | NoMatch:
    """Read scores `[batch * heads, queries, keys]` that are then split into four axes."""
    inner, shape = node.inputs
    assert inner is not None
    assert shape is not None
    if inner.shape is not None and len(inner.shape) == 5:
        return _windowed(inner, node.outputs[0], depth - 1)
    if not splits_heads(inner, node.outputs[0]):
        return _NO_PRODUCT
    read = read_scores(inner, depth - 1)
    if not isinstance(read, Scores):
        return read
    if read.factor is not None:
        return NoMatch("heads one behind another are scaled")
    queries, keys = apart(read.queries), apart(read.keys)
    if queries is None or keys is None or read.keys_perm is not None:
        return NoMatch("queries or keys are not known to be heads put one behind another")
    masks: list[Mask] = []
    for mask in read.masks:
        if not isinstance(mask, Added) or mask.shape is not None or not _fits(mask.value, inner):
            return NoMatch("a mask of three axes is not added")
        masks.append(replace(mask, shape=shape))
    return replace(read, queries=queries, keys=keys, masks=tuple(masks))


def _windowed(value: ir.Value, whole: ir.Value, depth: int) -> Scores | NoMatch:
    """Read scores `[images * windows, heads, queries, keys]`, masked with the windows apart."""
    masks: list[Mask] = []
    node = value.producer()
    while node is not None and node.op_type == "Add" and use_count(value) == 1:
        mask = next((item for item in node.inputs if _is_for_windows(item, value)), None)
        value = next((item for item in node.inputs if item is not None and item is not mask), value)
        if mask is None:
            return NoMatch("a mask of five axes is not one for each window")
        masks.append(Added(mask, windows=True))
        node = value.producer()
    inner = None if node is None or node.op_type != "Reshape" else node.inputs[0]
    if inner is None or inner.shape is None or whole.shape is None or use_count(value) > 1:
        return _NO_PRODUCT
    if len(inner.shape) != 4 or not all(map(same_dim, inner.shape.dims[1:], whole.shape.dims[1:])):
        return _NO_PRODUCT
    read = read_scores(inner, depth)
    if not isinstance(read, Scores):
        return read
    return replace(read, masks=(*read.masks, *reversed(masks)))


def _is_for_windows(mask: ir.Value | None, scores: ir.Value) -> bool:
    """Whether a mask is `[1, windows, 1, queries, keys]` as the scores are."""
    if mask is None or mask.shape is None or scores.shape is None or len(mask.shape) != 5:
        return False
    ours, theirs = mask.shape.dims, scores.shape.dims
    known = all(isinstance(dim, int) for dim in ours[2:]) and ours[0] == ours[2] == 1
    return known and all(same_dim(ours[axis], theirs[axis]) for axis in (1, 3, 4))


def _fits(mask: ir.Value, scores: ir.Value) -> bool:
    """Whether a mask is as large as the scores on three axes, or has one row for all queries."""
    if mask.shape is None or scores.shape is None or len(mask.shape) != 3:
        return False
    ours, theirs = mask.shape.dims, scores.shape.dims
    alone = ours[1] == 1 or same_dim(ours[1], theirs[1])
    return alone and same_dim(ours[0], theirs[0]) and same_dim(ours[2], theirs[2])


def _untransposed(value: ir.Value) -> tuple[ir.Value, tuple[int, ...] | None]:
    """Return the keys before their last two axes were swapped, and what permutes them if not."""
    node = value.producer()
    if node is not None and node.op_type == "Transpose" and node.domain == "":
        attribute = node.attributes.get("perm")
        perm = () if attribute is None else tuple(attribute.as_ints())
        if node.inputs[0] is not None and len(perm) in (3, 4):
            whole = (*perm[:-2], perm[-1], perm[-2])
            return node.inputs[0], None if whole == tuple(range(len(perm))) else whole
    return value, (0, 2, 1) if value.shape is not None and len(value.shape) == 3 else SWAP_LAST
