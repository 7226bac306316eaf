# SPDX-License-Identifier: Apache-2.0
"""Operators whose results NumPy gives to the runtime's last bit, each as a function.

They move data, compute with whole numbers, or are IEEE 754 operations that are rounded correctly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

Array = np.ndarray[Any, np.dtype[Any]]


class Undecided(Exception):
    """NumPy is not known to agree with the runtime on this one."""


def _attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def _ints(node: ir.Node, name: str, given: Array | None) -> tuple[int, ...] | None:
    """Read what is an attribute in old operator sets and an input in new ones."""
    if given is not None:
        return tuple(map(int, given.reshape(-1)))
    attribute = node.attributes.get(name)
    return None if attribute is None else tuple(attribute.as_ints())


def _numeric(*types: np.dtype[Any]) -> None:
    """Insist on NumPy's own numbers; bfloat16 and the like are extensions."""
    # 2 is an extension; 1 only where the type is the very object, which one read from bytes is not.
    if not all(dtype.kind in "biuf" and dtype.isbuiltin != 2 for dtype in types):
        raise Undecided("not a type of NumPy's own")


def _integers(*arrays: Array) -> None:
    if not all(array.dtype.kind in "iu" for array in arrays):
        raise Undecided("not whole numbers")


def _elementwise(ufunc: Callable[..., Any]) -> Callable[..., Any]:
    def compute(node: ir.Node, opset: int, *inputs: Array) -> Any:
        if opset < 7 and len({x.shape for x in inputs}) > 1:
            raise Undecided("broadcast by rules of its own")
        _numeric(*(x.dtype for x in inputs))
        return ufunc(*inputs)

    return compute


def _on_integers(function: Callable[..., Any]) -> Callable[..., Any]:
    def compute(node: ir.Node, opset: int, *inputs: Array) -> Any:
        _integers(*inputs)
        return _elementwise(function)(node, opset, *inputs)

    return compute


def _fold_left(ufunc: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def compute(*arrays: Array) -> Any:
        result = arrays[0]
        for array in arrays[1:]:
            result = ufunc(result, array)
        return result

    return compute


def _div(node: ir.Node, opset: int, a: Array, b: Array) -> Any:
    if a.dtype.kind == "f":
        return _elementwise(np.divide)(node, opset, a, b)
    _integers(a, b)
    # ONNX truncates, NumPy floors. A zero or an overflow stops the runtime's process, and the least
    # number has no absolute value.
    if any(x.dtype.kind == "i" and (x == np.iinfo(x.dtype).min).any() for x in (a, b)):
        raise Undecided("may overflow")
    quotient = np.abs(a) // np.abs(b)
    return np.where((a < 0) != (b < 0), -quotient, quotient).astype(a.dtype)


def _mod(node: ir.Node, opset: int, a: Array, b: Array) -> Any:
    _integers(a, b)
    ufunc = np.fmod if _attribute(node, "fmod", 0) else np.mod  # sign of the dividend, or divisor
    return _elementwise(ufunc)(node, opset, a, b)


def _cast(array: Array, to: ir.DataType) -> Array:
    target = to.numpy()
    if array.dtype == target:
        return array
    _numeric(array.dtype, target)
    if array.dtype.kind == "f" and target.kind in "iu" and array.size:
        limits = np.iinfo(target)
        low, high = np.min(array), np.max(array)
        if not (limits.min < float(low) and float(high) < limits.max):  # also False for NaN
            raise Undecided("out of range")
    with np.errstate(over="ignore", under="ignore"):
        return array.astype(target)


def _cast_to(node: ir.Node, opset: int, x: Array) -> Array:
    return _cast(x, ir.DataType(_attribute(node, "to")))


def _cast_like(node: ir.Node, opset: int, x: Array, like: Array) -> Array:
    return _cast(x, ir.DataType.from_numpy(like.dtype))


def _identity(node: ir.Node, opset: int, x: Array) -> Array:
    return x


def _size(node: ir.Node, opset: int, x: Array) -> Array:
    return np.array(x.size, dtype=np.int64)


def _shape(node: ir.Node, opset: int, x: Array) -> Array:
    dims = x.shape[_attribute(node, "start", 0) : _attribute(node, "end")]
    return np.array(dims, dtype=np.int64)


def _reshape(node: ir.Node, opset: int, x: Array, shape: Array | None = None) -> Array:
    wanted = _ints(node, "shape", shape)
    if wanted is None:
        raise Undecided("no shape")
    if not _attribute(node, "allowzero", 0):
        wanted = tuple(x.shape[i] if dim == 0 else dim for i, dim in enumerate(wanted))
    return x.reshape(wanted)


def _flatten(node: ir.Node, opset: int, x: Array) -> Array:
    axis = _attribute(node, "axis", 1)
    axis += x.ndim if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _squeeze(node: ir.Node, opset: int, x: Array, axes: Array | None = None) -> Array:
    # The runtime takes no axes for all of size 1, as where they are missing.
    return np.squeeze(x, _ints(node, "axes", axes) or None)


def _unsqueeze(node: ir.Node, opset: int, x: Array, axes: Array | None = None) -> Array:
    wanted = _ints(node, "axes", axes)
    if wanted is None:
        raise Undecided("no axes")
    return np.expand_dims(x, wanted)


def _transpose(node: ir.Node, opset: int, x: Array) -> Array:
    return np.transpose(x, _attribute(node, "perm"))


def _concat(node: ir.Node, opset: int, *inputs: Array) -> Array:
    return np.concatenate(inputs, axis=_attribute(node, "axis", 1 if opset < 4 else 0))


def _gather(node: ir.Node, opset: int, x: Array, indices: Array) -> Array:
    return np.take(x, indices, axis=_attribute(node, "axis", 0))


def _slice(
    node: ir.Node,
    opset: int,
    x: Array,
    starts: Array | None = None,
    ends: Array | None = None,
    axes: Array | None = None,
    steps: Array | None = None,
) -> Array:
    low, high = _ints(node, "starts", starts), _ints(node, "ends", ends)
    if low is None or high is None:
        raise Undecided("no bounds")
    along = _ints(node, "axes", axes) or tuple(range(len(low)))
    strides = (1,) * len(low) if steps is None else tuple(map(int, steps))
    window = [slice(None)] * x.ndim
    for start, end, axis, step in zip(low, high, along, strides, strict=True):
        if step < 0 and start < -x.shape[axis]:
            raise Undecided("the runtime takes the first element, NumPy none")
        window[axis] = slice(start, end, step)
    return x[tuple(window)]


def _expand(node: ir.Node, opset: int, x: Array, shape: Array) -> Array:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(map(int, shape))))


def _tile(node: ir.Node, opset: int, x: Array, repeats: Array) -> Array:
    if opset < 6:
        raise Undecided("an older form")
    return np.tile(x, tuple(map(int, repeats)))


def _constant_of_shape(node: ir.Node, opset: int, shape: Array) -> Array:
    value = _attribute(node, "value")
    fill = np.zeros(1, dtype=np.float32) if value is None else value.numpy()
    return np.broadcast_to(fill.reshape(()), tuple(map(int, shape)))


def _range(node: ir.Node, opset: int, start: Array, limit: Array, delta: Array) -> Array:
    _integers(start, limit, delta)
    return np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _where(node: ir.Node, opset: int, condition: Array, x: Array, y: Array) -> Array:
    return np.where(condition, x, y)


def _reduce(ufunc: np.ufunc) -> Callable[..., Any]:
    def compute(node: ir.Node, opset: int, x: Array, axes: Array | None = None) -> Any:
        _integers(x)
        along = _ints(node, "axes", axes)
        if not along:
            if along is not None and _attribute(node, "noop_with_empty_axes", 0):
                return x
            along = tuple(range(x.ndim))
        keepdims = bool(_attribute(node, "keepdims", 1))
        return ufunc.reduce(x, axis=along, keepdims=keepdims, dtype=x.dtype)

    return compute


TABLE: dict[str, Callable[..., Any]] = {
    "Abs": _elementwise(np.abs),
    "Add": _elementwise(np.add),
    "And": _elementwise(np.logical_and),
    "Cast": _cast_to,
    "CastLike": _cast_like,
    "Ceil": _elementwise(np.ceil),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _div,
    "Equal": _elementwise(np.equal),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _elementwise(np.floor),
    "Gather": _gather,
    "Greater": _elementwise(np.greater),
    "GreaterOrEqual": _elementwise(np.greater_equal),
    "Identity": _identity,
    "Less": _elementwise(np.less),
    "LessOrEqual": _elementwise(np.less_equal),
    "Max": _on_integers(_fold_left(np.maximum)),
    "Min": _on_integers(_fold_left(np.minimum)),
    "Mod": _mod,
    "Mul": _elementwise(np.multiply),
    "Neg": _elementwise(np.negative),
    "Not": _elementwise(np.logical_not),
    "Or": _elementwise(np.logical_or),
    "Range": _range,
    "ReduceMax": _reduce(np.maximum),
    "ReduceMin": _reduce(np.minimum),
    "ReduceProd": _reduce(np.multiply),
    "ReduceSum": _reduce(np.add),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Sqrt": _elementwise(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _elementwise(np.subtract),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
    "Xor": _elementwise(np.logical_xor),
}
"""Operator -> what computes it, from the node, its opset and its inputs; may raise `Undecided`."""
