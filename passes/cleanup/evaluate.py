# SPDX-License-Identifier: Apache-2.0
"""Computing a node on constants: by NumPy where that gives the runtime's bits, else by the runtime.

Starting a session costs more than a hundred small NumPy calls, and most of what folds is the
arithmetic of shapes. So the operators of a table are done by NumPy, and whatever is left of a
model goes into one session as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.numpy_table import TABLE, Array, Undecided

if TYPE_CHECKING:
    import onnxruntime

Inputs = Sequence[Array | None]

_BROADCASTING = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Mod", "Max", "Min", "Sum", "Mean", "Where", "And", "Or"}
    | {"Xor", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "BitShift", "PRelu"}
)


def evaluate(node: ir.Node, inputs: Inputs, opset: int) -> tuple[Array, ...]:
    """Compute the outputs of a node of the default domain.

    Args:
        node: Its attributes must all have values.
        inputs: An array per input, None where the input is missing.
        opset: Version of the default operator set.

    Raises:
        Undecided: the runtime has to do it.
    """
    compute = TABLE.get(node.op_type)
    if compute is None:
        raise Undecided(node.op_type)
    try:
        # Where NumPy would warn, results differ between processors and libraries.
        with np.errstate(all="raise"):
            made = compute(node, opset, *inputs)
    except Undecided:
        raise
    except Exception as error:  # a malformed node, too, is the runtime's to judge
        raise Undecided(str(error)) from error
    return tuple(map(np.asarray, made if isinstance(made, tuple) else (made,)))


def predicted_size(node: ir.Node, inputs: Inputs) -> int | None:
    """Return the number of elements of a result that may outgrow its inputs, before computing it.

    None for all other operators, and where the inputs make no sense.
    """
    try:
        match node.op_type:
            case "ConstantOfShape":
                (shape,) = inputs
                return None if shape is None else math.prod(map(int, shape))
            case "Expand":
                data, shape = inputs
                if data is None or shape is None:
                    return None
                return math.prod(np.broadcast_shapes(data.shape, tuple(map(int, shape))))
            case "Tile":
                data, repeats = inputs
                if data is None or repeats is None:
                    return None
                return data.size * math.prod(map(int, repeats))
            case "Range":
                start, limit, delta = (float(x.item()) for x in inputs if x is not None)
                return max(0, math.ceil((limit - start) / delta))
            case op_type if op_type in _BROADCASTING:
                shapes = [x.shape for x in inputs if x is not None]
                return math.prod(np.broadcast_shapes(*shapes))
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return None


def evaluate_together(
    nodes: Sequence[ir.Node],
    known: Mapping[ir.Value, ir.TensorProtocol],
    wanted: Collection[ir.Value],
    opset_imports: Mapping[str, int],
) -> dict[ir.Value, Array]:
    """Compute nodes that depend on constants and on each other alone, in one session.

    Args:
        nodes: In topological order.
        known: Tensors of the values they take from elsewhere.
        wanted: Of their outputs; the memory of all others is used again.
        opset_imports: Operator set versions.

    Returns:
        The array of each output that is wanted.

    Raises:
        BurnishError: the runtime does not run one of them.
    """
    from burnish.backends.onnxruntime import session

    model, names = _model_of(nodes, known, opset_imports)
    outputs = [names[value] for value in wanted]
    with session(model, extra_outputs=outputs, configure=_without_arena) as running:
        results = running.run({})
    return {value: np.asarray(results[names[value]]) for value in wanted}


def _without_arena(options: onnxruntime.SessionOptions) -> None:
    """Let results not keep alive what was computed on the way to them."""
    options.enable_cpu_mem_arena = False


def _model_of(
    nodes: Sequence[ir.Node],
    known: Mapping[ir.Value, ir.TensorProtocol],
    opset_imports: Mapping[str, int],
) -> tuple[ir.Model, dict[ir.Value, str]]:
    """Return a model of copies of nodes, and under which names it has their outputs."""
    renamed: dict[ir.Value, ir.Value] = {}
    initializers: list[ir.Value] = []
    clones: list[ir.Node] = []

    def local(value: ir.Value | None) -> ir.Value | None:
        if value is None:
            return None
        if value not in renamed:
            tensor = known[value]
            made = ir.Value(
                name=f"v{len(renamed)}",
                type=ir.TensorType(tensor.dtype),
                shape=ir.Shape(tensor.shape.numpy()),
                const_value=tensor,
            )
            renamed[value] = made
            initializers.append(made)
        return renamed[value]

    names: dict[ir.Value, str] = {}
    for node in nodes:
        inputs = [local(value) for value in node.inputs]
        clone = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            node.attributes.values(),
            num_outputs=len(node.outputs),
            name=f"n{len(clones)}",
        )
        clones.append(clone)
        for old, new in zip(node.outputs, clone.outputs, strict=True):
            if not old.name:
                new.name = ""
                continue
            new.name = f"v{len(renamed)}"
            renamed[old] = new
            names[old] = new.name
    domains = {node.domain for node in nodes} | {""}
    imports = {domain: opset_imports.get(domain, 1) for domain in sorted(domains)}
    graph = ir.Graph([], [], nodes=clones, initializers=initializers, opset_imports=imports)
    return ir.Model(graph, ir_version=10), names
