# SPDX-License-Identifier: Apache-2.0
"""Reading the scores of an attention from what goes into its softmax, outermost operator first.

One function reads all of them, so that no spelling has to be listed: products, their scale, soft
cap and masks in any number and order, with heads or windows apart, and all of it perhaps done in
float32 between types that are narrower.
"""

from __future__ import annotations

import functools

import onnx_ir as ir

from burnish.passes.edit import use_count
from burnish.passes.fuse.attention.dot_product import dot_product
from burnish.passes.fuse.attention.masked_scores import added, floored, replaced, subtracted
from burnish.passes.fuse.attention.scale import scaled
from burnish.passes.fuse.attention.scores import FUSE_BEFORE, NO_PRODUCT, QUANTIZED, Scores
from burnish.passes.fuse.attention.split_scores import split_scores
from burnish.passes.rule import NoMatch

_DEPTH = 8
_READ = ("MatMul", "Add", "Sub", "Where", "Max", "Mul", "Div", "Reshape", "Cast")


def read_scores(value: ir.Value, depth: int = _DEPTH, uses: int = 1) -> Scores | NoMatch:
    """Read what goes into the softmax of an attention, or say why it is none."""
    node = value.producer()
    if node is None or depth == 0 or node.domain != "":
        return NO_PRODUCT
    if node.op_type in _READ and use_count(value) > uses:
        return NoMatch("the scores are used elsewhere too")
    read = functools.partial(read_scores, depth=depth - 1)
    match node.op_type:
        case "DequantizeLinear":
            return NoMatch(QUANTIZED, FUSE_BEFORE)
        case "MatMul":
            return dot_product(node)
        case "Add":
            return added(node, read)
        case "Sub":
            return subtracted(node, read)
        case "Where":
            return replaced(node, read)
        case "Max":
            return floored(node, read)
        case "Mul" | "Div":
            return scaled(node, read)
        case "Reshape":
            return split_scores(node, read)
        case "Cast" if node.inputs[0] is not None and _widens(node):
            return read(node.inputs[0])
    return NO_PRODUCT


def _widens(cast: ir.Node) -> bool:
    before, after = cast.inputs[0], cast.outputs[0]
    narrow = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return before is not None and before.dtype in narrow and after.dtype == ir.DataType.FLOAT
