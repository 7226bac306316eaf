# SPDX-License-Identifier: Apache-2.0
"""Shapes of what a Loop hands from round to round: what holds in all rounds, and in none.

The shape inference library takes what goes into the first round for what goes into every one, what
comes out of a round for what comes out of the Loop, and the most rounds for their number. But a
value may grow round by round, a Loop may end after no round, or before its last one.

So a shape is assumed of each value, that of the first round, and the body inferred from it. What
comes out otherwise is no longer assumed, until all that is assumed comes out again: by induction,
it then holds in every round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir

from burnish.passes.cleanup.dims import same_dim
from burnish.passes.constant import scalar_of
from burnish.passes.edit import discard

_FIRST = 2  # inputs of a Loop, and of its body, before those that are handed on

Process = Callable[..., bool]
"""Infers a graph in a context of the library."""


def enter(
    enter_other: Callable[[Any, ir.Node], None], process: Process, context: Any, node: ir.Node
) -> None:
    """Give the inputs of a node's bodies their types, and the shapes that hold in every round.

    Args:
        enter_other: Does it for all but a Loop.
        process: Infers a graph.
        context: Of the library.
        node: Any node of a graph that is inferred.
    """
    if node.op_type != "Loop" or node.domain != "":
        enter_other(context, node)
        return
    formals = node.attributes["body"].as_graph().inputs[_FIRST:]
    for formal, given in zip(formals, node.inputs[_FIRST:], strict=False):
        if given is not None and formal.dtype is None and given.dtype is not None:
            context.set_dtype(formal, given.dtype)
    for formal, shape in zip(formals, _kept(process, context, node), strict=False):
        if formal.shape is None and shape is not None:
            context.set_shape(formal, context.name_anonymous_dims_in_shape(shape))


def _kept(process: Process, context: Any, node: ir.Node) -> list[ir.Shape | None]:
    """Return of each value that is handed on, where nothing is declared, what every round keeps."""
    body = node.attributes["body"].as_graph()
    pairs = list(zip(body.inputs[_FIRST:], node.inputs[_FIRST:], strict=False))
    assumed = [
        given.shape if given is not None and formal.shape is None else None
        for formal, given in pairs
    ]
    while any(shape is not None for shape in assumed):
        trial = body.clone(allow_outer_scope_values=True)
        for formal, shape in zip(trial.inputs[_FIRST:], assumed, strict=False):
            if shape is not None:
                formal.shape = ir.Shape(shape.dims)
        try:
            process(context.create_child(), trial, warn_on_missing=False)
        finally:
            discard(trial.all_nodes())  # else they count as users of what is outside
        results = [value.shape for value in trial.outputs[1:]]
        after = [common(*each) for each in zip(assumed, results, strict=False)]
        if after == assumed:
            break
        assumed = after
    return assumed


def common(one: ir.Shape | None, other: ir.Shape | None) -> ir.Shape | None:
    """Return the sizes that two shapes share, None for the others; None for other ranks."""
    if one is None or other is None or len(one) != len(other):
        return None
    pairs = zip(one.dims, other.dims, strict=True)
    return ir.Shape([mine if same_dim(mine, theirs) else None for mine, theirs in pairs])


def leave(context: Any, node: ir.Node) -> None:
    """Infer what a Loop gives: what went in, or what a round leaves, and what all rounds collect.

    Args:
        context: Of the library.
        node: The Loop, whose body is inferred.
    """
    body, carried = node.attributes["body"].as_graph(), len(node.inputs) - _FIRST
    rounds = _rounds(context, node, body)
    for index, (output, result) in enumerate(zip(node.outputs, body.outputs[1:], strict=False)):
        if result.type is not None and not isinstance(result.type, ir.TensorType):
            context.set_type(output, result.type)
            continue
        shape = result.shape
        if index < carried:
            given = node.inputs[_FIRST + index]
            shape = common(None if given is None else given.shape, shape)
        elif shape is not None:
            shape = ir.Shape([rounds, *shape.dims])
        if shape is not None:
            shape = context.name_anonymous_dims_in_shape(shape)
        context.set_shape_and_dtype(output, shape, result.dtype)


def _rounds(context: Any, node: ir.Node, body: ir.Graph) -> int | ir.SymbolicDim | None:
    """Return the number of rounds, if it is known before the first."""
    most, going = node.inputs[:_FIRST]
    if most is None or (going is not None and not scalar_of(going)) or not hands_on(body):
        return None
    sizes: Sequence[int | ir.SymbolicDim] = context.get_symbolic_value(most) or ()
    return sizes[0] if len(sizes) == 1 else None


def hands_on(body: ir.Graph) -> bool:
    """Whether the body of a Loop goes on if it has begun: it hands its condition on, or a truth."""
    goes_on = body.outputs[0]
    while (made := goes_on.producer()) is not None and made.op_type == "Identity":
        assert made.inputs[0] is not None
        goes_on = made.inputs[0]
    return goes_on is body.inputs[1] or bool(scalar_of(goes_on))
