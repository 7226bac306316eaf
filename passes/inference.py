# SPDX-License-Identifier: Apache-2.0
"""The onnx-shape-inference library, corrected where it guesses."""

from __future__ import annotations

import functools
import hashlib
import logging
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

import onnx_ir as ir

from burnish.passes import loops, products
from burnish.passes.products import Size

# The library logs each operator it does not know; a value without a shape is no news to a user.
logging.getLogger("onnx_shape_inference").addHandler(logging.NullHandler())


@functools.cache
def load_library() -> ModuleType:
    """Return the library, imported and corrected.

    A rule that trusts a guessed shape removes an operator that is needed. So:
    - Of two sizes of different names, broadcasting takes the first; but that one may be 1 where
      the other is not. Here the result is a size that is neither, unless one is cut from the other.
    - Einsum takes for a letter the first of its sizes, which broadcast too.
    - Slice takes axes of unknown size for long enough. Here the result is of unknown size.
    - What `_GUESSED` lists is forgotten again.
    - A fill has the sizes it is asked for, also where they are computed.
    - What a Loop hands from round to round may change its shape; see `burnish.passes.loops`.

    And made quicker: sizes that are products are multiplied and divided as such.
    """
    import onnx_shape_inference as library
    from onnx_shape_inference import _broadcast, _context, _engine
    from onnx_shape_inference._ops import _utils

    library.registry.collect()
    _engine._constraints.collect_symbol_names = _names_in
    _context.ShapeInferenceContext._maybe_record_anchor_equality = _record_equality
    _engine._propagate_types_to_subgraph_inputs = functools.partial(
        loops.enter, _engine._propagate_types_to_subgraph_inputs, _engine._process_graph
    )
    products.quicken(_utils)
    broadcast_dim = _broadcast._broadcast_dim

    def sound_broadcast_dim(a: Size, b: Size) -> Any:
        if a == b:
            return a
        if isinstance(a, ir.SymbolicDim) and isinstance(b, ir.SymbolicDim):
            if _is_cut(str(a), str(b)):
                return b
            if _is_cut(str(b), str(a)):
                return a
            return ir.SymbolicDim(_either(*sorted((str(a), str(b)))))
        return broadcast_dim(a, b)

    _broadcast._broadcast_dim = sound_broadcast_dim
    corrected: dict[tuple[str, str], Callable[[_Infer, Any, ir.Node], None]] = {
        ("", "ConstantOfShape"): _sized_fill,
        ("", "Einsum"): _broadcast_einsum,
        ("", "Loop"): lambda _, context, node: loops.leave(context, node),
        ("", "Slice"): _sound_slice,
    }
    for operator in (*corrected, *_GUESSED):
        for since in set(library.registry.version_boundaries(*operator)):
            infer = library.registry.get(*operator, version=since)
            sound = corrected.get(operator, _sound)
            library.registry.register(*operator, since)(functools.partial(sound, infer))
    return cast(ModuleType, library)


def _record_equality(context: Any, declared: Size, inferred: Size) -> None:
    """Remember that a declared size has another name where it is inferred; no SymPy needed."""
    if isinstance(declared, int) or isinstance(inferred, int):
        return
    if declared.value is None or inferred.value is None or declared == inferred:
        return
    names = [name for name in names_in_size(declared.value) if name.isidentifier()]
    if not all(map(context.is_generated_symbol, names)):
        context.add_symbolic_equality(inferred.value, declared.value)


def _names_in(graph: ir.Graph) -> set[str]:
    """Return all names in the sizes of a graph and its subgraphs, which no new size may bear."""
    texts = {
        str(dim)
        for each in (graph, *graph.subgraphs())
        for values in (each.inputs, *(node.outputs for node in each))
        for value in values
        if value.shape is not None
        for dim in value.shape.dims
        if not isinstance(dim, int)
    }
    return set().union(*map(names_in_size, texts))


def names_in_size(text: str) -> set[str]:
    """Return the names in a size, such as N and M in `2*N + M`."""
    return set(re.findall(r"\w+", text))


def _is_cut(cut: str, whole: str) -> bool:
    """Whether a size is another one, cut at a constant, such as the positions of a long table.

    Where the two broadcast, nothing was cut: neither would be 1, and they would differ.
    """
    found = _CUT.fullmatch(cut)
    return found is not None and int(found[1]) > 0 and found[2] == whole


_CUT = re.compile(r"Min\((\d+), (.+)\)")


def _either(first: str, second: str) -> str:
    """Name the size that two sizes broadcast to.

    A plain symbol, though of valid operands the larger one wins: reasoning about nested maxima
    takes longer than everything else. Long names are cut short, or they would grow layer by layer.
    """
    name = f"{first}_or_{second}"
    if name.isidentifier() and len(name) <= _LONGEST_NAME:
        return name
    return f"_either_{hashlib.blake2s(name.encode(), digest_size=6).hexdigest()}"


_LONGEST_NAME = 40  # characters
_Infer = Callable[[Any, ir.Node], None]


def _sound(infer: _Infer, context: Any, node: ir.Node) -> None:
    before = [value.shape for value in node.outputs]
    infer(context, node)
    if _GUESSED[node.domain, node.op_type](node):
        for value, shape in zip(node.outputs, before, strict=True):
            value.shape = shape


def _sized_fill(infer: _Infer, context: Any, node: ir.Node) -> None:
    infer(context, node)
    sizes = None if node.inputs[0] is None else context.get_symbolic_value(node.inputs[0])
    if node.outputs[0].shape is None and sizes is not None:
        context.set_shape(node.outputs[0], ir.Shape(list(sizes)))


def _broadcast_einsum(infer: _Infer, context: Any, node: ir.Node) -> None:
    from onnx_shape_inference._broadcast import broadcast_shapes

    infer(context, node)
    result, sizes = node.outputs[0], dict[str, ir.Shape | None]()
    terms, _, after = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    if not after or result.shape is None:
        return  # what has no arrow keeps letters of one term only
    for term, value in zip(terms.split(","), node.inputs, strict=True):
        assert value is not None
        assert value.shape is not None
        for letter, axis in _axes(term):
            size = ir.Shape([value.shape[axis]])
            sizes[letter] = broadcast_shapes(sizes.get(letter, size), size)
    dims = list(result.shape)
    for letter, axis in _axes(after):
        found = sizes[letter]
        dims[axis] = context.new_symbolic_dim() if found is None else found[0]
    result.shape = ir.Shape(dims)


def _axes(term: str) -> list[tuple[str, int]]:
    """Return the letters of a term of an equation, each with its axis, from behind after `...`."""
    front, _, back = term.partition("...")
    return [
        *zip(front, range(len(front)), strict=True),
        *zip(back, range(-len(back), 0), strict=True),
    ]


def _sound_slice(infer: _Infer, context: Any, node: ir.Node) -> None:
    data, result = node.inputs[0], node.outputs[0]
    before = result.shape
    infer(context, node)
    if data is None or not data.shape or not result.shape:
        return
    for axis, (there, left) in enumerate(zip(data.shape, result.shape, strict=True)):
        known = None if before is None else before[axis]
        guessed = isinstance(there, ir.SymbolicDim) and isinstance(left, int) and left > 0
        if guessed and not isinstance(known, int):
            dims = list(result.shape)
            dims[axis] = context.new_symbolic_dim() if known is None else known
            result.shape = ir.Shape(dims)


def _always(_: ir.Node) -> bool:
    return True


def _expands_the_unknown(node: ir.Node) -> bool:
    return node.inputs[0] is not None and node.inputs[0].shape is None


def _branch_is_unknown(node: ir.Node) -> bool:
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    return any(value.shape is None for branch in branches for value in branch.outputs)


def _keeps_aspect_ratio(node: ir.Node) -> bool:
    return node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch"


def _squeezes_unknown_axes(node: ir.Node) -> bool:
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is not None:
        known = ir.convenience.get_const_tensor(axes)
        # No axes are all of size 1 to the runtime, and none to the library.
        return known is None or not known.size
    data, attribute = node.inputs[0], node.attributes.get("axes")
    static = data is not None and data.shape is not None and data.shape.is_static()
    return not static if attribute is None else not attribute.value


def _extracts_by_many_axes(node: ir.Node) -> bool:
    """Whether indices have several axes, which the runtime takes for one; or features have one."""
    features, indices = node.inputs
    if features is None or features.shape is None or indices is None or indices.shape is None:
        return False
    return len(features.shape) < 2 or len(indices.shape) != 1


# Operator -> whether the library guesses the shapes of its outputs. The tests hold what it infers
# for every operator case of the onnx package against what the runtime computes.
_GUESSED: dict[tuple[str, str], Callable[[ir.Node], bool]] = {
    ("ai.onnx.ml", "ArrayFeatureExtractor"): _extracts_by_many_axes,
    ("", "Expand"): _expands_the_unknown,
    ("", "If"): _branch_is_unknown,
    ("", "MelWeightMatrix"): _always,
    ("", "Resize"): _keeps_aspect_ratio,
    ("", "Squeeze"): _squeezes_unknown_axes,
    ("", "Unique"): lambda node: "axis" in node.attributes,
}
