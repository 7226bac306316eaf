# SPDX-License-Identifier: Apache-2.0
"""What each operator says about its dimensions; see `coupling`.

A dimension that a rule does not mention must stay whole: a rule that forgets one is safe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from burnish.passes import products
from burnish.passes.constant import as_array, is_constant
from burnish.passes.prune.coupling import Couplings, Dim, Indices, Product, Size, Unclear

Rule = Callable[[Couplings, ir.Node], None]
RULES: dict[tuple[str, str], Rule] = {}
MICROSOFT = "com.microsoft"


def _rule(*names: str, domain: str = "") -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        RULES.update({(domain, name): rule for name in names})
        return rule

    return enter


def _input(node: ir.Node, slot: int) -> ir.Value | None:
    return node.inputs[slot] if slot < len(node.inputs) else None


def _some(node: ir.Node, slot: int) -> ir.Value:
    value = _input(node, slot)
    if value is None:
        raise Unclear("an input is missing")
    return value


def _constant(node: ir.Node, slot: int, attribute: str = "") -> list[int] | None:
    """Return the integers of an input, or of the attribute older opsets have instead."""
    value = _input(node, slot)
    if value is None:
        found = node.attributes.get(attribute)
        if found is None:
            return None
        return [found.as_int()] if found.type == ir.AttributeType.INT else list(found.as_ints())
    array = as_array(value)
    if array is None:
        raise Unclear("an input that says which indices is not constant")
    return [int(item) for item in array.reshape(-1)]


# --- index by index -------------------------------------------------------------------------------


def _broadcast(couplings: Couplings, values: Sequence[ir.Value | None], result: ir.Value) -> None:
    """Let the axes of operands correspond to those of a result, aligned at the last one."""
    sizes = couplings.shape(result)
    for value in values:
        if value is None:
            continue
        own = couplings.shape(value)
        for axis, size in enumerate(own, len(sizes) - len(own)):
            if isinstance(size, int):
                couplings.same((value, axis - len(sizes) + len(own)), (result, axis))
            elif isinstance(sizes[axis], int):
                couplings.keep((result, axis), "it is not known whether it is broadcast")


@_rule(
    *("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitwiseAnd"),
    *("BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos"),
    *("Cosh", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater"),
    *("GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu"),
    *("Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not"),
    *("Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign"),
    *("Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh"),
    *("ThresholdedRelu", "Where", "Xor"),
)
def elementwise(couplings: Couplings, node: ir.Node) -> None:
    """Every axis corresponds, with broadcasting."""
    for result in node.outputs:
        if result.name:
            _broadcast(couplings, node.inputs, result)


for _name in ("BiasGelu", "FastGelu", "Gelu", "QuickGelu"):
    RULES[MICROSOFT, _name] = elementwise


@_rule("Constant")
def _nothing(couplings: Couplings, node: ir.Node) -> None:
    """A constant can be cut along every axis."""
    for dim in couplings.dims(node.outputs[0]):
        couplings.same(dim, dim)


@_rule("Shape")
def _shape(couplings: Couplings, node: ir.Node) -> None:
    """Sizes change with what is cut; `sizes` says where that matters."""
    for dim in couplings.dims(_some(node, 0)):
        couplings.same(dim, dim)


def _apart_from(couplings: Couplings, node: ir.Node, axes: set[int]) -> None:
    """Let all axes but some correspond between the first input and all outputs of its rank."""
    data = _some(node, 0)
    rank = len(couplings.shape(data))
    axes = {axis % rank for axis in axes}
    for result in node.outputs:
        if result.name and len(couplings.shape(result)) == rank:
            for axis in set(range(rank)) - axes:
                couplings.same((data, axis), (result, axis))


@_rule("Softmax", "LogSoftmax", "Hardmax")
def _softmax(couplings: Couplings, node: ir.Node) -> None:
    opset = node.version or (node.graph.opset_imports.get("", 13) if node.graph else 13)
    if opset < 13:
        first = node.attributes.get_int("axis", 1) or 0
        rank = len(couplings.shape(_some(node, 0)))
        _apart_from(couplings, node, set(range(first % rank, rank)))
    else:
        _apart_from(couplings, node, {node.attributes.get_int("axis", -1) or 0})


@_rule("ArgMax", "ArgMin", "TopK")
def _chosen(couplings: Couplings, node: ir.Node) -> None:
    default = -1 if node.op_type == "TopK" else 0
    axis = node.attributes.get_int("axis", default)
    assert axis is not None
    if node.attributes.get_int("keepdims", 1):
        _apart_from(couplings, node, {axis})
    else:
        _dropped(couplings, node, [axis])


@_rule("CumSum")
def _cumulated(couplings: Couplings, node: ir.Node) -> None:
    _apart_from(couplings, node, set(_constant(node, 1) or ()))


@_rule("LpNormalization")
def _normalized(couplings: Couplings, node: ir.Node) -> None:
    _apart_from(couplings, node, {node.attributes.get_int("axis", -1) or 0})


@_rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def _layer_norm(couplings: Couplings, node: ir.Node) -> None:
    rank = len(couplings.shape(_some(node, 0)))
    first = (node.attributes.get_int("axis", -1) or 0) % rank
    _apart_from(couplings, node, set(range(first, rank)))


@_rule(
    *("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool"),
    *("LRN", "MaxRoiPool", "MaxUnpool", "AffineGrid", "GridSample"),
)
def _pool(couplings: Couplings, node: ir.Node) -> None:
    """Batches and channels are kept apart; LRN sums over neighbouring channels."""
    data = _some(node, 0)
    for result in node.outputs:
        if result.name:
            couplings.same((data, 0), (result, 0))
            if node.op_type not in ("LRN", "AffineGrid"):
                couplings.same((data, 1), (result, 1))


@_rule(
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)
def _reduce(couplings: Couplings, node: ir.Node) -> None:
    rank = len(couplings.shape(_some(node, 0)))
    axes = _constant(node, 1, "axes")
    none_is_none = node.attributes.get_int("noop_with_empty_axes", 0)
    if not axes:
        axes = [] if none_is_none else list(range(rank))
    if node.attributes.get_int("keepdims", 1):
        _apart_from(couplings, node, set(axes))
    else:
        _dropped(couplings, node, axes)


def _dropped(couplings: Couplings, node: ir.Node, axes: Sequence[int]) -> None:
    data, result = _some(node, 0), node.outputs[0]
    rank = len(couplings.shape(data))
    gone = {axis % rank for axis in axes}
    left = [axis for axis in range(rank) if axis not in gone]
    for now, axis in enumerate(left):
        couplings.same((data, axis), (result, now))


# --- norms over batches and places ----------------------------------------------------------------


@_rule("BatchNormalization", "InstanceNormalization")
def _batch_norm(couplings: Couplings, node: ir.Node) -> None:
    data = _some(node, 0)
    couplings.same((data, 0), (node.outputs[0], 0))
    couplings.same((data, 1), (node.outputs[0], 1))
    for parameter in node.inputs[1:]:
        if parameter is not None:
            couplings.same((parameter, 0), (data, 1))


@_rule("GroupNormalization")
def _group_norm(couplings: Couplings, node: ir.Node) -> None:
    """Statistics are those of a group: whole groups can go."""
    data, result = _some(node, 0), node.outputs[0]
    groups = node.attributes.get_int("num_groups", 0) or 0
    channels = couplings.size((data, 1))
    if not isinstance(channels, int) or not groups:
        raise Unclear("the number of channels is not known")
    couplings.same((data, 0), (result, 0))
    couplings.same((data, 1), (result, 1))
    group = couplings.stand_in("groups", groups)
    couplings.blocks((data, 1), group)
    for parameter in node.inputs[1:]:
        if parameter is not None and couplings.size((parameter, 0)) == channels:
            couplings.same((parameter, 0), (data, 1))  # opset 21
        elif parameter is not None and groups > 1:
            couplings.same((parameter, 0), group)  # opset 18
            couplings._touched.add((parameter, 0))


# --- sums of products -----------------------------------------------------------------------------


@_rule("Conv")
@_rule("FusedConv", domain=MICROSOFT)
def _conv(couplings: Couplings, node: ir.Node) -> None:
    """Weights [outputs, inputs / groups, ...]."""
    data, weight, result = _some(node, 0), _some(node, 1), node.outputs[0]
    outputs, inputs = couplings.shape(weight)[:2]
    groups = node.attributes.get_int("group", 1) or 1
    couplings.same((data, 0), (result, 0))
    couplings.same((weight, 0), (result, 1))
    if (bias := _input(node, 2)) is not None:
        couplings.same((bias, 0), (result, 1))
    if (residual := _input(node, 3)) is not None:
        _broadcast(couplings, [residual], result)
    if groups == 1:
        couplings.same((data, 1), (weight, 1))
    else:
        _grouped(couplings, groups, (data, 1), inputs, (result, 1), outputs, inner=(weight, 1))


@_rule("ConvTranspose")
def _conv_transpose(couplings: Couplings, node: ir.Node) -> None:
    """Weights [inputs, outputs / groups, ...]."""
    data, weight, result = _some(node, 0), _some(node, 1), node.outputs[0]
    inputs, outputs = couplings.shape(weight)[:2]
    groups = node.attributes.get_int("group", 1) or 1
    couplings.same((data, 0), (result, 0))
    couplings.same((weight, 0), (data, 1))
    if (bias := _input(node, 2)) is not None:
        couplings.same((bias, 0), (result, 1))
    if groups == 1:
        couplings.same((weight, 1), (result, 1))
    else:
        _grouped(couplings, groups, (result, 1), outputs, (data, 1), inputs, inner=(weight, 1))


def _grouped(
    couplings: Couplings,
    groups: int,
    near: Dim,
    each: Size,
    far: Dim,
    total: Size,
    *,
    inner: Dim,
) -> None:
    """Couple the channels of a convolution with groups.

    Either whole groups go, where there are many (depthwise convolutions have nothing else), or the
    same channels of every group.

    Args:
        couplings: Where to.
        groups: Number of groups.
        near: The channels whose weights' axis has those of one group.
        each: Number of them in a group.
        far: The channels whose weights' axis has them all.
        total: Number of them.
        inner: The weights' axis of `each`.
    """
    if not isinstance(each, int) or not isinstance(total, int):
        raise Unclear("the shape of the weights is not known")
    if couplings.size(near) != groups * each or couplings.size(far) != total:
        raise Unclear("the number of channels is not known")
    if total == groups and each == 1:
        couplings.same(near, far)
    elif groups >= each:
        group = couplings.stand_in("groups", groups)
        couplings.blocks(near, group)
        couplings.blocks(far, group)
    else:
        couplings.cycle(near, inner)
        couplings.cycle(far, couplings.stand_in("place in group", total // groups))


def _multiply(
    couplings: Couplings, left: ir.Value, right: ir.Value, axes: Sequence[Sequence[str]]
) -> list[Dim]:
    """Couple what Einsum would with these labels: of `left`, `right` and the result.

    Returns:
        The dimensions of the operands that are summed over.
    """
    summed: list[Dim] = []
    activations = not is_constant(left) and not is_constant(right)
    by_label: dict[str, list[Dim]] = {}
    for value, labels in zip((left, right), axes[:2], strict=True):
        if len(couplings.shape(value)) != len(labels):
            raise Unclear("the rank is not known")
        for axis, label in enumerate(labels):
            by_label.setdefault(label, []).append((value, axis))
    for label, dims in by_label.items():
        if label not in axes[2]:
            summed += dims
            if activations or len(dims) < 2:
                for dim in dims:
                    couplings.keep(dim, "a sum over products of two activations")
                    couplings._touched.add(dim)
                continue
        if len(dims) == 2:
            couplings.same(dims[0], dims[1])
            if (
                activations
                and label in axes[2]
                and couplings.size(dims[0]) == couplings.size(dims[1])
            ):
                couplings.heads.update(dim for dim in dims if couplings.add(dim))
    return summed


def _result(
    couplings: Couplings,
    result: ir.Value,
    axes: Sequence[Sequence[str]],
    operands: Sequence[ir.Value],
) -> None:
    for axis, label in enumerate(axes[2]):
        for value, labels in zip(operands, axes[:2], strict=True):
            for own, other in enumerate(labels):
                if other == label:
                    couplings.same((value, own), (result, axis))


@_rule("MatMul")
def _matmul(couplings: Couplings, node: ir.Node) -> None:
    left, right, result = _some(node, 0), _some(node, 1), node.outputs[0]
    ranks = len(couplings.shape(left)), len(couplings.shape(right))
    if min(ranks) < 2:
        raise Unclear("an operand is a vector")
    batches = [f"batch {at}" for at in range(max(ranks) - 2, 0, -1)]
    axes = (
        [*batches[len(batches) - ranks[0] + 2 :], "row", "sum"],
        [*batches[len(batches) - ranks[1] + 2 :], "sum", "column"],
        [*batches, "row", "column"],
    )
    _multiply(couplings, left, right, axes)
    _result(couplings, result, axes, (left, right))


@_rule("Gemm")
def _gemm(couplings: Couplings, node: ir.Node) -> None:
    left, right, result = _some(node, 0), _some(node, 1), node.outputs[0]
    axes = (
        ["sum", "row"] if node.attributes.get_int("transA", 0) else ["row", "sum"],
        ["column", "sum"] if node.attributes.get_int("transB", 0) else ["sum", "column"],
        ["row", "column"],
    )
    _multiply(couplings, left, right, axes)
    _result(couplings, result, axes, (left, right))
    _broadcast(couplings, [_input(node, 2)], result)


@_rule("Einsum")
def _einsum(couplings: Couplings, node: ir.Node) -> None:
    equation = (node.attributes.get_string("equation", "") or "").replace(" ", "")
    operands, arrow, outcome = equation.partition("->")
    parts = operands.split(",")
    if not arrow or "." in equation or len(parts) != 2 or any(len(set(p)) < len(p) for p in parts):
        raise Unclear("an equation of another form than ab,bc->ac")
    axes = (*map(list, parts), list(outcome))
    left, right = _some(node, 0), _some(node, 1)
    _multiply(couplings, left, right, axes)
    _result(couplings, node.outputs[0], axes, (left, right))


# --- parts and wholes -----------------------------------------------------------------------------


def _sized(couplings: Couplings, dim: Dim) -> int:
    size = couplings.size(dim)
    if not isinstance(size, int):
        raise Unclear("the size of an axis is not known")
    return size


@_rule("Concat")
def _concat(couplings: Couplings, node: ir.Node) -> None:
    result = node.outputs[0]
    rank = len(couplings.shape(result))
    joined = (node.attributes.get_int("axis", 0) or 0) % rank
    for value in node.inputs:
        for axis in range(rank):
            if axis != joined and value is not None:
                couplings.same((value, axis), (result, axis))
    _parts(couplings, (result, joined), [(value, joined) for value in node.inputs if value])


@_rule("Split")
def _split(couplings: Couplings, node: ir.Node) -> None:
    data = _some(node, 0)
    axis = (node.attributes.get_int("axis", 0) or 0) % len(couplings.shape(data))
    _apart_from(couplings, node, {axis})
    _parts(couplings, (data, axis), [(value, axis) for value in node.outputs])


def _parts(couplings: Couplings, whole: Dim, parts: Sequence[Dim]) -> None:
    sizes = [couplings.size(part) for part in parts]
    if not all(isinstance(size, int) for size in (*sizes, couplings.size(whole))):
        return  # along an axis of unknown size: there is nothing to cut
    start = 0
    for part in parts:
        at = np.arange(_sized(couplings, part))
        if at.size:
            couplings.map(part, at, whole, at + start)
        start += at.size


@_rule("Slice")
def _slice(couplings: Couplings, node: ir.Node) -> None:
    data, result = _some(node, 0), node.outputs[0]
    rank = len(couplings.shape(data))
    bounds = slice_bounds(node)
    if bounds is None:
        axes = _constant(node, 3, "axes")
        _apart_from(couplings, node, set(range(rank) if axes is None else axes))
        return
    _apart_from(couplings, node, {axis % rank for axis in bounds})
    for axis, (start, end, step) in bounds.items():
        before = couplings.size((data, axis % rank))
        if isinstance(before, int):
            at = np.arange(before)[start:end:step]
            # With another step it would no longer hit the same indices.
            if step == 1 and at.size > 0 and at.size == couplings.size((result, axis % rank)):
                couplings.map((data, axis % rank), at, (result, axis % rank), np.arange(at.size))


def slice_bounds(node: ir.Node) -> dict[int, tuple[int, int, int]] | None:
    """Return axis -> start, end and step of a Slice; None if they are not constant."""
    try:
        starts, ends = _constant(node, 1, "starts"), _constant(node, 2, "ends")
        axes, steps = _constant(node, 3, "axes"), _constant(node, 4)
    except Unclear:
        return None
    if starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    return dict(zip(axes, zip(starts, ends, steps, strict=True), strict=True))


@_rule("Gather")
def _gather(couplings: Couplings, node: ir.Node) -> None:
    data, indices, result = _some(node, 0), _some(node, 1), node.outputs[0]
    rank, depth = len(couplings.shape(data)), len(couplings.shape(indices))
    axis = (node.attributes.get_int("axis", 0) or 0) % rank
    for own in range(rank):
        if own != axis:
            couplings.same((data, own), (result, own if own < axis else own + depth - 1))
    picked = as_array(indices)
    size = couplings.size((data, axis))
    if picked is None:
        for own in range(depth):
            couplings.same((indices, own), (result, axis + own))
    elif depth == 1 and isinstance(size, int) and np.unique(picked % size).size == picked.size:
        if picked.size == size == 1:
            return
        couplings.map(
            (data, axis), picked.astype(np.int64) % size, (result, axis), np.arange(picked.size)
        )
        couplings._touched.update(couplings.dims(indices))


@_rule("Pad")
def _pad(couplings: Couplings, node: ir.Node) -> None:
    """Axes that are padded stay whole."""
    rank = len(couplings.shape(_some(node, 0)))
    try:
        pads, axes = _constant(node, 1, "pads"), _constant(node, 3)
    except Unclear:
        # Computed for another size: those of equal size, known before and after, are not padded.
        _apart_from(couplings, node, set())
        return
    axes = list(range(rank)) if axes is None else axes
    assert pads is not None
    padded = {a for at, a in enumerate(axes) if pads[at] or pads[at + len(axes)]}
    _apart_from(couplings, node, padded)


@_rule("Resize", "Upsample")
def _resize(couplings: Couplings, node: ir.Node) -> None:
    """Axes of the same size before and after are not resized."""
    axes = node.attributes.get("axes")
    if axes is not None:
        rank = len(couplings.shape(_some(node, 0)))
        _apart_from(couplings, node, {axis % rank for axis in axes.as_ints()})
    else:
        _apart_from(couplings, node, set())


@_rule("Expand")
def _expand(couplings: Couplings, node: ir.Node) -> None:
    _broadcast(couplings, node.inputs[:1], node.outputs[0])


@_rule("Tile")
def _tile(couplings: Couplings, node: ir.Node) -> None:
    repeats = _constant(node, 1) or []
    _apart_from(couplings, node, {axis for axis, times in enumerate(repeats) if times != 1})


@_rule("Transpose")
def _transpose(couplings: Couplings, node: ir.Node) -> None:
    data, result = _some(node, 0), node.outputs[0]
    rank = len(couplings.shape(data))
    order = node.attributes.get_ints("perm", None) or range(rank - 1, -1, -1)
    for now, axis in enumerate(order):
        couplings.same((data, axis), (result, now))


@_rule("DepthToSpace", "SpaceToDepth")
def _depth_to_space(couplings: Couplings, node: ir.Node) -> None:
    deep, flat = (_some(node, 0), 1), (node.outputs[0], 1)
    deep, flat = (flat, deep) if node.op_type == "SpaceToDepth" else (deep, flat)
    couplings.same((deep[0], 0), (flat[0], 0))
    _sized(couplings, deep)
    _sized(couplings, flat)
    by_column = (node.attributes.get_string("mode", "DCR") or "DCR") == "CRD"
    (couplings.blocks if by_column else couplings.cycle)(deep, flat)


# --- the same elements in other axes --------------------------------------------------------------


@_rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(couplings: Couplings, node: ir.Node) -> None:
    """Axes with the same number of elements before and after correspond."""
    data, result = _some(node, 0), node.outputs[0]
    before: list[Dim] = [
        (data, axis) for axis, size in enumerate(couplings.shape(data)) if size != 1
    ]
    after: list[Dim] = [
        (result, axis) for axis, size in enumerate(couplings.shape(result)) if size != 1
    ]
    for left, right in _runs(couplings, before, after):
        if len(left) == len(right) == 1:
            couplings.same(left[0], right[0])
        elif all(isinstance(couplings.size(dim), int) for dim in (*left, *right)) and (
            len(left) == 1 or len(right) == 1
        ):
            whole, factors = (left[0], right) if len(left) == 1 else (right[0], left)
            for dim in (whole, *factors):
                couplings.add(dim)
                couplings._touched.add(dim)
            couplings.products.append(Product(whole, tuple(factors), node.op_type))
        elif left and right:
            _leading(couplings, left[0], right[0])


def _leading(couplings: Couplings, left: Dim, right: Dim) -> None:
    """Couple the outermost axes of which one is a multiple of the other, whatever is inside."""
    ours, theirs = couplings.size(left), couplings.size(right)
    if not isinstance(ours, int) or not isinstance(theirs, int):
        return
    fine, coarse = (left, right) if ours >= theirs else (right, left)
    if max(ours, theirs) % min(ours, theirs) == 0:
        couplings.blocks(fine, coarse)


def _runs(
    couplings: Couplings, before: list[Dim], after: list[Dim]
) -> list[tuple[list[Dim], list[Dim]]]:
    """Cut two lists of axes into the shortest runs of the same number of elements each."""
    runs: list[tuple[list[Dim], list[Dim]]] = []
    tail: list[tuple[list[Dim], list[Dim]]] = []
    before, after = [*before], [*after]

    def alike(left: Dim, right: Dim) -> bool:
        return couplings.size(left) == couplings.size(right) is not None

    while before and after and alike(before[0], after[0]):
        runs.append(([before.pop(0)], [after.pop(0)]))
    while before and after and alike(before[-1], after[-1]):
        tail.insert(0, ([before.pop()], [after.pop()]))
    while before or after:
        run = _shortest(couplings, before, after)
        runs.append(run)
        before, after = before[len(run[0]) :], after[len(run[1]) :]
    return runs + tail


def _shortest(
    couplings: Couplings, before: list[Dim], after: list[Dim]
) -> tuple[list[Dim], list[Dim]]:
    totals = [_products(couplings, before), _products(couplings, after)]
    for ours, total in enumerate(totals[0], 1):
        if total is not None and total in totals[1]:
            return before[:ours], after[: totals[1].index(total) + 1]
    return before, after


def _products(couplings: Couplings, dims: Sequence[Dim]) -> list[str | None]:
    """Return the number of elements of the first axis, the first two, and so on."""
    sizes: list[ir.SymbolicDim | int] = []
    totals: list[str | None] = []
    for dim in dims:
        size = couplings.size(dim)
        if size is None:
            return totals + [None] * (len(dims) - len(totals))
        sizes.append(size if isinstance(size, int) else ir.SymbolicDim(size))
        total = products.product(sizes)
        totals.append(None if total is None else str(total))
    return totals


# --- attention ------------------------------------------------------------------------------------


@_rule("Attention")
def _attention(couplings: Couplings, node: ir.Node) -> None:
    """Heads can go, those of queries with the one of keys and values they share."""
    query, key, value = (_some(node, slot) for slot in range(3))
    rank = len(couplings.shape(query))
    names = ("q_num_heads", "kv_num_heads")
    if rank == 4:
        queries, keys = _sized(couplings, (query, 1)), _sized(couplings, (key, 1))
    else:
        queries, keys = (node.attributes.get_int(name, 0) or 0 for name in names)
    axis = 1 if rank == 4 else 2
    if not queries or not keys or queries % keys:
        raise Unclear("the number of heads is not known")
    heads = couplings.stand_in("heads", keys)
    couplings.heads.add(heads)
    shared = [(query, axis, queries), (node.outputs[0], axis, queries)]
    own = [(key, axis, keys), (value, axis, keys)]
    own += [(past, 1, keys) for past in node.inputs[4:6] if past is not None]
    own += [(present, 1, keys) for present in node.outputs[1:3] if present.name]
    if (mask := _input(node, 3)) is not None:
        axes = couplings.shape(mask)
        for at in range(len(axes) - 3):  # [batch,] of [batch, heads, queries, keys]
            couplings.same((mask, at), (query, 0))
        if len(axes) >= 3 and axes[-3] == queries:
            shared.append((mask, len(axes) - 3, queries))
    for operand in (query, key, value):
        couplings.same((operand, 0), (node.outputs[0], 0))
    for operand, at, count in (*shared, *own):
        _heads(couplings, (operand, at), count, heads)


@_rule("MultiHeadAttention", domain=MICROSOFT)
def _multi_head_attention(couplings: Couplings, node: ir.Node) -> None:
    """Queries, keys and values [batch, sequence, heads * size]; their biases come in one."""
    query = _some(node, 0)
    count = node.attributes.get_int("num_heads", 0) or 0
    if any(value is not None for value in node.inputs[6:]):
        raise Unclear("keys and values of the past")
    operands = [_some(node, slot) for slot in range(3)]
    if not count or any(len(couplings.shape(operand)) != 3 for operand in operands):
        raise Unclear("queries, keys and values packed together")
    heads = couplings.stand_in("heads", count)
    couplings.heads.add(heads)
    for operand in (*operands, node.outputs[0]):
        couplings.same((operand, 0), (query, 0))
        _heads(couplings, (operand, 2), count, heads)
    if (bias := _input(node, 3)) is not None:
        sizes = [_sized(couplings, (operand, 2)) for operand in operands]
        each = np.concatenate([np.arange(size) // (size // count) for size in sizes])
        couplings.map((bias, 0), np.arange(sum(sizes)), heads, each)
    if (added := _input(node, 5)) is not None and couplings.shape(added)[1] == count:
        _heads(couplings, (added, 1), count, heads)


def _heads(couplings: Couplings, dim: Dim, count: int, heads: Dim) -> None:
    """Couple an axis of `count` heads, whatever the size of each, with the heads to cut."""
    size = _sized(couplings, dim)
    shared = count // couplings.sizes[heads]
    if not count or size % count or count % couplings.sizes[heads]:
        raise Unclear("the number of heads is not known")
    at: Indices = np.arange(size)
    couplings.map(dim, at, heads, at // (size // count * shared))
